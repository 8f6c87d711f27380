#!/usr/bin/env bash
# Makes .venv-trl, the peer's environment of benchmarks/vs_trl.py: its pins are not ours.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/python_env.sh
make_venv .venv-trl
install_torch .venv-trl
.venv-trl/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/trl.txt
