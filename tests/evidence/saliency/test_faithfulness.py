"""Saliency metrics of a run: values, cost, table and evidence."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

import lit_viz as lv
from lit_viz.attributions import ATTRIBUTIONS, Gradient
from lit_viz.evidence.saliency import faithfulness
from lit_viz.evidence.saliency.faithfulness import evaluate_maps, reference_boxes_in_image, remarks, rounded
from lit_viz.evidence.saliency.metrics import RandomizationStage, replacement_curve
from lit_viz.launch.run import Run
from lit_viz.localization.reference_boxes import ReferenceBoxes
from lit_viz.networks import FrozenNetwork, Network
from lit_viz.presentations.saliency_map import SaliencyMapPresentation
from lit_viz.runs.evidence import MetricsEvidence, SaliencyEvidence, SaliencyMetrics
from lit_viz.runs.records import SaliencyRecord
from lit_viz.runs.results import Outcome

ROOT = Path(__file__).parents[3]

KEYS = {"index", "name", "method", "target_name", "deletion", "insertion", "max_sensitivity", "randomization"}


def images() -> Tensor:
    return (torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 255).round() / 255


def explained(smooth: Network, method: str = "gradient", **options: Any) -> Run:
    return lv.saliency(smooth, images(), target="banana", method=method, captum="none", **options)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in {"STEPS": 4, "SAMPLES": 2, "STAGES": 2}.items():
        monkeypatch.setattr(faithfulness, name, value)
    return monkeypatch


def metrics_of(smooth: Network, outcomes: Sequence[Outcome], name: str = "gradient", **options: Any) -> SaliencyMetrics:
    method = ATTRIBUTIONS[name]()
    method.bind(smooth)
    (found,) = evaluate_maps(outcomes, {name: method}, smooth, **options).maps
    return found


def rows_of(*metrics: SaliencyMetrics) -> Sequence[dict[str, str]]:
    evidence = SaliencyEvidence(faithfulness=MetricsEvidence(settings={}, maps=metrics))
    (item,) = SaliencyMapPresentation().part_items(evidence)
    return item.rows


def test_a_checked_run_has_metrics_in_its_evidence(
    smooth: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = lv.saliency(
        smooth,
        images(),
        method=["gradient", "smoothgrad"],
        iterations=4,
        captum="none",
        out=tmp_path / "run",
        wandb="disabled",
    )
    assert lv.check(tmp_path / "run", smooth, faithfulness=True)
    evidence = json.loads((tmp_path / "run" / "evidence.json").read_text())
    assert evidence["captum"]["passed"]
    found = evidence["faithfulness"]
    assert found["settings"]["deleted"] == "mean"
    assert [(one["index"], one["method"]) for one in found["maps"]] == [(0, "gradient"), (1, "smoothgrad")]
    for one, record in zip(found["maps"], run.records, strict=True):
        assert one.keys() >= KEYS
        assert one["deletion"]["curve"][0] == pytest.approx(record["probability"], abs=1e-5)
        assert one["insertion"]["curve"][-1] == pytest.approx(record["probability"], abs=1e-5)
        assert {"area", "random", "moved", "curve"} == one["deletion"].keys()
        assert [stage["layers"] for stage in one["randomization"]] == [1, 2, 3, 4]
        assert one["max_sensitivity"] > 0
        assert one["left_out"] is None
    lv.check(tmp_path / "run", smooth)
    assert json.loads((tmp_path / "run" / "evidence.json").read_text())["faithfulness"] == found
    assert capsys.readouterr().out == ""


def test_the_values_are_those_of_the_metrics(smooth: Network, quick: pytest.MonkeyPatch) -> None:
    run = explained(smooth, seed=11)
    found = metrics_of(smooth, run.outcomes)
    x, map_ = images()[0], run.maps[0]

    def score(batch: Tensor) -> Tensor:
        return smooth.scores(batch).softmax(1)[:, 1]

    grey = x.mean((1, 2), keepdim=True).expand_as(x)
    assert found.deletion["area"] == pytest.approx(replacement_curve(score, x, grey, map_, steps=4).area, abs=1e-5)
    moved = replacement_curve(score, x, grey, map_.roll((8, 8), (0, 1)), steps=4).area
    assert found.deletion["moved"] == pytest.approx(moved, abs=1e-5)
    blurred = torch.from_numpy(gaussian_filter(x.double().numpy(), (0, 10, 10), mode="reflect")).float()
    assert found.insertion["curve"][0] == pytest.approx(float(score(blurred[None])), abs=1e-5)
    quick.setattr(faithfulness, "SAMPLES", 1)
    assert metrics_of(smooth, run.outcomes).max_sensitivity <= found.max_sensitivity + 1e-6  # fewer draws


def test_the_cost_is_as_reported(smooth: Network, quick: pytest.MonkeyPatch) -> None:
    run, message, rows = explained(smooth, "smoothgrad", iterations=3), [], []
    forward = FrozenNetwork.forward

    def counted(self: FrozenNetwork, x: Tensor, layers: Sequence[str] = ()) -> Any:
        rows.append(len(x))
        return forward(self, x, layers)

    metrics_of(smooth, run.outcomes, "smoothgrad")  # creates the copies of the network
    quick.setattr(FrozenNetwork, "forward", counted)
    metrics_of(smooth, run.outcomes, "smoothgrad", notify=message.append)
    assert sum(rows) == sum(faithfulness.evaluation_counts(3)) == 6 * 5 + 4 * 3
    assert max(rows) <= 16
    assert message[0] == "saliency metrics of 1 maps: 30 forward passes, 12 evaluations of the methods"
    quick.undo()
    assert faithfulness.evaluation_counts(32) == (198, 14 * 32)


def test_expensive_maps_are_not_recomputed(smooth: Network, quick: pytest.MonkeyPatch) -> None:
    found = metrics_of(smooth, explained(smooth, "rise").outcomes, "rise")
    assert found.max_sensitivity is None
    assert found.randomization == []
    assert found.deletion["area"] > 0
    assert found.remarks == [
        "sensitivity and randomization of RISE omitted: they take 4 more maps of 1000 evaluations each"
    ]


def test_boxes_and_failed_maps(smooth: Network, tmp_path: Path, quick: pytest.MonkeyPatch) -> None:
    files = [tmp_path / "broken.png", tmp_path / "sky.png"]
    files[0].write_text("no picture")
    Image.new("RGB", (16, 16), (90, 120, 200)).save(files[1])
    with pytest.warns(UserWarning, match="1 failed of 2 images: broken: "):
        failed = lv.saliency(smooth, files, captum="none")
    run = explained(smooth)
    place = divmod(int(run.maps[0].argmax()), 16)
    box = (place[1], place[0], place[1] + 1, place[0] + 1)
    truth = {str(run.outcomes[0].record.source): ReferenceBoxes((box,), None, tmp_path)}
    found = metrics_of(smooth, [failed.outcomes[0], *run.outcomes], truth=truth)
    assert found.points_at_box is True
    assert rows_of(found)[0]["hit"] == "1.000"
    assert metrics_of(smooth, run.outcomes).points_at_box is None


def test_reference_boxes_are_cropped_to_the_image(smooth: Network, tmp_path: Path) -> None:
    Image.new("RGB", (64, 32), (90, 120, 200)).save(tmp_path / "sky.png")  # the middle 32 are halved
    run = lv.saliency(smooth, tmp_path / "sky.png", target=1, captum="none")
    boxes = ((0.0, 0.0, 15.0, 32.0), (20.0, 8.0, 64.0, 16.0), (16.0, 0.0, 18.0, 4.0))
    sky = str(tmp_path / "sky.png")
    truth = {sky: ReferenceBoxes(boxes, (32, 64), tmp_path)}
    assert reference_boxes_in_image(run.outcomes[0], truth) == [(2, 4, 16, 8), (0, 0, 1, 2)]
    assert reference_boxes_in_image(run.outcomes[0], {sky: ReferenceBoxes((), None, tmp_path)}) == []
    assert reference_boxes_in_image(run.outcomes[0], {sky: ReferenceBoxes(boxes, (64, 32), tmp_path)}) == []
    assert reference_boxes_in_image(run.outcomes[0], {"sea.png": truth[sky]}) == []


def test_the_command_evaluates_the_pointing_game(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    lit_viz: Any,
    small_options: Any,
) -> None:
    pytest.importorskip("cv2")
    monkeypatch.chdir(ROOT)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    named = [{"id": 1, "file_name": "x.png"}], [{"image_id": 1, "bbox": [0, 0, 40, 30]}]
    (tmp_path / "boxes.json").write_text(json.dumps(dict(zip(("images", "annotations"), named, strict=True))))
    words = ["--boxes", str(tmp_path / "boxes.json"), "--captum", "none", "--out", str(tmp_path / "run")]
    lit_viz("saliency", str(tmp_path / "x.png"), *small_options, *words)
    capsys.readouterr()
    lit_viz("check", str(tmp_path / "run"), "--faithfulness")
    output = capsys.readouterr()
    assert "saliency metrics of 1 maps: 198 forward passes, 14 evaluations of the methods" in output.err
    assert re.search(r"hit\s", output.err)
    assert output.out.startswith("evidence ")
    evidence = json.loads((tmp_path / "run" / "evidence.json").read_text())
    assert evidence["faithfulness"]["maps"][0]["points_at_box"] is True
    lit_viz("check", "--faithfulness", expect=1)
    assert "lit-viz check requires FOLDER: see lit-viz check --help" in capsys.readouterr().err
    lit_viz("check", str(tmp_path / "run"), "--fathfulness", expect=1)
    assert "unrecognized option --fathfulness; did you mean --faithfulness?" in capsys.readouterr().err


def test_maps_are_recomputed_with_their_own_draws(smooth: Network, quick: pytest.MonkeyPatch) -> None:
    """Other draws would increase the sensitivity of a stochastic method."""
    quick.setattr(faithfulness, "RADIUS", 1e-6)
    outcomes = explained(smooth, "smoothgrad", iterations=4, seed=11).outcomes
    assert metrics_of(smooth, outcomes, "smoothgrad").max_sensitivity < 1e-3


def test_a_method_that_ignores_the_network_is_reported(smooth: Network, quick: pytest.MonkeyPatch) -> None:
    quick.setattr(Gradient, "attribution", lambda self, x, state: x - x.mean())
    found = metrics_of(smooth, explained(smooth).outcomes)
    assert found.remarks == [
        "gradient of image 0 is insensitive to the network: the map does not change (Spearman 1.00) when all layers "
        "are randomized"
    ]


# -- table and evidence


def stages_of(values: Sequence[float]) -> list[RandomizationStage]:
    return [RandomizationStage(f"layer{i}", i, value, value - 0.05) for i, value in enumerate(values, 1)]


def made(method: str, area: float, stages: Sequence[float] = ()) -> SaliencyMetrics:
    return SaliencyMetrics(
        index=0, name="cat", method=method, target_name="tabby",
        deletion={"area": area, "random": 0.5, "moved": 0.75}, insertion={"area": area, "random": 0.25, "moved": 0.125},
        max_sensitivity=1.5, randomization=[vars(stage) for stage in stages_of(stages)], points_at_box=None,
        left_out=None, remarks=[],
    )  # fmt: skip


def test_the_table_has_a_row_per_map_and_means_per_method() -> None:
    broken = made("gradient", math.nan)
    rows = rows_of(made("gradient", 0.1, [0.4, 0.2]), made("gradient", 0.3, [0.2, 0.0]), broken, made("rise", 0.5))
    numbers = [list(row.values())[2:] for row in rows]
    assert numbers[0] == ["0.100", "0.500", "0.750", "0.100", "0.250", "0.125", "1.500", "0.400", "0.200"]
    assert numbers[3][-2:] == ["-", "-"]
    assert [rows[4]["map"], rows[4]["method"]] == ["mean of 3", "gradient"]
    means = ["0.200 (2)", "0.500", "0.750", "0.200 (2)", "0.250", "0.125", "1.500", "0.300 (2)", "0.100 (2)"]
    assert numbers[4] == means
    assert len(rows) == 5


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((0.99, 0.5), "when the uppermost layer is randomized"),
        ((0.99, 0.95, 0.5), "when the 2 uppermost layers are randomized"),
        ((0.99, 0.95), "when all layers are randomized"),
    ],
)
def test_the_remark_names_the_randomized_layers(stages: Sequence[float], message: str) -> None:
    record = SaliencyRecord(index=0, name="cat", method="gradient", reducer="max_abs", top5=[])
    (remark,) = remarks(record, stages_of(stages), None)
    assert remark.endswith(message)
    assert remarks(record, stages_of((0.5, 0.99)), None) == []


def test_values_that_are_not_finite_are_written_as_null() -> None:
    values = {"area": float("nan"), "curve": [0.1234567, float("inf")], "layers": 2}
    assert rounded(values) == {"area": None, "curve": [0.123457, None], "layers": 2}


def test_only_saliency_maps_have_metrics(smooth: Network, tmp_path: Path) -> None:
    lv.visualize(smooth, 1, iterations=1, out=tmp_path / "run", wandb="disabled", size=16)
    with pytest.raises(lv.LitVizError, match="faithfulness does not apply"):
        lv.check(tmp_path / "run", smooth, faithfulness=True)
