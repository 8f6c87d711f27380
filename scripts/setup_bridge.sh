#!/usr/bin/env bash
# Fetches Megatron-Bridge and the older transformers that it wants, into an ignored folder: the tests read what it writes.
# Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/python_env.sh
fetch_beside .venv-bridge-0.3.1 megatron-bridge==0.3.1 transformers==4.57.6 huggingface-hub==0.36.2 \
    tokenizers==0.22.2 accelerate==1.15.0 hydra-core==1.3.2 six==1.17.0
