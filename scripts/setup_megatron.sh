#!/usr/bin/env bash
# Fetches the newer Megatron-core that the trainer is tested on besides the pinned one, into an ignored folder.
# It asks for Python 3.12 and runs on 3.11 as far as the trainer uses it. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/python_env.sh
fetch_beside .venv-megatron-0.19.2 --ignore-requires-python megatron-core==0.19.2
