"""The HTML view of a run in a notebook, and saving a run in memory."""

from __future__ import annotations

import re
import sys
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lit_viz as lv
from lit_viz.errors import LitVizError
from lit_viz.images.reading import to_uint8
from lit_viz.images.rendering import clip_limits, overlay

PHOTOGRAPHS = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def attack(network: Any, **options: Any) -> Any:
    return lv.attack(network, PHOTOGRAPHS, attack="pgd", iterations=3, **options)


def test_the_view_has_figure_table_and_verdicts(smooth: Any) -> None:
    run = attack(smooth)
    page = run._repr_html_()
    (image,) = re.findall(r'<img src="data:image/\w+;base64,([^"]+)" width="(\d+)"', page)
    assert Image.open(BytesIO(b64decode(image[0]))).width >= int(image[1]) == round(96 * run.figure().get_figwidth())
    assert page.count("<tr>") == 1 + 2
    assert "Adversarial examples" in page
    assert " of 2 files fool the original network, re-read from the disk; all match their records." in page
    assert "<script" not in page


def test_the_view_of_maps_has_the_result_of_the_comparison_with_captum(smooth: Any) -> None:
    checked, unchecked = (lv.saliency(smooth, PHOTOGRAPHS, captum=check) for check in ("captum", "none"))
    assert re.search(r"2 of 2 compared maps agree with Captum \d", checked._repr_html_())
    assert "No map was compared with Captum." in unchecked._repr_html_()


def test_a_run_is_a_sequence_of_outcomes(smooth: Any) -> None:
    run = lv.visualize(smooth, [1, 2], iterations=4, views=1, log_at="every:2")
    assert len(run) == 2
    assert [outcome.name for outcome in run] == [run[0].name, run[1].name]
    assert [iteration for iteration, _ in run[0].frames()] == [0, 2, 4]
    assert len(run[-1].curve("probability")) > 1


@pytest.mark.parametrize("method", ["attack", "visualize", "saliency"])
def test_a_saved_run_is_a_run_folder(smooth: Any, tmp_path: Path, method: str) -> None:
    runs = {
        "attack": lambda: attack(smooth),
        "visualize": lambda: lv.visualize(smooth, [1, 2], iterations=2, views=1),
        "saliency": lambda: lv.saliency(smooth, PHOTOGRAPHS, target=[1, 2]),
    }
    run = runs[method]()
    saved = run.save(tmp_path / "run")
    assert saved.folder == tmp_path / "run"
    assert torch.allclose(saved.images, run.images, atol=0.5 / 255 + 1e-6)
    assert [iteration for iteration, _ in saved[0].frames()] == [iteration for iteration, _ in run[0].frames()]
    assert {"config.yaml", "figure.png", "report.html", "results.jsonl"} <= {
        file.name for file in saved.folder.iterdir()
    }
    assert lv.check(tmp_path / "run", smooth)
    assert saved.check()
    assert lv.resume(tmp_path / "run", smooth).images.equal(saved.images)
    copy = saved.save(tmp_path / "copy")
    assert copy.images.equal(saved.images)
    with pytest.raises(LitVizError, match="already holds a run"):
        run.save(tmp_path / "run")
    with pytest.raises(LitVizError, match="folder must be a path, got 5"):
        run.save(5)  # type: ignore[arg-type]


def test_a_saved_run_is_replaced_on_request(smooth: Any, tmp_path: Path) -> None:
    first, second = (lv.visualize(smooth, target, iterations=2, views=1) for target in (1, 2))
    saved = first.save(tmp_path / "run")
    replaced = second.save(tmp_path / "run", overwrite=True)
    assert [record["target"] for record in replaced.records] == [2]
    assert sorted(path.name for path in (tmp_path / "run" / "images").iterdir()) == [f"{second[0].record.key}.png"]
    assert lv.check(tmp_path / "run", smooth)
    with pytest.raises(LitVizError, match="is the folder of this run"):
        saved.save(tmp_path / "run", overwrite=True)
    (tmp_path / "run" / "notes.txt").touch()
    with pytest.raises(LitVizError, match=r"also holds notes\.txt"):
        second.save(tmp_path / "run", overwrite=True)


def test_a_notebook_shows_the_picture_of_an_outcome(smooth: Any) -> None:
    photograph = Image.open(BytesIO(attack(smooth)[0]._repr_png_()))
    assert photograph.size == (2 * 128 + 8, 128)  # each pixel of 16 is repeated
    outcome = lv.visualize(smooth, 1, iterations=1, views=1, size=20)[0]
    assert Image.open(BytesIO(outcome._repr_png_())).size == (120, 120)
    assert re.fullmatch(r"Outcome\(0000_banana: done, p [=<>] \d\.\d\d\)", repr(outcome))


def test_records_as_a_data_frame(smooth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = attack(smooth)
    table = pytest.importorskip("pandas").DataFrame
    frame = run.to_pandas()
    assert isinstance(frame, table)
    assert frame["name"].tolist() == [record["name"] for record in run.records]
    assert frame["l2"].tolist() == [record["l2"] for record in run.records]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(LitVizError, match="to_pandas requires pandas"):
        run.to_pandas()


def test_overlays_are_those_of_the_figure(smooth: Any) -> None:
    run = lv.saliency(smooth, PHOTOGRAPHS, method=["gradient", "smoothgrad"], iterations=2, captum="none")
    drawn = run.overlays(scale="shared")
    assert drawn.shape == (4, 16, 16, 3)
    assert drawn.dtype == np.uint8
    limits = clip_limits(list(run.maps[:2]))
    expected = [overlay(PHOTOGRAPHS[i], run.maps[i], limits[i]) for i in range(2)]
    assert np.array_equal(drawn[:2], np.stack([to_uint8(picture) for picture in expected]))
    own = overlay(PHOTOGRAPHS[1], run.maps[1], clip_limits([run.maps[1]])[0])
    assert np.array_equal(run.overlays()[1], to_uint8(own))
    with pytest.raises(LitVizError, match="overlays requires saliency maps, got adversarial examples"):
        attack(smooth).overlays()


def test_an_animation_of_a_run_in_memory(smooth: Any, tmp_path: Path) -> None:
    run = lv.visualize(smooth, [1, 2], iterations=4, views=1, log_at="every:1")
    with Image.open(run.save_gif(tmp_path / "run.gif")) as animation:
        assert animation.n_frames == 5
    with pytest.raises(LitVizError, match=r"must end in \.gif, got run\.png"):
        run.save_gif("run.png")
