# Sourced by the set-up scripts: a virtual environment with Python 3.11 or 3.12, and torch's CPU build in it.
TORCH=2.13.0

make_venv() {
    local candidate
    [ -x "$1/bin/pip" ] && return
    for candidate in ${PYTHON:-python3 python3.11 python3.12}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            "$candidate" -m venv "$1"
            return
        fi
    done
    echo "setup: no Python 3.11 or 3.12 found; install one, or name it with PYTHON=..." >&2
    exit 2
}

install_torch() {
    "$1/bin/python" -c 'import torch' 2>/dev/null && return
    echo "setup: torch $TORCH (CPU build)"
    # where pip is not told of a CPU build, uv knows where PyTorch keeps them
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check "torch==$TORCH+cpu" 2>/dev/null || {
        "$1/bin/python" -m pip install --quiet --disable-pip-version-check uv
        "$1/bin/uv" pip install --quiet --python "$1/bin/python" --torch-backend=cpu "torch==$TORCH"
    }
}

fetch_beside() {
    # fetch_beside FOLDER WHAT...: packages for tests, in a folder to be put before .venv's own on PYTHONPATH
    [ -e "$1/.ready" ] && return
    echo "setup: $1 beside the default packages"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target "$@"
    touch "$1/.ready"
}

install_this_package() {
    # one environment at a time: a build leaves its notes in this folder
    flock . "$1/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
}
