"""The folder of a microscope: nothing of others is overwritten, and a full disk is one sentence."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import lit_viz as lv
from lit_viz.cli import main
from lit_viz.networks import Network
from lit_viz.outputs import load_network
from lit_viz.runs.access import folder_lock
from lit_viz.runs.layout import LOCK
from lit_viz.units.folder import MARK
from lit_viz.utils.files import FORMAT, allocate

SIDE = 24


def loaded(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    return load_network(nn.Sequential(*layers).eval(), size=SIDE, mean=0.5, std=0.5, labels=["ant", "bee", "cat"])


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for n in range(4):
        pixels = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.png")
    return folder


@pytest.fixture
def made(photographs: Path, tmp_path: Path) -> Path:
    """A microscope of one unit."""
    microscope(loaded(), photographs, tmp_path / "made")
    return tmp_path / "made"


def microscope(net: Network, photographs: Path, out: Path, **options: Any) -> lv.Microscope:
    return lv.microscope(net, "1", photographs, out, channel="0", iterations=1, **options)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["site/index.html", "activations/1.npy", "layers/notes.txt", "config.yaml"])
def test_a_folder_with_other_files_is_refused(name: str, photographs: Path, tmp_path: Path) -> None:
    own = tmp_path / "out" / name
    own.parent.mkdir(parents=True)
    own.write_text("my own")
    with pytest.raises(lv.LitVizError, match="out is not empty and not a microscope: choose another folder"):
        microscope(loaded(), photographs, tmp_path / "out")
    assert files_of(tmp_path / "out") == {name: b"my own"}


def test_a_file_is_refused(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("my own")
    with pytest.raises(lv.LitVizError, match="out is a file: give a folder"):
        microscope(loaded(), photographs, tmp_path / "out")


@pytest.mark.parametrize("name", ["site", "activations", "layers", "compared"])
def test_links_to_other_places_are_refused(name: str, made: Path, photographs: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if (made / name).exists():
        (made / name).rename(tmp_path / "moved")
    (made / name).symlink_to(elsewhere)
    before = files_of(made)
    with pytest.raises(lv.LitVizError, match="must contain no links to other places"):
        microscope(loaded(), photographs, made, compare=loaded(1))
    assert files_of(made) == before
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("compare", [False, True])
def test_another_network_changes_nothing(compare: bool, made: Path, photographs: Path) -> None:
    options: dict[str, Any] = {}
    if compare:
        options["compare"] = loaded(2)
        microscope(loaded(), photographs, made, **options)
        options["compare"] = loaded(3)
    before = files_of(made)
    with pytest.raises(lv.LitVizError, match="was started with other weights"):
        microscope(loaded(0 if compare else 1), photographs, made, **options)
    assert files_of(made) == before


def test_weights_that_were_changed_in_place_are_another_network(photographs: Path, tmp_path: Path) -> None:
    net = loaded()
    microscope(net, photographs, tmp_path / "out")
    with torch.no_grad():
        net.original[0].weight.mul_(2)
    with pytest.raises(lv.LitVizError, match="was started with other weights"):
        microscope(net, photographs, tmp_path / "out")


def test_a_folder_in_use_is_refused(made: Path, photographs: Path) -> None:
    with folder_lock(made), pytest.raises(lv.LitVizError, match="is in use"):
        microscope(loaded(), photographs, made)
    assert not (made / LOCK).exists()


def test_what_a_killed_start_leaves_is_an_empty_folder(photographs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / LOCK).touch()
    (folder / ".microscope.123.part.json").write_text("{")
    microscope(loaded(), photographs, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["activations", "layers", MARK, "site"]


def test_a_damaged_mark_is_one_sentence(made: Path, photographs: Path) -> None:
    (made / MARK).write_text("[1]")
    with pytest.raises(lv.LitVizError, match="is damaged: choose another folder"):
        microscope(loaded(), photographs, made)


def test_a_microscope_of_another_format_is_refused(made: Path, photographs: Path) -> None:
    mark = json.loads((made / MARK).read_text())
    assert mark["format"] == FORMAT
    (made / MARK).write_text(json.dumps(mark | {"format": FORMAT + 1}))
    before = files_of(made)
    with pytest.raises(lv.LitVizError, match="must have format 2, got 3: use the release of lit_viz that wrote it"):
        microscope(loaded(), photographs, made)
    assert files_of(made) == before


def test_a_full_disk_is_one_sentence(made: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (made / "activations" / "1.npy").read_bytes()

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("lit_viz.units.survey.allocate", full)
        with pytest.raises(lv.errors.WriteError, match=r"disk full while writing .*1\.npy; the previous file is kept"):
            microscope(loaded(), photographs, made)
    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", full)
        with pytest.raises(lv.errors.WriteError, match="disk full while writing"):
            microscope(loaded(), photographs, made)
    assert (made / "activations" / "1.npy").read_bytes() == before
    assert not list(made.rglob(".*"))
    microscope(loaded(), photographs, made)


def test_an_interrupted_survey_keeps_the_previous_activations(
    made: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(made / "activations")
    monkeypatch.setattr("lit_viz.units.survey._Table.add", lambda *_: exec("raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        microscope(loaded(), photographs, made)
    assert files_of(made / "activations") == before


@pytest.mark.parametrize("has_call", [True, False])
def test_allocation_fills_holes_and_keeps_the_content(
    has_call: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(b"header")
        file.truncate(3 << 20)
    assert path.stat().st_blocks * 512 < 1 << 20
    if not has_call:
        monkeypatch.delattr(os, "posix_fallocate")
    allocate(path)
    assert path.stat().st_blocks * 512 >= 3 << 20
    assert path.read_bytes() == b"header".ljust(3 << 20, b"\0")


def test_the_command_refuses_a_folder_of_others(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").touch()
    words = ["--layers", "relu1", "--images", str(photographs), "--out", str(tmp_path)]
    with pytest.raises(SystemExit):
        main(["microscope", "zoo/fashion_cnn", *words])
    assert "is not empty and not a microscope" in capsys.readouterr().err
