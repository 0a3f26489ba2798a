"""The comparison's table has a right row for every algorithm."""

import json

import pytest

import few_shot.lit_models
from training import compare


def test_two_updates_of_every_algorithm(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    flags = ["--max_steps=2", "--test_episodes=6", "--val_episodes=2", "--gpus=0", "--test_inner_loop_steps=5"]
    table = compare.main([*flags, f"--log_dir=~/{tmp_path.name}"])
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert header[:5] == ["algorithm", "MSE after 0", "MSE after 1", "MSE after 5", "MSE after 10"]
    assert [row[0] for row in rows] == list(compare.MEMBERS)
    assert {len(row) for row in rows} == {len(header)}
    learned = {row[0]: int(row[-1]) for row in rows}
    assert learned["MAML"] == 1 * 40 + 40 + 40 * 40 + 40 + 40 * 1 + 1
    assert learned["Meta-SGD"] == 2 * learned["MAML"]
    assert learned["random initialisation"] == 0
    anil = json.loads((tmp_path / "Sinusoid-LitANIL" / "version_0" / "test_metrics.json").read_text())
    assert rows[2][3].startswith(f"{anil['mean']:.3f} ±") and rows[2][4] == "–"
    report = (tmp_path / "report.html").read_text()
    assert [name for name in compare.MEMBERS if f"<th scope=row>{name}</th>" not in report] == []


def test_a_row_that_was_finished_before_is_of_its_own_run(tmp_path, monkeypatch):
    """MAML and FOMAML have one name for their folders, and FOMAML's is the later one."""
    flags = ["--max_steps=1", "--test_episodes=3", "--val_episodes=2", "--gpus=0", f"--log_dir={tmp_path}"]
    monkeypatch.setattr(compare, "MEMBERS", {name: compare.MEMBERS[name] for name in ("MAML", "FOMAML")})
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    first = compare.main(flags)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    again = compare.main(flags)
    results, repeated = ([line.split("|")[2:5] for line in table.splitlines()[2:]] for table in (first, again))
    assert results == repeated and results[0] != results[1]
    assert len(list(tmp_path.glob("*/version_*"))) == 2


def test_tasks_of_another_metric_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        compare.main(["--data_class=Omniglot", f"--log_dir={tmp_path}"])
    assert "--data_class=Omniglot cannot be compared here: its metric is accuracy" in capsys.readouterr().err


def test_every_algorithm_is_compared_but_those_of_classes():
    compared = {flags[0].split("=")[1] for flags in compare.MEMBERS.values()}
    assert compared == set(few_shot.lit_models.__all__) - {"LitProtoMAML", "LitProtoNet"}


@pytest.mark.parametrize("flag", ["--lit_model_class=LitANIL", "--first_order", "--resume=logs"])
def test_a_flag_that_would_make_all_rows_one_is_refused(flag, maml_and_joint, tmp_path, capsys):
    flag = f"--resume={maml_and_joint[0].path}" if flag.startswith("--resume") else flag
    with pytest.raises(SystemExit):
        compare.main([flag, f"--log_dir={tmp_path}"])
    assert f"{flag.partition('=')[0]}=" in (said := capsys.readouterr().err)
    assert "has no use here: every algorithm is trained from its start" in said


def test_a_config_counts_where_no_flag_is_given(tmp_path, monkeypatch, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(f"max_steps: 7\nlog_dir: {tmp_path / 'mine'}\nlimit_train_batches: 2\n")
    monkeypatch.setattr(compare, "MEMBERS", {"MAML": compare.MEMBERS["MAML"]})
    compare.main([f"--config={config}", "--test_episodes=2", "--val_episodes=2", "--gpus=0"])
    assert "after so many inner steps, 2 outer updates" in capsys.readouterr().out
    assert (tmp_path / "mine" / "report.html").is_file()
