#!/usr/bin/env bash
# Makes .venv-launch, what a login node needs to submit by NeMo-Run: no torch, no engine. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/python_env.sh
make_venv .venv-launch
echo "setup: locked packages of NeMo-Run"
pip=(.venv-launch/bin/python -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install --no-deps -r requirements/launch.txt
install_this_package .venv-launch
touch .venv-launch/.ready
