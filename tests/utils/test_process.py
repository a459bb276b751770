from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading

import pytest
import torch

from lit_viz.utils import process
from lit_viz.utils.process import is_rank_zero, launcher_topology, single_process, single_thread_executor

ON_GLIBC = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"

# Prints whether a block of 64 MiB, which glibc maps by default, is on the heap.
SCRIPT = """
import ctypes
from lit_viz.utils.process import tune_allocator
tuned = tune_allocator()
malloc = ctypes.CDLL(None).malloc
malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
block = malloc(64 << 20)
heap = [line for line in open("/proc/self/maps") if "[heap]" in line][-1]
low, high = (int(end, 16) for end in heap.split()[0].split("-"))
print(tuned, low <= block < high)
"""


@pytest.mark.skipif(not ON_GLIBC, reason="requires glibc")
@pytest.mark.parametrize(("switch", "expected"), [("1", "True True"), ("0", "False False")])
def test_large_blocks_are_allocated_on_the_heap(switch: str, expected: str) -> None:
    environment = {**os.environ, "LIT_VIZ_ALLOCATOR": switch}
    command = [sys.executable, "-c", SCRIPT]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert output.strip() == expected


def test_the_allocator_is_unchanged_when_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_VIZ_ALLOCATOR", "0")
    monkeypatch.setattr(process.ctypes, "CDLL", lambda _: pytest.fail("touched the C library"))
    assert process.tune_allocator() is False


def test_the_allocator_is_unchanged_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIT_VIZ_ALLOCATOR", raising=False)
    monkeypatch.setattr(process.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(process.ctypes, "CDLL", lambda _: pytest.fail("touched the C library"))
    assert process.tune_allocator() is False


def test_older_glibc_falls_back_to_the_small_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    accepted: list[tuple[int, int]] = []

    class Library:
        def __init__(self, name: object) -> None:
            def mallopt(option: int, value: int) -> int:
                if option == -3 and value > 32 << 20:
                    return 0
                accepted.append((option, value))
                return 1

            self.mallopt = mallopt

    monkeypatch.delenv("LIT_VIZ_ALLOCATOR", raising=False)
    monkeypatch.setattr(process, "_has_glibc", lambda: True)
    monkeypatch.setattr(process.ctypes, "CDLL", Library)
    assert process.tune_allocator() is True
    assert accepted == [(-3, 32 << 20), (-1, -1), (-2, 64 << 20)]


def default_thread_count() -> int:
    """Return torch's number of threads in a new thread."""
    counts: list[int] = []
    thread = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return counts[0]


def test_the_executor_uses_one_thread_and_other_threads_are_unchanged() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with single_thread_executor("helper") as executor:
            assert executor.submit(torch.get_num_threads).result() == 1
            assert executor.submit(lambda: threading.current_thread().name).result() == "helper_0"
            assert torch.get_num_threads() == 3
            assert default_thread_count() == 3
    finally:
        torch.set_num_threads(before)


def test_a_single_process_does_not_see_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    with single_process():
        assert launcher_topology() is None
        assert is_rank_zero()
    assert launcher_topology() == (2, 1)
    assert not is_rank_zero()
