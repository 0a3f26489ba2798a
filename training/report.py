"""A page of one run, or of several side by side: ``report.html``, which needs nothing but a browser.

python training/report.py logs/Sinusoid-LitMAML/version_0 logs/Sinusoid-LitANIL/version_0

Several runs come with the difference to the first on the same test episodes, and their curves on one axis.
"""

import argparse
import io
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from training.starting import start

    start()

import numpy as np

from few_shot.errors import BadInput
from few_shot.evaluation import EpisodeResults
from few_shot.figure_style import house_style
from few_shot.files import given_path
from few_shot.metrics import METRICS
from few_shot.whole_files import write_whole
from training.command_line import clear_errors
from training.page import inline, is_page, page, text
from training.pictures import draw_steps, draw_validations
from training.report_tables import comparison, duration, result_table, seconds_of, table
from training.run_folder import RunFolder, make_folder
from training.run_names import algorithm_name, run_names
from training.settings import setting_of_test
from training.terminal import print_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """\
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem;
  align-items: start; }
.figures figure { background: none; border-radius: 0; overflow-x: auto; }
.figures .wide { grid-column: 1 / -1; }
.figures .wide svg { min-width: 38rem; }
svg { display: block; width: 100%; height: auto; max-width: 36rem; }
.wide svg { max-width: 48rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; overflow-wrap: normal; }
th, td { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: normal; color: var(--faint); }
.numbers td { white-space: nowrap; }
pre { background: var(--card); padding: .6rem .8rem; border-radius: .4rem; white-space: pre-wrap; margin: 0;
  font-size: .85rem; }
summary { cursor: pointer; padding: .25rem 0; }
summary:focus-visible { outline: 2px solid var(--bar); }
"""

#: A run's pictures, in the order of the page, with what is said of them.
PICTURES = {
    "fit": "One unseen task: the truth, the support points, and the predictions.",
    "sheet": "One unseen episode: what its pictures were taken for before and after adaptation.",
    "steps": "The test after each inner step.",
    "curves": "The training. Validation episodes are the same each time; each point of training is one meta-batch.",
    "gradients": "How large the elements of each parameter's outer gradient were.",
}

