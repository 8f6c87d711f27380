#!/usr/bin/env bash
# Makes the default environment (CPU): scripts/setup_env.sh VENV. Safe to run again; a killed run is repaired.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
source scripts/python_env.sh
make_venv "$venv"
install_torch "$venv"
echo "setup: locked packages"
pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install --no-deps -r requirements/cpu.txt
install_this_package "$venv"
touch "$venv/.ready"
