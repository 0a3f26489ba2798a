"""Flags, configs and checkpoints that are broken or mean harm: one sentence, status 2, and nothing of theirs is run."""

import os
import sys

import pytest
import torch

import few_shot
from few_shot.errors import BadInput
from few_shot.models import SinusoidMLP
from training import evaluate, predict, run_experiment, visualize
from training.command_line import clear_errors, parse
from training.devices import gpus_to_use
from training.picture_lists import listed_pictures
from training.settings import read_settings
from training.terminal import say

NO_PATHS = ["", "a\0b", "\ud800", "x" * 5000, "~nouser/x"]
TOO_LARGE = ["batch_size", "val_episodes", "support_samples", "seed", "width", "max_steps", "ensemble", "num_workers"]


def refusal(capsys, run, *argv):
    """What a command that must fail says: one short line, and status 2."""
    with pytest.raises(SystemExit) as error, clear_errors():
        run(list(argv))
    said = capsys.readouterr().err.strip().splitlines()
    assert error.value.code == 2 and "error: " in said[-1] and len(said[-1]) < 600
    return said[-1]


def built(argv):
    experiment = parse(argv, "test")
    gpus_to_use(experiment)
    experiment.modules()


@pytest.mark.parametrize("flag", [*TOO_LARGE, "gpus"])
def test_a_number_of_twenty_digits(flag, capsys):
    assert f"--{flag}={'9' * 20}" in refusal(capsys, built, "--data_class=Sinusoid", f"--{flag}={'9' * 20}")


def test_more_memory_than_there_is(capsys, monkeypatch):
    """The allocator's answer is put in its place: a machine may promise any amount."""

    def refuse(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch.nn.Linear, "__init__", refuse)
    assert "the memory does not suffice" in refusal(capsys, built, "--data_class=Sinusoid")


@pytest.mark.parametrize("flag", ["data_class", "model_class", "lit_model_class", "loss"])
@pytest.mark.parametrize("name", ["../../x", "..", "", "a\0b", "\ud800", "x" * 5000])
def test_what_is_no_name_of_a_class_or_loss(flag, name, capsys):
    argv = ["--data_class=Sinusoid"] * (flag != "data_class") + [f"--{flag}={name}"]
    assert f"--{flag}=" in refusal(capsys, built, *argv)


def test_no_name_is_the_path_of_a_protocol(tmp_path, capsys):
    (tmp_path / "x.yaml").write_text("max_steps: 3\n")
    said = refusal(capsys, built, "--data_class=Sinusoid", f"--lit_model_class=.{tmp_path / 'x'}")
    assert "--lit_model_class=" in said


@pytest.mark.parametrize("path", NO_PATHS)
def test_what_is_no_path(path, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_experiment.main
    for flag, main in (("resume", run), ("config", run), ("checkpoint", evaluate.main), ("checkpoint", visualize.main)):
        assert f"--{flag}=" in refusal(capsys, main, f"--{flag}={path}")
    assert "log_dir=" in refusal(capsys, run, "--data_class=Sinusoid", f"--log_dir={path}")
    few_shot.ProtoNet(few_shot.models.Conv4((3, 16, 16), 5, width=2)).save("x.ckpt")
    for flag in ("checkpoint", "support", "images", "output"):
        flags = {"checkpoint": "x.ckpt", "support": "x", "images": "x", "output": "x.csv"} | {flag: path}
        (tmp_path / "x").mkdir(exist_ok=True)
        for name in "ab":
            (tmp_path / "x" / name).mkdir(exist_ok=True)
        assert f"--{flag}=" in refusal(capsys, predict.main, *(f"--{k}={v}" for k, v in flags.items()))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x80\x81\x82", "is not valid YAML"),
        (b"a: " + b"[" * 5000, "is not valid YAML"),
        (b"a: " + b"9" * 5000, "is not valid YAML"),
        (b"a: &a [x]\nb: [*a, *a]", "'b' is none"),
        (b"a: {b: 1}", "'a' is none"),
        (b"1: 2", "'1' is none"),
        (b"a: 2020-01-01", "'a' is none"),
        (b"a: b\0c", "is not valid YAML"),
        (b"#" * 200_000, "it has 195 kB, and 100 kB is the most"),
        (b"- a", "must hold flags"),
    ],
)
def test_a_config_that_is_none(content, reason, tmp_path):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(BadInput, match=rf"^mine .*{reason}"):
        read_settings(tmp_path / "x.yaml", "mine")


