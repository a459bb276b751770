"""Fixture that starts SLURM on this machine: a controller, two nodes of one processor, a partition that preempts."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

#: Nodes are named by the addresses at which their processes meet.
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/slurm
CredType=auth/slurm
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
SchedulerParameters=sched_interval=1,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=patient Nodes=ALL Default=YES PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""
NODES = ("127.0.0.1", "127.0.0.2")


class Slurm:
    """The commands of a running SLURM."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def __call__(self, *words: str) -> str:
        """Return what a command prints."""
        ran = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=300)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def job(self, number: str) -> dict[str, str]:
        """Return the properties of a job, such as ``JobState``."""
        return dict(word.split("=", 1) for word in self("scontrol", "show", "job", number).split() if "=" in word)

    def wait(self, what: Callable[[], bool], seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, self("squeue")
            time.sleep(0.1)


@contextmanager
def running_slurm(folder: Path, environment: dict[str, str]) -> Iterator[Slurm]:
    """Run SLURM; its files lie in the folder, and jobs get the environment.

    One at a time on a machine: its daemons share a socket for their keys.
    """
    import fcntl  # not on Windows

    ports = [_free_port() for _ in range(3)]
    text = CONFIGURATION.format(host=socket.gethostname(), folder=folder, nodes=NODES, ports=ports)
    (folder / "slurm.conf").write_text(text)
    (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    (folder / "slurm.key").write_bytes(os.urandom(1024))
    (folder / "slurm.key").chmod(0o600)
    commands = Slurm({**environment, "SLURM_CONF": str(folder / "slurm.conf")})
    output = folder / "daemons.log"
    with ExitStack() as stack:
        alone = stack.enter_context(Path(tempfile.gettempdir(), "lit_viz_slurm.lock").open("w"))
        fcntl.flock(alone, fcntl.LOCK_EX)
        log = stack.enter_context(output.open("w"))
        for words in (["slurmctld", "-D"], *(["slurmd", "-D", "-N", node] for node in NODES)):
            daemon = subprocess.Popen(words, env=commands.environment, stdout=log, stderr=log)
            stack.callback(daemon.wait, 30)
            stack.callback(daemon.terminate)
        for _ in range(300):
            if ready(commands):
                break
            time.sleep(0.1)
        else:
            pytest.skip(f"SLURM doesn't start here: {output.read_text()[-500:]}")
        yield commands
        commands("scancel", "--me")
        commands.wait(lambda: not commands("squeue", "--noheader"))


def ready(commands: Slurm) -> bool:
    """Return whether both nodes are idle in both partitions."""
    words = ["sinfo", "--noheader", "--Node", "--format", "%t"]
    states = subprocess.run(words, env=commands.environment, capture_output=True, text=True).stdout.split()
    return states == ["idle"] * 4


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="session")
def slurm() -> Callable[[Path, dict[str, str]], AbstractContextManager[Slurm]]:
    """Return a context manager that runs SLURM in a folder; only root may start jobs on nodes."""
    if shutil.which("slurmctld") is None or shutil.which("slurmd") is None or os.geteuid() != 0:
        pytest.skip("needs SLURM, and to be root")
    return running_slurm
