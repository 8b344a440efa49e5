#!/usr/bin/env bash
# The runtime on 64-bit Arm without an Arm machine: real aarch64 wheels under qemu-user replay the golden patches of models.
#   scripts/check_arm.sh [MODEL.onnx[:PATCHES]...]     (default: the tiny models of the tests, fp32 and int8 for Arm)
# Nothing is installed: packages of Debian 12 and wheels are unpacked into build/arm, and kept there. Needs apt, dpkg,
# Debian's keyring, and a Python with pip (PYTHON). Emulated fp32 takes about ten seconds a view of VGG19. Exit code 75: the
# packages can't be had here.
set -euo pipefail
readonly unavailable=75 # EX_TEMPFAIL
here=$(pwd)
cd "$(dirname "$0")/.."
python=$(command -v "${PYTHON:-python3}")
work=$PWD/build/arm
# 1.32 crashes on import under this emulator, which 1.20 and 1.24 do not.
onnxruntime=onnxruntime==1.24.4
debian=(libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libssl3 libffi8 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1
    libcrypt1 libpython3.11-minimal python3.11-minimal libpython3.11-stdlib)

packages() { # FOLDER PACKAGE...: unpack packages of Debian 12, with an apt that knows nothing of this machine's
    local folder=$1 apt=$work/apt
    shift
    mkdir -p "$folder" "$apt"/{state/lists/partial,cache/archives/partial,debs}
    touch "$apt/state/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${DEBIAN_MIRROR:-http://deb.debian.org/debian} bookworm main" \
        > "$apt/sources.list"
    cat > "$apt/apt.conf" <<CONF
APT::Architecture "arm64";
APT::Architectures { "arm64"; "$(dpkg --print-architecture)"; };
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "30";
Dir::State "$apt/state";
Dir::State::status "$apt/state/status";
Dir::Cache "$apt/cache";
Dir::Etc::SourceList "$apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
CONF
    rm -f "$apt"/debs/*
    # Joined by && throughout: `set -e` does not hold in a function whose success is asked for.
    (cd "$apt/debs" && export APT_CONFIG=$apt/apt.conf && apt-get update -qq && apt-get download -qq "$@") || return 1
    for package in "$apt"/debs/*.deb; do dpkg -x "$package" "$folder" || return 1; done
}

if [ "$(uname -m)" = aarch64 ]; then
    echo "this machine is aarch64: no emulator is needed, run scripts/replay_golden.py itself" >&2
    exit 2
fi
if [ ! -e "$work/made-from-$(cksum < scripts/check_arm.sh | tr ' ' -)-$(cksum < constraints.txt | tr ' ' -)" ]; then
    rm -rf "$work"
    mkdir -p "$work/site"
    { packages "$work/root" "${debian[@]}" && packages "$work/qemu" "qemu-user-static:$(dpkg --print-architecture)"; } || {
        echo "Debian 12's packages for arm64 could not be had, see above; DEBIAN_MIRROR names another mirror" >&2
        exit "$unavailable"
    }
    # constraints.txt pins another onnxruntime.
    grep -v '^onnxruntime==' constraints.txt > "$work/constraints.txt"
    "$python" -m pip download --quiet --disable-pip-version-check --dest "$work/wheels" --constraint "$work/constraints.txt" \
        --only-binary=:all: --python-version 3.11 --implementation cp \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
        "$onnxruntime" numpy pillow click pandas ||
        { echo "wheels for arm64 could not be had, see above" >&2; exit "$unavailable"; }
    for wheel in "$work"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$work/site"; done
    touch "$work/made-from-$(cksum < scripts/check_arm.sh | tr ' ' -)-$(cksum < constraints.txt | tr ' ' -)"
fi

models=()
for model in "$@"; do case $model in /*) models+=("$model") ;; *) models+=("$here/$model") ;; esac; done
[ ${#models[@]} -gt 0 ] || models=(tests/data/sigmoid_d4.onnx tests/data/softmax_flips.onnx tests/data/sigmoid_d4_int8_arm.onnx)
PYTHONPATH=$work/site:$PWD/runtime "$work/qemu/usr/bin/qemu-aarch64-static" -cpu max -L "$work/root" \
    "$work/root/usr/bin/python3.11" scripts/replay_golden.py "${models[@]}"
