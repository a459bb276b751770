"""Tars to which the files of tasks are appended."""

from __future__ import annotations

import tarfile
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from lit_viz.errors import LitVizError, WriteError
from lit_viz.runs.tars import NewTar, read_member
from lit_viz.utils.files import sha256

NAME = "tars/000000.tar"


@pytest.fixture
def new(tmp_path: Path) -> NewTar:
    """A tar of two tasks, with contents of no, few and many bytes."""
    new = NewTar(tmp_path)
    new.append({"0000_cat.map.npy": b"a" * 700, "0000_cat.json": b"{}"})
    new.append({"0001_dög.map.npy": b"b" * 512, "0001_dög.json": b""})
    return new


@pytest.fixture
def tar(new: NewTar, tmp_path: Path) -> Path:
    new.end("000000.tar")
    return tmp_path / NAME


#: Offset of the second task: two headers, and contents of two blocks and one.
SECOND = 5 * 512


def test_a_tar_is_read_by_tarfile(new: NewTar, tmp_path: Path) -> None:
    assert (new.tasks, new.size) == (2, SECOND + 6 * 512 + 512)
    assert not list(tmp_path.iterdir())
    signature, tar = new.end("000000.tar"), tmp_path / NAME
    assert signature == {"size": tar.stat().st_size, "sha256": sha256(tar)}
    assert (new.tasks, new.size) == (0, 0)
    with tarfile.open(tar) as archive:
        sizes = {member.name: member.size for member in archive}
        content = archive.extractfile("0000_cat.map.npy")
        assert content is not None
        assert content.read() == b"a" * 700
    assert sizes == {"0000_cat.map.npy": 700, "0000_cat.json": 2, "0001_dög.map.npy": 512, "0001_dög.json": 0}


def test_headers_are_those_of_tarfile(tmp_path: Path) -> None:
    names = ["0000_cat.json", "0123_" + "long" * 24 + ".json", "0000_" + "longer" * 17 + ".json", "0001_dög.json"]
    new, expected = NewTar(tmp_path), b""
    for name in names:
        new.append({name: b"x" * len(name)})
        header = tarfile.TarInfo(name)
        header.size, header.mode = len(name), 0o644
        expected += header.tobuf(tarfile.PAX_FORMAT) + (b"x" * len(name)).ljust(512, b"\0")
    new.end("000000.tar")
    assert (tmp_path / NAME).read_bytes() == expected + bytes(1024)


def test_members_are_read_from_the_offset_of_their_task(tar: Path, tmp_path: Path) -> None:
    assert read_member(tmp_path, f"{NAME}/0000_cat.json", 0) == b"{}"
    assert read_member(tmp_path, f"{NAME}/0001_dög.map.npy", SECOND) == b"b" * 512


def test_a_task_has_no_members_of_another_task(tar: Path, tmp_path: Path) -> None:
    assert read_member(tmp_path, f"{NAME}/0000_cat.terms.npy", 0) is None
    assert read_member(tmp_path, f"{NAME}/0001_dög.map.npy", 0) is None
    assert read_member(tmp_path, f"{NAME}/0001_dög.terms.npy", SECOND) is None


def test_after_a_failed_write_the_tasks_remain(new: NewTar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of them that was written is overwritten."""
    monkeypatch.setattr("lit_viz.runs.tars._BUFFER", 0)
    new.append({"0002_owl.json": b"1"})
    write, is_full = FileIO.write, True

    class Disk(FileIO):
        def write(self, content: Any) -> int:
            if is_full:
                write(self, content[:300])
                raise OSError(28, "No space left on device")
            return write(self, content)

    (part,) = (tmp_path / "tars").iterdir()
    assert new._file is not None
    new._file.close()
    new._file = Disk(part, "rb+")
    with pytest.raises(WriteError, match="disk full"):
        new.append({"0003_fox.json": b"2"})
    is_full = False
    assert new.end("000000.tar")["sha256"] == sha256(tmp_path / NAME)
    with tarfile.open(tmp_path / NAME) as archive:
        assert archive.getnames()[-2:] == ["0002_owl.json", "0003_fox.json"]


@pytest.mark.parametrize("length", [200, 600])  # in a header, in a member
def test_a_tar_that_is_cut_is_an_error(tar: Path, length: int) -> None:
    tar.write_bytes(tar.read_bytes()[:length])
    with pytest.raises(LitVizError, match=r"000000\.tar is damaged"):
        read_member(tar.parent.parent, f"{NAME}/0000_cat.map.npy", 0)


def test_a_file_that_is_no_tar_is_an_error(tar: Path) -> None:
    tar.write_bytes(b"no archive" * 100)
    with pytest.raises(LitVizError, match="is damaged"):
        read_member(tar.parent.parent, f"{NAME}/0000_cat.json", 0)


@pytest.mark.parametrize("offset", [-1, 10**30])  # of a forged record
def test_an_offset_outside_of_the_tar_is_an_error(tar: Path, offset: int) -> None:
    with pytest.raises(LitVizError, match="is damaged"):
        read_member(tar.parent.parent, f"{NAME}/0000_cat.json", offset)


def test_a_tar_that_is_cut_before_a_task_has_no_members_of_it(tar: Path) -> None:
    tar.write_bytes(tar.read_bytes()[: SECOND + 200])
    assert read_member(tar.parent.parent, f"{NAME}/0001_dög.map.npy", SECOND) is None
