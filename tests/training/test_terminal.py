"""What the commands print besides their results."""

import warnings
from pathlib import Path

import few_shot.adaptation
from training import terminal


def test_a_warning_of_ours_is_a_sentence_and_others_keep_their_place(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", None)
    monkeypatch.setattr(terminal.tqdm, "_instances", (), raising=False)
    with warnings.catch_warnings():
        terminal.tidy_warnings()
    shown = {
        path: warnings.formatwarning("Mind.", UserWarning, path, 7) for path in (few_shot.adaptation.__file__, "x")
    }
    assert shown == {few_shot.adaptation.__file__: "Warning: Mind.\n", "x": "x:7: UserWarning: Mind.\n"}


def test_a_script_is_named_as_the_one_that_runs_was(monkeypatch, tmp_path):
    folder = Path(terminal.__file__).parent
    for running, meant in (
        (folder / "run_experiment.py", str(folder / "predict.py")),
        (tmp_path / "run_experiment.py", "training/predict.py"),
        ("-c", "training/predict.py"),
    ):
        monkeypatch.setattr(terminal.sys, "argv", [str(running)])
        assert terminal.script("predict.py") == meant
    monkeypatch.chdir(folder)
    monkeypatch.setattr(terminal.sys, "argv", ["run_experiment.py"])
    assert terminal.script("predict.py") == "predict.py"


def test_a_warning_does_not_share_a_line_with_a_progress_bar(capsys):
    with terminal.tqdm(total=1):
        assert terminal._on_its_own_line("Mind.", UserWarning, terminal.__file__, 7) == "\nWarning: Mind.\n"
