#!/usr/bin/env bash
# What a change must pass: scripts/check.sh [lint]. Runs in .venv, whatever else is active.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
export PATH="$PWD/$bin:$PATH"
ruff check .
ruff format --check .
mypy
[ "${1:-}" != lint ] || exit 0
bash scripts/setup_megatron.sh
bash scripts/setup_bridge.sh
python -m pytest --ignore tests/launch_env --ignore tests/nemo
# environments of their own, whose packages warn of what is not ours to mend
.venv-launch/bin/python -m pytest tests/launch_env -W default --disable-warnings
.venv-nemo/bin/python -m pytest tests/nemo -W default --disable-warnings
