"""What closes the gap between training and validation on CIFAR-FS: trains the arms, draws them, prints their table.

python benchmarks/overfitting.py

Every arm is MAML on eight classes, a run of training/run_experiment.py that keeps all its validated checkpoints. Its
training accuracy is measured as validation is: the checkpoints are evaluated on as many fixed episodes, with as many
query samples and without augmentation, of the training classes. Further flags go to every run. ``--redraw`` draws and
prints what benchmarks/results/overfitting.json holds; ``--write`` puts the table into
docs/overfitting.md.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import results_table
from few_shot.figure_style import COLOURS, FAINT, count_axis, house_style, line_style, new_figure, save, shade
from training import evaluate, run_experiment
from training.run_folder import RunFolder

RESULTS = results_table.RESULTS / "overfitting.json"
FIGURE, PAGE = (results_table.ROOT / "docs" / f"overfitting.{kind}" for kind in ("png", "md"))
MARK = "<!-- overfitting: python benchmarks/overfitting.py --redraw --write -->"

UPDATES, EVERY, EPISODES = 800, 200, 200
#: Small enough for half an hour on one thread: strided convolutions, one inner step, few queries. The training
#: episodes' seed is not that of the evaluation, which would otherwise meet the first episodes trained on.
COMMON = ["--data_class=CifarFS", "--train_classes=8", "--seed=1", "--downsample=stride", "--inner_loop_steps=1"]
COMMON += ["--test_inner_loop_steps=1", "--inner_lr=0.4", "--outer_lr=0.003"]
#: The network and the bound of the paper, as it was when these arms were trained, rather than of the authors' code.
COMMON += ["--norm=batch", "--adapt_norm=true", "--initial_weights=torch", "--gradient_clip_val=10"]
COMMON += ["--query_samples=5", "--test_query_samples=10"]
COMMON += [f"--max_steps={UPDATES}", f"--val_check_interval={EVERY}", f"--val_episodes={EPISODES}"]
#: All checkpoints are kept, none is tested.
COMMON += [f"--ensemble={UPDATES}", "--limit_test_batches=0"]
ARMS = {
    "plain": [],
    "augmentation": ["--augment"],
    "weight decay": ["--weight_decay=0.001"],
    "labels not shuffled": ["--shuffle_labels=false"],
    "augmentation and weight decay": ["--augment", "--weight_decay=0.001"],
    "64 classes instead of 8": ["--train_classes=64"],
}


def main(argv: Sequence[str] | None = None) -> str:
    """Run the arms unless told only to redraw; returns the table, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--log_dir", default="logs/overfitting", help="folder for the runs (default: logs/overfitting)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the measurements (default: benchmarks/results/)")
    parser.add_argument("--figure", type=Path, default=FIGURE, help="the picture (default: docs/overfitting.png)")
    parser.add_argument("--redraw", action="store_true", help="train nothing")
    parser.add_argument("--write", action="store_true", help="put the table into docs/overfitting.md")
    options, flags = parser.parse_known_args(argv)
    if not options.redraw:
        results = {}
        for name, own in ARMS.items():
            print(f"\n{name}", flush=True)
            folder = Path(options.log_dir) / name.replace(" ", "_")
            results[name] = measure([*COMMON, *own, *flags, f"--log_dir={folder}"])
            options.results.write_text(json.dumps(results) + "\n")
    results = json.loads(options.results.read_text())
    draw(results, options.figure)
    text = table(results)
    print(f"\n{text}")
    if options.write:
        results_table.write_between(PAGE, MARK, text)
    return text


def measure(flags: list[str]) -> dict[str, list]:
    """Train one arm; its validated updates and, at each, accuracies with their 95 % margins, ``[mean, ci95]``.

    ``before`` is the training accuracy before adaptation: above chance, labels can be told without the support set.
    """
    run_experiment.main(flags)
    log_dir = Path(next(flag for flag in reversed(flags) if flag.startswith("--log_dir=")).partition("=")[2])
    run = max((RunFolder(path) for path in log_dir.glob("*/version_*")), key=lambda folder: folder.number)
    (updates, means), (_, margins) = (zip(*run.curve(f"val_accuracy{part}"), strict=True) for part in ("", "_ci95"))
    found: dict[str, list] = {"updates": list(updates), "train": [], "before": []}
    found["val"] = [list(pair) for pair in zip(means, margins, strict=True)]
    config = run.config()
    episodes = f"--test_episodes={config['val_episodes']}"
    for update in found["updates"]:
        checkpoint = f"--checkpoint={run.checkpoints / f'best-step={update}.ckpt'}"
        steps = evaluate.main([checkpoint, "--split=train", "--ensemble=0", episodes])["per_step"]
        for part, step in (("before", steps[0]), ("train", steps[-1])):
            found[part].append([step["mean"], step["ci95"]])
    return found


@house_style()
def draw(results: dict[str, dict[str, list]], path: Path) -> None:
    """A panel for each arm: training and validation accuracy against updates, with the plain arm's validation."""
    figure, axes = new_figure(math.ceil(len(results) / 3), 3, width=3.3, height=2.8, sharex=True, sharey=True)
    for axis, (name, result) in zip(axes.flat, results.items(), strict=True):
        for number, (part, label) in enumerate((("train", "training classes"), ("val", "validation"))):
            mean, margin = (100 * np.array(result[part])).T
            axis.plot(result["updates"], mean, label=label, **line_style(number))
            shade(axis, result["updates"], mean, margin, COLOURS[number])
        if name != "plain":
            mean = 100 * np.array(results["plain"]["val"])[:, 0]
            axis.plot(results["plain"]["updates"], mean, ":", color=FAINT, label="validation, plain")
        axis.set_title(name)
        count_axis(axis.xaxis)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy, %")
    for axis in axes[-1]:
        axis.set_xlabel("outer updates")
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    save(figure, path)


def table(results: dict[str, dict[str, list]]) -> str:
    """After the last update; the gap's margin is that of a difference of two independent means."""
    lines = [
        "| arm | training classes | validation | gap | training classes before adaptation |",
        "|---|---|---|---|---|",
    ]
    for name, result in results.items():
        (train, a), (val, b), before = (result[part][-1] for part in ("train", "val", "before"))
        pairs = ((train, a), (val, b), (train - val, math.hypot(a, b)), before)
        cells = [f"{100 * mean:.1f} ± {100 * margin:.1f} %" for mean, margin in pairs]
        lines.append(" | ".join([f"| {name}", *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
