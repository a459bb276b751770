"""Heartbeats of the ranks of a run: a rank that is stopped (SIGSTOP) or stuck is named, because the others wait."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from lit_viz.errors import require

#: Environment variable of the seconds that a rank is waited for.
TIMEOUT = "LIT_VIZ_RANK_TIMEOUT"
_DEFAULT_TIMEOUT = 300.0
_BEAT_SECONDS = 5.0
_STALE_SECONDS = 30.0


def rank_timeout() -> timedelta:
    """Return how long the ranks wait for one that does not respond: 300 s, or ``LIT_VIZ_RANK_TIMEOUT`` in seconds.

    Raises:
        LitVizError: the variable is no positive number.
    """
    text = os.environ.get(TIMEOUT, str(_DEFAULT_TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    require(0 < seconds < 1e6, f"{TIMEOUT} must be a positive number of seconds", text)
    return timedelta(seconds=seconds)


def connect_store() -> Store:
    """Return a connection of its own to the store of the process group: a call of the shared one may block others."""
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return PrefixStore("lit_viz_heartbeat", store)


class Heartbeat:
    """Beats of this rank in a store, and a watchdog that names ranks without a recent beat.

    The lowest rank that responds prints the names, once. A rank may be slow without being named: its beats come from a
    thread of their own.

    Args:
        store: store of all ranks.
        rank, size: this rank, and the number of ranks.
        notify: receives the lines; by default they are logged, which prints them.
        every: seconds between two beats.
        stale: age in seconds from which a rank is named.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        notify: Callable[[str], None] | None = None,
        *,
        every: float = _BEAT_SECONDS,
        stale: float = _STALE_SECONDS,
    ) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._notify = notify or logging.getLogger("lit_viz").warning
        self._every, self._stale = every, stale
        self._ended = threading.Event()
        now = time.monotonic()
        self._times = dict.fromkeys(range(size), now)  # time of the last new beat
        self._beats: dict[int, str] = {}
        self._named: set[int] = set()
        self._call_started: float | None = None  # a call of the store that has not returned
        self._beat(0)

    def start(self) -> None:
        """Start the two threads; every rank must have made its heartbeat."""
        for target in (self._exchange, self._watch):
            threading.Thread(target=target, name="lit_viz-heartbeat", daemon=True).start()

    def stop(self) -> None:
        """End the threads."""
        self._ended.set()

    def _beat(self, count: int) -> None:
        self._store.set(str(self._rank), f"{socket.gethostname()} {os.getpid()} {count}")

    def _exchange(self) -> None:
        """Write the beats of this rank, and read the beats of the others; a frozen store blocks this thread only."""
        count = 0
        ranks = [str(rank) for rank in range(self._size)]
        while not self._ended.is_set():
            count += 1
            self._call_started = time.monotonic()
            try:
                self._beat(count)
                beats = self._store.multi_get(ranks)
            except Exception:  # the process with the store has ended, of which the collectives report
                self._ended.set()
                return
            self._call_started = None
            for rank, beat in enumerate(beats):
                text = beat.decode()
                if self._beats.get(rank) != text:
                    self._beats[rank], self._times[rank] = text, time.monotonic()
            self._ended.wait(self._every)

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(self._every / 5):
            now = time.monotonic()
            if now - last > self._every:  # this process itself was stopped
                self._times = dict.fromkeys(self._times, now)
            last = now
            self._name_stale(now)

    def _name_stale(self, now: float) -> None:
        """Name the ranks that have become stale; rank 0 alone where the store, which it holds, does not respond."""
        stale = {rank for rank, beat in self._times.items() if now - beat > self._stale}
        if self._call_started is not None and now - self._call_started > self._stale / 2:
            stale &= {0}
        responsive = set(self._times) - stale
        if self._rank == min(responsive, default=self._rank):
            for rank in sorted(stale - self._named):
                self._notify(self._description(rank))
        self._named = stale

    def _description(self, rank: int) -> str:
        limit = f"{rank_timeout().total_seconds():g} s"
        process = ""
        if rank in self._beats:
            host, pid, _ = self._beats[rank].split(" ")
            process = f" (process {pid} on {host})"
        return (
            f"rank {rank}{process} has not responded for {self._stale:g} s: it is stopped or stuck; after {limit} the "
            "run ends, and can be resumed"
        )
