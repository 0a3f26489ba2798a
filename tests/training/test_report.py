"""A report holds a run's record, asks nothing of the network, and is readable on a phone and a desk, dark and light."""

import csv
import html
import importlib.util
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from helpers import ROOT

from few_shot.metrics import METRICS
from training import pictures_of_run, report
from training.report_tables import number
from training.run_folder import RunFolder
from training.run_names import run_names

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Tables(HTMLParser):
    """The cells of a page's tables, row by row, and whatever would be fetched."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.fetched, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "data", "srcset", "poster"):
                self.fetched.append(value)
        if tag in ("script", "link", "iframe", "object"):
            self.fetched.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th") and data.strip():
            self.rows[-1].append(data)


def page_of(*runs, tmp_path):
    report.main([*(str(run.path) for run in runs), f"--output={tmp_path / 'report.html'}"])
    return (tmp_path / "report.html").read_text()


def metric_of(run):
    rows = list(csv.DictReader((run.path / "test_episodes.csv").open()))
    last = max(int(row["step"]) for row in rows)
    return np.array([float(row["mse"]) for row in rows if int(row["step"]) == last])


def test_the_report_of_a_run_holds_its_record(maml_and_joint, tmp_path):
    maml, _ = maml_and_joint
    page = (maml.path / "report.html").read_text()
    assert page_of(maml, tmp_path=tmp_path) == page
    rows = Tables(page).rows
    for row in maml.result()["per_step"]:
        assert [str(row["step"]), f"{row['mean']:.4f} ± {row['ci95']:.4f}"] in rows
    assert ["outer updates", "4"] in rows and ["torch", maml.facts()["versions"]["torch"]] in rows
    for flag, value in maml.config().items():
        assert [flag, "null" if value is None else str(value)] in rows
    assert page.count("<svg ") == 4  # fit, steps, curves, gradients
    assert re.search(r"<pre>python .*</pre>", page, flags=re.DOTALL)


def test_nothing_on_a_report_comes_from_elsewhere(maml_and_joint, tmp_path):
    for page in (page_of(maml_and_joint[0], tmp_path=tmp_path), page_of(*maml_and_joint, tmp_path=tmp_path)):
        assert [link for link in Tables(page).fetched if not link.startswith(("data:image/", "#"))] == []
        assert "default-src 'none'" in page and "@import" not in page
        assert set(re.findall(r"url\((.)", page)) <= {"#"}


@pytest.mark.parametrize(
    ("name", "tests"), [("omniglot_5way_1shot", ["1 query", "15 queries"]), ("sinusoid_10shot", ["100 queries"])]
)
def test_the_report_of_a_published_result_holds_each_of_its_tests(name, tests, tmp_path):
    folder = ROOT / "benchmarks" / "results" / name
    page = page_of(RunFolder(folder), tmp_path=tmp_path)
    for test in tests:
        result = json.loads((folder / f"test_{test.split()[0]}query.json").read_text())
        shown = page.split(f"<h2>Test with {test}</h2>")[1].split("</section>")[0]
        metric = METRICS[result["metric"]]
        assert number(metric, result["mean"], result["ci95"]) in shown
    assert page.count("<h2>Test") == len(tests)


def test_somebody_elses_page_is_not_replaced(maml_and_joint, tmp_path, capsys):
    page_of(maml_and_joint[0], tmp_path=tmp_path)
    page_of(maml_and_joint[1], tmp_path=tmp_path)  # an earlier report is
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(SystemExit):
        page_of(maml_and_joint[0], tmp_path=tmp_path)
    assert "would replace a file that is no report: name another" in capsys.readouterr().err
    assert (tmp_path / "report.html").read_text() == "mine"


def test_several_runs_are_compared_episode_by_episode(maml_and_joint, tmp_path):
    maml, joint = maml_and_joint
    rows = Tables(page_of(maml, joint, tmp_path=tmp_path)).rows
    difference = metric_of(joint) - metric_of(maml)
    margin = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
    expected = f"{difference.mean():+.4f} ± {margin:.4f}".replace("-", "\N{MINUS SIGN}")
    (row,) = (row for row in rows if row and row[0] == "joint training")
    assert row[3] == expected
    assert rows[0][3] == "difference to MAML"


def changed(run, tmp_path, name, change):
    """A copy of a run with another file."""
    copy = RunFolder(tmp_path / name)
    shutil.copytree(run.path, copy.path)
    change(copy.path)
    return copy


def test_runs_of_other_episodes_are_refused_in_one_sentence(maml_and_joint, tmp_path, capsys):
    maml, _ = maml_and_joint

    def fewer_shots(folder):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        (folder / "config.yaml").write_text(yaml.safe_dump(config | {"support_samples": 5}))

    def fewer_episodes(folder):
        lines = (folder / "test_episodes.csv").read_text().splitlines()
        (folder / "test_episodes.csv").write_text("\n".join(lines[:-4]) + "\n")

    def no_test(folder):
        (folder / "test_metrics.json").unlink()

    def test_of_before(folder):
        facts = json.loads((folder / "run.json").read_text())
        resumed = facts | {"resumed": facts, "seconds": {"training": 1}}
        (folder / "run.json").write_text(json.dumps(resumed))

    def other_classes(folder):
        (folder / "data.json").write_text(json.dumps({"classes": {"test": ["b"]}}))

    def of_pictures(digest):
        def change(folder):
            (folder / "data.json").write_text(json.dumps({"classes": {"test": ["a"]}}))
            result = json.loads((folder / "test_metrics.json").read_text())
            (folder / "test_metrics.json").write_text(json.dumps(result | {"pictures": digest}))

        return change

    with_classes = changed(maml, tmp_path, "here", of_pictures("0123"))
    for name, change, first, said in (
        ("a", fewer_shots, maml, "support_samples is 10 and 5"),
        ("b", fewer_episodes, maml, "6 episodes and 5"),
        ("c", no_test, maml, "holds no test"),
        ("f", test_of_before, maml, "was resumed after its test"),
        ("d", other_classes, with_classes, "the test's classes differ"),
        ("g", of_pictures("4567"), with_classes, "the same names, and other pictures"),
        ("e", lambda folder: (folder / "config.yaml").unlink(), maml, "holds no config.yaml"),
    ):
        other = changed(maml, tmp_path, name, change)
        with pytest.raises(SystemExit) as exit_:
            report.main([str(first.path), str(other.path), f"--output={tmp_path / 'none.html'}"])
        assert exit_.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert said in line
        if change is test_of_before:
            assert "The test is from before the run was resumed" in report.report_of_one(other)
    assert not (tmp_path / "none.html").exists()


def test_published_results_are_shown_alone(tmp_path, capsys):
    results = [RunFolder(f"benchmarks/results/sinusoid_20k_{name}") for name in ("maml", "anil")]
    with pytest.raises(SystemExit):
        page_of(*results, tmp_path=tmp_path)
    assert "is a published result, which a page can show alone" in capsys.readouterr().err


def test_names_tell_runs_apart():
    maml = {"lit_model_class": "LitMAML", "first_order": False, "seed": 0, "log_dir": "a"}
    others = [maml | {"seed": 1}, maml | {"first_order": True}, maml | {"log_dir": "b"}]
    names = run_names([maml, *others, {"lit_model_class": "LitMAMLPlusPlus"}])
    assert names == ["MAML, seed=0", "MAML, seed=1", "FOMAML", "MAML, seed=0 (2)", "MAML++"]
    photos = [{"lit_model_class": "LitMAML", "data_class": "ImageFolders", "data_dir": name} for name in "ab"]
    assert run_names(photos) == ["MAML, data_dir=a", "MAML, data_dir=b"]


def test_a_picture_that_fails_is_a_sentence_and_the_run_ends_well(maml_and_joint, tmp_path, monkeypatch, capsys):
    copy = changed(maml_and_joint[1], tmp_path, "version_0", lambda folder: (folder / "steps.png").unlink())

    def fails(folder):
        raise RuntimeError("no\nink")

    class NoCurve:
        metric, input_shape = "none", ()

    monkeypatch.setattr(pictures_of_run, "draw_curves", fails)
    pictures_of_run.show_run(None, NoCurve(), copy, [], 0)
    said = capsys.readouterr()
    assert said.err == "This run goes without the picture curves (RuntimeError: no ink).\n"
    assert (copy.path / "steps.png").exists() and "report.html" in said.out
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    pictures_of_run.show_run(None, NoCurve(), copy, [], 0)
    assert capsys.readouterr().err.count("pip install matplotlib") == 1
    (copy.path / "test_metrics.json").write_text("{")
    pictures_of_run.show_run(None, NoCurve(), copy, [], 0)
    assert "This run goes without the report" in capsys.readouterr().err


#: Both widths on one page, each in a frame of its own; what they look like is written into the body's data.
FRAMES = """<!doctype html><style>body {{ margin: 0 }} iframe {{ border: 0; height: 3000px }}</style>
{frames}<script>
onload = () => {{ document.body.dataset.seen = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => {{
  const page = frame.contentDocument, view = frame.contentWindow;
  const ink = [...page.querySelectorAll("svg text")].map(text => view.getComputedStyle(text).fill);
  return {{width: page.documentElement.clientWidth, needed: page.documentElement.scrollWidth,
    ground: view.getComputedStyle(page.body).backgroundColor, ink: [...new Set(ink)],
    figures: [...page.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect().width),
    fetched: view.performance.getEntriesByType("resource").map(entry => entry.name)}};
}})) }}
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_it_fits_a_phone_and_a_desk(scheme, maml_and_joint, tmp_path):
    pages = (page_of(maml_and_joint[0], tmp_path=tmp_path), page_of(*maml_and_joint, tmp_path=tmp_path))
    frames = [f'<iframe width={w} srcdoc="{html.escape(page)}"></iframe>' for page in pages for w in (360, 1280)]
    (tmp_path / "frames.html").write_text(FRAMES.format(frames="\n".join(frames)))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=5000", f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"]
    command += ["--dump-dom", f"file://{tmp_path / 'frames.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    seen = json.loads(html.unescape(re.search(r'data-seen="([^"]*)"', done.stdout)[1]))
    assert [page["width"] for page in seen] == [360, 1280] * 2
    ground, ink = {
        "light": ("rgb(255, 255, 255)", "rgb(28, 28, 26)"),
        "dark": ("rgb(22, 22, 21)", "rgb(237, 237, 234)"),
    }[scheme]
    for page in seen:
        assert page["needed"] == page["width"]  # nothing sticks out
        assert page["fetched"] == []
        assert page["ground"] == ground and ink in page["ink"]
        assert len(page["figures"]) >= 3 and min(page["figures"]) > 250
