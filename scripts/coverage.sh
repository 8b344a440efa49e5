#!/usr/bin/env bash
# How much of each room the tests run through: lines and branches, of the processes that they start too. Slower than
# scripts/test.sh by a third or more; left out are tests that limit the size of files, coverage's own among them. Arguments
# go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

make_environment .venv "cpu,export,train,formats,report,slides,ray,examples,dev"
source .venv/bin/activate
export COVERAGE_FILE=$PWD/build/coverage/data
rm -rf build/coverage
mkdir -p build/coverage
failed=0
coverage run -m pytest -m 'not release and not file_limit' "$@" || failed=$?
coverage combine --quiet
for room in runtime export train; do
    coverage report --include="$room/*" --sort=cover > "build/coverage/$room.txt"
    printf '%-8s %s\n' "$room" "$(tail -1 "build/coverage/$room.txt")"
done
echo "by module: build/coverage/*.txt"
exit "$failed"
