"""docs/your_own_photos.md is right: its commands run one after the other, and its table is the record's."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import python_blocks

import few_shot
from benchmarks import made_photos, your_own_photos
from few_shot.models import Conv4

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "your_own_photos.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
#: What makes a command of the page quick.
SMALL = {
    "run_experiment.py": ["--max_steps=2", "--val_episodes=2", "--test_episodes=2", "--width=4", "--image_size=16"],
    "predict.py": [],
    "evaluate.py": ["--test_episodes=2"],
    "made_photos.py": [],
}


def commands():
    """The page's commands, each with the words of its line, comments left out."""
    for block in BLOCKS:
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def test_the_pages_commands_run_one_after_the_other(tmp_path):
    """As a reader does: in one folder, which holds the repository's scripts and nothing else."""
    for folder in ("few_shot", "training", "benchmarks"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    ran = []
    for python, script, *flags in commands():
        assert python == "python"
        small = SMALL[Path(script).name]
        given = {flag.partition("=")[0] for flag in small}
        flags = [flag for flag in flags if flag.partition("=")[0] not in given]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, script, *flags, *small]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
        ran.append(Path(script).name)
    python = "\n".join(python_blocks("docs/your_own_photos.md"))
    for long, short in (
        (", pretrained=True", ""),  # which would be downloaded
        ("128, 128", "32, 32"),
        ("True)", "True, image_size=16, test_episodes=2)"),
        ("width=32", "(3, 16, 16), width=4"),
        ("500", "2"),
    ):
        assert python.count(long) == 1
        python = python.replace(long, short)
    done = subprocess.run([sys.executable, "-c", python], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(re.findall(rf"^\d\d\.jpg (?:{'|'.join(made_photos.NEW)})$", done.stdout, re.MULTILINE)) == 33
    assert few_shot.load(tmp_path / "pretrained.ckpt").model.constructor_arguments["name"] == "tf_efficientnet_lite0"
    assert few_shot.load(tmp_path / "photos.ckpt").model.constructor_arguments["input_shape"] == (3, 16, 16)
    assert ran.count("run_experiment.py") >= 1 and ran.count("predict.py") >= 2
    rows = list(csv.DictReader((tmp_path / "labels.csv").open(encoding="utf-8-sig")))
    assert len(rows) == 33 and (tmp_path / "labels.html").stat().st_size > 33 * 1000
    assert list(rows[0]) == ["file", "label", "probability", *sorted(made_photos.NEW)]


def test_words_are_explained_before_they_are_used():
    text = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    for word, explained in (("ways", r"\*\*ways\*\*"), ("shots", r"\*\*shots\*\*"), ("quer", r"\*\*quer")):
        first = re.search(rf"\b{word}", text, flags=re.IGNORECASE)
        assert re.search(explained, text).start() <= first.start() <= re.search(explained, text).end()


def test_the_pages_table_is_that_of_the_record():
    rows = json.loads(your_own_photos.RESULTS.read_text())
    assert f"{your_own_photos.MARK}\n{your_own_photos.table(rows)}\n<!-- end -->" in PAGE
    assert all(row["seed"] is not None and row["episodes"] for row in rows.values())


def test_made_photos_are_those_of_their_seed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(made_photos, "NAMES", made_photos.NAMES[-15:])  # 11 classes to train on
    for i, seed in enumerate((0, 0, 1)):
        made_photos.main([f"--output={tmp_path / str(i)}", f"--seed={seed}"])
    contents = [
        {p.relative_to(tmp_path / str(i)): p.read_bytes() for p in (tmp_path / str(i)).rglob("*.jpg")} for i in range(3)
    ]
    assert contents[0] == contents[1] and contents[0].keys() == contents[2].keys()
    assert all(contents[0][name] != contents[2][name] for name in contents[0])
    assert len(contents[0]) == 11 * 20 + 3 * 5 + 33 + 1 and len(set(contents[0].values())) == len(contents[0])
    with pytest.raises(SystemExit):
        made_photos.main([f"--output={tmp_path / '0'}"])
    assert "photos is there already" in capsys.readouterr().err, "they may be somebody's own"


@pytest.fixture
def two_kinds(tmp_path):
    """Folders to train on and of new classes, 24 and 6, whose colours are told apart by any network."""
    for folder, classes, photos in (("photos", 24, 8), ("new", 6, 14)):
        for i in range(classes):
            for j in range(photos):
                rng = np.random.default_rng([i, j, classes])
                path = tmp_path / folder / f"{folder} {i}" / f"{j}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                colour = np.array([(i % 3) * 120, (i // 3 % 3) * 120, (i // 9) * 80]) + rng.normal(0, 4, (16, 16, 3))
                made_photos.Image.fromarray(colour.clip(0, 255).astype(np.uint8)).save(path)
    return tmp_path


def test_the_benchmark_measures_what_the_learner_predicts(two_kinds, tmp_path):
    torch.manual_seed(0)
    learner = few_shot.MAML(Conv4((3, 16, 16), 5, width=4))
    learner.save(tmp_path / "maml.ckpt")
    results = tmp_path / "rows.json"
    flags = [f"--new={two_kinds / 'new'}", f"--results={results}", "--episodes=3", "--queries=4"]
    your_own_photos.main([*flags, f"--checkpoint={tmp_path / 'maml.ckpt'}", "--name=maml"])
    row = json.loads(results.read_text())["maml"]["accuracy"]
    assert all((row[f"{ways} {shots}"] is None) == (ways == 10) for ways in (2, 5, 10) for shots in (1, 5, 10))
    files = your_own_photos.chosen(str(two_kinds / "new"), None, 100, 0, "--new")
    pictures = [learner.read(of_class) for of_class in files.values()]
    options = your_own_photos.argparse.Namespace(seed=0, episodes=3, queries=4)
    assert tuple(row["2 5"]) == your_own_photos.accuracy(learner, pictures, 2, 5, options)

    short = ["--image_size=16", "--width=4", "--max_steps=1", "--val_episodes=1", "--test_episodes=2", "--gpus=0"]
    short += ["--query_samples=1", "--test_query_samples=1", f"--log_dir={tmp_path / 'logs'}"]
    text = your_own_photos.main([*flags, f"--photos={two_kinds / 'photos'}", "--per_class=7", *short])
    assert text.count("| maml |") == 3 and "| – | – | – |" in text
    trained = json.loads(results.read_text())[str(two_kinds / "photos")]
    assert trained["training"]["updates"] == 1 and trained["accuracy"]["5 10"][0] > 0.6
    (record,) = (tmp_path / "logs").rglob("data.json")
    classes = json.loads(record.read_text())["classes"]
    assert [len(names) for names in classes.values()] == [14, 5, 5]


def test_what_the_benchmark_cannot_use_is_named_before_the_training(two_kinds, tmp_path, capsys):
    (two_kinds / "new" / "new 3" / "notes.txt").write_text("x")
    fine, with_notes = two_kinds / "photos", two_kinds / "new"
    for photos, new, said in (
        (fine, "nowhere", "--new=nowhere is no folder"),
        ("nowhere", fine, "--photos=nowhere is no folder"),
        (fine, with_notes, "notes.txt cannot be decoded as an image"),
    ):
        with pytest.raises(SystemExit):
            your_own_photos.main([f"--photos={photos}", f"--new={new}"])
        assert said in capsys.readouterr().err
