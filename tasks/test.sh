#!/usr/bin/env bash
# Run every test, or those that the arguments choose: tasks/test.sh tests/test_episodes.py -k seed
set -euo pipefail
cd "$(dirname "$0")/.."

python=.venv/bin/python
[ -x "$python" ] || python=python

# Several test processes, so one thread in each: more would only fight over the cores. tests/conftest.py says which tests
# share a process, and with it what their fixtures cost.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

exec "$python" -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadscope "$@"
