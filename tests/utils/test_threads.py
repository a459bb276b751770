from __future__ import annotations

import threading

import torch

from lit_viz.utils.threads import single_thread_executor


def told_by_a_new_thread() -> int:
    told: list[int] = []
    thread = threading.Thread(target=lambda: told.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return told[0]


def test_a_helping_thread_computes_alone_and_nobody_else_does() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with single_thread_executor("helper") as pool:
            assert pool.submit(torch.get_num_threads).result() == 1
            assert pool.submit(lambda: threading.current_thread().name).result() == "helper_0"
            assert torch.get_num_threads() == 3
            assert told_by_a_new_thread() == 3
    finally:
        torch.set_num_threads(before)
