"""The figure by epoch names the epochs that it leaves out."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lit_viz as lv
from lit_viz.errors import LitVizError
from lit_viz.figures.epochs import epoch_folders, read_epochs, save_epochs
from lit_viz.networks import Network
from lit_viz.runs.segments import segment_files


@pytest.fixture(scope="module")
def written(smooth: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs of a probe."""
    folder: Path = tmp_path_factory.mktemp("probe")
    run = lv.visualize(smooth, [1], iterations=1, views=1)
    for epoch in (1, 2, 3):
        run.save(folder / f"epoch_{epoch:04d}")
    return folder


@pytest.fixture
def probe(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "probe")


def cut_image(run: Path) -> None:
    path = next(run.glob("images/*"))
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_image, r"images/\S+ was changed"),
        (lambda run: segment_files(run)[0].unlink(), r"records/000000\.jsonl is missing"),
        (lambda run: (run / "config.yaml").unlink(), "is not a lit_viz run"),
        (lambda run: (run / "config.yaml").write_text("[1]"), "config.yaml must be a mapping"),
        (lambda run: (run / "manifest.json").unlink(), "is unfinished"),
    ],
)
def test_a_damaged_epoch_is_named_and_the_others_are_drawn(
    damage: Callable[[Path], Any], words: str, probe: Path, lit_viz: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(probe / "epoch_0002")
    lines: list[str] = []
    assert list(read_epochs(probe, lines.append)) == [1, 3]
    (line,) = lines
    assert line.startswith("epoch 2 is left out (")
    assert line.endswith(f"): delete {probe / 'epoch_0002'} if it is lost")
    lit_viz("epochs", str(probe), expect=1)
    shown = capsys.readouterr()
    assert shown.err.replace("\n", "") == line
    assert f"figure    {probe / 'epochs.png'}" in shown.out
    assert re.search(words, line)


@pytest.mark.parametrize("name", ["epoch_x", "epoch_", f"epoch_{10**30}", "epoch_-1"])
def test_other_names_are_no_epochs(name: str, probe: Path) -> None:
    shutil.copytree(probe / "epoch_0001", probe / name)
    lines: list[str] = []
    assert list(read_epochs(probe, lines.append)) == list(epoch_folders(probe)) == [1, 2, 3]
    assert lines == [f"{probe / name} is left out: its name has no number of an epoch"]


def test_no_epoch_is_an_error(probe: Path) -> None:
    for epoch in (1, 2, 3):
        shutil.rmtree(probe / f"epoch_{epoch:04d}")
    with pytest.raises(LitVizError, match="contains no run folders epoch_0001"):
        read_epochs(probe)


def test_an_epoch_whose_image_is_text_is_one_sentence(probe: Path, reseal: Any) -> None:
    (image,) = (probe / "epoch_0002" / "images").iterdir()
    image.write_text("no image")
    reseal(probe / "epoch_0002")
    with pytest.raises(LitVizError, match=f"{image} is no image that can be read"):
        save_epochs(probe)
