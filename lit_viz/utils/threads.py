"""A thread beside the training, which leaves its processors alone.

torch spreads an operation over a team of OpenMP threads, and each thread that calls one has a team of its own. While
there are more of them than processors, GNU's OpenMP puts every team to sleep between two operations instead of letting
it wait for the next: small operations of the training then take twice as long, and a network 4 % longer, for as long as
the other thread lives.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch


def single_thread_executor(name: str) -> ThreadPoolExecutor:
    """Return a thread whose torch operations stay in it; other threads keep torch's number of threads."""
    number = torch.get_num_threads()
    pool = ThreadPoolExecutor(1, name, initializer=_stay_alone)
    pool.submit(int).result()  # it starts with the first work
    torch.set_num_threads(number)  # a thread that sets its own sets that of all later ones, too
    return pool


def _stay_alone() -> None:
    torch.get_num_threads()  # a thread that never asked takes torch's number at its first operation
    torch.set_num_threads(1)
