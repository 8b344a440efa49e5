#!/usr/bin/env bash
# The wheel as users get it: built, installed with `cpu` alone, a newcomer's first minute with it, the runtime's tests;
# what a start costs; and the runtime on emulated Arm, where the packages for it can be had.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv "$work/env"
python="$work/env/bin/python"
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$work" .
wheel=$(echo "$work"/*.whl)
size=$(wc -c < "$wheel")
if [ "$size" -lt 15000000 ] || [ "$size" -gt 30000000 ]; then
    echo "$(basename "$wheel") has $size bytes: 20 MB of them should be the model that comes along" >&2
    exit 1
fi
started=$SECONDS
"$python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "$wheel[cpu]"
installed=$SECONDS
echo "$(basename "$wheel"): $(du -k "$wheel" | cut -f1) kB; installed: $(du -sm "$work/env" | cut -f1) MB"

"$python" - <<'PYTHON'
import importlib.util, sys
there = [name for name in ("tensorflow", "keras", "tf_keras", "onnx", "sklearn") if importlib.util.find_spec(name)]
sys.exit(f"a runtime environment should not hold {there}" if there else 0)
PYTHON

# Away from the checkout, so that the wheel is what is imported.
cp -r tests "$work/tests"
cp pyproject.toml constraints.txt "$work"
cd "$work"

# A newcomer has patches and no model.
unset HISTO_MODEL
"$python" -m histo_runtime.synthetic first --count 64
scoring=$SECONDS
env/bin/histo-infer first -o first.csv
env/bin/histo-doctor
echo "seconds: $((installed - started)) to install, $((SECONDS - scoring)) for 64 patches and histo-doctor"

"$python" -m histo_runtime.synthetic patches --count 4
env/bin/histo-infer patches --resize --model tests/data/sigmoid_d4.onnx --labels folders -o predictions.csv
cat predictions.csv
env/bin/histo-doctor tests/data/sigmoid_d4.onnx

echo "seconds beyond the bare interpreter:"
"$python" - <<'PYTHON'
import statistics, subprocess, sys, time

def seconds(*command):
    def once():
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - started
    return statistics.median(once() for _ in range(9))

bare = seconds(sys.executable, "-c", "")
for name, command in {
    "import histo_runtime": (sys.executable, "-c", "import histo_runtime"),
    "from histo_runtime import PatchClassifier": (sys.executable, "-c", "from histo_runtime import PatchClassifier"),
    "histo-infer --help": ("env/bin/histo-infer", "--help"),
    "histo-export --help": ("env/bin/histo-export", "--help"),
    "histo-train --help": ("env/bin/histo-train", "--help"),
    "histo-doctor --version": ("env/bin/histo-doctor", "--version"),
}.items():
    print(f"  {name:<42}{seconds(*command) - bare:.3f}")
PYTHON

"$python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt pytest hypothesis
"$python" -m pytest tests/runtime -q
(cd "$root" && "$python" -m pytest tests/containers -m release -q)

if command -v apt-get > /dev/null && [ "$(uname -m)" = x86_64 ]; then
    "$root/scripts/check_arm.sh"
else
    echo "not checked on Arm: scripts/check_arm.sh needs a Debian or Ubuntu machine" >&2
fi
