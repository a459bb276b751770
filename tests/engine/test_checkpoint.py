from __future__ import annotations

import errno
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_viz.engine.lightning import AtomicCheckpointIO
from lit_viz.errors import LitVizError


def test_what_is_saved_is_read_and_removed(tmp_path: Path) -> None:
    path, io = tmp_path / "checkpoints" / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"image": torch.arange(3)}, path)
    assert io.load_checkpoint(path)["image"].tolist() == [0, 1, 2]
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    io.remove_checkpoint(path)
    assert not path.exists()


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"iteration": 1}, path)

    def full(content: Any, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(LitVizError, match="disk full"):
        io.save_checkpoint({"iteration": 2}, path)
    assert io.load_checkpoint(path) == {"iteration": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


class Malicious:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("/tmp/lit_viz_was_here"),)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", pickle.dumps(Malicious())])
def test_a_damaged_or_dangerous_checkpoint_is_refused_in_a_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(LitVizError, match="can't be read"):
        AtomicCheckpointIO().load_checkpoint(path)
    assert not Path("/tmp/lit_viz_was_here").exists()
