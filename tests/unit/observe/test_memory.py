import os
import subprocess
import sys

import pytest
import torch

from nemo_acereason.observe.memory import (
    descendant_pids,
    peak_device_bytes,
    peak_resident_bytes,
    peak_resident_bytes_of,
)

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc on this system")

HOLD = "import sys; x = bytearray(b'x') * int(sys.argv[1]); del x; print('up', flush=True); sys.stdin.read()"


def start(code: str, *args: str) -> "subprocess.Popen[bytes]":
    """A process that has said it is up and waits for its input to end."""
    command = [sys.executable, "-S", "-c", code, *args]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


def test_peak_of_this_process_holds_at_least_torch() -> None:
    assert peak_resident_bytes() > 50 * 2**20


@needs_proc
def test_peak_stays_after_memory_is_freed() -> None:
    with start(HOLD, str(100 * 2**20)) as process:
        try:
            peak = peak_resident_bytes(process.pid)
            assert 100 * 2**20 < peak < 160 * 2**20
            assert peak_resident_bytes_of([process.pid, process.pid]) == peak
        finally:
            process.kill()
    assert peak_resident_bytes(process.pid) == 0


@needs_proc
def test_descendants_include_grandchildren() -> None:
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {HOLD!r}, '1'])"
    with start(nested) as process:
        try:
            (grandchild,) = descendant_pids(process.pid)
            assert {process.pid, grandchild} <= set(descendant_pids(os.getpid()))
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(20)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what a machine without a GPU reports")
def test_no_gpu_has_no_device_memory() -> None:
    assert peak_device_bytes() == 0
