#!/usr/bin/env bash
# How the model that comes with histo-edge was made, from patches to file and page: some hours on two cores.
#   scripts/boxed_model.sh DATA START WORK
# DATA   folders/train/{0,1} and folders/valid/{0,1} of PatchCamelyon, kaggle/train and kaggle/train_labels.csv
# START  the Keras file to go on from, which the new model is compared with
# WORK   a folder for what is made on the way; a step whose file is there is not done again
# Needs an environment with histo-edge[cpu,export,train], active. Writes the model into runtime/, the page into docs/.
set -euo pipefail
[ $# = 3 ] || { sed -n '2,7s/^# *//p' "$0" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
data=$(cd "$1" && pwd)
start=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
mkdir -p "$3"
cd "$3"

name=tumour-vgg19
started=$SECONDS
step() { printf '\n\033[1m[%5ds] %s\033[0m\n' $((SECONDS - started)) "$*" >&2; "$@"; }
once() { local file=$1; shift; if [ ! -e "$file" ]; then step "$@"; fi; }

ln -sfn "$data" pcam # the records then hold no path of this machine
manifest() {
    echo path,label
    for label in 0 1; do
        find "pcam/folders/train/$label/" -name '*.jpg' | LC_ALL=C sort | sed "s/$/,$label/"
    done
    tail -n +2 pcam/kaggle/train_labels.csv | tr -d '\r' | sed 's/^\([^,]*\),/pcam\/kaggle\/train\/\1.tif,/'
}
manifest > train.csv.new
cmp -s train.csv.new train.csv || cp train.csv.new train.csv
rm train.csv.new

if ! grep -q '"status": "finished"' $name.training/run.json 2> /dev/null; then
    step histo-train train.csv $name.h5 --weights "$start" --epochs 3 --crop 64 --validation pcam/folders/valid --resume
fi

# Puts into the card what training can't know of its patches.
describe() {
    python - "$1" <<'PYTHON'
import sys
from pathlib import Path
from histo_runtime.keras_card import read_keras_card, write_keras_card

path = Path(sys.argv[1])
card = read_keras_card(path)
source = "PatchCamelyon and Kaggle's Histopathologic Cancer Detection, CC0: "
write_keras_card(path, card.replace(
    name=path.stem,
    data=source + card.data.removeprefix(source),
    licence="Apache-2.0; the patches it was trained on are CC0",
    references=(
        "Veeling et al., Rotation Equivariant CNNs for Digital Pathology, MICCAI 2018",
        "Ehteshami Bejnordi et al., Diagnostic Assessment of Deep Learning Algorithms for Detection of Lymph Node"
        " Metastases in Women With Breast Cancer, JAMA 318, 2017",
    ),
))
PYTHON
}
[ -e $name.onnx ] || step describe $name.h5 # not later: the ONNX file names the SHA-256 of its source

# avx2: weights of 7 bits, whose sums can't overflow on a processor without VNNI; this file is for every machine.
# Ranges, margins and the comparison with fp32 come from training patches: the validation patches judge.
once $name.onnx histo-export $name.h5 $name.onnx --precision int8 --target avx2 \
    --calibrate pcam/folders/train --labels folders --microns-per-pixel 0.97
once fp32.onnx histo-export $name.h5 fp32.onnx --optimize cpu --microns-per-pixel 0.97
once start.onnx histo-export "$start" start.onnx --optimize cpu --classes normal,tumour

# The half that nothing was tuned on is what is reported; the other need not be scored.
step env PYTHONPATH="$root/scripts" python - $name.training <<'PYTHON'
import shutil, sys
from pathlib import Path
from modelcard.validation import read_validation

validation = read_validation(Path(sys.argv[1]), Path("pcam/folders/valid"))
for position in validation.reported:
    target = Path("reported", validation.name(position))
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(validation.folder / validation.name(position), target)
PYTHON
score() { once "$2" histo-infer reported --model "$1" --labels folders -o "$2" "${@:3}"; }
score $name.onnx int8.csv --per-view
score $name.onnx adaptive.csv --tta adaptive
score fp32.onnx fp32.csv --per-view
score start.onnx start.csv --per-view

mkdir -p "$root/runtime/histo_runtime/models"
step cp $name.onnx $name.onnx.sha256 "$root/runtime/histo_runtime/models/"
step python "$root/scripts/model_card.py" $name.training --model $name.onnx --shipped int8.csv --adaptive adaptive.csv \
    --fp32 fp32.csv --start start.csv --patches pcam/folders/valid -o "$root/docs/model-card.md"
