"""An audit passes only where every package was looked up."""

import json
import runpy
from pathlib import Path

import pytest

AUDIT = runpy.run_path(str(Path(__file__).parents[1] / "tasks" / "audit.py"))
CLEAN = {"name": "a", "version": "1", "vulns": []}
FLAWED = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1"}, {"id": "CVE-2"}]}
SKIPPED = {"name": "c", "skip_reason": "not found on PyPI"}


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([CLEAN], 0, "None of 1 Python packages has a known flaw."),
        ([CLEAN, FLAWED], 1, "b 2 has known flaws: CVE-1, CVE-2."),
        ([SKIPPED], 3, "1 of 1 Python packages were not looked up, the list of advisories cannot be reached: c"),
        ([CLEAN, FLAWED, SKIPPED], 3, "1 of 3 Python packages were not looked up, the list does not know them: c"),
        (None, 3, "The Python packages were not looked up: pip-audit did not run (no network)."),
    ],
)
def test_python_packages(packages, status, said, capsys):
    report = "" if packages is None else json.dumps({"dependencies": packages})
    assert AUDIT["judge_python"](report, "a line\nno network") == status
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("report", "status", "said"),
    [
        ('{"vulnerabilities": {}}', 0, "none"),
        ('{"vulnerabilities": {"x": {}}}', 1, "packages: x."),
        ('{"message": "405"}', 3, "not reach"),
    ],
)
def test_the_pages_packages(report, status, said, capsys):
    assert AUDIT["judge_npm"](report) == status
    assert said in capsys.readouterr().out
