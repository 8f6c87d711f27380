#!/usr/bin/env bash
# Fetches Megatron-Bridge and the older transformers that it wants, into an ignored folder: the tests read what it writes.
# Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.3.1
folder=.venv-bridge-$version
[ -e "$folder/.ready" ] && exit
echo "setup: megatron-bridge $version beside the default packages"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target "$folder" \
    "megatron-bridge==$version" transformers==4.57.6 huggingface-hub==0.36.2 tokenizers==0.22.2 accelerate==1.15.0 \
    hydra-core==1.3.2 six==1.17.0
touch "$folder/.ready"
