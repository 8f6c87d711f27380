import os
import subprocess
import sys

import pytest

from nemo_acereason.observe.memory import peak_resident_bytes

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
        finally:
            process.kill()
    assert peak_resident_bytes(process.pid) == 0
