"""Exhausted memory ends a command in one sentence, wherever it happens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lit_viz as lv
from lit_viz import cli
from tests.support.networks import smooth_network

ERRORS = [
    MemoryError(),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_command_without_memory_ends_in_a_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(words: list[str]) -> None:
        raise error

    monkeypatch.setitem(cli._OTHER_COMMANDS, "layers", cli.CommandEntry("", "", fail, needs_words=False))
    with pytest.raises(SystemExit) as end:
        cli.main(["layers"])
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lit-viz: out of memory: ")


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(words: list[str]) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setitem(cli._OTHER_COMMANDS, "layers", cli.CommandEntry("", "", fail, needs_words=False))
    with pytest.raises(RuntimeError, match="a defect"):
        cli.main(["layers"])


def test_weights_are_not_damaged_where_memory_is_exhausted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "net.pth"
    torch.save(smooth_network().state_dict(), file)

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(MemoryError):
        lv.load_network(smooth_network(), weights=file, size=16)
