"""SIGTERM, SIGINT (Ctrl-C) and SLURM's SIGUSR1: end in order, with a sentence and a status that is not 0.

While a run trains or tests, the first signal is only noted. A callback looks at it between two batches, where all
processes agree to stop and a checkpoint can be written. At any other time the first signal ends what is done at once.
So does a second one always.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from training import slurm

#: torchrun passes on to its workers what they may have had already: so many seconds count as one signal there.
TORCHRUN_REPEATS = 5.0


def signals() -> list[signal.Signals]:
    """Those that stop a program; of a job of SLURM also its signal to queue the job again."""
    return [signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if slurm.job() else [])]


class Stopped(BaseException):
    """A signal has ended the program; not an Exception, which code on the way might take for a failure of its own.

    Args:
        signum: the signal.
        agreed: whether all processes of the run stop at the same point.
    """

    def __init__(self, signum: int, agreed: bool = False) -> None:
        super().__init__(signum)
        self.signum, self.agreed = signum, agreed

    @property
    def status(self) -> int:
        """The exit status, as a shell gives it to a program that a signal has ended."""
        return 128 + self.signum

    def __str__(self) -> str:
        return "Interrupted." if self.signum == signal.SIGINT else f"Stopped by {signal.Signals(self.signum).name}."


class _Signals:
    """What this process has received."""

    def __init__(self) -> None:
        self.received = 0  # the number of the first signal; 0 is none
        self.since = 0.0
        self.are_noted = False  # whether somebody looks at `received`

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.received:
            if "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() - self.since < TORCHRUN_REPEATS:
                return
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        self.received, self.since = signum, time.monotonic()
        if not self.are_noted:
            raise Stopped(signum)


_signals = _Signals()


def received() -> int:
    """The number of the signal that this process has received; 0 is none."""
    return _signals.received


def note(on: bool) -> None:
    """Whether a first signal is only noted from now on, because somebody looks at :func:`received`."""
    _signals.are_noted = on


def act_at_once() -> None:
    """Note signals no more.

    Raises:
        Stopped: one was noted before.
    """
    note(False)
    if _signals.received:
        raise Stopped(_signals.received)


def end_while_importing() -> None:
    """Until the program begins, which takes seconds of imports, a signal ends it with a sentence."""

    def end(signum: int, frame: FrameType | None) -> None:
        stop = Stopped(signum)
        os.write(2, f"{stop} Nothing was done yet.\n".encode())
        os._exit(stop.status)

    for signum in signals():
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, end)


@contextmanager
def stoppable() -> Iterator[None]:
    """Handle the signals in here.

    A signal that was to be ignored still is: a shell starts jobs in the background so. Only a main thread can handle
    them. Within another such block, this one does nothing.
    """
    mine = threading.current_thread() is threading.main_thread()
    before: dict[signal.Signals, Any] = {s: signal.getsignal(s) for s in signals()} if mine else {}
    before = {s: handler for s, handler in before.items() if handler not in (signal.SIG_IGN, _signals)}
    if not before:
        yield
        return
    _signals.__init__()  # type: ignore[misc]
    for signum in before:
        signal.signal(signum, _signals)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
