from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from lit_viz.utils import allocator

ON_GLIBC = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"

# Prints whether a block of 64 MiB, which glibc would map for itself, comes from the heap.
PLACE_OF_A_BLOCK = """
import ctypes
from lit_viz.utils.allocator import tune_allocator
tuned = tune_allocator()
malloc = ctypes.CDLL(None).malloc
malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
block = malloc(64 << 20)
heap = [line for line in open("/proc/self/maps") if "[heap]" in line][-1]
low, high = (int(end, 16) for end in heap.split()[0].split("-"))
print(tuned, low <= block < high)
"""


@pytest.mark.skipif(not ON_GLIBC, reason="the setting is glibc's")
@pytest.mark.parametrize(("switch", "expected"), [("1", "True True"), ("0", "False False")])
def test_large_blocks_come_from_the_heap_that_is_kept(switch: str, expected: str) -> None:
    environment = {**os.environ, "LIT_VIZ_ALLOCATOR": switch}
    command = [sys.executable, "-c", PLACE_OF_A_BLOCK]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert told.strip() == expected


def test_nothing_is_done_where_it_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_VIZ_ALLOCATOR", "0")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: pytest.fail("touched the C library"))
    assert allocator.tune_allocator() is False


def test_nothing_is_done_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIT_VIZ_ALLOCATOR", raising=False)
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: pytest.fail("touched the C library"))
    assert allocator.tune_allocator() is False


def test_an_older_glibc_that_refuses_the_large_threshold_gets_the_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr(allocator, "_has_glibc", lambda: True)
    monkeypatch.setattr(allocator.ctypes, "CDLL", Library)
    assert allocator.tune_allocator() is True
    assert accepted == [(-3, 32 << 20), (-1, -1), (-2, 64 << 20)]
