"""Install the peers of ``requirements/bench.in`` into ``.bench``, a folder behind ``.venv``; `make bench` does it.

So everybody is timed on the same torch, and ``.venv`` stays as it is. A peer that does not install is written down
with the reason, which the benchmark's table then gives.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".bench"
FAILURES = FOLDER / "failures.json"


def main() -> None:
    """Install all anew."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    lines = (ROOT / "requirements" / "bench.in").read_text().splitlines()
    failures = {}
    for requirement in lines:
        if requirement and not requirement.startswith("#") and (reason := install(requirement)):
            name = re.split(r"[=><\s]", requirement)[0]
            failures[name] = reason
            print(f"{name} does not install: {reason}", file=sys.stderr)
    FAILURES.write_text(json.dumps(failures, indent=2) + "\n")


def install(requirement: str) -> str | None:
    """Install one line of the requirements; returns why it failed, or None."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-build-isolation", f"--target={FOLDER}", "--requirement=/dev/stdin"),
        ],
        input=requirement,
        env=os.environ | {"PYTHONPATH": str(FOLDER)},  # what one line installs, the next may be built with
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return None
    errors = [line.strip() for line in done.stderr.splitlines() if re.search(r"error:", line, flags=re.IGNORECASE)]
    # The first is pip's, that something failed; then comes what did.
    return errors[min(1, len(errors) - 1)] if errors else f"pip ended with status {done.returncode}"


if __name__ == "__main__":
    main()
