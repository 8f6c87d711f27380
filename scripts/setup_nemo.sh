#!/usr/bin/env bash
# Makes .venv-nemo, the environment of NeMo 2 users (CPU): its pins are not ours. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/python_env.sh
make_venv .venv-nemo
install_torch .venv-nemo
echo "setup: locked packages of NeMo 2"
pip=(.venv-nemo/bin/python -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install --no-deps -r requirements/nemo.txt
install_this_package .venv-nemo
touch .venv-nemo/.ready
