"""Slurm's words: the job script of a plan, what a job's environment tells, and its commands with their answers read.

Knows nothing of training. The script is ``slurm/run.sh`` with its words between @ signs filled, each value quoted for
the shell it meets.
"""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_acereason.config.cluster import ClusterConfig
from nemo_acereason.config.slurm import SlurmConfig
from nemo_acereason.errors import ConfigError

COMMAND_S = 30.0
"""How long one of Slurm's commands may take; sbatch alone repeats itself for minutes where a queue is full."""
_PLACE = re.compile(r"@([A-Z_]+)@")
_IMAGES_OWN = {"PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1"}
"""A container's Python takes its image's packages: not the folder a job was submitted from, often a checkout of this
one, nor ``~/.local``, which Apptainer shows it.
"""


@dataclass(frozen=True)
class Job:
    """One job to submit."""

    name: str
    nodes: int
    run_dir: Path
    work_dir: Path
    """Where it was submitted from."""
    last: str = ""
    """The stage it ends with; empty: the plan's last."""


@dataclass(frozen=True)
class JobStep:
    """Where a process stands in its job."""

    job_id: str
    restart: int
    """How often the job came back."""
    node_index: int
    num_nodes: int
    node_name: str
    nodes: str = ""
    """All of them, as Slurm abbreviates: ``node[1-2]``."""

    @property
    def attempt(self) -> str:
        """Differs at every start of a job."""
        return f"{self.job_id}.{self.restart}"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> JobStep:
        """What srun says to each process it starts.

        Raises:
            ConfigError: srun did not start it.
        """
        try:
            return cls(
                job_id=environment["SLURM_JOB_ID"],
                restart=int(environment.get("SLURM_RESTART_COUNT", "0")),
                node_index=int(environment["SLURM_NODEID"]),
                num_nodes=int(environment["SLURM_STEP_NUM_NODES"]),
                node_name=environment["SLURMD_NODENAME"],
                nodes=environment.get("SLURM_STEP_NODELIST", ""),
            )
        except KeyError as missing:
            raise ConfigError(
                f"{missing.args[0]} is not set: a node of a run is started by srun, inside a job; "
                "use `acereason submit`, or `acereason run` on one machine"
            ) from None


def job_script(job: Job, cluster: ClusterConfig) -> str:
    """The script of one job.

    Raises:
        ConfigError: a container without an image, or a value that no line of a script can hold.
    """
    slurm = cluster.slurm
    check_settings(slurm)
    come_back = 'scontrol requeue "$SLURM_JOB_ID"' if slurm.requeue else "true"
    filled = {
        "DIRECTIVES": "\n".join(f"#SBATCH {_directive(option)}" for option in _options(job, cluster)),
        "UNTIL": f" until the end of stage {job.last}" if job.last else "",
        "RUN_DIR": shlex.quote(str(job.run_dir)),
        "ENVIRONMENT": "\n".join(exports(slurm)),
        "SETUP": "\n".join(slurm.setup),
        "SAVE_S": str(max(slurm.save_before_limit_s - 30, 1)),
        "COME_BACK": come_back,
        "COMMAND": shlex.join(_command(job, cluster)),
    }
    script = _PLACE.sub(lambda match: filled[match[1]], _template("run"))
    return re.sub(r"\n{3,}", "\n\n", script)


def check_settings(slurm: SlurmConfig) -> None:
    """Refuse what no job can be made of.

    Raises:
        ConfigError: a container without an image, a time limit that is none or too short, a variable without a name.
    """
    if slurm.container != "none" and not slurm.image:
        raise ConfigError(f"slurm.container={slurm.container} wants slurm.image, the image to run in")
    if slurm.time_limit.isdigit():
        raise ConfigError(
            f"slurm.time_limit={slurm.time_limit}: want HOURS:MINUTES:SECONDS, in a file in quotes: YAML takes "
            "04:00:00 for a number"
        )
    seconds = limit_seconds(slurm.time_limit)
    if seconds is not None and seconds <= slurm.save_before_limit_s:
        raise ConfigError(
            f"slurm.save_before_limit_s={slurm.save_before_limit_s} leaves nothing of slurm.time_limit="
            f"{slurm.time_limit}; lower it, or take a longer limit"
        )
    if wrong := [name for name in slurm.environment if not name.isidentifier()]:
        raise ConfigError(f"slurm.environment has {wrong[0]!r}, which is no variable's name; want NAME: VALUE")


