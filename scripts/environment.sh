# Sourced by the other scripts: make_environment FOLDER EXTRAS makes a virtual environment with this checkout in it.
# It is made once, and again when pyproject.toml, constraints.txt or the interpreter change; extras that another script
# needs besides are added. PYTHON names another interpreter.

new_enough() { # PYTHON: complain about one that can't be used
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null ||
        { echo "$1 is no Python 3.11 or newer: name one, as in PYTHON=python3.12 $0" >&2; return 1; }
    "$1" -c 'import ensurepip, venv' 2> /dev/null ||
        { echo "$1 can't make environments: apt-get install python3-venv, or name another in PYTHON" >&2; return 1; }
}

make_environment() {
    local folder=$1 extras=$2 python=${PYTHON:-python3} key made
    new_enough "$python" || return 1
    key="$(cat pyproject.toml constraints.txt | cksum) $("$python" --version) $PWD"
    made=$(cat "$folder/.made-from" 2> /dev/null) || made=
    if [ "${made%%|*}" = "$key" ]; then
        made=${made#*|}
        if covers "$made" "$extras"; then return 0; fi
        extras=$made,$extras
        echo "adding to the environment $folder ($extras)" >&2
    else
        echo "making the environment $folder ($extras): some minutes the first time, with TensorFlow 3 GB" >&2
        rm -f "$folder/.made-from"
        "$python" -m venv --clear "$folder" || return 1
    fi
    # The note is written last: what fails or is interrupted half way is done again.
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
        --editable ".[$extras]" ||
        { echo "$folder is not complete, see above: the same command tries again" >&2; return 1; }
    echo "$key|$extras" > "$folder/.made-from"
}

covers() { # HAVE WANTED: whether each of the extras wanted is there
    local extra
    for extra in ${2//,/ }; do
        case ,$1, in *",$extra,"*) ;; *) return 1 ;; esac
    done
}