def test_a_pipe_for_a_config_does_not_hang(tmp_path, capsys):
    os.mkfifo(tmp_path / "x.yaml")
    assert "it is a pipe" in refusal(capsys, run_experiment.main, f"--config={tmp_path / 'x.yaml'}")


CONFIG = {"data_class": "Sinusoid", "model_class": "SinusoidMLP", "lit_model_class": "LitMAML", "loss": "mse_loss"}


@pytest.fixture(scope="module")
def content():
    learner = few_shot.MAML(SinusoidMLP(width=4)).lit_model
    return {"state_dict": learner.state_dict(), "config": CONFIG | {"width": 4}, "global_step": 1}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (None, "does not say a run's flags"),
        ([1], "must hold flags"),
        ({1: 2}, "must hold flags"),
        ({"data_class": {"a": 1}}, "must hold flags"),
        (CONFIG | {"model_class": "this.X"}, r"--model_class=this.X, which is not of few_shot"),
        (CONFIG | {"data_class": "this.X"}, r"--data_class=this.X, which is not of few_shot"),
        (CONFIG | {"lit_model_class": "few_shotty.X"}, r"--lit_model_class=few_shotty.X, which is not of few_shot"),
        (CONFIG | {"loss": "os.system"}, r"--loss=os.system, which is not of few_shot"),
    ],
)
def test_a_checkpoint_whose_settings_are_damaged_or_name_what_is_not_ours(content, config, reason, tmp_path, capsys):
    path = tmp_path / "x.ckpt"
    torch.save({k: v for k, v in (content | {"config": config}).items() if v is not None}, path)
    sys.modules.pop("this", None)
    for flag, run in (("resume", run_experiment.main), ("checkpoint", evaluate.main)):
        said = refusal(capsys, run, f"--{flag}={path}")
        assert reason in said and str(path) in said
    assert "this" not in sys.modules


def test_a_checkpoint_without_the_state_of_a_training_cannot_be_continued(content, tmp_path, capsys):
    torch.save(content, tmp_path / "x.ckpt")
    said = refusal(capsys, run_experiment.main, f"--resume={tmp_path / 'x.ckpt'}")
    assert "does not hold the state of a training (optimizer_states)" in said


def test_what_the_user_names_too_is_taken_and_ours_needs_no_naming(content, tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save(content | {"config": content["config"] | {"loss": "test_hostile_flags.own_loss"}}, path)
    flags = [f"--resume={path}", "--loss=test_hostile_flags.own_loss"]
    assert parse(flags, "test").config["loss"] == "test_hostile_flags.own_loss"
    torch.save(content | {"config": content["config"] | {"loss": "torch.nn.functional.l1_loss"}}, path)
    parse([f"--resume={path}"], "test").modules()


def test_the_model_of_a_checkpoint_may_be_named_where_another_is_of_no_use(content, tmp_path, capsys):
    path = tmp_path / "x.ckpt"
    torch.save(content, path)
    unused = {"model_class"}
    flags = [f"--checkpoint={path}", "--model_class=SinusoidMLP"]
    parse(flags, "test", evaluate.EvaluationOptions, settings_from="checkpoint", unused=unused)
    with pytest.raises(BadInput, match="--model_class has no use here"):
        parse([flags[0], "--model_class=Conv4"], "", evaluate.EvaluationOptions, "checkpoint", unused)


def own_loss(predictions, targets):
    return ((predictions - targets) ** 2).mean()


def test_folders_that_are_too_deep_are_named(tmp_path):
    deep = tmp_path.joinpath(*["d"] * 150)
    deep.mkdir(parents=True)
    with pytest.raises(BadInput, match="100 folders in one another are the most"):
        listed_pictures([str(tmp_path)])


def test_folders_that_link_to_one_another_are_each_looked_through_once(tmp_path):
    names = "abcdefghijkl"  # along every path of links, 12! ways
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.jpg").touch()
        for other in names:
            (tmp_path / name / f"to {other}").symlink_to(tmp_path / other)
    assert sorted(path.stem for path in listed_pictures([str(tmp_path)])) == list(names)


def test_the_name_of_a_file_does_not_change_the_terminal(capsys):
    say("photos/\x1b[2J\u202egpj.exe cannot be read:\nä")
    assert capsys.readouterr().err == "photos/\\x1b[2J\\u202egpj.exe cannot be read:\nä\n"
