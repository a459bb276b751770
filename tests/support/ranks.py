"""Runs of two processes, of which one is stopped (SIGSTOP)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
#: Options of two processes, which Lightning starts.
TWO = ["--devices", "2"]
#: Launchers, and the rank that is stopped.
FROZEN = [("lightning", 1), ("lightning", 0), ("torchrun", 1)]
#: Seconds after which a rank that does not respond ends the run, and after which the trial has failed.
_TIMEOUT, _LIMIT = 45, 150


def free_port() -> int:
    """Return a port that no process uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def torchrun(*words: str, processes: int = 2, node: tuple[int, int, int] | None = None) -> list[str]:
    """Return the command that starts processes; ``node``: (rank, nodes, port) of one of several nodes."""
    rank, nodes, port = node or (0, 1, free_port())
    address = ["--master_addr", "127.0.0.1", "--master_port", str(port)]
    where = ["--nnodes", str(nodes), "--node_rank", str(rank), "--nproc_per_node", str(processes), *address]
    return [sys.executable, "-m", "torch.distributed.run", *where, *words]


def environment() -> dict[str, str]:
    """Return the environment of a process with one thread."""
    return os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}


def start(command: Sequence[str], **variables: str) -> subprocess.Popen[str]:
    """Start a command of several processes, each with one thread."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, text=True, env=environment() | variables, **pipes)


def finish(process: subprocess.Popen[str], seconds: float = 200) -> str:
    """Return the stderr of a process so far."""
    return process.communicate(timeout=seconds)[1]


def children_of(pid: int) -> list[int]:
    """Return the processes of the run that another one has started, in the order of their ranks."""
    children = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            if "lit_viz" in Path(f"/proc/{child}/cmdline").read_text():
                children.append(int(child))
    return sorted(children)


def has_exited(pid: int) -> bool:
    """Return whether a process has exited, also if its parent has not waited for it."""
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]
    except FileNotFoundError:
        return True


def freeze(launcher: str, target: int, run: Path, words: list[str]) -> str:
    """Stop a rank after the first checkpoint, and resume the run.

    Args:
        launcher: ``lightning`` or ``torchrun``.
        target: the rank that is stopped. Rank 0 continues after the other has exited, since it holds the folder.
        run: run folder.
        words: command of the run.

    Returns:
        The failure; empty if the rank is named, all processes exit, and the run is resumed.
    """
    words = ["-m", "lit_viz", *words, "--out", str(run)]
    command = torchrun(*words) if launcher == "torchrun" else [sys.executable, *words, *TWO]
    process = start(command, LIT_VIZ_RANK_TIMEOUT=str(_TIMEOUT))
    while not (run / "checkpoints" / "last.ckpt").exists():
        if process.poll() is not None:
            return f"exited before a checkpoint: {finish(process)}"
        time.sleep(0.02)
    ranks = children_of(process.pid)
    if launcher == "lightning":
        ranks.insert(0, process.pid)
    os.kill(ranks[target], signal.SIGSTOP)
    has_stopped = _wait_for_end(ranks[1 - target])
    os.kill(ranks[target], signal.SIGCONT if has_stopped and target == 0 else signal.SIGKILL)
    message = finish(process)
    if not has_stopped:
        return f"the other rank runs after {_LIMIT} s: {message}"
    named = f"rank {target} (process {ranks[target]} on "
    expected = [named, "has not responded for 30 s"]
    if target != 0:
        remedy = f"finished images are kept; continue with: lit-viz resume {run}"
        expected.append(f"did not respond for {_TIMEOUT} s; {remedy}")
    missing = [text for text in expected if text not in message]
    if missing or message.count(expected[1]) != 1:
        return f"{missing or expected[1:2]} must be stated once: {message}"
    if process.returncode == 0 or not all(map(has_exited, ranks)):
        return f"exit status {process.returncode}, or a process is running"
    resumed = start([sys.executable, "-m", "lit_viz", "resume", str(run)])
    message = finish(resumed)
    return "" if resumed.returncode == 0 else f"the resumed run exited with {resumed.returncode}: {message}"


def _wait_for_end(pid: int) -> bool:
    """Return whether a process has exited within the limit."""
    started = time.monotonic()
    while not has_exited(pid) and time.monotonic() - started < _LIMIT:
        time.sleep(0.05)
    return has_exited(pid)
