"""Several runs in one process, for tests that launch several processes: importing PyTorch takes longer than a run."""

import json
import sys
from pathlib import Path

from training import run_experiment


def run_all(command_lines):
    """Without pictures, which take longer than such runs."""
    draw, run_experiment.draw = run_experiment.draw, lambda *_: None
    try:
        for flags in command_lines:
            run_experiment.main(flags)
    finally:
        run_experiment.draw = draw


if __name__ == "__main__":
    run_all(json.loads(Path(sys.argv[1]).read_text()))
