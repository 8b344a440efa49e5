#!/usr/bin/env bash
# The packages as users get them: built, looked into, installed in fresh environments and held against the tests: the
# runtime with `cpu` alone, a newcomer's first minute with it, what a start costs, the lowest versions that pyproject.toml
# allows; then the container's environment, the runtime on emulated Arm where the packages for it can be had, the docs, and
# the README's demo.
#   scripts/release_check.sh [--every-room]     (also export and train with the lowest versions: TensorFlow again)
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
root=$PWD
python=$(command -v "${PYTHON:-python3}")
new_enough "$python"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
started=$SECONDS

step() { printf '\n[%4ds] %s\n' $((SECONDS - started)) "$*"; }

install() { # FOLDER CONSTRAINTS PACKAGE...: into the virtual environment FOLDER, which is made
    local folder=$1 constraints=$2
    shift 2
    [ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$constraints" "$@"
}

step "sdist, and the wheel from it"
install "$work/build" constraints.txt build packaging
"$work/build/bin/python" -m build --outdir "$work" . > "$work/build.log" 2>&1 || { cat "$work/build.log" >&2; exit 1; }
wheel=$(echo "$work"/*.whl)
"$work/build/bin/python" scripts/check_wheel.py "$wheel"

# Away from the checkout, so that the wheel is what is imported.
mkdir "$work/away"
cp -r tests pyproject.toml constraints.txt "$work/away"

step "the wheel with cpu alone"
installing=$SECONDS
install "$work/cpu" constraints.txt "$wheel[cpu]"
installing=$((SECONDS - installing))
echo "installed: $(du -sm "$work/cpu" | cut -f1) MB"
cd "$work/away"
"$work/cpu/bin/python" - <<'PYTHON'
import importlib.util, sys
there = [name for name in ("tensorflow", "keras", "tf_keras", "onnx", "sklearn") if importlib.util.find_spec(name)]
sys.exit(f"a runtime environment should not hold {there}" if there else 0)
PYTHON

step "a newcomer, who has patches and no model"
unset HISTO_MODEL
"$work/cpu/bin/python" -m histo_runtime.synthetic first --count 64
scoring=$SECONDS
"$work/cpu/bin/histo-infer" first -o first.csv
"$work/cpu/bin/histo-doctor"
echo "seconds: $installing to install, $((SECONDS - scoring)) for 64 patches and histo-doctor"

step "a model of one's own"
"$work/cpu/bin/python" -m histo_runtime.synthetic patches --count 4
"$work/cpu/bin/histo-infer" patches --resize --model tests/data/sigmoid_d4.onnx --labels folders -o predictions.csv
cat predictions.csv
"$work/cpu/bin/histo-doctor" tests/data/sigmoid_d4.onnx

step "seconds of a start beyond the bare interpreter"
"$work/cpu/bin/python" - "$work/cpu/bin" <<'PYTHON'
import statistics, subprocess, sys, time

def seconds(*command):
    def once():
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - started
    return statistics.median(once() for _ in range(9))

bin = sys.argv[1]
bare = seconds(sys.executable, "-c", "")
for name, command in {
    "import histo_runtime": (sys.executable, "-c", "import histo_runtime"),
    "from histo_runtime import PatchClassifier": (sys.executable, "-c", "from histo_runtime import PatchClassifier"),
    "histo-infer --help": (f"{bin}/histo-infer", "--help"),
    "histo-export --help": (f"{bin}/histo-export", "--help"),
    "histo-train --help": (f"{bin}/histo-train", "--help"),
    "histo-doctor --version": (f"{bin}/histo-doctor", "--version"),
}.items():
    print(f"  {name:<42}{seconds(*command) - bare:.3f}")
PYTHON

step "the runtime's tests with cpu alone"
install "$work/cpu" "$root/constraints.txt" pytest hypothesis
"$work/cpu/bin/python" -m pytest tests/runtime tests/test_commands.py -q

step "the environment of the container"
(cd "$root" && "$work/cpu/bin/python" -m pytest tests/containers -m release -q)

# The lowest versions have wheels for this Python.
if lowest=$(command -v python3.11) && "$lowest" -c 'import ensurepip, venv' 2> /dev/null; then
    step "the runtime's tests with the lowest versions"
    python=$lowest install "$work/lowest" "$root/constraints-lowest.txt" "$wheel[cpu,formats,report,slides]"
    # The tests' own tools are none of the users'.
    install "$work/lowest" "$root/constraints-lowest.txt" pytest hypothesis
    "$work/lowest/bin/python" -m pytest tests/runtime -q

    if [ "${1:-}" = --every-room ]; then
        step "the other rooms' tests with the lowest versions"
        install "$work/lowest" "$root/constraints-lowest.txt" "$wheel[export,train]"
        install "$work/lowest" "$root/constraints-lowest.txt" scipy scikit-learn # of the tests again
        cp -r "$root/docs" . # a test of the train room reads them
        # The models kept for the runtime's tests are those that the packages of constraints.txt make.
        "$work/lowest/bin/python" -m pytest tests/export tests/train -q -k "not what_the_exporter_makes_today"
    fi
else
    echo "the lowest versions are not checked: they need python3.11" >&2
fi

cd "$root"
if command -v apt-get > /dev/null && [ "$(uname -m)" = x86_64 ]; then
    step "the runtime on Arm"
    PYTHON="$work/cpu/bin/python" scripts/check_arm.sh || [ $? -eq 75 ] # said, and no fault of the release
else
    echo "not checked on Arm: scripts/check_arm.sh needs a Debian or Ubuntu machine" >&2
fi

step "the docs"
"$work/cpu/bin/python" -m pytest tests/docs/test_pages.py -m release -q

step "the README's demo"
scripts/demo.sh
step "done"
