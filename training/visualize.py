"""Pictures of a run: how its model adapts to one task, and what its logs and its checkpoints say.

python training/visualize.py --checkpoint=logs/Sinusoid-LitMAML/version_0 --episode=3 --against joint random
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from training.starting import start

    start()

from few_shot.checkpoint import find_checkpoint, read_any
from few_shot.confusion import count_confusion, draw_confusion
from few_shot.errors import BadInput, at_least
from few_shot.figure_style import save
from few_shot.files import given_path
from few_shot.plots import draw_fit
from few_shot.sheets import can_draw_sheet, draw_sheet
from training.command_line import TRAINING_ONLY, clear_errors, parse, same_tasks
from training.experiment import Experiment, RunOptions, load_weights
from training.gradients import draw_gradients
from training.pictures import draw_curves, draw_steps, draw_updates
from training.process import set_up_process
from training.run_folder import RunFolder, data_record, make_folder, read_checkpoint
from training.run_names import algorithm_name
from training.terminal import print_result, say, script
from training.testing import score
from training.trained import OwnCode, load_trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What pictures do without, of the flags that they could have.
UNUSED = TRAINING_ONLY | {f.name for f in fields(RunOptions)} | {"batch_size", "num_workers", "test_inner_loop_steps"}

#: What each picture takes, of the flags that say more of it; "task" takes them all.
TAKES: dict[str, set[str]] = {
    "task": {"episode", "steps", "shots", "against"},
    "steps": {"steps", "shots", "against"},
    "updates": {"steps", "shots"},
    "confusion": {"steps", "shots"},
    "curves": set(),
    "gradients": set(),
}


@dataclass
class PictureOptions:
    """What to draw.

    Args:
        checkpoint: checkpoint file of a run, or its folder. The run's own settings hold, except for flags that are
            given.
        episode: number of the test task to draw, from 0.
        picture: "task" is one test task, a curve or a sheet of pictures; "steps" the test's result against inner steps;
            "updates" a test of each checkpoint that the run kept, against outer updates; "confusion" which of the
            test's classes are taken for which; "curves" training and validation, from the run's log; "gradients" the
            outer gradients, if the run logged their histograms.
        steps: inner steps. A curve is drawn after each of these ([] is 0 1 10), a sheet before and after the largest,
            and results up to the largest, which may be more than in training.
        shots: support samples per class, or points of a curve; null is as many as the run's.
        against: other runs or checkpoints to put beside this one, in "task" (of a curve) and "steps". random is the
            same network at its initial weights, joint the joint training in the same folder of runs.
        output: file to draw into; its ending is the format (png, pdf, svg). null is a PNG named after the picture.
    """

    checkpoint: str
    episode: int = 0
    picture: Literal["task", "steps", "updates", "confusion", "curves", "gradients"] = "task"
    steps: list[int] = field(default_factory=list)
    shots: int | None = None
    against: list[str] = field(default_factory=list)
    output: str | None = None


def main(argv: Sequence[str] | None = None) -> None:
    """Draw one picture of a checkpoint or its run, into a file."""
    argv = list(sys.argv[1:] if argv is None else argv)
    with clear_errors():
        experiment = _parse(argv)
        set_up_process(experiment.options)
        options = PictureOptions(**experiment.extra)
        for step in options.steps:
            at_least(0, step, "steps")
        at_least(0, options.episode, "episode")
        algorithm: Any = experiment.classes["lit_model_class"]
        if options.steps and "test_inner_loop_steps" in algorithm.unused:
            raise BadInput(f"steps={options.steps} is of no use: {algorithm.__name__} has no inner steps.")
        name, figure = draw(options, experiment, argv)
        output = given_path(options.output or f"{name}.png", "output")
        make_folder(output.parent, "output")
        save(figure, output)
        print_result(f"The picture is in {output}")


def _parse(argv: Sequence[str]) -> Experiment:
    experiment = parse(
        argv,
        "Draw a picture of a checkpoint or its run, into the file that --output names.",
        PictureOptions,
        settings_from="checkpoint",
        unused=UNUSED,
    )
    if experiment.extra["shots"] is not None:
        at_least(1, experiment.extra["shots"], "shots")
        experiment.arguments["data_class"]["support_samples"] = experiment.extra["shots"]
    return experiment


def draw(options: PictureOptions, experiment: Experiment, argv: Sequence[str]) -> "tuple[str, Figure]":
    """The picture that is asked for, and its name."""
    checkpoint, picture = options.checkpoint, options.picture
    default = vars(PictureOptions(checkpoint))
    for flag in sorted(TAKES["task"] - TAKES[picture]):
        if getattr(options, flag) != default[flag]:
            raise BadInput(f"--{flag} has no use with --picture={picture}.")
    if picture in ("curves", "gradients"):
        folder = _run_of(checkpoint)
        figure = draw_curves(folder) if picture == "curves" else draw_gradients(folder)
        if figure is None:
            flag = "log_gradient_histograms" if picture == "gradients" else "log_every_n_steps"
            raise BadInput(f"The run in {folder.path} has logged nothing of that: train with --{flag}.")
        return picture, figure
    data, lit_model = experiment.build("test", data_record(read_checkpoint(checkpoint, "checkpoint")))
    load_weights(lit_model, checkpoint, "checkpoint")
    lit_model.eval()
    most = max(options.steps, default=None)
    if picture == "confusion":
        return picture, draw_confusion(count_confusion(lit_model, data, data.test_episodes, most))
    if picture == "updates":
        return picture, _draw_updates(_run_of(checkpoint), lit_model, data, most)
    if picture == "task" and can_draw_sheet(data):
        if options.against:
            raise BadInput(f"against={options.against[0]} has no use with a sheet: that is of one run.")
        return "sheet", draw_sheet(lit_model, data, options.episode, most)
    name = algorithm_name(experiment.config)
    others = rivals(options, experiment, data, argv)
    if picture == "task":
        return "fit", draw_fit(lit_model, data, options.episode, options.steps or (0, 1, 10), others, name)
    most = 2 * lit_model.test_inner_loop_steps if most is None else most
    learners = {name: lit_model, **others}
    results = {each: score(learner, data, most) for each, learner in learners.items()}
    return picture, draw_steps(results, data.metric, {n: steps_in_training(one) for n, one in learners.items()})


def _run_of(checkpoint: str) -> RunFolder:
    folder = RunFolder.of(checkpoint)
    if folder is None:
        raise BadInput(f"checkpoint={checkpoint} is in no run's folder, which this picture needs: there is no log.")
    return folder


def _draw_updates(folder: RunFolder, lit_model: Any, data: Any, most: int | None) -> "Figure":
    """Test every checkpoint that the run kept, which only now are looked at with the test's tasks."""
    kept = folder.kept()
    say(
        f"The run kept {len(kept)} {'checkpoint' if len(kept) == 1 else 'checkpoints'}, which "
        "are tested now. Trained with --ensemble=N, a run keeps N of its validated checkpoints."
    )
    tests = {}
    for update, path in kept.items():
        load_weights(lit_model, str(path), "checkpoint")
        tests[update] = score(lit_model, data, lit_model.test_inner_loop_steps if most is None else most)
    return draw_updates(folder, tests, data.metric)