#: The flags that say which test episodes a run has met.
EPISODES = (
    *("data_class", "eval_seed", "episode_classes", "support_samples", "test_query_samples"),
    *("rotations", "shuffle_labels", "image_size", "class_split", "split_seed"),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the report of the runs that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run; differences are to the first")
    parser.add_argument("--output", default="report.html", help="the page (default: report.html)")
    options = parser.parse_args(argv)
    with clear_errors():
        output = given_path(options.output, "--output")
        if output.exists() and not is_page(output):
            raise BadInput(f"--output={output} would replace a file that is no report: name another.")
        folders = [RunFolder(path) for path in options.runs]
        for folder in folders:
            for file in ("config.yaml", "run.json"):
                if not (folder.path / file).is_file():
                    raise BadInput(f"{folder.path} is no folder of a run: it holds no {file}.")
        written = report_of_one(folders[0]) if len(folders) == 1 else report_of_several(folders)
        make_folder(output.parent, "output")
        write_whole(output, written)
        print_result(f"The report is in {output}")


def report_of_one(folder: RunFolder) -> str:
    """The page of one run, from the files in its folder."""
    config = folder.config()
    title = f"{algorithm_name(config)} on {config.get('data_class', 'unknown data')}"
    parts = [f"<p>{text(folder.path.absolute())}</p>"]
    parts.append(_tests(folder))
    if folder.has_old_test:
        parts.append(f"<p>The test is from before the run was resumed, and {text(_since(folder))}</p>")
    pictures = [_figure(svg, caption) for name, caption in PICTURES.items() if (svg := folder.picture(name))]
    parts.append(_section("Pictures", f'<div class="figures">{"".join(pictures)}</div>' if pictures else "<p>none</p>"))
    return page(title, "\n".join([*parts, _record(folder)]), STYLE)


def report_of_several(folders: Sequence[RunFolder]) -> str:
    """The page of several runs that were tested on the same episodes.

    Raises:
        BadInput: they were not, or one was not tested.
    """
    configs = [folder.config() for folder in folders]
    names = run_names(configs)
    name_of_metric, tests = _tests_on_the_same_episodes(folders, configs)
    runs, results = dict(zip(names, folders, strict=True)), dict(zip(names, tests, strict=True))
    metric = METRICS[name_of_metric]
    trained = {name: config.get("inner_loop_steps") for name, config in zip(names, configs, strict=True)}
    figures = [
        ("The test after each inner step.", draw_steps(results, metric.name, trained)),
        ("Validation over the training.", draw_validations(runs, metric.name)),
    ]
    shown = "".join(_figure(as_svg(figure), caption) for caption, figure in figures if figure is not None)
    fits = "".join(
        _figure(svg, name) for name, run in runs.items() if (svg := run.picture("fit") or run.picture("sheet"))
    )
    parts = [
        _section("Test", comparison(runs, results, metric)),
        _section("Curves", f'<div class="figures">{shown}</div>'),
    ]
    if fits:
        parts.append(_section("One unseen task", f'<div class="figures">{fits}</div>'))
    for name, folder in runs.items():
        parts.append(
            f"<details><summary>{text(name)}: command, cost, versions, settings</summary>{_record(folder)}</details>"
        )
    return page(f"{len(folders)} runs on {configs[0].get('data_class', 'unknown data')}", "\n".join(parts), STYLE)


def _tests(folder: RunFolder) -> str:
    """What the run was tested with; of a published result, each test."""
    if published := folder.published_results():
        titles = {n: f"Test with {n} {'query' if n == 1 else 'queries'}" for n in published}
        return "\n".join(_section(titles[n], result_table(result)) for n, result in published.items())
    result = folder.result()
    return _section("Test", "<p>The run was not tested.</p>" if result is None else result_table(result))


def _since(folder: RunFolder) -> str:
    """What has become of a run since its old test, and what to do."""
    if folder.is_finished:
        return f"has had no test since: --resume={folder.path} --limit_test_batches=null tests it."
    return f"its training has not ended since: --resume={folder.path} goes on with it."


def _tests_on_the_same_episodes(
    folders: Sequence[RunFolder], configs: Sequence[Mapping[str, Any]]
) -> tuple[str, list[EpisodeResults]]:
    """The metric, and each run's test; BadInput names what differs where the episodes are not the same."""
    first, config, classes = folders[0], configs[0], folders[0].test_classes()
    pictures = None
    metrics: list[str] = []
    tests: list[EpisodeResults] = []
    for folder, other in zip(folders, configs, strict=True):
        result, episodes = folder.result(), folder.episodes()
        if folder.published_results():
            raise BadInput(f"{folder.path} is a published result, which a page can show alone, not compared.")
        if result is None or episodes is None:
            raise BadInput(f"{folder.path} holds no test, which a comparison needs: its run ended before, or had none.")
        if folder.has_old_test:
            raise BadInput(f"{folder.path} was resumed after its test, and {_since(folder)}")
        both = f"{first.path} and {folder.path} were tested on other episodes and cannot be compared:"
        classes_known = None not in (classes, folder.test_classes())
        for flag in EPISODES:
            if flag in ("class_split", "split_seed") and classes_known:
                continue  # what they have led to is on record
            ours, theirs = setting_of_test(config, flag), setting_of_test(other, flag)
            if ours != theirs:
                raise BadInput(f"{both} {flag} is {ours} and {theirs}.")
        if classes_known and folder.test_classes() != classes:
            raise BadInput(f"{both} the test's classes differ.")
        others = result.get("pictures")
        pictures = pictures or others
        if others not in (None, pictures):
            raise BadInput(f"{both} the test's classes have the same names, and other pictures, or in another order.")
        if tests and not np.array_equal(episodes.index, tests[0].index):
            raise BadInput(f"{both} {len(tests[0].index)} episodes and {len(episodes.index)}, of other numbers.")
        metrics.append(result["metric"])
        tests.append(episodes)
    return metrics[0], tests


def _record(folder: RunFolder) -> str:
    """Command, cost, versions and settings."""
    facts, parts = folder.facts(), folder.parts()
    command = "\n".join(_command(part) for part in parts)
    seconds = seconds_of(folder)
    cost = [
        ("outer updates", facts.get("updates", "–")),
        *((part, duration(value)) for part, value in seconds.items()),
        ("device", facts.get("device", "–")),
        ("threads", facts.get("threads", "–")),
    ]
    versions = [("few_shot", facts.get("commit") or "no git"), ("python", facts.get("python", "–"))]
    versions += facts.get("versions", {}).items()
    config = [(key, "null" if value is None else value) for key, value in folder.config().items()]
    return "\n".join(
        [
            _section("Command", f"<pre>{text(command)}</pre>"),
            _section("Cost", table([], cost)),
            _section("Versions", table([], versions)),
            f"<h2>Settings</h2><details><summary>every flag's value</summary>{table([], config)}</details>",
        ]
    )


def _command(part: Mapping[str, Any]) -> str:
    command = part.get("command", "–")
    return command if isinstance(command, str) else shlex.join(command)


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{text(title)}</h2>\n{body}\n</section>"


def _figure(svg: str, caption: str) -> str:
    width = float(svg.partition('width="')[2].partition("pt")[0])
    kind = ' class="wide" tabindex="0"' if width > 450 else ""  # as wide as that, it scrolls on a phone
    return f"<figure{kind}>{inline(svg, caption)}<figcaption>{text(caption)}</figcaption></figure>\n"


def as_svg(figure: "Figure") -> str:
    """A figure as the text of an SVG file."""
    file = io.StringIO()
    with house_style():
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


if __name__ == "__main__":
    main()
