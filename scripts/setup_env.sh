#!/usr/bin/env bash
# Makes the default environment (CPU): scripts/setup_env.sh VENV. Safe to run again; a killed run is repaired.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
torch=2.13.0

python=""
for candidate in ${PYTHON:-python3 python3.11 python3.12}; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || { echo "setup: no Python 3.11 or 3.12 found; install one, or name it with PYTHON=..." >&2; exit 2; }

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check)
if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
    echo "setup: torch $torch (CPU build)"
    # where pip is not told of a CPU build, uv knows where PyTorch keeps them
    "${pip[@]}" install "torch==$torch+cpu" 2>/dev/null || {
        "${pip[@]}" install uv
        "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --torch-backend=cpu "torch==$torch"
    }
fi
echo "setup: locked packages"
"${pip[@]}" install --no-deps -r requirements/cpu.txt
"${pip[@]}" install --no-deps --no-build-isolation -e .
touch "$venv/.ready"
