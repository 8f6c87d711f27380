"""A Slurm of three nodes on this machine's loopback: real munged, slurmctld and slurmd, in a directory of the test's.

Nothing is read from or written to ``/etc``; ``environment`` holds what a command needs to find this one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
NODES = ("node1", "node2", "node3")
CORES = 4
"""That each node claims; more than there are, so that two nodes fit."""
CONFIG = """
ClusterName=acereason
SlurmctldHost=localhost
SlurmctldPort={controller_port}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_min_interval=500000,sched_interval=1,bf_interval=2
SlurmctldTimeout=60
SlurmdTimeout={node_timeout_s}
MinJobAge=300
ReturnToService=2
MaxJobCount={most_jobs}
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{parameters}
{nodes}
PartitionName=batch Nodes=ALL Default=YES MaxTime=60 State=UP
PartitionName=small Nodes={first} MaxTime=1 MaxNodes=1 State=UP
PartitionName=spare Nodes={last} GraceTime=60 State=UP
PartitionName=urgent Nodes={last} PriorityTier=2 State=UP
"""


@dataclass
class Slurm:
    """A cluster under way."""

    directory: Path
    environment: dict[str, str]
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    services: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, *command: str) -> str:
        """Output of one of Slurm's commands."""
        ended = subprocess.run(command, check=False, env=self.environment, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, f"{command}: {ended.stderr}"
        return ended.stdout.strip()

    def job(self, job_id: str) -> dict[str, str]:
        """Fields of a job, as ``scontrol show job`` names them."""
        fields = self.run("scontrol", "--oneliner", "show", "job", job_id).split()
        return dict(entry.split("=", 1) for entry in fields if "=" in entry)

    def wait_for(self, job_id: str, *states: str, deadline_s: float = 120.0) -> dict[str, str]:
        """The job once it is in one of these states."""
        deadline = time.monotonic() + deadline_s
        while (found := self.job(job_id))["JobState"] not in states:
            assert time.monotonic() < deadline, (
                f"job {job_id} is {found['JobState']}, not {states}, after {deadline_s} s"
            )
            time.sleep(0.3)
        return found

    def start_node(self, name: str) -> None:
        """Start the daemon of a node."""
        command = ["slurmd", "-D", "-N", name, "-f", str(self.directory / "slurm.conf")]
        self.nodes[name] = self._spawn(command, f"slurmd-{name}.out")

    def kill_node(self, name: str) -> None:
        """End the daemon of a node and all that runs under it, as a power cut would."""
        node = self.nodes.pop(name)
        for pid in [*_descendants(node.pid), node.pid, *self._step_daemons(name)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()

    def stop(self) -> None:
        """End everything."""
        with contextlib.suppress(subprocess.SubprocessError, AssertionError):
            self.run("scancel", "--signal=KILL", "--full", "--user=root")
            self.run("scancel", "--user=root")
        for name in list(self.nodes):
            self.kill_node(name)
        for service in reversed(self.services):
            service.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                service.wait(10)
            service.kill()
            service.wait()

    def _spawn(self, command: list[str], log: str) -> subprocess.Popen[bytes]:
        with (self.directory / log).open("ab") as file:
            return subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=self.directory
            )

    def _step_daemons(self, name: str) -> list[int]:
        """slurmstepd leaves its slurmd at once: found by the files it holds open, and what it started with it."""
        found = []
        for directory in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                is_step = directory.name.isdigit() and "slurmstepd" in (directory / "cmdline").read_text()
                # by directory too: another test session's Slurm may run beside this one, with nodes of the same names
                own = (link for link in _open_files(directory) if link.startswith(f"{self.directory}/"))
                if is_step and any(f"-{name}" in link for link in own):
                    pid = int(directory.name)
                    found += [*_descendants(pid), pid]
        return found


def why_not() -> str:
    """Why no Slurm can be started here; empty: it can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: slurm-wlm, munge)"
    return "" if os.geteuid() == 0 else "Slurm's daemons are started as root"


@contextlib.contextmanager
def start_slurm(*, most_jobs: int = 20, node_timeout_s: int = 20, parameters: str = "") -> Iterator[Slurm]:
    """Three nodes; partitions ``batch``, ``small`` (one node, one minute), and of one node ``spare``, whose jobs
    those of ``urgent`` preempt.

    Args:
        parameters: further lines of its configuration.
    """
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:  # a short path: a socket's name has 107 letters
        directory = Path(name)
        directory.chmod(0o755)
        environment = {**os.environ, "SLURM_CONF": str(directory / "slurm.conf")}
        slurm = Slurm(directory, {k: v for k, v in environment.items() if not k.startswith(("SLURM_JOB", "SBATCH_"))})
        try:
            _start_munge(slurm)
            _start_controller(slurm, most_jobs, node_timeout_s, parameters)
            for node in NODES:
                slurm.start_node(node)
            deadline = time.monotonic() + 20
            while slurm.run("sinfo", "--noheader", "--Node", "--format=%T").split().count("idle") < len(NODES):
                assert time.monotonic() < deadline, _logs(directory)
                time.sleep(0.2)
            yield slurm
        finally:
            slurm.stop()


def _start_munge(slurm: Slurm) -> None:
    directory = slurm.directory
    key = directory / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    (directory / "munge").mkdir(mode=0o755)
    command = ["munged", "--foreground", "--force", f"--socket={directory}/munge.socket", f"--key-file={key}"]
    command += [f"--pid-file={directory}/munge/pid", f"--seed-file={directory}/munge/seed"]
    command += [f"--log-file={directory}/munge/log", "--num-threads=2"]
    slurm.services.append(slurm._spawn(command, "munged.out"))
    _wait_for_path(directory / "munge.socket")


def _start_controller(slurm: Slurm, most_jobs: int, node_timeout_s: int, parameters: str) -> None:
    directory = slurm.directory
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (directory / name).mkdir()
    ports = _free_ports(1 + len(NODES))
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} CPUs={CORES} "
        "RealMemory=1000 State=UNKNOWN"
        for name, port in zip(NODES, ports[1:], strict=True)
    )
    text = CONFIG.format(
        directory=directory,
        controller_port=ports[0],
        nodes=nodes,
        first=NODES[0],
        last=NODES[-1],
        parameters=parameters,
        most_jobs=most_jobs,
        node_timeout_s=node_timeout_s,
    )
    (directory / "slurm.conf").write_text(text)
    slurm.services.append(slurm._spawn(["slurmctld", "-D", "-f", str(directory / "slurm.conf")], "slurmctld.out"))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _wait_for_path(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, _logs(path.parent)
        time.sleep(0.05)


def _descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [inner for child in map(int, children) for inner in (*_descendants(child), child)]


def _open_files(directory: Path) -> list[str]:
    return [os.readlink(link) for link in (directory / "fd").iterdir()]


def _logs(directory: Path) -> str:
    found = [*directory.glob("*.log"), *directory.glob("*.out")]
    return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-1500:]}" for file in found)
