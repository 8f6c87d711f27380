# ruff: noqa: E501 - programs stand on one line each, so that the table can be read
"""Programs that try to hurt the machine or to be paid for nothing, and how each must end.

Run as a script it judges all of them with an executor of its own and prints one JSON line: that is how the tests run
them as another user. The problem is always: double a number, as a whole program or as function ``f``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from nemo_acereason.records import RunLimits, Score
from nemo_acereason.rewards.code_formats import CallCase, CodeTests, StdinCase
from nemo_acereason.rewards.code_tests import judge
from nemo_acereason.sandbox.executor import SandboxExecutor

LIMITS = RunLimits(time_limit_s=0.25, memory_bytes=256 << 20, output_bytes=1 << 20)
SECRET_OUTPUTS = ("862910426", "8629104268")
"""Expected outputs: 431455213 * 2 and another; to be found nowhere in the program's process."""
STDIN = CodeTests(
    stdin=(StdinCase("431455213\n", SECRET_OUTPUTS[0]), StdinCase("4314552134\n", SECRET_OUTPUTS[1])), setup=""
)
CALLS = CodeTests(
    calls=tuple(
        CallCase("f", (given,), {}, (wanted,)) for given, wanted in ((431455213, 862910426), (4314552134, 8629104268))
    )
)
HONEST_STDIN = "print(int(input()) * 2)"
HONEST_CALL = "def f(x):\n    return x * 2"


@dataclass(frozen=True, slots=True)
class Hostile:
    """One program."""

    name: str
    code: str
    ends: str
    """Verdicts it may get, by name, separated by spaces; never ``correct``."""
    calls: bool = False
    """The program is judged by calls of ``f``, else by its output."""


def _stdin(name: str, ends: str, code: str) -> Hostile:
    return Hostile(name, code, ends)


def _call(name: str, ends: str, code: str) -> Hostile:
    return Hostile(name, code, ends, calls=True)


_LIBC = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"