def limit_seconds(limit: str) -> int | None:
    """Of a time limit as Slurm writes it; None: there is none.

    Raises:
        ConfigError: it is none.

    >>> limit_seconds("1-02:00:00"), limit_seconds("30:00"), limit_seconds("UNLIMITED")
    (93600, 1800, None)
    """
    if limit.upper() in ("", "UNLIMITED", "INFINITE"):
        return None
    found = re.fullmatch(r"(?:(\d+)-(\d+)(?::(\d+))?(?::(\d+))?)|(?:(?:(\d+):)?(\d+):(\d+))", limit)
    if not found:
        raise ConfigError(f"slurm.time_limit={limit}: want HOURS:MINUTES:SECONDS or DAYS-HOURS:MINUTES:SECONDS")
    days, of_day, minutes, seconds, hours, few_minutes, few_seconds = (int(part or 0) for part in found.groups())
    return 86400 * days + 3600 * (of_day + hours) + 60 * (minutes + few_minutes) + seconds + few_seconds


def exports(slurm: SlurmConfig) -> list[str]:
    """Lines of bash that set a job's environment."""
    environment = {**(_IMAGES_OWN if slurm.container != "none" else {}), **slurm.environment}
    return [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]


def gpus_per_node(cluster: ClusterConfig) -> int | None:
    """That a job asks for."""
    return cluster.devices_per_node if cluster.device == "gpu" and cluster.slurm.gpus_per_node else None


def container_mounts(slurm: SlurmConfig, run_dir: Path, work_dir: Path) -> list[str]:
    """What a container sees: the folder around the run, the one it was submitted from, and what the settings name."""
    return [*dict.fromkeys(f"{folder}:{folder}" for folder in (run_dir.parent, work_dir)), *slurm.mounts]


def runs_on_gpus_here(cluster: ClusterConfig) -> bool:
    """Whether jobs on GPUs run what this process runs: no container, no other Python."""
    return cluster.device == "gpu" and cluster.slurm.container == "none" and not cluster.slurm.python


def find_command(name: str) -> str:
    """Where one of Slurm's commands is.

    Raises:
        ConfigError: nowhere on the path.
    """
    found = shutil.which(name)
    if found is None:
        raise ConfigError(f"{name} is not on the PATH: submit from a login node of the cluster, or see --dry-run")
    return found


