"""Drives every reader of what others wrote with files that are nearly right, and says how many it tried.

make fuzz SECONDS=600, or PYTHONPATH=.:tests python -m fuzzing --seconds=600

A reader may refuse an input with BadInput. Anything else is a finding: another exception, a minute of time, a gigabyte
of memory. ``tests/test_fuzzing.py`` is the short form.
"""

import argparse
import os
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout

from fuzzing.bounded import fuzz
from fuzzing.readers import READERS


def report(error):
    """What a reader must not have raised, where, and at which input."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.format_tb(error.__traceback__)[-6:]
    notes = "\n".join(getattr(error, "__notes__", []))
    return f"{''.join(frames)}{type(error).__name__}: {str(error)[:300]}\n{notes[:1500]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--reader", choices=READERS, help="drive this one alone")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    tried, found = dict.fromkeys([options.reader] if options.reader else READERS, 0), 0
    while time.monotonic() < end:
        for name in tried:
            if time.monotonic() >= end:
                break
            try:
                # What readers say on their way, and the module that a flag of the user's own names.
                with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), redirect_stdout(nowhere):
                    tried[name] += fuzz(name, 50)
            except (Exception, SystemExit) as error:
                found += 1
                print(f"\n{name}:\n{report(error)}", flush=True)
    width = max(map(len, tried))
    print("\n".join(f"{name:<{width}}  {number:>9,}" for name, number in tried.items()))
    print(f"{'inputs tried':<{width}}  {sum(tried.values()):>9,}\n{'findings':<{width}}  {found:>9}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
