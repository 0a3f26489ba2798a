"""Labels for new pictures: those of the learner itself, in a table and on a page; and each way it can be wrong."""

import csv
import itertools
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import BatchNormMLP, run_in_a_process
from PIL import Image

import few_shot
from few_shot.checkpoint import WEIGHTS, save_learner
from few_shot.models import Conv4, SinusoidMLP
from few_shot.whole_files import write_together
from training import predict, run_experiment
from training.labels import NONE_OF_THESE, Labels, as_csv
from training.labels_page import as_page

pytestmark = pytest.mark.usefixtures("no_pictures")

COLOURS = {"blue": (40, 60, 210), "green": (40, 190, 60), "red": (210, 40, 40)}
SHAPE = (3, 24, 24)


def write_picture(path, colour, seed=0):
    """A noisy picture of one colour, of any size and format."""
    rng = np.random.default_rng([seed, *path.name.encode()])
    height, width = rng.integers(20, 60, 2)
    pixels = np.array(colour) + rng.normal(0, 20, (height, width, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with three new classes, of 2, 3 and 4 pictures; an inbox of five of each; and a ProtoNet."""
    monkeypatch.chdir(tmp_path)
    for n, (name, colour) in enumerate(COLOURS.items(), start=2):
        for i in range(n):
            write_picture(Path("new_classes") / name / f"{i}.png", colour)
        for i in range(5):
            deep = Path("inbox") / ("2024/märz" if i > 2 else "")
            write_picture(deep / f"{name}{i}.{('jpg', 'webp', 'bmp', 'tif', 'PNG')[i]}", colour)
    torch.manual_seed(0)
    few_shot.ProtoNet(Conv4(SHAPE, 5, width=8)).save("proto.ckpt")
    return tmp_path


def label(*flags, checkpoint="proto.ckpt"):
    common = [f"--checkpoint={checkpoint}", "--support=new_classes/"]
    if not any(flag.startswith("--images") for flag in flags):
        common.append("--images=inbox/")
    return predict.main([*common, *flags])


def rows(path="labels.csv"):
    return list(csv.DictReader(Path(path).open(newline="", encoding="utf-8-sig")))


def refusal(capsys, *flags, **more):
    """What a command that must fail says: one line, and status 2."""
    with pytest.raises(SystemExit) as error:
        label(*flags, **more)
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.value.code == 2 and "error: " in said
    return said


def numbers(table):
    """Each file's label and probabilities, these up to rounding."""
    return {
        row["file"]: (row["label"], *(pytest.approx(float(row[c]), abs=3e-6) for c in ("probability", *COLOURS)))
        for row in table
    }


class Page(HTMLParser):
    """The pictures of each group of a page: file names, and addresses."""

    def __init__(self, path="labels.html"):
        super().__init__()
        self.groups, self.addresses, self.captions, self._in, self._learned = {}, [], [], None, False
        text = Path(path).read_text()
        self.feed(text)
        assert not re.search(r"(src|href)=\"(?!data:|#)", text), "the page needs nothing else"

    def handle_starttag(self, tag, attrs):
        self._in = tag if tag in ("h2", "figcaption") else self._in
        if tag == "img":
            self.addresses.append(dict(attrs)["src"])
            if dict(attrs)["alt"]:
                list(self.groups.values())[-1].append(dict(attrs)["alt"])
        if tag == "figcaption":
            self.captions.append("")

    def handle_endtag(self, tag):
        self._in = None if tag == self._in else self._in

    def handle_data(self, data):
        if self._in == "h2" and data.strip() and not data.strip().isdigit():
            self.groups[data.strip()] = []
        elif self._in == "figcaption":
            self.captions[-1] += data


def test_distinct_colours_get_their_labels_in_the_table_and_on_the_page(here, capsys):
    label()
    printed = capsys.readouterr().out
    assert list(rows()[0]) == ["file", "label", "probability", *COLOURS]
    assert len(rows()) == 15 and len({row["file"] for row in rows()}) == 15
    for row in rows():
        assert Path(row["file"]).is_file() and row["label"] in Path(row["file"]).name
        assert row["probability"] == row[row["label"]] == max(row[name] for name in COLOURS)
        assert sum(float(row[name]) for name in COLOURS) == pytest.approx(1, abs=1e-5)
    assert re.findall(r"^(\w+) +(\d+)", printed, flags=re.MULTILINE)[:3] == [(name, "5") for name in COLOURS]
    page = Page()
    assert page.groups.keys() == COLOURS.keys()
    for name, files in page.groups.items():
        sure = [float(row[name]) for file in files for row in rows() if row["file"] == file]
        assert len(sure) == 5 and sure == sorted(sure, reverse=True)
    assert len(page.addresses) == 15 + 2 + 3 + 4 and all(
        a.startswith("data:image/jpeg;base64,") for a in page.addresses
    )


@pytest.mark.parametrize(
    "make", [few_shot.ProtoNet, few_shot.MAML, few_shot.ANIL, few_shot.MAMLPlusPlus, few_shot.Reptile]
)
def test_probabilities_are_the_learners_own(here, make):
    torch.manual_seed(1)
    learner = make(Conv4(SHAPE, 5, width=4))  # five outputs for three classes
    learner.save("other.ckpt")
    steps = None if make is few_shot.ProtoNet else 3
    label(*([f"--steps={steps}"] if steps else []), checkpoint="other.ckpt")
    support = sorted(Path("new_classes").glob("*/*"))
    adapted = learner.adapt([*support], [path.parent.name for path in support], steps=steps)
    expected = adapted.predict_proba([row["file"] for row in rows()])
    found = [[float(row[name]) for name in COLOURS] for row in rows()]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert [row["label"] for row in rows()] == list(adapted.predict([row["file"] for row in rows()]))


def test_no_picture_sees_another(here, monkeypatch):
    torch.manual_seed(1)
    few_shot.MAML(Conv4(SHAPE, 3, width=4)).save("maml.ckpt")
    label(checkpoint="maml.ckpt")
    together = numbers(rows())
    label("--images=inbox/red0.jpg", checkpoint="maml.ckpt")
    assert numbers(rows()) == {"inbox/red0.jpg": together["inbox/red0.jpg"]}
    monkeypatch.setattr(predict, "AT_ONCE", 2)
    label(checkpoint="maml.ckpt")
    assert numbers(rows()) == together


def test_files_folders_and_patterns_relative_and_absolute(here, monkeypatch):
    label("--images", "inbox/red0.jpg", "inbox/2024", "--output=a.csv")
    expected = [f"inbox/2024/märz/{c}{i}.{'tif' if i == 3 else 'PNG'}" for c in COLOURS for i in (3, 4)]
    assert [row["file"] for row in rows("a.csv")] == ["inbox/red0.jpg", *expected]
    label("--images=inbox/red0.jpg", "--images=inbox/2024", "--output=b.csv")
    label("--images", "inbox/red0.jpg", "inbox/2024", str(here / "inbox" / "red0.jpg"), "--output=c.csv")  # once
    assert rows("a.csv") == rows("b.csv") == rows("c.csv")
    label("--images=inbox/*0.jpg", "--output=d.csv")
    assert [row["label"] for row in rows("d.csv")] == sorted(COLOURS)
    inside = rows("a.csv")
    monkeypatch.chdir(here / "inbox")
    flags = [f"--{name}={here / path}" for name, path in (("checkpoint", "proto.ckpt"), ("support", "new_classes"))]
    predict.main([*flags, f"--images={here / 'inbox' / 'red0.jpg'}", "--output=../out/deep/e.csv"])
    (row,) = rows("../out/deep/e.csv")
    assert row == inside[0] | {"file": str(here / "inbox" / "red0.jpg")}


def test_a_second_run_into_the_same_folder_does_not_take_its_own_files_for_pictures(here):
    for _ in range(2):
        label("--output=inbox/labels.csv")
        assert len(rows("inbox/labels.csv")) == 15
    label("--output=inbox/Labels.CSV")
    label("--output=other.csv")
    assert len(rows("other.csv")) == 15
    os.symlink("..", "inbox/2024/loop")
    Path("inbox/.hidden").write_text("x")
    Path("inbox/Thumbs.db").write_text("x")
    label("--output=inbox/labels.csv")
    assert len(rows("inbox/labels.csv")) == 15


def test_below_the_threshold_a_picture_is_none_of_these(here, capsys):
    label()
    before = {row["file"]: row for row in rows()}
    threshold = float(np.median([float(row["probability"]) for row in before.values()]))
    label(f"--threshold={threshold}")
    printed = capsys.readouterr().out
    low = {file for file, row in before.items() if float(row["probability"]) < threshold}
    assert 5 <= len(low) <= 7
    for row in rows():
        assert row["label"] == (NONE_OF_THESE if row["file"] in low else before[row["file"]]["label"])
        assert row | {"label": 0} == before[row["file"]] | {"label": 0}
    assert f"{NONE_OF_THESE} {len(low):>7}" in printed
    page = Page()
    assert list(page.groups) == [*COLOURS, NONE_OF_THESE] and set(page.groups[NONE_OF_THESE]) == low
    label("--threshold=0.995")
    assert "Below 99.5 %, a picture is" in Path("labels.html").read_text()
    assert "threshold=1.5 must be from 0 to 1" in refusal(capsys, "--threshold=1.5")


def test_files_that_are_no_pictures_are_named_and_left_out_only_when_asked(here, capsys):
    Path("inbox/notes.txt").write_text("not a picture")
    Path("inbox/2024/cut.jpg").write_bytes(Path("inbox/red0.jpg").read_bytes()[:300])
    said = refusal(capsys)
    assert "2 files or folders are no pictures" in said and "--skip_bad_images=true" in said
    assert "inbox/notes.txt (" in said and "inbox/2024/cut.jpg (" in said
    assert not Path("labels.csv").exists() and not Path("labels.html").exists()
    label("--skip_bad_images")
    assert len(rows()) == 15
    assert "inbox/notes.txt (" in (said := capsys.readouterr().err) and "inbox/2024/cut.jpg (" in said

    Path("new_classes/red/broken.png").touch()
    (Path("new_classes/red") / "more").mkdir()
    write_picture(Path("new_classes/loose.png"), COLOURS["red"])
    said = refusal(capsys)
    for name in ("red/broken.png (", "red/more (a folder", "new_classes/loose.png (a picture that lies in no class"):
        assert name in said
    label("--skip_bad_images", "--output=b.csv")
    assert rows("b.csv") == rows()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("no support", "--support=new_classes is no folder"),
        ("flat support", "--support=new_classes holds no folders"),
        ("one class", "--support=new_classes holds one folder"),
        ("empty class", "has classes without pictures: empty"),
        ("no inbox", "--images=inbox does not exist"),
        ("empty inbox", "--images=inbox/ holds no files"),
        ("no checkpoint", "proto.ckpt does not exist"),
        ("no real checkpoint", "proto.ckpt is no checkpoint"),
        ("empty run", "proto.ckpt is no run's folder with checkpoints"),
        ("class called label", "A class cannot be called label"),
        ("class called none of these", "A class cannot be called none of these"),
        ("output is here", "--output=. must be the name of a table"),
        ("output is a folder", "--output=labels.csv must be the name of a table"),
        ("output is a page", "--output=labels.html must be the name of a table"),
        ("output is a picture", "--output=inbox/red0.jpg must be the name of a table"),
        ("output is somebody's table", "would replace labels.csv, which is no earlier result: name another"),
        ("output is beside somebody's page", "would replace labels.html, which is no earlier result: name another"),
        ("steps of none", "--steps=2 is of no use: LitProtoNet has no inner steps"),
        ("negative steps", "--steps=-1 is too small"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_nothing_is_written(here, capsys, wrong, said):
    flags = []
    folder = Path("inbox" if "inbox" in wrong else "new_classes")
    if "support" in wrong or "inbox" in wrong:
        shutil.rmtree(folder)
        if "no " not in wrong:
            folder.mkdir()
    elif wrong == "one class":
        shutil.rmtree(folder / "red"), shutil.rmtree(folder / "blue")
    elif wrong == "empty class":
        (folder / "empty").mkdir()
    elif "class called" in wrong:
        (folder / "red").rename(folder / wrong.removeprefix("class called "))
    elif wrong == "output is here":
        flags = ["--output=."]
    elif wrong == "output is a folder":
        Path("labels.csv").mkdir()
    elif wrong == "output is a page":
        flags = ["--output=labels.html"]
    elif wrong == "output is a picture":
        flags = ["--output=inbox/red0.jpg"]
    elif "somebody's" in wrong:
        Path("labels.csv" if "table" in wrong else "labels.html").write_text("mine")
    elif "steps" in wrong:
        flags = ["--steps=2" if "none" in wrong else "--steps=-1"]
    else:
        Path("proto.ckpt").unlink()
        if "real" in wrong:
            Path("proto.ckpt").write_text("x")
        elif "run" in wrong:
            Path("proto.ckpt").mkdir()
    assert said in refusal(capsys, *flags)
    written = [path for path in (Path("labels.csv"), Path("labels.html")) if path.is_file()]
    assert [path.read_text() for path in written] == ["mine"] * ("somebody's" in wrong)


def test_names_of_any_kind(here):
    """In the picture's name, and in the class's: an emoji, a line separator, and a byte that is no UTF-8."""
    names = ["Ferien \U0001f334.jpg", "a\x85b.jpg", "caf\udce9.jpg"]
    pictures = sorted(Path("inbox").iterdir())[:3]
    for picture, name in zip(pictures, names, strict=True):
        picture.rename(picture.with_name(name))
    Path("new_classes/red").rename("new_classes/r\udce9d")
    label("--images", *(f"inbox/{name}" for name in names))
    written = Path("labels.csv").read_bytes()
    assert all(os.fsencode(name) in written for name in names) and b"r\xe9d" in written


def test_more_classes_than_outputs_name_who_takes_any_number(here, capsys):
    torch.manual_seed(0)
    few_shot.MAML(Conv4(SHAPE, 2, width=4)).save("two.ckpt")
    said = refusal(capsys, checkpoint="two.ckpt")
    assert "There are 3 classes" in said and "ProtoNet" in said and "ProtoMAML" in said
    shutil.rmtree("new_classes/red")
    label(checkpoint="two.ckpt")
    assert {row["label"] for row in rows()} <= {"blue", "green"}


def test_a_checkpoint_of_numbers_is_refused(here, capsys):
    few_shot.MAML(SinusoidMLP()).save("sine.ckpt")
    assert "was trained on numbers, not on pictures" in refusal(capsys, checkpoint="sine.ckpt")


def test_grey_inverted_drawings_are_read_as_in_the_training(here):
    """Omniglot's: what its data module says of its pictures holds for new ones."""
    data = few_shot.Omniglot()
    torch.manual_seed(0)
    learner = few_shot.ProtoNet(Conv4(data.input_shape, 5, width=4))
    facts = {"input_shape": data.input_shape, "preprocessing": data.preprocessing}
    learner.lit_model.on_load_checkpoint({"few_shot": {"data": facts}})
    learner.save("omniglot.ckpt")
    label(checkpoint="omniglot.ckpt")
    support = sorted(Path("new_classes").glob("*/*"))
    adapted = learner.adapt(support, [path.parent.name for path in support])
    expected = adapted.predict_proba([row["file"] for row in rows()])
    np.testing.assert_allclose([[float(row[name]) for name in COLOURS] for row in rows()], expected, atol=2e-6)


TRAINING = [
    "--data_class=ImageFolders",
    "--data_dir=photos",
    "--image_size=16",
    "--width=4",
    "--gpus=0",
    "--max_steps=2",
]
TRAINING += [
    "--val_episodes=2",
    "--test_episodes=2",
    "--episode_classes=2",
    "--query_samples=1",
    "--test_query_samples=1",
]


@pytest.fixture
def photos(here):
    for i in range(9):
        for j in range(3):
            write_picture(Path("photos") / f"class {i}" / f"{j}.png", (25 * i, 250 - 25 * i, 100), seed=i)
    return here


def test_a_run_keeps_its_classes_on_record_and_says_in_plain_words_what_it_has_come_to(photos, capsys):
    summary = run_experiment.main([*TRAINING, "--lit_model_class=LitProtoNet"])
    printed = capsys.readouterr().out
    run = Path("logs/ImageFolders-LitProtoNet/version_0")
    record = json.loads((run / "data.json").read_text())
    classes = record["classes"]
    assert sorted(itertools.chain(*classes.values())) == [f"class {i}" for i in range(9)]
    assert [len(names) for names in classes.values()] == [3, 3, 3] and "split_seed=0" in record["class_split"]
    assert f"names {100 * summary['mean']:.0f} % of other pictures of them right; guessing would name 50 %." in printed
    (command,) = re.findall(r"python training/predict\.py (.*)", printed)
    predict.main(command.split())
    assert len(rows()) == 15


def test_a_class_whose_name_is_no_text_is_trained_on_and_on_record(photos):
    Path("photos/class 0").rename("photos/K\udce4fer")
    run_experiment.main([*TRAINING, "--lit_model_class=LitProtoNet"])
    record = json.loads(Path("logs/ImageFolders-LitProtoNet/version_0/data.json").read_text())
    assert "K\udce4fer" in itertools.chain(*record["classes"].values())


def test_a_resumed_run_or_an_evaluation_on_classes_that_were_trained_on_is_refused(photos, capsys):
    from training import evaluate

    run_experiment.main([*TRAINING, "--lit_model_class=LitProtoNet"])
    checkpoint = "logs/ImageFolders-LitProtoNet/version_0/checkpoints/last.ckpt"
    evaluate.main([f"--checkpoint={checkpoint}", "--gpus=0"])
    evaluate.main([f"--checkpoint={checkpoint}", "--gpus=0", "--split=train", "--split_seed=1"])
    for command, *flags in ((evaluate.main, "--checkpoint"), (run_experiment.main, "--max_steps=9", "--resume")):
        with pytest.raises(SystemExit) as error:
            command([*flags[:-1], f"{flags[-1]}={checkpoint}", "--split_seed=1"])
        assert error.value.code == 2 and "was trained on class" in capsys.readouterr().err


def test_a_run_a_checkpoint_and_a_published_result_give_the_same_labels(photos):
    run_experiment.main([*TRAINING, "--lit_model_class=LitANIL", "--episode_classes=3"])
    run = Path("logs/ImageFolders-LitANIL/version_0")
    label(checkpoint=run)
    expected = rows()
    (best,) = (run / "checkpoints").glob("best-*.ckpt")
    content = torch.load(best, weights_only=True)
    Path("published").mkdir()
    shutil.copy(run / "config.yaml", "published")
    save_learner(few_shot.load(best).lit_model, Path("published") / WEIGHTS)
    del content["few_shot"]  # as older ones are
    torch.save(content, "older.ckpt")
    shutil.rmtree("photos")  # only the new classes are needed
    for checkpoint in (best, "published", "older.ckpt"):
        label(checkpoint=checkpoint)
        assert rows() == expected


def test_of_several_kept_checkpoints_the_best_is_taken(photos):
    flags = [*TRAINING, "--lit_model_class=LitProtoNet", "--ensemble=3", "--val_check_interval=1", "--max_steps=12"]
    run_experiment.main([*flags, "--val_episodes=4"])
    run = Path("logs/ImageFolders-LitProtoNet/version_0")
    states = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"].values()
    (kept,) = (state["best_k_models"] for state in states if state.get("monitor"))
    assert len(kept) == 3
    best = max(kept, key=lambda path: float(kept[path]))
    assert float(kept[str(few_shot.checkpoint.find_checkpoint(run).absolute())]) == float(kept[best])


def test_a_model_of_ones_own_is_built_from_the_runs_settings_once_it_is_named(photos, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    flags = [flag for flag in TRAINING if not flag.startswith("--width")]
    run_experiment.main([*flags, "--model_class=test_predict.OwnModel", "--episode_classes=3"])
    run = "logs/ImageFolders-LitMAML/version_0"
    own = "--model_class=test_predict.OwnModel"
    assert f"add {own}" in refusal(capsys, checkpoint=run)
    label(own, checkpoint=run)
    assert len(rows()) == 15


class OwnModel(BatchNormMLP):
    def __init__(self, input_shape, output_size):
        super().__init__((int(np.prod(input_shape)),), output_size)

    def forward(self, x):
        return super().forward(x.flatten(1))


def test_nothing_is_replaced_unless_all_can_be_written(tmp_path):
    old, folder = tmp_path / "labels.csv", tmp_path / "labels.html"
    old.write_text("old")
    folder.mkdir()
    with pytest.raises(few_shot.errors.BadInput, match="cannot be written"):
        write_together({tmp_path / "gone" / "x.html": b"new", old: b"new"})
    assert old.read_text() == "old" and sorted(tmp_path.iterdir()) == [old, folder]


def test_names_that_are_markup_or_no_text_are_shown_as_they_are(tmp_path):
    names = ["<b>&.jpg", os.fsdecode(b"caf\xe9.jpg"), 'a,"b".jpg']
    labels = Labels([Path(name) for name in names], ["<i>", "x"], np.array([[0.6, 0.4], [0.2, 0.8], [0.5, 0.5]]), 0.55)
    (tmp_path / "labels.html").write_bytes(as_page(labels, ["data:,"] * 3, {}))
    page = Page(tmp_path / "labels.html")
    assert page.groups == {"<i>": ["<b>&.jpg"], "x": ["caf?.jpg"], NONE_OF_THESE: ['a,"b".jpg']}
    assert page.captions[0].startswith("60 % <b>&.jpg") and "or x 40 %" in page.captions[0]
    assert "nearest: <i> 50 %" in page.captions[2]
    text = as_csv(labels)
    assert b"caf\xe9.jpg" in text and text.splitlines()[3].startswith(b'"a,""b"".jpg",none of these,0.500000')


def test_as_a_user_starts_it_it_takes_seconds_on_a_cpu(here):
    flags = [f"--{name}={here / path}" for name, path in (("checkpoint", "proto.ckpt"), ("support", "new_classes"))]
    done = run_in_a_process(
        *flags, f"--images={here / 'inbox'}", f"--output={here / 'labels.csv'}", script="predict.py", both=True
    )
    assert done.stderr == "" and len(rows()) == 15 and "The labels are in" in done.stdout