def submit_script(file: Path, slurm: SlurmConfig, after: str = "") -> str:
    """Give a script to sbatch; its job's id.

    Args:
        after: the job that must end well before.
    Raises:
        ConfigError: Slurm refuses it, in one line with its reason.
    """
    command = [find_command("sbatch"), "--parsable"]
    if after:
        command += [f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"]
    try:
        ended = subprocess.run([*command, str(file)], capture_output=True, text=True, timeout=COMMAND_S, check=False)
    except subprocess.TimeoutExpired as late:
        said = _last_error((late.stderr or b"").decode(errors="replace"))
        raise ConfigError(
            f"sbatch did not take {file.name} within {COMMAND_S:g} s: {said or 'no answer'}; the queue may be full: "
            "see `squeue`, and submit again later"
        ) from None
    if ended.returncode != 0:
        raise ConfigError(f"sbatch refused {file.name}: {_last_error(ended.stderr)}{_hint(ended.stderr, slurm)}")
    return ended.stdout.strip().partition(";")[0]


def job_states(job_ids: Sequence[str]) -> dict[str, str]:
    """State and reason of jobs that Slurm still knows, by id: ``RUNNING``, ``PENDING (Resources)``; none without it."""
    squeue = shutil.which("squeue")
    if squeue is None or not job_ids:
        return {}
    found = {}
    for job_id in job_ids:  # one by one: an id that it has forgotten fails the whole question
        answer = _ask([squeue, "--noheader", "--states=all", f"--jobs={job_id}", "--format=%T|%r|%N"])
        if answer:
            state, reason, nodes = answer.splitlines()[0].split("|")
            about = nodes if state == "RUNNING" else "" if reason in ("None", "") else reason
            found[job_id] = f"{state} ({about})" if about else state
    return found


def missing_nodes(slurm: SlurmConfig, wanted: int) -> str:
    """Why a job of so many nodes cannot start however long it waits; empty where it can, or nobody knows."""
    sinfo = shutil.which("sinfo")
    if sinfo is None:
        return ""
    partition = [f"--partition={slurm.partition}"] if slurm.partition else []
    answer = _ask([sinfo, "--noheader", "--Node", *partition, "--format=%N|%t|%P|%E"])
    rows = [line.split("|") for line in answer.splitlines()]
    if not slurm.partition:
        rows = [row for row in rows if row[2].endswith("*")]
    bad = [row for row in rows if row[1].startswith(("down", "drain", "drng", "fail")) or row[1].endswith("*")]
    usable = len(rows) - len(bad)
    if not rows or usable >= wanted:
        return ""
    reasons = "; ".join(
        f"{name} {state}" + (f": {why}" if why not in ("none", "") else "") for name, state, _, why in bad
    )
    partition_name = slurm.partition or rows[0][2].rstrip("*")
    return f"partition {partition_name} has {usable} of {wanted} nodes that work ({reasons or 'it is smaller'})"


def _options(job: Job, cluster: ClusterConfig) -> list[str]:
    slurm = cluster.slurm
    log = str(job.run_dir / "slurm" / "job-").replace("%", "%%") + "%j.out"
    options = [
        f"--job-name={job.name}",
        f"--nodes={job.nodes}",
        "--ntasks-per-node=1",
        f"--time={slurm.time_limit}",
        f"--signal=B:USR1@{slurm.save_before_limit_s}",
        "--requeue" if slurm.requeue else "--no-requeue",
        "--open-mode=append",
        f"--output={log}",
        f"--chdir={job.work_dir}",
    ]
    if num_gpus := gpus_per_node(cluster):
        options.append(f"--gpus-per-node={num_gpus}")
    if slurm.exclusive:
        options += ["--exclusive", "--mem=0"]
    else:
        options.append(f"--cpus-per-task={cluster.cores_per_node}")
    for name in ("partition", "account", "qos", "reservation"):
        if value := getattr(slurm, name):
            options.append(f"--{name}={value}")
    return [*options, *slurm.options]


def _command(job: Job, cluster: ClusterConfig) -> list[str]:
    """What srun is given, its further options first."""
    slurm = cluster.slurm
    command = [*slurm.srun_options]
    mounts = ",".join(container_mounts(slurm, job.run_dir, job.work_dir))
    if slurm.container == "pyxis":
        command += [f"--container-image={slurm.image}", f"--container-mounts={mounts}"]
        command += [f"--container-workdir={job.work_dir}"]
    elif slurm.container == "apptainer":
        nv = ["--nv"] if cluster.device == "gpu" else []
        command += ["apptainer", "exec", *nv, "--bind", mounts, "--pwd", str(job.work_dir), slurm.image]
    python = slurm.python or (sys.executable if slurm.container == "none" else "python3")
    command += [python, "-m", "nemo_acereason.launch.node", str(job.run_dir)]
    return [*command, *(["--last", job.last] if job.last else [])]


def _directive(option: str) -> str:
    if "\n" in option:
        raise ConfigError(f"{option!r}: an option of sbatch is one line")
    name, separator, value = option.partition("=")
    return f"{name}{separator}{shlex.quote(value)}" if separator else option


def _template(verb: str) -> str:
    conf = Path(importlib.import_module("nemo_acereason.conf").__path__[0])
    return (conf.parent / "slurm" / f"{verb}.sh").read_text()


def _ask(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _last_error(text: str) -> str:
    lines = [line.split("error:", 1)[-1].strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("sbatch: ").removeprefix("Batch job submission failed: ") if lines else ""


def _hint(text: str, slurm: SlurmConfig) -> str:
    """What to change, by what Slurm says."""
    if "partition" in text.lower() and (sinfo := shutil.which("sinfo")):
        names = sorted({name.rstrip("*") for name in _ask([sinfo, "--noheader", "--format=%P"]).split()})
        return f" (slurm.partition={slurm.partition}); partitions here: {', '.join(names)}"
    if "time limit" in text.lower():
        return f" (slurm.time_limit={slurm.time_limit}); see `sinfo --format='%P %l'`"
    if "account" in text.lower():
        return f" (slurm.account={slurm.account}); see `sacctmgr show associations user=$USER`"
    if "node" in text.lower():
        return "; see `sinfo` for how many nodes there are and what they have"
    return ""
