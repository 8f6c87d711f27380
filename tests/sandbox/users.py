"""Starts a python module as a user without privileges, with an interpreter that this user can reach."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def run_unprivileged(module: str, *arguments: str, timeout_s: float) -> str:
    """What ``python -m module`` prints as an ordinary user: nobody when we are root, else who we are.

    Root's interpreter often lies in a home of mode 0700: it is bound to a place anyone can reach, in a mount namespace
    of its own. (Not one of pytest's directories: each start of pytest makes their parent private again.)
    """
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *site.getsitepackages()]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    interpreter = os.path.realpath(sys.executable)
    command = [interpreter, "-m", module, *arguments]
    with tempfile.TemporaryDirectory() as place:
        if os.geteuid() == 0:
            for tool in ("setpriv", "unshare"):
                if shutil.which(tool) is None:
                    pytest.skip(f"{tool} (util-linux) is needed to become another user")
            os.chmod(place, 0o755)
            moved = str(Path(place) / Path(interpreter).relative_to(os.path.realpath(sys.base_prefix)))
            script = 'mount --bind "$1" "$2" && shift 2 && exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"'
            command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.base_prefix, place, moved, *command[1:]]
        done = subprocess.run(
            command, env=environment, cwd="/", capture_output=True, text=True, timeout=timeout_s, check=False
        )
    assert done.returncode == 0, done.stderr
    return done.stdout