def steps_in_training(lit_model: Any) -> int | None:
    """The inner steps of an algorithm's training; None if it has none."""
    unused = getattr(lit_model, "unused", {})
    return None if "inner_loop_steps" in unused else getattr(lit_model, "inner_loop_steps", None)


def rivals(options: PictureOptions, experiment: Experiment, data: Any, argv: Sequence[str]) -> dict[str, Any]:
    """The algorithms that --against names, by name."""
    found: dict[str, Any] = {}
    own = OwnCode.of(experiment.config)
    for word in options.against:
        if word == "random":
            initial = _parse([*argv, "--lit_model_class=LitRandom"])
            initial.resumed_from = {}  # published weights, if any, are part of the initialisation
            found[algorithm_name(initial.config)] = initial.modules()[1].eval()
            continue
        path = _joint_run(options.checkpoint, experiment) if word == "joint" else word
        lit_model = load_trained(path, own).lit_model
        config = read_any(find_checkpoint(path)).get("config", {"lit_model_class": type(lit_model).__name__})
        _check_fits(path, lit_model, config, experiment, data)
        name = algorithm_name(config)
        if name in (*found, algorithm_name(experiment.config)):
            name = f"{name}, {path}"
        found[name] = lit_model
    return found


def _joint_run(checkpoint: str, experiment: Experiment) -> str:
    """The joint training on the same data that was started last in the folder of runs that holds a checkpoint's."""
    folder = RunFolder.of(checkpoint)
    data_class = experiment.config["data_class"]
    log_dir = Path(experiment.config.get("log_dir", "logs")) if folder is None else folder.path.parent.parent
    found = RunFolder.latest(log_dir, f"{data_class.rpartition('.')[2]}-LitJoint")
    if found is None or not found.checkpoints.is_dir():
        flags = [*same_tasks(experiment.config, "LitJoint"), f"--log_dir={log_dir}"]
        command = shlex.join(["python", script("run_experiment.py"), *flags])
        raise BadInput(f"against=joint: {log_dir} holds no joint training on {data_class}. This trains it: {command}")
    return str(found.path)


def _check_fits(path: str, lit_model: Any, config: dict[str, Any], experiment: Experiment, data: Any) -> None:
    """Raise BadInput where another run's model cannot take these tasks."""
    shape = (lit_model.data_facts or {}).get("input_shape", data.input_shape)
    if tuple(shape) != tuple(data.input_shape) or (lit_model.metric or data.metric) != data.metric:
        raise BadInput(
            f"against={path} was trained on tasks of another kind than checkpoint={experiment.extra['checkpoint']}."
        )
    ways, here = config.get("episode_classes"), experiment.config.get("episode_classes")
    if lit_model.fixed_ways and None not in (ways, here) and ways != here:
        raise BadInput(f"against={path} tells {ways} classes apart, and these tasks have {here}.")


if __name__ == "__main__":
    main()
