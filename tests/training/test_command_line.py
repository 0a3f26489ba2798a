"""Who wins, what each flag means, and what becomes of bad input."""

import dataclasses
import itertools
import re
from pathlib import Path

import jsonargparse
import pytest
import yaml

import few_shot.data
import few_shot.lit_models
import few_shot.models
from few_shot.data import Sinusoid
from few_shot.errors import BadInput
from training import evaluate, run_experiment, visualize
from training.command_line import CONFIGS, TRAINING_ONLY, clear_errors, parse, parse_options
from training.experiment import RunOptions

SWEEPS = Path(__file__).parents[2] / "training" / "sweeps"


def parsed(*argv):
    return parse(list(argv), "test").config


@dataclasses.dataclass
class Numbers:
    """Flags of a program.

    Args:
        steps: a list of numbers.
    """

    steps: list[int]


@pytest.mark.parametrize("argv", ["--steps 0 1", "--steps=0,1", "--steps=[0,1]", "--steps=0 --steps=1"])
def test_a_list_of_numbers_is_written_in_any_of_four_ways(argv):
    assert parse_options(argv.split(), "test", Numbers).steps == [0, 1]


class MyData(Sinusoid):
    """A data set of the user's own.

    Args:
        answer: a flag of its own.
    """

    def __init__(self, answer: int = 42, **base) -> None:
        super().__init__(**base)
        self.answer = answer


def test_the_datasets_protocol_over_the_constructor():
    config = parsed("--data_class=MiniImagenet")
    assert (config["model_class"], config["lit_model_class"]) == ("Conv4", "LitMAML")
    assert (config["batch_size"], config["width"], config["gradient_clip_val"]) == (4, 32, 0.1333)
    assert (config["query_samples"], config["test_inner_loop_steps"], config["loss"]) == (15, 10, "cross_entropy")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--data_class=MiniImagenet", "--support_samples=5"], {"batch_size": 2, "inner_loop_steps": 5}),
        (["--data_class=MiniImagenet", "--support_samples", "5"], {"batch_size": 2}),
        (["--data_class=MiniImagenet", "--support_samples=3"], {"batch_size": 4}),
        (["--data_class=Omniglot"], {"batch_size": 32, "inner_lr": 2.0, "query_samples": None}),
        (["--data_class=Omniglot", "--episode_classes=20"], {"batch_size": 16, "inner_lr": 2.0, "inner_loop_steps": 5}),
        (["--data_class=MiniImagenet", "--lit_model_class=LitMetaSGD"], {"inner_loop_steps": 1, "batch_size": 4}),
        (
            ["--data_class=Omniglot", "--lit_model_class=LitReptile", "--episode_classes=20"],
            {"batch_size": 16, "inner_lr": 2.0, "inner_loop_steps": 5, "test_inner_loop_steps": 10},
        ),
        (["--data_class=Omniglot", "--lit_model_class=LitMAMLPlusPlus", "--episode_classes=20"], {"batch_size": 16}),
        (["--data_class=MiniImagenet", "--lit_model_class=LitANIL", "--support_samples=5"], {"batch_size": 4}),
        (
            ["--data_class=MiniImagenet", "--lit_model_class=LitProtoNet", "--support_samples=5"],
            {"train_episode_classes": 20, "episode_classes": 5, "gradient_clip_val": None, "width": 64},
        ),
        (
            ["--data_class=CifarFS"],
            {"batch_size": 4, "inner_lr": 0.05, "gradient_clip_val": 0.1333, "adapt_norm": False},
        ),
        (["--data_class=CifarFS", "--support_samples=5"], {"batch_size": 2}),
        (["--data_class=Sinusoid"], {"batch_size": 25, "loss": "mse_loss", "max_steps": 70_000}),
    ],
)
def test_the_published_row_for_ways_and_shots(flags, expected):
    config = parsed(*flags)
    assert {k: config[k] for k in expected} == expected


