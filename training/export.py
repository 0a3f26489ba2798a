"""Take a trained learner out of Python: its whole adaptation as one ONNX graph, checked before it is written.

python training/export.py --checkpoint=RUN --output=DIR
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from training.starting import start

    start()

from few_shot.export import Exported
from few_shot.files import given_path
from training.command_line import clear_errors, parse_options
from training.terminal import print_result, say, tidy_warnings
from training.trained import OwnCode, load_trained


@dataclass
class ExportOptions(OwnCode):
    """What to export, and where to.

    Args:
        checkpoint: a run's folder, whose best checkpoint is taken; or a checkpoint file; or a published result's folder
            (benchmarks/results/NAME).
        output: folder to write: adapt.onnx (the adaptation), model.onnx (the network as a function of its weights),
            weights.safetensors, example.safetensors (an episode with PyTorch's predictions) and export.json (task,
            sizes, preprocessing, rates). An export that is there is replaced.
        steps: gradient steps in the graph, which predicts after each; null is as many as in the run's test.
    """

    checkpoint: str
    output: str
    steps: int | None = None


def main(argv: Sequence[str] | None = None) -> Exported:
    """Export a checkpoint's learner, and print what was written."""
    with clear_errors():
        tidy_warnings()
        options = parse_options(argv, "Write a learner's adaptation as one ONNX graph.", ExportOptions)
        given_path(options.output, "output")
        learner = load_trained(options.checkpoint, options)
        say("Exporting takes some seconds, with many inner steps a minute.")
        exported = learner.export(options.output, steps=options.steps)
        print_result(in_words(exported))
        return exported


def in_words(exported: Exported) -> str:
    """The files with their sizes, how near the graph is to PyTorch, and how long it takes."""
    lines = [f"{exported.folder / name}  {size / 1000:,.1f} kB" for name, size in exported.sizes.items()]
    lines += [
        f"The graph's predictions differ from PyTorch's by {exported.difference:.1e} at most.",
        f"One adaptation takes {exported.milliseconds:.3g} ms in onnxruntime, with one thread.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
