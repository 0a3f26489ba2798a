"""Drives a reader, and sees to it that it refuses with BadInput alone, and in bounded time and memory."""

import resource
import signal
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings

from few_shot.errors import BadInput
from fuzzing.readers import READERS

SECONDS, BYTES = 60, 1 << 30  # that one input may take


class TooMuch(Exception):
    """An input took more time or memory than it may."""


@contextmanager
def bounded():
    """Raise TooMuch if what is done in here takes too long, or too much memory."""

    def too_slow(*_):
        raise TooMuch(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, too_slow)
    signal.alarm(SECONDS)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(
        resource.RLIMIT_AS, (pages * resource.getpagesize() + 4 * BYTES, limits[1])
    )  # or the system ends
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    if (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024 > BYTES:
        raise TooMuch(f"more than {BYTES} bytes")


def fuzz(name, examples, derandomize=False):
    """Drive a reader with so many inputs; returns how many there were, or raises what it must not."""
    reader, tried = READERS[name], 0
    phases = (Phase.generate, Phase.shrink) if derandomize else (Phase.generate,)

    @settings(
        max_examples=examples,
        derandomize=derandomize,
        database=None,
        deadline=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(reader.inputs)
    def run(input):
        nonlocal tried
        tried += 1
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), bounded():
            warnings.simplefilter("ignore")
            try:
                reader.drive(Path(folder), input)
            except BadInput as error:
                assert len(str(error)) < 10_000, "a sentence, not a book"

    run()
    return tried
