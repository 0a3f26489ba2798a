"""What a run leaves to look at: its pictures and its report."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from few_shot.errors import BadInput
from few_shot.plots import can_draw_fit, draw_fit
from few_shot.sheets import can_draw_sheet, draw_sheet
from training.gradients import draw_gradients
from training.loggers import RunLogger
from training.pictures import draw_curves, draw_steps
from training.report import report_of_one
from training.run_folder import RunFolder
from training.run_names import algorithm_name
from training.terminal import is_first_process, print_result, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show_run(lit_model: Any, data: Any, folder: RunFolder, loggers: list[RunLogger], updates: int) -> None:
    """Draw a finished run into its folder, hand the pictures to its loggers, and write its report.

    The run is over: what fails here is said in a sentence, and the rest goes on.
    """
    if not is_first_process():
        return
    if importlib.util.find_spec("matplotlib") is None:
        say("There are no pictures: they need matplotlib, which is not installed (pip install matplotlib).")
    else:
        for name, draw in _pictures(lit_model, data, folder).items():
            with _failing_in_a_sentence(f"the picture {name}"):
                if (figure := draw()) is not None:
                    path = folder.write_picture(name, figure)
                    for logger in loggers:
                        logger.log_picture(name, path, updates)
                    print_result(f"{name}: {path}")
    with _failing_in_a_sentence("the report"):
        print_result(f"report: {folder.write_report(report_of_one(folder))}")


def _pictures(lit_model: Any, data: Any, folder: RunFolder) -> "dict[str, Callable[[], Figure | None]]":
    """What fits this run; each returns None where there is nothing to draw."""
    found: dict[str, Callable[[], Figure | None]] = {"curves": lambda: draw_curves(folder)}
    if can_draw_fit(lit_model, data):
        found["fit"] = lambda: draw_fit(lit_model, data)
    if can_draw_sheet(data):
        found["sheet"] = lambda: draw_sheet(lit_model, data)
    found["steps"] = lambda: _steps(folder)
    if folder.config()["log_gradient_histograms"]:
        found["gradients"] = lambda: draw_gradients(folder)
    return found


def _steps(folder: RunFolder) -> "Figure | None":
    """The test against inner steps, if there was one and there are several."""
    results, result, config = folder.episodes(), folder.result(), folder.config()
    if results is None or result is None or len(results.steps) < 2:
        return None
    name = algorithm_name(config)
    return draw_steps({name: results}, result["metric"], {name: config.get("inner_loop_steps")})


@contextmanager
def _failing_in_a_sentence(what: str) -> Iterator[None]:
    try:
        yield
    except BadInput as error:
        say(f"This run goes without {what}: {error}")
    except Exception as error:
        say(f"This run goes without {what} ({type(error).__name__}: {' '.join(str(error).split())}).")
