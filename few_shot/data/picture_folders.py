"""What lies in a folder of one's own pictures, and the draw that splits its classes."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from few_shot.data.class_folders import Entry, Files, scan, split_folders, stat, suffixes
from few_shot.data.download import counted, not_there
from few_shot.data.image_store import Fingerprint
from few_shot.episodes import SPLITS
from few_shot.errors import BadInput
from few_shot.files import same_spelling

FEWEST = 5  # classes that a drawn split gets at least, if there are three times as many
EXPECTED = "a folder of pictures for each class, or train/, val/ and test/ with such folders in them"


@dataclass(frozen=True)
class Found:
    """What lies in a folder of pictures.

    Args:
        files: the files of each split and class.
        drawn: whether the classes were split by a draw.
        strays: pictures that lie in no class, and folders that lie in one, each with what is wrong.
        fingerprint: changes when a file does.
    """

    files: Files
    drawn: bool
    strays: list[str]
    fingerprint: Fingerprint


def find_pictures(data_dir: Path, class_split: tuple[float, float, float], split_seed: int) -> Found:
    """Look through a folder of pictures; every visible file in a class folder is taken for one.

    Raises:
        BadInput: the folder does not exist, or holds no class folders, or a split is missing.
    """
    if not data_dir.exists():
        raise BadInput(f"{not_there(data_dir)} It is to hold {EXPECTED}.")
    entries = scan(data_dir)
    splits = split_folders(data_dir)
    drawn = not any(_folders(folder) for folder in splits.values())
    strays = _strays(entries)
    classes: dict[str, list[Entry]] = {}  # of each split, or all under ""
    if drawn:
        classes[""] = [entry for entry in entries if entry.is_folder]
        inside = scan(classes[""][0].path) if len(classes[""]) == 1 else []
        if inside and all(entry.is_folder for entry in inside):
            raise BadInput(f"{data_dir} holds one folder, which holds the others: name data_dir={classes[''][0].path}.")
    else:
        for split in SPLITS:
            if split not in splits:
                raise BadInput(
                    f"{data_dir} holds {' and '.join(folder.name for folder in splits.values())}, but no {split}: move "
                    f"some of the class folders to {data_dir / split}, or put all of them into one folder, of which "
                    "the classes are then drawn. No class may be in two splits."
                )
            classes[split] = _folders(splits[split])
            if not classes[split]:
                raise BadInput(f"{splits[split]} holds no class folders: the {split} split is empty.")
            strays += _strays(scan(splits[split]))
        own = {folder.name for folder in splits.values()}
        strays += [
            f"{entry.path} (a folder beside those of the splits)"
            for entry in entries
            if entry.is_folder and entry.name not in own
        ]
    if not any(classes.values()):
        raise BadInput(f"{data_dir} holds {counted(entries)}, but no class folders. It is to hold {EXPECTED}.")

    digest = hashlib.sha256()
    files: Files = {}
    number = 0
    for group, folders in classes.items():
        files[group] = {}
        for folder in folders:
            inside = scan(folder.path)
            strays += [f"{entry.path} (a folder in a class's folder)" for entry in inside if entry.is_folder]
            files[group][folder.name] = [Path(entry.path) for entry in inside if not entry.is_folder]
            digest.update(os.fsencode(f"{group}/{folder.name}\n"))
            for entry in inside:
                facts = stat(entry)
                digest.update(os.fsencode(f"{group}/{folder.name}/{entry.name}/{facts.st_size}/{facts.st_mtime_ns}\n"))
                number += 1
    digest.update(os.fsencode("\n".join(strays)))
    if drawn:
        named = files[""]
        draw = draw_classes(named, class_split, split_seed)
        files = {split: {name: named[name] for name in names} for split, names in draw.items()}
    return Found(files, drawn, strays, {"files": number, "digest": digest.hexdigest()})


def draw_classes(names: Iterable[str], class_split: Sequence[float], split_seed: int) -> dict[str, list[str]]:
    """Split classes at random: a pure function of the seed and the names, which may come in any order.

    The names are put in the order of their hashes, so that a class that is added or taken away moves only the classes
    at a split's border. Each split is sorted by name.
    """

    def place(name: str) -> tuple[bytes, str]:
        same_everywhere = same_spelling(name)
        return hashlib.sha256(os.fsencode(f"{split_seed}/{same_everywhere}")).digest(), name

    order = sorted(names, key=place)
    n = len(order)
    fewest = min(FEWEST, n // 3)
    val, test = (max(fewest, round(n * share / sum(class_split))) for share in class_split[1:])
    while n - val - test < fewest:  # shares that leave hardly any class to train on
        val, test = (val - 1, test) if val >= test else (val, test - 1)
    ends = {"train": (0, n - val - test), "val": (n - val - test, n - test), "test": (n - test, n)}
    return {split: sorted(order[start:end]) for split, (start, end) in ends.items()}


def _folders(folder: Path | str) -> list[Entry]:
    return [entry for entry in scan(folder) if entry.is_folder]


def _is_picture(entry: Entry) -> bool:
    return not entry.is_folder and Path(entry.name).suffix.lower() in suffixes()


def _strays(entries: Sequence[Entry]) -> list[str]:
    """Those beside the class folders that may have been meant to count, each with what is wrong."""
    found = []
    for entry in entries:
        if _is_picture(entry):
            found.append(f"{entry.path} (a picture that lies in no class's folder)")
        elif _leads_nowhere(entry):
            found.append(f"{entry.path} (a link that leads nowhere)")
    return found


def _leads_nowhere(entry: Entry) -> bool:
    """Whether it is a link whose target is not there, such as a folder on a disk that is gone."""
    try:
        os.stat(entry.path)
    except FileNotFoundError:
        return os.path.islink(entry.path)
    except OSError:  # a link in a circle
        pass
    return False
