"""Label new pictures, of classes that were never trained on, after a few labelled pictures of each.

python training/predict.py --checkpoint=RUN --support=new_classes/ --images=inbox/ --output=labels.csv
"""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from training.starting import start

    start()

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from few_shot.data.class_folders import some
from few_shot.data.pictures import BadPicture
from few_shot.errors import BadInput, at_least
from few_shot.files import given_path
from few_shot.learner import Learner
from few_shot.whole_files import write_together
from training.command_line import clear_errors, parse_options
from training.labels import Labels, as_csv, counts, is_table
from training.labels_page import SIZE, as_page, thumbnail
from training.page import is_page
from training.picture_lists import labelled_pictures, listed_pictures
from training.run_folder import make_folder
from training.terminal import print_result, say, tidy_warnings
from training.trained import OwnCode, load_trained

#: Pictures that are read, and then predicted, at once.
AT_ONCE = 256
#: Height and width, in pixels, of a labelled picture on the page.
KNOWN_SIZE = 80


@dataclass
class LabelOptions(OwnCode):
    """What to label, and by what.

    Args:
        checkpoint: a run's folder, whose best checkpoint is taken; or a checkpoint file; or a published result's folder
            (benchmarks/results/NAME). It must be of a training on pictures.
        support: folder with one folder for each new class, with some labelled pictures of it (the support set). Five
            pictures of each are better than one, and classes may have different numbers of them.
        images: the pictures to label; files, or folders, which are looked through to the bottom.
        output: the table to write, a row a picture. A page that shows the pictures is written beside it, with the
            ending .html. Those of an earlier call are replaced.
        threshold: the least probability, from 0 to 1, for a label. A picture whose likeliest class has less is labelled
            "none of these". null labels every picture.
        steps: gradient steps that adapt the model to the labelled pictures; null is as many as in the run's test.
        skip_bad_images: whether to leave out files that are no pictures, instead of refusing them; they are named.
    """

    checkpoint: str
    support: str
    images: list[str]
    output: str = "labels.csv"
    threshold: float | None = None
    steps: int | None = None
    skip_bad_images: bool = False

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise BadInput(f"threshold={self.threshold} must be from 0 to 1.")
        if self.steps is not None:
            at_least(0, self.steps, "steps")


def main(argv: Sequence[str] | None = None) -> Labels:
    """Label the pictures, print how many have each label, and write the table and the page."""
    with clear_errors():
        tidy_warnings()
        return label(parse_options(argv, "Label new pictures after a few labelled ones of each class.", LabelOptions))


def label(options: LabelOptions) -> Labels:
    """What :func:`main` does.

    Raises:
        BadInput: something is not there, or is no picture, or the checkpoint is not of pictures.
    """
    table = given_path(options.output, "output")
    if table.is_dir() or table.suffix.lower() != ".csv":
        raise BadInput(f"output={options.output} must be the name of a table, such as labels.csv.")
    page = table.with_suffix(".html")
    for file, is_own in ((table, is_table), (page, is_page)):
        if file.exists() and not is_own(file):
            raise BadInput(f"output={options.output} would replace {file}, which is no earlier result: name another.")
    learner = _load(options)
    support, strays = labelled_pictures(options.support)
    paths = listed_pictures(options.images)
    make_folder(table.parent, "output")
    if not os.access(table.parent, os.W_OK):
        raise BadInput(f"output={options.output} cannot be written: {table.parent} is read-only.")

    known = {name: _read(learner, files, KNOWN_SIZE) for name, files in support.items()}
    _tell([*strays, *(bad for pictures in known.values() for bad in pictures.bad)], options)
    if empty := [name for name, pictures in known.items() if not pictures.files]:
        raise BadInput(f"support={options.support} has classes without pictures: {some(empty)}.")
    x = torch.cat([pictures.x for pictures in known.values()])
    y = [name for name, pictures in known.items() for _ in pictures.files]
    adapted = learner.adapt(x, y, steps=options.steps)

    files, probabilities, small, bad = [], [], [], []
    for i in tqdm(range(0, len(paths), AT_ONCE), desc="Labelling", unit_scale=AT_ONCE, unit=" pictures", disable=None):
        pictures = _read(learner, paths[i : i + AT_ONCE], SIZE)
        bad += pictures.bad
        if pictures.files:
            files += pictures.files
            small += pictures.small
            probabilities.append(adapted.predict_proba(pictures.x))
    _tell(bad, options)
    if not files:
        raise BadInput(f"images={some(options.images)} holds no pictures.")
    labels = Labels(files, sorted(known), np.concatenate(probabilities), options.threshold or 0.0)
    learned_from = {name: pictures.small for name, pictures in known.items()}
    write_together({table: as_csv(labels), page: as_page(labels, small, learned_from)})
    print_result(f"{counts(labels)}\n\nThe labels are in {table}, and shown in {page}")
    return labels


def _load(options: LabelOptions) -> Learner:
    learner = load_trained(options.checkpoint, options)
    shape, lit_model = learner.inputs.shape, learner.lit_model
    if shape is not None and len(shape) != 3:
        raise BadInput(f"checkpoint={options.checkpoint} was trained on numbers, not on pictures.")
    if options.steps is not None and "test_inner_loop_steps" in lit_model.unused:
        raise BadInput(f"steps={options.steps} is of no use: {type(lit_model).__name__} has no inner steps.")
    return learner


class _Pictures(NamedTuple):
    """Those of some files that are pictures: as the model takes them ``[n, C, H, W]``, and small to be shown."""

    files: list[Path]
    x: Tensor
    small: list[str]
    bad: list[str]  # the other files, each with what is wrong


def _read(learner: Learner, files: Sequence[Path], size: int) -> _Pictures:
    def one(file: Path) -> tuple[Tensor, str] | BadPicture:
        try:
            return learner.read(file), thumbnail(file, size)
        except BadPicture as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # Pillow decodes without the interpreter's lock
        read = list(zip(files, threads.map(one, files), strict=True))
    bad = [f"{file} ({found.reason})" for file, found in read if isinstance(found, BadPicture)]
    good = [(file, *found) for file, found in read if not isinstance(found, BadPicture)]
    x = torch.cat([x for _, x, _ in good]) if good else torch.empty(0)
    return _Pictures([file for file, _, _ in good], x, [small for _, _, small in good], bad)


def _tell(bad: Sequence[str], options: LabelOptions) -> None:
    """Refuse files that are no pictures, or say that they are left out, if that was asked for."""
    if not bad:
        return
    number, what, them = f"{len(bad)} files or folders are", "pictures", "them"
    if len(bad) == 1:
        number, what, them = "1 file or folder is", "picture", "it"
    if not options.skip_bad_images:
        raise BadInput(
            f"{number} no {what}: {some(bad)}. Move {them} away, or leave {them} out with skip_bad_images=true."
        )
    say(f"{number} left out: {', '.join(bad)}.")


if __name__ == "__main__":
    main()
