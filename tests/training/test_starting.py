"""What a script does before its imports."""

import ast
import os
import signal
import subprocess
import sys

import pytest
from helpers import ROOT

from training import starting

SCRIPTS = [p for p in sorted((ROOT / "training").glob("*.py")) if "\n    main()" in p.read_text()]


def run(code, **environment):
    """The exit status of a Python program, and what it says."""
    rest = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=rest | environment, capture_output=True, text=True
    )
    return done.returncode, done.stderr


def test_every_script_starts_before_it_imports_what_takes_long():
    assert len(SCRIPTS) == 7
    starts = "if __name__ == '__main__':\n    from training.starting import start\n    start()"
    for script in SCRIPTS:
        lines = [ast.unparse(node) for node in ast.parse(script.read_text()).body]
        before = [line for line in lines[: lines.index(starts)] if line.startswith(("import ", "from "))]
        assert {line.split()[1].split(".")[0] for line in before} <= sys.stdlib_module_names


def test_pytorch_is_not_imported_yet():
    assert run("import sys, training.starting; assert 'torch' not in sys.modules") == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere PyTorch comes with another OpenMP")
def test_a_waiting_thread_leaves_its_core_soon():
    _, said = run("from training.starting import start; start(); import torch", OMP_DISPLAY_ENV="verbose")
    assert f"GOMP_SPINCOUNT = '{starting.SPINS}'" in said


@pytest.mark.parametrize("given", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_what_the_environment_says_counts(given):
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    code = f"import os; from training.starting import start; start(); assert {given} == "
    code += f"{{name: os.environ[name] for name in {names} if name in os.environ}}"
    assert run(code, **given) == (0, "")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_program_that_still_imports(signum):
    code = "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += f"from training.starting import start; start(); os.kill(os.getpid(), {int(signum)})"
    status, said = run(code)
    assert status == 128 + signum
    assert said.endswith("Nothing was done yet.\n") and len(said.splitlines()) == 1
