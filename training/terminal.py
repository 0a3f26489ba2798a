"""What a user sees: results on stdout, everything else on stderr, each once however many processes there are."""

import os
import sys
import warnings
from pathlib import Path

from pytorch_lightning.utilities.rank_zero import rank_zero_only
from tqdm import tqdm

import few_shot
from few_shot.files import printable

#: Warnings of Lightning and PyTorch that a user of the command line can do nothing about: the beginning of each, and
#: its kind.
NOT_THE_USERS_BUSINESS: list[tuple[str, type[Warning]]] = [
    (".*does not have many workers.*", UserWarning),
    (".*Consider setting.*persistent_workers.*", UserWarning),
    (".*`LightningModule.configure_optimizers` returned.*", UserWarning),
    # Results are gathered from all processes before they are logged.
    (".*It is recommended to use `self.log.*sync_dist=True.*", UserWarning),
    (".*directory .* exists and is not empty.*", UserWarning),
    (".*find_unused_parameters=True was specified.*", UserWarning),
    (".*`weights_only` was not set.*", UserWarning),
    (".*callbacks used to create the checkpoint need to be provided.*", UserWarning),  # a resumed run may keep others
    # The checkpoint is to hold the weights after the update.
    (".*Using ModelCheckpoint with manual optimization and every_n_train_steps.*", UserWarning),
    (r"`torch\.jit\.script_method` is deprecated.*", DeprecationWarning),  # PyTorch's own compiler uses it
    # Lightning copies a part of PyTorch that PyTorch has since renamed.
    (r"`isinstance\(treespec, LeafSpec\)` is deprecated.*", FutureWarning),
]
#: Where the code lies whose warnings are shown without their place in it.
OUR_CODE = [Path(file).resolve().parent for file in (few_shot.__file__, __file__)]
FORMAT_OF_OTHERS = warnings.formatwarning  # Lightning has put its own here


def script(name: str) -> str:
    """The path of a script of ours as the user may call it: beside the one that runs, if that is one of them."""
    running = Path(sys.argv[0])
    ours = running.is_file() and running.resolve().parent == Path(__file__).resolve().parent
    return str(running.with_name(name)) if ours else f"training/{name}"


def is_first_process() -> bool:
    """Whether this process is the one that prints and writes."""
    return getattr(rank_zero_only, "rank", 0) == 0


def print_result(text: str) -> None:
    """Print a result of the command to stdout, from the first process only."""
    if is_first_process():
        try:
            print(printable(text), flush=True)
        except BrokenPipeError:  # nobody reads it any more, as after `| head`; what is left is done all the same
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def say(message: str) -> None:
    """Print what the user should know on the way to stderr, from the first process only, on a line of its own."""
    if is_first_process():
        tqdm.write(printable(message), file=sys.stderr)
        sys.stderr.flush()


def tidy_warnings() -> None:
    """Keep the warnings above out of the user's terminal, and show ours as a sentence, without a line of code."""
    for message, category in NOT_THE_USERS_BUSINESS:
        warnings.filterwarnings("ignore", message=message, category=category)
    warnings.formatwarning = _on_its_own_line


def _on_its_own_line(message, category, filename, lineno, line=None) -> str:
    """A warning as it is shown: on a new line, if a progress bar stands on this one."""
    ours = any(folder in Path(filename).resolve().parents for folder in OUR_CODE)
    text = f"Warning: {message}\n" if ours else FORMAT_OF_OTHERS(message, category, filename, lineno, line)
    return ("\n" if getattr(tqdm, "_instances", ()) else "") + text
