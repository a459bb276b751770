from __future__ import annotations

import errno
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_viz.engine.lightning import AtomicCheckpointIO
from lit_viz.errors import LitVizError
from lit_viz.methods import SaliencyMap


def test_a_saved_checkpoint_is_read_and_removed(tmp_path: Path) -> None:
    path, io = tmp_path / "checkpoints" / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"image": torch.arange(3)}, path)
    assert io.load_checkpoint(path)["image"].tolist() == [0, 1, 2]
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    io.remove_checkpoint(path)
    assert not path.exists()


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"iteration": 1}, path)

    def full(target: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(LitVizError, match="disk full"):
        io.save_checkpoint({"iteration": 2}, path)
    assert io.load_checkpoint(path) == {"iteration": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


class Malicious:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("/tmp/lit_viz_was_here"),)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", pickle.dumps(Malicious())])
def test_a_damaged_or_unsafe_checkpoint_gives_a_one_line_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(LitVizError, match="is damaged"):
        AtomicCheckpointIO().load_checkpoint(path)
    assert not Path("/tmp/lit_viz_was_here").exists()


def test_any_changed_byte_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"image": torch.rand(4)}, path)
    assert torch.load(path, weights_only=True)["image"].shape == (4,)  # other readers ignore the digest
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(LitVizError, match="is damaged"):
            AtomicCheckpointIO().load_checkpoint(path)
    torch.save({"image": torch.full((4,), torch.nan)}, path)  # not saved by lit_viz
    with pytest.raises(LitVizError, match=r"is damaged \(wrong checksum\)"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_a_method_is_not_loaded_from_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(LitVizError, match="has images, but no SaliencyMap: make it again"):
        SaliencyMap.load_from_checkpoint(tmp_path / "last.ckpt")
