"""How well new classes are told apart, by how many there are and how many photos each is shown in: prints the table.

python benchmarks/your_own_photos.py --photos=FOLDER --new=FOLDER     # trains on 24 classes of the first, as the page
python benchmarks/your_own_photos.py --checkpoint=RUN --new=FOLDER    # takes what was trained already

Both folders hold a folder of photos for each class; no class may be in both. A task is N of the new classes, with K
photos each to learn from; the accuracy is over --queries other photos of each. It is what training/predict.py does, one
photo judged apart from the others. Further flags go to the training. A row is kept under its --name in
benchmarks/results/your_own_photos.json; ``--write`` puts all rows into docs/your_own_photos.md.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor

from benchmarks import results_table
from few_shot.episodes import draw_classification
from few_shot.errors import BadInput
from few_shot.evaluation import mean_ci95
from few_shot.learner import Learner
from training import run_experiment
from training.command_line import clear_errors
from training.labels_page import thumbnail
from training.picture_lists import labelled_pictures
from training.run_folder import RunFolder
from training.trained import load_trained

RESULTS = results_table.RESULTS / "your_own_photos.json"
PAGE = results_table.ROOT / "docs" / "your_own_photos.md"
MARK = "<!-- your own photos: python benchmarks/your_own_photos.py --write -->"
WAYS, SHOTS = (2, 5, 10), (1, 5, 10)
#: The training of the page. Its class split is the command line's own: of 24 classes, 14 to train on.
TRAINING = ["--data_class=ImageFolders", "--lit_model_class=LitProtoNet", "--support_samples=5", "--test_episodes=200"]


def main(argv: Sequence[str] | None = None) -> str:
    """Measure a row, if folders are given; returns the table of all rows, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", help="folder of the classes to train on")
    parser.add_argument("--checkpoint", help="a run's folder, a checkpoint, or a folder of benchmarks/results")
    parser.add_argument("--new", help="folder of the new classes")
    parser.add_argument("--name", help="what to call the row (default: the folder or checkpoint)")
    parser.add_argument("--classes", type=int, default=24, help="classes of --photos to take (default: 24)")
    parser.add_argument("--per_class", type=int, default=20, help="photos of each of them to take (default: 20)")
    parser.add_argument(
        "--per_new_class", type=int, default=100, help="photos of each new class to take (default: 100)"
    )
    parser.add_argument("--episodes", type=int, default=600, help="tasks for each number (default: 600)")
    parser.add_argument("--queries", type=int, default=15, help="photos of each class to judge by (default: 15)")
    parser.add_argument("--seed", type=int, default=0, help="decides classes, photos and weights (default: 0)")
    parser.add_argument("--log_dir", default="logs/your_own_photos", help="folder for the run")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the rows (default: benchmarks/results/)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/your_own_photos.md")
    options, flags = parser.parse_known_args(argv)
    with clear_errors():
        return measure(options, flags)


def measure(options: argparse.Namespace, flags: Sequence[str]) -> str:
    """What :func:`main` does."""
    rows = json.loads(options.results.read_text()) if options.results.exists() else {}
    if options.new:
        new = chosen(options.new, None, options.per_new_class, options.seed, "--new")
        row: dict[str, Any] = {"seed": options.seed, "episodes": options.episodes, "queries": options.queries}
        row["new"] = list(new)
        if options.checkpoint is None:
            for file in itertools.chain(*new.values()):
                thumbnail(file, 1)  # what is no picture is named before the training, not after it
            checkpoint, row["training"] = train(options, flags)
        else:
            checkpoint = options.checkpoint
        learner = load_trained(checkpoint)
        pictures = [learner.read(files) for files in new.values()]  # of each new class, [n, C, H, W]
        row["accuracy"] = {
            f"{ways} {shots}": accuracy(learner, pictures, ways, shots, options) for ways in WAYS for shots in SHOTS
        }
        rows[options.name or options.photos or options.checkpoint] = row
        options.results.write_text(json.dumps(rows, indent=1) + "\n")
    text = table(rows)
    print(f"\n{text}")
    if options.write:
        results_table.write_between(PAGE, MARK, text)
    return text


def train(options: argparse.Namespace, flags: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Train on some of the photos; returns the run's folder, and its minutes and updates."""
    with tempfile.TemporaryDirectory() as root:
        photos = chosen(options.photos, options.classes, options.per_class, options.seed, "--photos")
        for name, files in photos.items():
            folder = Path(root) / name
            folder.mkdir()
            for file in files:
                (folder / file.name).symlink_to(file.resolve())
        own = [f"--data_dir={root}", f"--seed={options.seed}", f"--log_dir={options.log_dir}"]
        started = time.perf_counter()
        run_experiment.main([*TRAINING, *own, *flags])
        minutes = (time.perf_counter() - started) / 60
    runs = (RunFolder(path) for path in Path(options.log_dir).glob("ImageFolders-*/version_*"))
    run = max(runs, key=lambda folder: folder.path.stat().st_mtime)
    return str(run.path), {"updates": run.facts()["updates"], "minutes": round(minutes, 1), "flags": list(flags)}


def chosen(folder: str, classes: int | None, per_class: int, seed: int, argument: str) -> dict[str, list[Path]]:
    """So many of a folder's classes, None for all, and so many pictures of each, by a draw."""
    files, _ = labelled_pictures(folder, argument)
    rng = np.random.default_rng(seed)
    names = sorted(files) if classes is None else sorted(rng.permutation(sorted(files)).tolist()[:classes])
    return {name: sorted(files[name][i] for i in rng.permutation(len(files[name]))[:per_class]) for name in names}


def accuracy(
    learner: Learner, pictures: Sequence[Tensor], ways: int, shots: int, options: argparse.Namespace
) -> tuple[float | None, float | None] | None:
    """Mean over the tasks, and its 95 % margin; None where the model has fewer outputs, or there are fewer classes."""
    sizes, index = np.array([len(x) for x in pictures]), np.arange(options.episodes)
    if ways > len(sizes) or shots + options.queries > sizes.min():
        return None
    classes, samples = draw_classification(options.seed, "test", index, sizes, ways, shots + options.queries)
    found = []
    for names, rows in zip(classes, samples, strict=True):
        x = torch.stack([pictures[name][row] for name, row in zip(names, rows, strict=True)])  # [N, K+Q, ...]
        labels = np.arange(ways)
        try:
            adapted = learner.adapt(x[:, :shots].flatten(0, 1), labels.repeat(shots))
        except BadInput:
            return None
        found.append((adapted.predict(x[:, shots:].flatten(0, 1)) == labels.repeat(options.queries)).mean())
    return mean_ci95(np.array(found))


def table(rows: dict[str, dict[str, Any]]) -> str:
    """A line for each row and number of new classes."""
    lines = [
        "| trained on | new classes | guessing | "
        + " | ".join(f"{k} photo{'s' * (k > 1)} of each" for k in SHOTS)
        + " |"
    ]
    lines.append("|---" * (3 + len(SHOTS)) + "|")
    for name, row in rows.items():
        for ways in WAYS:
            pairs = [row["accuracy"][f"{ways} {shots}"] for shots in SHOTS]
            cells = ["–" if pair is None else f"{100 * pair[0]:.1f} ± {100 * pair[1]:.1f} %" for pair in pairs]
            lines.append(" | ".join([f"| {name}", str(ways), f"{100 / ways:.0f} %", *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
