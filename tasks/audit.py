"""Looks every locked package up in the public lists of known flaws. A list that cannot be reached is no clean bill.

Status: 0 if every package was looked up and none has a known flaw, 1 if some have one, 3 if some were not looked up.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ["requirements/prod.txt", "requirements/dev.txt"]
FLAWED, NOT_LOOKED_UP = 1, 3


def main() -> int:
    """Audit the locks, and the page's if there is one; print what was found."""
    status = judge_python(*audit_python())
    if (ROOT / "web" / "package-lock.json").is_file():
        status = max(status, judge_npm(run("npm", "audit", "--json", "--package-lock-only", cwd=ROOT / "web").stdout))
    return status


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run a command, whatever comes of it; a program that is not there has said nothing."""
    try:
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def audit_python() -> tuple[str, str]:
    """What pip-audit says in JSON, and its complaints. It runs in a folder of its own, which is removed again."""
    with tempfile.TemporaryDirectory() as folder:
        python = f"{folder}/bin/python"
        for command in (
            (sys.executable, "-m", "venv", folder),
            (python, "-m", "pip", "install", "--quiet", "pip-audit"),
        ):
            if (done := run(*command)).returncode:
                return "", done.stderr
        locks = [part for lock in LOCKS for part in ("-r", lock)]
        done = run(python, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--format=json", *locks)
    return done.stdout, done.stderr


def judge_python(report: str, complaints: str = "") -> int:
    """Print what pip-audit found, in sentences; returns the exit status. By itself it calls clean what it skips."""
    try:
        packages = json.loads(report)["dependencies"]
    except (ValueError, KeyError):
        last = (complaints.strip().splitlines() or ["it said nothing"])[-1]
        print(f"The Python packages were not looked up: pip-audit did not run ({last[:200]}).")
        return NOT_LOOKED_UP
    flawed = {f"{p['name']} {p['version']}": [flaw["id"] for flaw in p["vulns"]] for p in packages if p.get("vulns")}
    skipped = sorted({p["name"] for p in packages if "skip_reason" in p})
    number = len({p["name"] for p in packages})
    for package, flaws in flawed.items():
        print(f"{package} has known flaws: {', '.join(flaws)}.")
    if skipped:
        named = ", ".join(skipped[:5]) + (", …" if len(skipped) > 5 else "")
        reason = "the list of advisories cannot be reached" if len(skipped) == number else "the list does not know them"
        print(f"{len(skipped)} of {number} Python packages were not looked up, {reason}: {named}")
    if not flawed and not skipped:
        print(f"None of {number} Python packages has a known flaw.")
    return NOT_LOOKED_UP if skipped else FLAWED if flawed else 0


def judge_npm(report: str) -> int:
    """Print what ``npm audit`` found, in a sentence; returns the exit status."""
    try:
        flawed = json.loads(report)["vulnerabilities"]
    except (ValueError, KeyError):
        print("The page's packages were not looked up: npm did not reach its list of advisories.")
        return NOT_LOOKED_UP
    print(f"Known flaws in the page's packages: {', '.join(sorted(flawed)) or 'none'}.")
    return FLAWED if flawed else 0


if __name__ == "__main__":
    sys.exit(main())