def test_flag_over_config_over_protocol_wherever_config_stands(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("data_class: Sinusoid\nbatch_size: 7\ninner_lr: 0.5\ngpus: -1\n")
    for argv in itertools.permutations([f"--config={file}", "--inner_lr=0.25"]):
        config = parsed(*argv)
        assert (config["batch_size"], config["inner_lr"], config["max_steps"]) == (7, 0.25, 70_000)
        assert config["gpus"] == "-1"


def test_another_models_arguments_do_not_come_from_the_protocol():
    config = parsed("--data_class=MiniImagenet", "--model_class=ResNet12")
    assert config["width"] == 64
    assert "downsample" not in config
    assert config["batch_size"] == 4


@pytest.mark.parametrize("text", ["--first_order", "--first_order=True", "--first_order=true"])
def test_booleans_bare_and_as_sweeps_write_them(text):
    assert parsed("--data_class=Sinusoid", text)["first_order"] is True
    assert parsed("--data_class=Sinusoid", text, "--first_order=False")["first_order"] is False


def test_a_class_of_the_users_own():
    experiment = parse(["--data_class=test_command_line.MyData", "--model_class=SinusoidMLP", "--answer=43"], "test")
    data, _ = experiment.build()
    assert (type(data).__name__, data.answer) == ("MyData", 43)


def test_every_protocol_parses_to_its_own_values():
    files = sorted(CONFIGS.rglob("*.yaml"))
    assert len(files) >= 5
    for file in files:
        config = parsed(f"--config={file}")
        expected = yaml.safe_load(file.read_text())
        assert {k: config[k] for k in expected} == expected, file
        assert parse([f"--config={file}"], "test").classes["data_class"].__name__ == file.parent.name


def test_a_resolved_config_gives_itself_again(tmp_path):
    config = parsed("--data_class=Omniglot", "--episode_classes=20", "--width=8")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert parsed(f"--config={tmp_path / 'config.yaml'}") == config


@pytest.mark.parametrize("sweep", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_command_line_of_a_sweep_is_accepted(sweep):
    content = yaml.safe_load(sweep.read_text())
    assert content["method"] in ("grid", "random", "bayes")
    assert content["metric"]["goal"] in ("minimize", "maximize")
    assert (SWEEPS.parents[1] / content["program"]).is_file()
    assert content["command"] == ["${env}", "${interpreter}", "${program}", "${args}"]
    choices = []
    for name, parameter in content["parameters"].items():
        values = parameter.get("values") or [parameter[k] for k in ("value", "min", "max") if k in parameter]
        assert values, name
        choices.append([f"--{name}={value}" for value in values])
    for argv in itertools.product(*choices):
        assert content["metric"]["name"] == f"val_{parse(argv, 'test').classes['data_class'].metric}"


BAD = [
    (["--data_class=Sinusoid", "--max_step=3"], "did you mean --max_steps?"),
    (["--data_class=Sinusoid", "--query=3"], "unknown flag --query for the chosen classes."),
    (["--data_class=Sinusoid", "--schedule=cosine"], "did you mean --outer_schedule?"),
    (["--data_class=Sinusoid", "--data_dir=x"], "--data_dir"),
    (["--data_class=CUB", "--data_dir=my", "photos"], "photos is no flag: put a path with spaces in quotes."),
    (["--data_class=Sinusoi"], "--data_class=Sinusoi is unknown"),
    (["--data_class=no.such.Thing"], "--data_class=no.such.Thing cannot be imported"),
    (["--data_class=Sinusoid", "--model_class=Conv5"], "--model_class=Conv5 is unknown"),
    (["--data_class=Sinusoid", "--model_class=Conv4"], "Conv4 takes images"),
    (["--data_class=Sinusoid", "--lit_model_class=torch.nn.Linear"], "LitMetaLearner"),
    ([], "--data_class is missing"),
    (["--data_class=Sinusoid", "--max_steps=0"], "--max_steps=0"),
    (["--data_class=Sinusoid", "--max_steps=ten"], "--max_steps"),
    (["--data_class=Sinusoid", "--max_steps"], "--max_steps"),
    (["--data_class=Sinusoid", "--val_check_interval=0"], "--val_check_interval=0"),
    (["--data_class=Sinusoid", "--support_samples=0"], "--support_samples=0"),
    (["--data_class=Sinusoid", "--query_samples=0"], "--query_samples=0"),
    (["--data_class=Sinusoid", "--batch_size=0"], "--batch_size=0"),
    (["--data_class=Sinusoid", "--inner_loop_steps=0"], "--inner_loop_steps=0"),
    (["--data_class=Sinusoid", "--test_inner_loop_steps=-1"], "--test_inner_loop_steps=-1"),
    (["--data_class=Sinusoid", "--test_episodes=0"], "--test_episodes=0"),
    (["--data_class=Sinusoid", "--num_processes=0"], "--num_processes=0"),
    (["--data_class=Sinusoid", "--inner_optimizer=newton"], "--inner_optimizer"),
    (["--data_class=Sinusoid", "--precision=16"], "--precision"),
    (["--data_class=Sinusoid", "--loss=nonsense"], "--loss=nonsense"),
    (["--data_class=Sinusoid", "--loss=.mse_loss"], "--loss=.mse_loss"),
    (["--config=no_such.yaml"], "--config=no_such.yaml"),
    (["--data_class=Sinusoid", "--resume=no_such.ckpt"], "--resume=no_such.ckpt"),
    (["--data_class=Sinusoid", "--inner_lr=0"], "--inner_lr=0"),
    (["--data_class=Sinusoid", "--track_grad_norm=0"], "--track_grad_norm=0"),
    (["--data_class=Sinusoid", "--width=0"], "--width=0"),
    (["--data_class=Sinusoid", "--hidden_layers=-1"], "--hidden_layers=-1"),
    (["--data_class=Sinusoid", "--strategy=nonsense"], "--strategy=nonsense"),
    (["--data_class=Sinusoid", "--strategy=ddp_fork"], "--strategy=ddp_fork cannot be used: choose one of auto, ddp"),
    (["--data_class=Sinusoid", "--stop_early=5", "--limit_val_batches=0"], "--stop_early=5 needs validations"),
    (["--data_class=Sinusoid", "--seed=5000000000"], "--seed=5000000000"),
    (["--data_class=Sinusoid", "--eval_seed=5000000000"], "--eval_seed=5000000000"),
    (["--data_class=Sinusoid", "--loss=cross_entropy"], "--loss=cross_entropy"),
    (["--data_class=Sinusoid", "--loss=relu"], "--loss=relu"),
    (["--data_class=EpisodeDataModule"], "--data_class=EpisodeDataModule is unknown"),
    (["--data_class=Sinusoid", "--model_class=torch.nn.Linear"], "must take input_shape"),
    (["--data_class=MiniImagenet", "--episode_classes=1"], "--episode_classes=1"),
    (["--data_class=MiniImagenet", "--train_episode_classes=0"], "--train_episode_classes=0"),
    (["--data_class=MiniImagenet", "--train_episode_classes=10"], "--train_episode_classes=10"),
    (["--data_class=MiniImagenet", "--width=0"], "--width=0"),
    (["--data_class=MiniImagenet", "--dropout=1.5"], "--dropout=1.5"),
    (["--data_class=MiniImagenet", "--loss=mse_loss"], "--loss=mse_loss"),
]


@pytest.mark.parametrize(
    ("argv", "sentence"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_input_is_one_sentence_and_status_2(argv, sentence, capsys):
    with pytest.raises(SystemExit) as exit_, clear_errors():
        parse(argv, "test").build()
    error = capsys.readouterr().err.strip()
    assert exit_.value.code == 2
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert "Traceback" not in error


def test_two_ways_to_name_a_patience():
    assert parsed("--data_class=Sinusoid", "--stop_early")["stop_early"] == 5
    assert parsed("--data_class=Sinusoid", "--stop_early=2")["stop_early"] == 2


def test_a_protocol_is_for_our_own_data_sets_only():
    """A class of the user's that is called like ours does not get ours."""
    config = parsed("--data_class=test_command_line.Sinusoid", "--model_class=SinusoidMLP")
    assert config["max_steps"] == 70_000  # this one is ours, under another path
    config = parsed("--data_class=test_command_line.MyData", "--model_class=SinusoidMLP")
    assert config["max_steps"] == 60_000


@pytest.mark.parametrize("content", ["- a list", "data_class: 3", "data_class: Sinusoid\nno_such_flag: 1", "a: b: c"])
def test_a_bad_config_file_is_named(tmp_path, content):
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(BadInput, match=r"--config=.*bad\.yaml|--data_class=3"):
        parsed(f"--config={tmp_path / 'bad.yaml'}")


@pytest.mark.parametrize(
    ("data_class", "flags"),
    [
        ("Sinusoid", ["--inner_lr", "--width", "--support_samples", "--max_steps", "default: 70000"]),
        ("Omniglot", ["--rotations", "--downsample", "--episode_classes", "--shuffle_labels", "--augment"]),
        ("MiniImagenet", ["--data_dir", "--gradient_clip_val", "--wandb", "--resume", "--transductive"]),
    ],
)
def test_help_shows_the_flags_of_the_chosen_classes_with_their_defaults(data_class, flags, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse([f"--data_class={data_class}", "--help"], "test")
    text = capsys.readouterr().out
    assert exit_.value.code == 0
    assert [flag for flag in flags if flag not in text] == []


PACKAGES = (few_shot.data, few_shot.models, few_shot.lit_models)
CLASSES = [RunOptions, *(getattr(package, name) for package in PACKAGES for name in package.__all__)]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_flag_is_explained(cls):
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(cls, None)
    assert [a.dest for a in parser._actions if a.dest not in ("help", "model") and not a.help] == []


def printed_help(capsys, *argv, main=None):
    """The help's groups, by heading: the flags of each, in order; and all of its text."""
    with pytest.raises(SystemExit) as exit_:
        (main or (lambda argv: parse(argv, "test")))([*argv, "--help"])
    text = capsys.readouterr().out
    assert exit_.value.code == 0
    groups, heading = {}, ""
    for line in text.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            heading = line.removesuffix(":")
        elif flag := re.match(r"  (?:-h, )?--(\w+)", line):
            groups.setdefault(heading, []).append(flag[1])
    return groups, text


def test_help_is_in_groups_the_classes_own_flags_first(capsys):
    groups, _ = printed_help(capsys, "--data_class=Omniglot")
    classes = ["Data set Omniglot", "Model Conv4", "Algorithm LitMAML"]
    assert list(groups) == ["options", "What to run", *classes, "How to run"]
    assert groups["Data set Omniglot"].index("rotations") < groups["Data set Omniglot"].index("batch_size")
    assert {"width", "downsample", "dropout", "norm"} <= set(groups["Model Conv4"])
    assert groups["Algorithm LitMAML"][0] == "inner_lr"
    assert groups["How to run"] == [field.name for field in dataclasses.fields(RunOptions)]
    flags = [flag for group in groups.values() for flag in group]
    assert len(flags) == len(set(flags))


@pytest.mark.parametrize("flag", ["lit_model_class", "model_class", "data_class"])
def test_help_of_any_class_needs_no_data_set(flag, capsys):
    names = {"lit_model_class": "LitMetaSGD", "model_class": "ResNetClassifier", "data_class": "CifarFS"}
    own = {"lit_model_class": "inner_lr_max", "model_class": "pretrained", "data_class": "augment"}
    groups, _ = printed_help(capsys, f"--{flag}={names[flag]}")
    (heading,) = (heading for heading in groups if heading.endswith(f" {names[flag]}"))
    assert own[flag] in groups[heading]


def test_help_explains_the_words_and_gives_every_flag_a_default(capsys):
    _, text = printed_help(capsys, "--data_class=MiniImagenet")
    assert [word for word in ("ways", "shots", "query", "support", "outer update") if f"\n  {word} " not in text] == []
    options = re.split(r"\n  --", text.split("\nWords:")[0])[1:]
    assert [option for option in options if "default:" not in " ".join(option.split())] == []
    assert "Literal" not in text
    assert max(map(len, text.splitlines())) <= 120


SCRIPTS = {"evaluate": (evaluate, "split"), "visualize": (visualize, "episode")}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    logs = tmp_path_factory.mktemp("logs")
    quick = ["--max_steps=1", "--test_episodes=2", "--val_episodes=2", "--gpus=0"]
    run_experiment.main(["--data_class=Sinusoid", *quick, f"--log_dir={logs}"])
    return logs / "Sinusoid-LitMAML" / "version_0" / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_other_programs_show_their_own_flags_first_and_refuse_what_they_do_not_use(name, checkpoint, capsys):
    script, own = SCRIPTS[name]
    groups, _ = printed_help(capsys, main=script.main)
    assert list(groups)[1] == "This program's own flags"
    assert groups["This program's own flags"][:2] == ["checkpoint", own]
    groups, _ = printed_help(capsys, f"--checkpoint={checkpoint}", main=script.main)
    shown = {flag for group in groups.values() for flag in group}
    assert {"support_samples", "inner_lr", "eval_seed"} <= shown
    assert ("gpus" in shown) == (name == "evaluate")
    unused = TRAINING_ONLY if name == "evaluate" else visualize.UNUSED
    assert not shown & unused
    for flag in ("--max_steps=3", "--wandb", "--width=9", "--outer_lr=0.1"):
        with pytest.raises(SystemExit) as exit_:
            script.main([f"--checkpoint={checkpoint}", flag])
        assert exit_.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert f"{flag.partition('=')[0]} has no use here" in line
    with pytest.raises(SystemExit):
        script.main([f"--checkpoint={checkpoint}", "--test_inner_steps=3"])
    meant = capsys.readouterr().err
    assert ("did you mean --test_inner_loop_steps?" in meant) == (name == "evaluate") and "max_steps" not in meant


def test_what_is_refused_exists():
    """A flag that was renamed must be renamed there too."""
    known = {field.name for field in dataclasses.fields(RunOptions)} | {"model_class"}
    for cls in CLASSES[1:]:
        known |= set(jsonargparse.ArgumentParser().add_class_arguments(cls, None, fail_untyped=False))
    assert visualize.UNUSED - known == set()


@pytest.mark.parametrize(
    ("flag", "name", "meant"),
    [
        ("lit_model_class", "MAML", "LitMAML"),
        ("lit_model_class", "maml++", "LitMAMLPlusPlus"),
        ("lit_model_class", "LitMeta_SGD", "LitMetaSGD"),
        ("data_class", "sinusoid", "Sinusoid"),
        ("data_class", "mini-imagenet", "MiniImagenet"),
        ("model_class", "conv4", "Conv4"),
        ("model_class", "ResNet-12", "ResNet12"),
    ],
)
def test_a_name_that_is_nearly_right_is_guessed(flag, name, meant):
    flags = {"data_class": "Sinusoid"} | {flag: name}
    with pytest.raises(BadInput, match=rf"--{flag}={re.escape(name)} is unknown: did you mean {meant}\?"):
        parsed(*(f"--{k}={v}" for k, v in flags.items()))


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--query_samples=None", "--query_samples=None cannot be used: it must be a whole number or null."),
        ("--max_steps=3.5", "--max_steps=3.5 cannot be used: it must be a whole number."),
        ("--inner_lr=", "--inner_lr= cannot be used: it must be a number."),
        ("--wandb=maybe", "--wandb=maybe cannot be used: it must be true or false."),
        ("--inner_optimizer=x", "--inner_optimizer=x cannot be used: it must be sgd or momentum or adam."),
        ("--max_steps", "--max_steps is missing its value."),
    ],
)
def test_a_value_of_the_wrong_type_is_a_plain_sentence(flag, sentence, capsys):
    with pytest.raises(SystemExit):
        parsed("--data_class=Sinusoid", flag)
    assert capsys.readouterr().err.partition("error: ")[2].strip() == sentence


@pytest.mark.parametrize("flag", ["--data_class", "--resume", "--loss"])
def test_a_flag_that_decides_others_is_named_where_its_value_is_missing(flag):
    with pytest.raises(BadInput, match=rf"^{flag} is missing its value\.$"):
        parsed(flag)


def test_the_librarys_arguments_become_flags(capsys):
    parsed("--data_class=Sinusoid")
    with pytest.raises(SystemExit), clear_errors():
        raise BadInput("inner_lr=-1 must be above 0 (outer_lr=2), in a/max_steps=3.ckpt, --seed=1, nothing=0.")
    message = capsys.readouterr().err.partition("error: ")[2].strip()
    assert message == "--inner_lr=-1 must be above 0 (--outer_lr=2), in a/max_steps=3.ckpt, --seed=1, nothing=0."


def test_a_dotted_name_is_the_same_model():
    assert parsed("--data_class=Omniglot", "--model_class=few_shot.models.Conv4") | {"model_class": "Conv4"} == parsed(
        "--data_class=Omniglot"
    )


def test_a_file_of_flags_names_no_other(tmp_path):
    (tmp_path / "outer.yaml").write_text("data_class: Sinusoid\nconfig: inner.yaml\n")
    with pytest.raises(BadInput, match="config is no flag"):
        parsed(f"--config={tmp_path / 'outer.yaml'}")
