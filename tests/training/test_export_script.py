"""The script that exports: what it prints and writes, and what it says of bad input."""

import json

import pytest

from training import export


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
        (["--checkpoint=nothing", "--output=out"], "nothing does not exist."),
        (["--checkpoint=benchmarks/results/sinusoid_10shot", "--output=tests"], "tests is there already"),
        (["--checkpoint=benchmarks/results/sinusoid_10shot", "--output=out", "--steps=-1"], "--steps=-1 is too small"),
    ],
)
def test_bad_input_is_one_sentence(flags, sentence, capsys):
    with pytest.raises(SystemExit) as stopped:
        export.main(flags)
    assert stopped.value.code == 2 and sentence in capsys.readouterr().err.splitlines()[-1]