HOSTILE = (
    # --- processes
    _stdin("fork bomb", "forbidden", "import os\nwhile True:\n    os.fork()"),
    _stdin("vfork through libc", "forbidden", _LIBC + "libc.vfork()"),
    _stdin("raw clone through libc", "forbidden", _LIBC + "libc.syscall(56, 17, 0, 0, 0, 0)"),
    _stdin("subprocess shell", "forbidden crash", "import subprocess\nprint(subprocess.run('id', shell=True))"),
    _stdin("os.system", "forbidden crash wrong", "import os\nos.system('cat /etc/shadow')"),
    _stdin("exec another program", "forbidden crash", "import os\nos.execv('/bin/sh', ['sh'])"),
    _stdin("multiprocessing pool", "forbidden crash", "import multiprocessing as m\nm.Pool(4).map(print, range(9))"),
    _stdin(
        "daemon by double fork",
        "forbidden",
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    os.fork()\n    time.sleep(1000)\nprint(1)",
    ),
    _stdin(
        "thread bomb",
        "crash timeout memory wrong",
        "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
    ),
    _stdin(
        "threads left running",
        "timeout",
        "import threading\ndef spin():\n    while True: pass\nfor _ in range(4):\n    threading.Thread(target=spin).start()",
    ),
    _stdin("kill everything", "wrong crash forbidden", "import os, signal\nos.kill(-1, signal.SIGKILL)\nprint(0)"),
    _stdin(
        "kill the parent",
        "wrong crash forbidden",
        "import os, signal\nfor _ in range(9): os.kill(os.getppid(), 9)\nprint(0)",
    ),
    _stdin(
        "stop the parent", "wrong crash forbidden", "import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)\nprint(0)"
    ),
    _stdin(
        "terminate the parent by every signal",
        "wrong crash forbidden",
        "import os\nfor s in range(1, 65):\n    try: os.kill(1, s)\n    except OSError: pass\nprint(0)",
    ),
    _stdin("stop itself", "timeout forbidden", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"),
    _stdin("ptrace the parent", "forbidden", _LIBC + "import os\nlibc.ptrace(16, os.getppid(), 0, 0)"),
    _stdin(
        "read the parent's memory",
        "crash forbidden",
        "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
    ),
    _stdin(
        "process_vm_readv",
        "forbidden",
        _LIBC + "import os\nlibc.process_vm_readv(os.getppid(), 0, 0, 0, 0, 0)",
    ),
    _stdin(
        "lower the parent's limits",
        "wrong crash",
        "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))\nprint(0)",
    ),
    _stdin("slow everyone by priority", "wrong crash", "import os\nos.setpriority(os.PRIO_USER, 0, 19)\nprint(0)"),
    # --- time
    _stdin("endless loop", "timeout", "while True: pass"),
    _stdin("sleep", "timeout", "import time\ntime.sleep(1000)"),
    _stdin(
        "signals swallowed",
        "timeout",
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError):"
        " pass\nwhile True:\n    try:\n        while True: pass\n    except BaseException: pass",
    ),
    _stdin("loop in C", "timeout", "print(10 ** (10 ** 9) % 7)"),
    _stdin("catastrophic regular expression", "timeout", "import re\nre.match('(a+)+$', 'a' * 60 + 'b')"),
    _stdin(
        "quadratic integer text",
        "timeout crash",
        "import sys\nsys.set_int_max_str_digits(0)\nprint(len(str(1 << 90000000)))",
    ),
    _stdin("endless read", "timeout", "import os, threading\nr, w = os.pipe()\nos.read(r, 1)"),
    _stdin("deadlock at exit", "timeout", "import threading\nl = threading.Lock()\nl.acquire()\nl.acquire()"),
    _stdin(
        "exit handler that never ends", "timeout", "import atexit, time\natexit.register(time.sleep, 1000)\nprint(1)"
    ),
    _stdin(
        "raise the CPU limit",
        "timeout",
        "import resource\ntry: resource.setrlimit(resource.RLIMIT_CPU, (-1, -1))\nexcept ValueError: pass\nwhile True: pass",
    ),
    # --- memory, disk, output
    _stdin("memory at once", "memory", "x = bytearray(1 << 30)"),
    _stdin("memory by and by", "memory timeout crash", "x = []\nwhile True: x.append(bytearray(1 << 20))"),
    _stdin("memory by anonymous map", "crash memory", "import mmap\nx = mmap.mmap(-1, 1 << 30)"),
    _stdin("memory file", "crash wrong", "import os\nfd = os.memfd_create('x')\nos.truncate(fd, 1 << 30)"),
    _stdin("shared memory segment", "forbidden", _LIBC + "libc.shmget(0, 1 << 30, 0o1600)"),
    _stdin("huge list", "memory crash", "x = [0] * (10 ** 10)"),
    _stdin(
        "raise the memory limit",
        "memory crash",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))\nx = bytearray(1 << 30)",
    ),
    _stdin(
        "fill the disk",
        "crash wrong timeout output_limit",
        "f = open('/tmp/x', 'wb')\nwhile True: f.write(b'x' * (1 << 20))",
    ),
    _stdin("many files", "crash timeout", "i = 0\nwhile True:\n    open(f'/tmp/{i}', 'w').close()\n    i += 1"),
    _stdin("write into the library", "crash", "import os\nopen(os.__file__, 'a').write('evil')"),
    _stdin("write beside the template", "crash", "open('/sandbox/lib/x.py', 'w')"),
    _stdin("output flood", "output_limit", "while True: print('x' * 10000)"),
    _stdin(
        "output flood past Python", "output_limit crash timeout", "import os\nwhile True: os.write(1, b'x' * 100000)"
    ),
    _stdin("error flood", "timeout", "import os\nwhile True: os.write(2, b'x' * 100000)"),
    _stdin("sparse output", "crash wrong output_limit", "import os\nos.truncate(1, 1 << 40)"),
    _stdin("endless recursion", "crash memory timeout", "def g(n): return g(n + 1)\ng(0)"),
    _stdin(
        "stack overflow in C",
        "crash memory timeout",
        "import sys\nsys.setrecursionlimit(1 << 30)\nclass A:\n    def __getattr__(self, n): return getattr(self, n)\nA().x",
    ),
    _stdin("many open files", "crash", "import os\nx = [os.open('/dev/null', 0) for _ in range(10000)]"),
    # --- the world outside
    _stdin("network socket", "forbidden", "import socket\nsocket.create_connection(('1.1.1.1', 53), 1)"),
    _stdin("loopback server", "forbidden", "import socket\ns = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen()"),
    _stdin("abstract unix socket", "forbidden", "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0x')"),
    _stdin("name lookup", "forbidden crash", "import socket\nsocket.gethostbyname('example.org')"),
    _stdin("environment of process 1", "crash", "print(open('/proc/1/environ').read())"),
    _stdin("password file", "crash", "print(open('/etc/shadow').read())"),
    _stdin(
        "symbolic link out of tmp",
        "crash wrong",
        "import os\nos.symlink('/proc/1/root/etc/shadow', '/tmp/l')\nprint(open('/tmp/l').read())",
    ),
    _stdin("mount", "forbidden", _LIBC + "libc.mount(b'none', b'/tmp', b'tmpfs', 0, 0)"),
    _stdin("new user namespace", "forbidden", _LIBC + "libc.unshare(0x10000000)"),
    _stdin("become root", "crash wrong", "import os\nos.setuid(0)\nprint(os.listdir('/root'))"),
    _stdin("bpf", "forbidden", _LIBC + "libc.syscall(321, 0, 0, 0)"),
    _stdin("io_uring", "forbidden", _LIBC + "libc.syscall(425, 8, 0)"),
    _stdin("keyring", "forbidden", _LIBC + "libc.syscall(250, 0, 0)"),
    # --- pay for nothing
    _stdin("exit 0", "wrong", "import sys\nsys.exit(0)"),
    _stdin("hard exit 0", "wrong", "import os\nos._exit(0)"),
    _stdin("print pass markers", "wrong", "print('PASSED')\nprint('{\"end\": true}')"),
    _stdin(
        "search all objects for the answer",
        "wrong crash timeout",
        "import gc\nfor o in gc.get_objects():\n    if '862910426' in repr(o)[:100000]: print(862910426)",
    ),
    _stdin(
        "walk the frames",
        "wrong crash",
        "import sys\nf = sys._getframe()\nwhile f:\n    for k, v in f.f_locals.items():\n        if k in ('expected', 'output', 'cases', 'wanted'): print(v)\n    f = f.f_back",
    ),
    _stdin(
        "search all files for the tests",
        "wrong timeout crash",
        "import os\nfor root, _, files in os.walk('/'):\n    for name in files:\n        if name.endswith(('.jsonl', 'tests.json')):\n            print(open(os.path.join(root, name)).read(99999))",
    ),
    _stdin(
        "forge messages on every file",
        "crash wrong infrastructure",
        "import os\nm = b'\\x0c\\0\\0\\0{\"end\": true}'\nfor fd in range(1, 64):\n    try: os.write(fd, m)\n    except OSError: pass",
    ),
    _stdin(
        "flood the channel",
        "output_limit crash wrong timeout",
        "import os\nwhile True:\n    try: os.write(3, b'\\xff' * 65536)\n    except OSError: break",
    ),
    _stdin("close every file", "crash wrong", "import os\nos.closerange(0, 1024)"),
    _call("equal to everything", "crash", "class A:\n    def __eq__(self, o): return True\ndef f(x): return A()"),
    _call(
        "int that equals everything",
        "wrong",
        "class I(int):\n    def __eq__(self, o): return True\n    __hash__ = int.__hash__\ndef f(x): return I(7)",
    ),
    _call(
        "str that equals everything",
        "wrong",
        "class S(str):\n    def __eq__(self, o): return True\ndef f(x): return S('7')",
    ),
    _call(
        "reduce object",
        "crash",
        "import os\nclass R:\n    def __reduce__(self): return os.system, ('touch /tmp/evil',)\ndef f(x): return R()",
    ),
    _call("nan", "wrong", "class N(float):\n    def __eq__(self, o): return True\ndef f(x): return N('nan')"),
    _call(
        "patched builtins",
        "wrong crash",
        "import builtins\nbuiltins.all = builtins.any = lambda *a: True\nbuiltins.isinstance = lambda *a: True\nbuiltins.type = lambda *a: int\ndef f(x): return 0",
    ),
    _call(
        "patched json",
        "wrong crash",
        'import json\njson.dumps = lambda *a, **k: \'{"passed": true, "ready": true}\'\ndef f(x): return 0',
    ),
    _call("exit inside the call", "crash", "import sys\ndef f(x): sys.exit(0)"),
    _call("hard exit inside the call", "crash", "import os\ndef f(x): os._exit(0)"),
    _call("hard exit at the top", "crash", "import os\nos._exit(0)"),
    _call(
        "answer before being asked",
        "crash wrong",
        "import socket, json, struct\ns = socket.socket(fileno=3)\nb = json.dumps({'value': 862910426}).encode()\nfor _ in range(9): s.send(struct.pack('<I', len(b)) + b)\ndef f(x): return 0",
    ),
    _call(
        "deep value", "crash memory timeout", "def f(x):\n    v = []\n    for _ in range(100000): v = [v]\n    return v"
    ),
    _call("endless value", "crash memory timeout", "def f(x):\n    v = []\n    v.append(v)\n    return v"),
    _call("huge value", "output_limit memory crash timeout", "def f(x): return 'x' * (50 << 20)"),
    _call(
        "deep forged frame",
        "crash output_limit timeout",
        "import socket, struct\ndef f(x):\n    b = b'[' * 500000\n    socket.socket(fileno=3).send(struct.pack('<I', len(b)) + b)\n    return 0",
    ),
    _call(
        "endless linked list",
        "crash memory timeout",
        "class ListNode: pass\ndef f(x):\n    n = ListNode()\n    n.val = 1\n    n.next = n\n    return n",
    ),
    _call("generator", "crash", "def f(x):\n    yield x * 2"),
    _call(
        "exception that lies about its name",
        "crash",
        "class E(Exception):\n    def __str__(self): raise SystemExit(0)\ndef f(x): raise E",
    ),
    _call(
        "read the judge's frames",
        "crash wrong",
        "import sys\ndef f(x):\n    return sys._getframe(2).f_locals['wanted']",
    ),
)


def judge_hostile(executor: SandboxExecutor, hostile: Hostile) -> Score:
    """The score of one of them."""
    return judge(hostile.code, CALLS if hostile.calls else STDIN, executor, LIMITS)


def main() -> None:
    """Judge every N-th under the isolation named (arguments: name, N); print the level and the verdicts."""
    executor = SandboxExecutor(sys.argv[1])
    verdicts = {}
    for hostile in HOSTILE[:: int(sys.argv[2])]:
        score = judge_hostile(executor, hostile)
        verdicts[hostile.name] = [score.verdict.value, score.detail]
    verdicts["honest program"] = [judge(HONEST_STDIN, STDIN, executor, LIMITS).verdict.value, ""]
    verdicts["honest function"] = [judge(HONEST_CALL, CALLS, executor, LIMITS).verdict.value, ""]
    executor.close()
    print(json.dumps({"level": executor.level.name, "uid": executor.level.uid, "verdicts": verdicts}))


if __name__ == "__main__":
    main()
