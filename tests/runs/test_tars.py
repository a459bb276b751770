"""Tars to which the files of tasks are appended."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from lit_viz.errors import LitVizError, WriteError
from lit_viz.runs.tars import LastTar, read_member
from lit_viz.utils.files import sha256

NAME = "tars/000000.tar"


@pytest.fixture
def last(tmp_path: Path) -> LastTar:
    """A tar of two tasks, with contents of no, few and many bytes."""
    last = LastTar(tmp_path)
    last.append({"0000_cat.map.npy": b"a" * 700, "0000_cat.json": b"{}"})
    last.append({"0001_dög.map.npy": b"b" * 512, "0001_dög.json": b""})
    last.flush()
    return last


@pytest.fixture
def tar(last: LastTar) -> Path:
    return last.path


#: Offset of the second task: two headers, and contents of two blocks and one.
SECOND = 5 * 512


def test_a_tar_that_has_ended_is_read_by_tarfile(last: LastTar, tar: Path) -> None:
    assert last.end() == {NAME: {"size": tar.stat().st_size, "sha256": sha256(tar)}}
    assert (last.name, last.tasks) == ("tars/000001.tar", 0)
    with tarfile.open(tar) as archive:
        sizes = {member.name: member.size for member in archive}
        content = archive.extractfile("0000_cat.map.npy")
        assert content is not None
        assert content.read() == b"a" * 700
    assert sizes == {"0000_cat.map.npy": 700, "0000_cat.json": 2, "0001_dög.map.npy": 512, "0001_dög.json": 0}


def test_headers_are_those_of_tarfile(tmp_path: Path) -> None:
    names = ["0000_cat.json", "0123_" + "long" * 24 + ".json", "0000_" + "longer" * 17 + ".json", "0001_dög.json"]
    last, expected = LastTar(tmp_path), b""
    for name in names:
        last.append({name: b"x" * len(name)})
        header = tarfile.TarInfo(name)
        header.size, header.mode = len(name), 0o644
        expected += header.tobuf(tarfile.PAX_FORMAT) + (b"x" * len(name)).ljust(512, b"\0")
    last.flush()
    assert last.path.read_bytes() == expected


def test_a_member_is_read_before_the_end_and_after_more(last: LastTar, tar: Path) -> None:
    root, third = tar.parent.parent, last.size
    assert read_member(root, f"{NAME}/0000_cat.json", 0) == b"{}"
    assert read_member(root, f"{NAME}/0001_dög.map.npy", SECOND) == b"b" * 512
    last.append({"0002_owl.json": b"1"})
    last.flush()
    assert read_member(root, f"{NAME}/0002_owl.json", third) == b"1"


def test_a_task_has_no_members_of_another_task(last: LastTar, tar: Path) -> None:
    root = tar.parent.parent
    assert read_member(root, f"{NAME}/0000_cat.terms.npy", 0) is None
    assert read_member(root, f"{NAME}/0001_dög.map.npy", 0) is None
    assert read_member(root, f"{NAME}/0001_dög.terms.npy", SECOND) is None


def test_what_is_buffered_is_not_in_the_file(last: LastTar, tar: Path) -> None:
    written = tar.read_bytes()
    last.append({"0002_owl.json": b"1"})
    assert last.size == len(written) + last.buffered == len(written) + 1024
    assert tar.read_bytes() == written
    last.flush()
    assert last.buffered == 0
    assert last.size == tar.stat().st_size


def test_after_a_failed_write_the_tasks_remain_buffered(
    last: LastTar, tar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise WriteError("disk full")

    last.append({"0002_owl.json": b"1"})
    with monkeypatch.context() as patch:
        patch.setattr("lit_viz.runs.tars.append_bytes", fails)
        with pytest.raises(WriteError):
            last.flush()
    assert last.end()[NAME]["sha256"] == sha256(tar)
    with tarfile.open(tar) as archive:
        assert archive.getnames()[-1] == "0002_owl.json"


def test_a_tar_that_is_continued_has_the_hash_of_all_tasks(last: LastTar, tar: Path) -> None:
    continued = LastTar(tar.parent.parent, last.number, last.tasks)
    continued.append({"0002_owl.json": b"1"})
    assert continued.tasks == 3
    assert continued.end()[NAME]["sha256"] == sha256(tar)


@pytest.mark.parametrize("length", [200, 600])  # in a header, in a member
def test_a_tar_that_is_cut_is_an_error(tar: Path, length: int) -> None:
    tar.write_bytes(tar.read_bytes()[:length])
    with pytest.raises(LitVizError, match=r"000000\.tar is damaged"):
        read_member(tar.parent.parent, f"{NAME}/0000_cat.map.npy", 0)


def test_a_file_that_is_no_tar_is_an_error(tar: Path) -> None:
    tar.write_bytes(b"no archive" * 100)
    with pytest.raises(LitVizError, match="is damaged"):
        read_member(tar.parent.parent, f"{NAME}/0000_cat.json", 0)


def test_a_tar_that_is_cut_before_a_task_has_no_members_of_it(tar: Path) -> None:
    tar.write_bytes(tar.read_bytes()[: SECOND + 200])
    assert read_member(tar.parent.parent, f"{NAME}/0001_dög.map.npy", SECOND) is None
