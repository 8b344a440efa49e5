# Sourced by the other scripts: make_environment FOLDER EXTRAS makes a virtual environment with this checkout in it.
# It is made once, and again when pyproject.toml or constraints.txt change. PYTHON names another interpreter.

make_environment() {
    local folder=$1 extras=$2 python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        { echo "$python is older than Python 3.11: name a newer one, as in PYTHON=python3.12 $0" >&2; return 1; }
    local wanted
    wanted="$(cat pyproject.toml constraints.txt | cksum) $extras $("$python" --version)"
    if [ "$(cat "$folder/.made-from" 2>/dev/null)" = "$wanted" ]; then return 0; fi
    echo "making the environment $folder ($extras): some minutes the first time, with TensorFlow 3 GB" >&2
    "$python" -m venv --clear "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
        --editable ".[$extras]"
    echo "$wanted" > "$folder/.made-from"
}
