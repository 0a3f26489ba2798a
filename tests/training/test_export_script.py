"""The script that exports: what it prints and writes, and what it says of bad input."""

import json

import pytest

from few_shot.models import SinusoidMLP
from training import export, run_experiment


def test_a_published_result_is_exported(tmp_path, capsys):
    folder = tmp_path / "new" / "sinusoid"
    export.main(["--checkpoint=benchmarks/results/sinusoid_10shot", f"--output={folder}", "--steps=1"])
    *files, difference, time = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in files] == [str(file) for file in sorted(folder.iterdir())]
    assert "differ from PyTorch's by" in difference and "ms in onnxruntime" in time
    facts = json.loads((folder / "export.json").read_text())
    assert (facts["data_class"], facts["model_class"], facts["steps"]) == ("Sinusoid", "SinusoidMLP", 1)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--checkpoint=nothing", "--output="], "--output= is no path"),
        (["--checkpoint=nothing", "--output=out"], "nothing does not exist."),
        (["--checkpoint=benchmarks/results/sinusoid_10shot", "--output=tests"], "tests is there already"),
        (["--checkpoint=benchmarks/results/sinusoid_10shot", "--output=out", "--steps=-1"], "--steps=-1 is too small"),
    ],
)
def test_bad_input_is_one_sentence(flags, sentence, capsys):
    with pytest.raises(SystemExit) as stopped:
        export.main(flags)
    assert stopped.value.code == 2 and sentence in capsys.readouterr().err.splitlines()[-1]


class OwnModel(SinusoidMLP):
    pass


def test_a_model_of_ones_own_is_exported_once_it_is_named(tmp_path, capsys, no_pictures):
    own = "--model_class=test_export_script.OwnModel"
    flags = ["--data_class=Sinusoid", "--gpus=0", "--max_steps=1", "--val_episodes=2", "--test_episodes=2"]
    run_experiment.main([*flags, own, "--width=4", f"--log_dir={tmp_path}"])
    (run,) = tmp_path.glob("*/version_0")
    to_export = [f"--checkpoint={run}", f"--output={tmp_path / 'exported'}", "--steps=1"]
    with pytest.raises(SystemExit):
        export.main(to_export)
    assert f"add {own}" in capsys.readouterr().err
    assert export.main([*to_export, own]).folder == tmp_path / "exported"
