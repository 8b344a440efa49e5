#!/usr/bin/env bash
# Every check of the project, from a fresh clone: lint, format, types, tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

make_environment .venv "cpu,export,train,formats,report,slides,ray,examples,dev"
source .venv/bin/activate
ruff check .
ruff format --check .
mypy
pytest "$@"
