"""The blocks of docs/own_method.md, in one file that is imported and run as a reader copies it."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import lit_viz as lv
from lit_viz.cli import main
from lit_viz.errors import LitVizError
from lit_viz.networks import Network
from tests.support.pages import blocks, read, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the blocks as the module ``mine_of_page``."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine_of_page.py").write_text("\n\n".join(blocks(read("own_method.md"))), encoding="utf-8")
    return folder


@pytest.fixture
def mine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    yield import_module("mine_of_page")
    sys.modules.pop("mine_of_page", None)


@pytest.mark.slow
def test_the_file_of_the_page_runs(mine: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run((folder / "mine_of_page.py").read_text(), "mine.py")
    assert [record.method for record in names["maps"].records] == ["times_input", "SmoothTimesInput"]
    assert names["maps"].records[1]["standard_error"] > 0
    assert all(one.records[0].success_file for one in names["attacks"].runs)
    assert names["image"].records[0]["objective"] > 0.9  # of at most log(10) = 2.3
    assert names["heat_maps"].arrays.shape == (1, 1, 28, 28)
    assert "SignSteps" in capsys.readouterr().out
    for name in ("maps", "attacks/SignSteps", "attacks/ddn", "image", "heat"):
        assert (folder / "runs" / name / "report.html").exists()


def test_a_function_is_a_method_in_all_doors(mine: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = lv.load_network("zoo/fashion_cnn")
    own = lv.saliency(net, "zoo:fashion/bag_18", method=mine.times_input, out=tmp_path / "own")
    packaged = lv.saliency(net, "zoo:fashion/bag_18", method="input_x_gradient")
    assert torch.equal(own.arrays, packaged.arrays)
    assert (own.records[0].forwards, own.records[0].backwards) == (
        packaged.records[0].forwards,
        packaged.records[0].backwards,
    )
    assert lv.check(tmp_path / "own")
    words = ["saliency", "zoo:fashion/bag_18", "--network", "zoo/fashion_cnn", "--logger", "none"]
    main([*words, "--method", "mine_of_page:times_input", "--out", str(tmp_path / "command")])
    main(["resume", str(tmp_path / "command")])
    assert "names parts to import, which run as code: mine_of_page:times_input" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--method", "mine_of_page:nothing", "--out", str(tmp_path / "other")])
    assert "module 'mine_of_page' has no 'nothing'" in capsys.readouterr().err


def test_resume_of_a_local_function_is_one_sentence(smooth: Network, tmp_path: Path) -> None:
    images = torch.rand(1, 3, 16, 16)
    own = lv.saliency(smooth, images, method=lambda score, x: x * score(x).view(-1, 1, 1, 1), out=tmp_path / "run")
    assert own.records[0].backwards == 0
    with pytest.raises(LitVizError, match="continue in Python with the same call and resume=True"):
        lv.resume(tmp_path / "run", smooth)
    with pytest.raises(LitVizError, match="FunctionMap must return a map of each image, shape"):
        lv.saliency(smooth, images, method=lambda score, x: x[0])
    with pytest.raises(LitVizError, match="FunctionMap must return images to its score"):
        lv.saliency(smooth, images, method=lambda score, x: score(x[..., :8]))
