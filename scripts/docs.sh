#!/usr/bin/env bash
# The documentation as a site, in build/site: every link and anchor must hold. Arguments go to mkdocs; to read while
# writing: scripts/docs.sh serve.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

make_environment .venv-docs docs
# The hook imports its package; and mkdocs-material's advertisement of its successor is no news at each build.
export PYTHONPATH=scripts NO_MKDOCS_2_WARNING=1
.venv-docs/bin/mkdocs "${@:-build}" --strict
