import errno
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_viz.engine.lightning import AtomicCheckpointIO
from lit_viz.errors import LitVizError
from lit_viz.utils import files


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def fail_half_way(path, error):
    with files.atomic_write(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "good"
        raise error


def test_files_are_written_atomically(tmp_path):
    files.write_text(tmp_path / "deep" / "a.txt", "Kakadu ∇\n")
    files.write_bytes(tmp_path / "deep" / "b.bin", b"\x00\x01")
    assert (tmp_path / "deep" / "a.txt").read_bytes() == "Kakadu ∇\n".encode()
    assert (tmp_path / "deep" / "b.bin").read_bytes() == b"\x00\x01"
    assert names(tmp_path / "deep") == ["a.txt", "b.bin"]


def test_the_temporary_file_has_the_folder_and_suffix_of_the_file(tmp_path):
    with files.atomic_write(tmp_path / "figure.pdf") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".pdf"
        temporary.write_text("x")


def test_a_block_that_raises_keeps_the_previous_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("good")
    with pytest.raises(KeyboardInterrupt):
        fail_half_way(path, KeyboardInterrupt())
    assert path.read_text() == "good"
    assert names(tmp_path) == ["a.txt"]


def test_new_content_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: order.append(os.fstat(descriptor).st_ino))
    with files.atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("x")
    assert order == [(tmp_path / "a.txt").stat().st_ino, tmp_path.stat().st_ino]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
)
def test_a_full_disk_gives_a_one_line_error(tmp_path, error):
    path = tmp_path / "last.ckpt"
    path.write_text("good")
    with pytest.raises(LitVizError, match=r"disk full while writing .*last\.ckpt; the previous file is kept"):
        fail_half_way(path, error)
    assert path.read_text() == "good"
    assert names(tmp_path) == ["last.ckpt"]


def test_a_checkpoint_beyond_the_file_size_limit_names_the_limit(tmp_path, monkeypatch):
    """``torch.save`` alone would hide the error of the system."""
    monkeypatch.setattr(Path, "write_bytes", lambda *_: raise_(OSError(errno.EFBIG, "File too large")))
    with pytest.raises(LitVizError, match=r"last\.ckpt can't be written \(File too large\): lift the limit"):
        AtomicCheckpointIO().save_checkpoint({"x": torch.zeros(10)}, tmp_path / "last.ckpt")


def raise_(error):
    raise error


def test_other_errors_are_not_translated(tmp_path):
    for error in (RuntimeError("size mismatch"), OSError("3 requested and 2 written")):
        with pytest.raises(type(error)) as caught, files.atomic_write(tmp_path / "a"):
            raise error
        assert caught.value is error


def test_system_errors_give_a_one_line_error(tmp_path):
    for error in (PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EROFS, "Read-only file system")):
        message = rf"a can't be written \({error.strerror}\)$"
        with pytest.raises(LitVizError, match=message), files.atomic_write(tmp_path / "a"):
            raise error
    message = r"\(File too large\): lift the limit .* and resume the run$"
    with pytest.raises(LitVizError, match=message), files.atomic_write(tmp_path / "a"):
        raise OSError(errno.EFBIG, "File too large")


def lines(path):
    return [line for _, line in files.lines_with_offsets(path)]


def test_lines_have_their_offsets(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes("a\nb\u2028b\nc\nhal".encode())
    assert list(files.lines_with_offsets(path)) == [(0, "a\n"), (2, "b\u2028b\n"), (8, "c\n"), (10, "hal")]
    assert lines(tmp_path / "missing") == []


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / "0000_cat.png").touch()
    (tmp_path / ".0001_dog.99.part.png").touch()
    files.remove_temporary_files(tmp_path)
    assert names(tmp_path) == ["0000_cat.png"]
    files.remove_temporary_files(tmp_path / "missing")


def test_records_are_strict_json():
    record = {"p": float("nan"), "l2": np.float32("inf"), "rank": torch.tensor(3), "box": (1, np.int64(2)), "q": None}
    record["top5"] = [("Tüpfel", torch.tensor(0.5))]
    line = files.json_line(record)
    assert line.endswith("\n")
    assert "\n" not in line[:-1]
    assert json.loads(line, parse_constant=pytest.fail) == {
        "p": None,
        "l2": None,
        "rank": 3,
        "box": [1, 2],
        "q": None,
        "top5": [["Tüpfel", 0.5]],
    }


def test_sha256(tmp_path):
    data = os.urandom(3_000_000)
    (tmp_path / "weights.pth").write_bytes(data)
    assert files.sha256(tmp_path / "weights.pth") == hashlib.sha256(data).hexdigest()


def test_regular_files_are_opened_without_waiting_or_following(tmp_path):
    (tmp_path / "a.txt").write_text("text\n")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("a.txt")
    (tmp_path / "loop").symlink_to("loop")
    assert files.read_regular(tmp_path / "a.txt") == b"text\n"
    assert lines(tmp_path / "a.txt") == ["text\n"]
    kinds = {"fifo": "got a FIFO, device or socket", "link": "got a link", "loop": "got a link", ".": "got a folder"}
    for name, words in kinds.items():
        for read in (files.read_regular, lines):
            with pytest.raises(LitVizError, match=f"must be a regular file, {words}"):
                read(tmp_path / name)
    with pytest.raises(LitVizError, match="device or socket"):
        files.read_regular("/dev/zero")
    with pytest.raises(LitVizError, match="No such file"):
        files.read_regular(tmp_path / "missing")
    assert lines(tmp_path / "missing") == []
    with pytest.raises(LitVizError, match="must have at most 4 bytes, got 5"):
        files.read_regular(tmp_path / "a.txt", most=4)
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(LitVizError, match="must be UTF-8 text"):
        files.read_regular_text(tmp_path / "a.txt")


def test_a_line_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_MOST_CHARACTERS", 8)
    (tmp_path / "a.txt").write_text("1234567\n1234567")
    assert lines(tmp_path / "a.txt") == ["1234567\n", "1234567"]
    (tmp_path / "a.txt").write_text("12345678\n")
    assert lines(tmp_path / "a.txt") == ["12345678", "\n"]
