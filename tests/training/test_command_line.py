"""Who wins, what each flag means, and what becomes of bad input."""

import itertools
from pathlib import Path

import jsonargparse
import pytest
import yaml

import few_shot.data
import few_shot.lit_models
import few_shot.models
from few_shot.data import Sinusoid
from few_shot.errors import BadInput
from training.command_line import CONFIGS, clear_errors, parse
from training.experiment import RunOptions

SWEEPS = Path(__file__).parents[2] / "training" / "sweeps"


def parsed(*argv):
    return parse(list(argv), "test").config


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
    assert (config["batch_size"], config["width"], config["gradient_clip_val"]) == (4, 32, 10)
    assert (config["query_samples"], config["test_inner_loop_steps"], config["loss"]) == (15, 10, "cross_entropy")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--data_class=MiniImagenet", "--support_samples=5"], {"batch_size": 2, "inner_loop_steps": 5}),
        (["--data_class=MiniImagenet", "--support_samples", "5"], {"batch_size": 2}),
        (["--data_class=MiniImagenet", "--support_samples=3"], {"batch_size": 4}),
        (["--data_class=Omniglot"], {"batch_size": 32, "inner_lr": 0.4, "query_samples": None}),
        (["--data_class=Omniglot", "--episode_classes=20"], {"batch_size": 16, "inner_lr": 0.1, "inner_loop_steps": 5}),
        (["--data_class=MiniImagenet", "--lit_model_class=LitMetaSGD"], {"inner_loop_steps": 1, "batch_size": 4}),
        (
            ["--data_class=Omniglot", "--lit_model_class=LitReptile", "--episode_classes=20"],
            {"batch_size": 16, "inner_lr": 0.1, "inner_loop_steps": 5, "test_inner_loop_steps": 5},
        ),
        (["--data_class=Omniglot", "--lit_model_class=LitMAMLPlusPlus", "--episode_classes=20"], {"batch_size": 8}),
        (["--data_class=MiniImagenet", "--lit_model_class=LitANIL", "--support_samples=5"], {"batch_size": 4}),
        (
            ["--data_class=MiniImagenet", "--lit_model_class=LitProtoNet", "--support_samples=5"],
            {"train_episode_classes": 20, "episode_classes": 5, "gradient_clip_val": None, "width": 64},
        ),
        (["--data_class=CifarFS"], {"batch_size": 4, "inner_lr": 0.01, "width": 32}),
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
    (["--data_class=Sinusoid", "--data_dir=x"], "--data_dir"),
    (["--data_class=Sinusoi"], "--data_class=Sinusoi is unknown"),
    (["--data_class=no.such.Thing"], "--data_class=no.such.Thing cannot be imported"),
    (["--data_class=Sinusoid", "--model_class=Conv5"], "--model_class=Conv5 is unknown"),
    (["--data_class=Sinusoid", "--model_class=Conv4"], "--model_class=Conv4 takes images"),
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
    (["--config=no_such.yaml"], "--config=no_such.yaml"),
    (["--data_class=Sinusoid", "--resume=no_such.ckpt"], "--resume=no_such.ckpt"),
    (["--data_class=Sinusoid", "--inner_lr=0"], "--inner_lr=0"),
    (["--data_class=Sinusoid", "--track_grad_norm=0"], "--track_grad_norm=0"),
    (["--data_class=Sinusoid", "--width=0"], "--width=0"),
    (["--data_class=Sinusoid", "--hidden_layers=-1"], "--hidden_layers=-1"),
    (["--data_class=Sinusoid", "--strategy=nonsense"], "--strategy=nonsense"),
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
