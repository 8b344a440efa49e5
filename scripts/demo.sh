#!/usr/bin/env bash
# The whole way on synthetic patches: draw, train, export, score, compare. Writes to demo/ (ignored by git) only.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

make_environment .venv "cpu,export,train,formats,report"
source .venv/bin/activate

demo=demo
started=$SECONDS
bold='' plain=''
if [ -t 2 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then bold=$'\033[1m' plain=$'\033[0m'; fi
step() { printf '\n%s[%4ds] %s%s\n' "$bold" $((SECONDS - started)) "$*" "$plain" >&2; "$@"; }

rm -rf "$demo"
step python -m histo_runtime.synthetic "$demo/patches" --count 800 --seed 1
step python -m histo_runtime.synthetic "$demo/held-out" --count 128 --seed 2
step histo-train "$demo/patches" "$demo/model.h5" --weights random --crop 48 --epochs 4
step histo-export "$demo/model.h5" "$demo/model.onnx"
step histo-infer "$demo/held-out" --model "$demo/model.onnx" --labels folders -o "$demo/predictions.csv" \
    --report "$demo/report.html"
step python scripts/demo_table.py "$demo"
printf '\n[%4ds] done\n' $((SECONDS - started)) >&2
