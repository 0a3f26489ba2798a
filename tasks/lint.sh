#!/usr/bin/env bash
# Run every check, even after one has failed; the exit status says whether all passed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

PATH="$PWD/.venv/bin:$PATH"
FAILURE=false

echo "ruff check"
python -m ruff check . || FAILURE=true

echo "ruff format"
python -m ruff format --check . || FAILURE=true

echo "mypy"
python -m mypy || FAILURE=true

echo "shellcheck"
shellcheck tasks/*.sh .ci/run || FAILURE=true

if [ -d web/node_modules ]; then
    echo "biome"
    npm --prefix web run --silent lint || FAILURE=true
fi

if [ "$FAILURE" = true ]; then
    echo "Linting failed"
    exit 1
fi
echo "Linting passed"
