"""Tars to which the files of tasks are appended."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from lit_viz.errors import LitVizError
from lit_viz.runs.tars import LastTar, read_member
from lit_viz.utils.files import sha256

NAME = "tars/000000.tar"


@pytest.fixture
def last(tmp_path: Path) -> LastTar:
    """A tar of two tasks, with contents of no, few and many bytes."""
    last = LastTar(tmp_path)
    last.append({"0000_cat.map.npy": b"a" * 700, "0000_cat.json": b"{}"})
    last.append({"0001_dög.map.npy": b"b" * 512, "0001_dög.json": b""})
    return last


@pytest.fixture
def tar(last: LastTar) -> Path:
    return last.path


def test_a_tar_that_has_ended_is_read_by_tarfile(last: LastTar, tar: Path) -> None:
    assert last.end() == {NAME: {"size": tar.stat().st_size, "sha256": sha256(tar)}}
    assert (last.name, last.tasks) == ("tars/000001.tar", 0)
    with tarfile.open(tar) as archive:
        sizes = {member.name: member.size for member in archive}
        content = archive.extractfile("0000_cat.map.npy")
        assert content is not None
        assert content.read() == b"a" * 700
    assert sizes == {"0000_cat.map.npy": 700, "0000_cat.json": 2, "0001_dög.map.npy": 512, "0001_dög.json": 0}


def test_a_member_is_read_before_the_end_and_after_more(last: LastTar, tar: Path) -> None:
    root = tar.parent.parent
    assert read_member(root, f"{NAME}/0001_dög.map.npy") == b"b" * 512
    assert read_member(root, f"{NAME}/0002_owl.json") is None
    last.append({"0002_owl.json": b"1"})
    assert read_member(root, f"{NAME}/0002_owl.json") == b"1"


def test_a_tar_that_is_continued_has_the_hash_of_all_tasks(last: LastTar, tar: Path) -> None:
    continued = LastTar(tar.parent.parent, last.number, last.tasks)
    continued.append({"0002_owl.json": b"1"})
    assert continued.tasks == 3
    assert continued.end()[NAME]["sha256"] == sha256(tar)


def test_of_two_members_with_a_name_the_later_one_is_read(last: LastTar, tar: Path) -> None:
    last.append({"0000_cat.json": b"later"})
    assert read_member(tar.parent.parent, f"{NAME}/0000_cat.json") == b"later"


@pytest.mark.parametrize("length", [200, 600, 2049])  # in a header, in a member, in a later one
def test_a_tar_that_is_cut_is_an_error(tar: Path, length: int) -> None:
    tar.write_bytes(tar.read_bytes()[:length])
    with pytest.raises(LitVizError, match=r"000000\.tar"):
        read_member(tar.parent.parent, f"{NAME}/0000_cat.map.npy")


def test_a_file_that_is_no_tar_is_an_error(tar: Path) -> None:
    tar.write_bytes(b"no archive" * 100)
    with pytest.raises(LitVizError, match="is damaged"):
        read_member(tar.parent.parent, f"{NAME}/0000_cat.json")
