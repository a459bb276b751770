"""Outputs of networks that are no classifiers: shapes, float64 autograd, the three methods, and misuse."""

from __future__ import annotations

import json
import re
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import yaml
from matplotlib.patches import Polygon
from matplotlib.text import Text
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

import lit_viz as lv
from lit_viz.cli import main
from lit_viz.images.rasters import read_image
from lit_viz.images.reading import read_png
from lit_viz.networks.bands import Bands
from lit_viz.outputs import (
    OUTPUTS,
    Detection,
    Embedding,
    Goal,
    Keypoint,
    Output,
    Region,
    Regression,
    Share,
    ZeroShot,
    as_output,
)
from lit_viz.runs.folder import FolderStorage
from lit_viz.utils.parts import plain_arguments, public_path
from tests.support.forgery import forge
from tests.support.marks import slow
from tests.support.verdicts import verdicts

SIDE = 64


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, SIDE, SIDE)


def body() -> nn.Sequential:
    """Return a network with embeddings ``(N, 32)``."""
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.Tanh()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten()).eval()


def regressor(numbers: int = 1) -> nn.Sequential:
    return nn.Sequential(body(), nn.Linear(32, numbers)).eval()


def segmenter() -> nn.Module:
    make = torchvision.models.segmentation.lraspp_mobilenet_v3_large
    return make(weights=None, weights_backbone=None, num_classes=5).eval()


def load(network: nn.Module, output: Any, **options: Any) -> Any:
    return lv.load_network(network, output=output, **{"size": SIDE, "mean": 0.4, "std": 0.5, **options})


class Pose(nn.Module):
    """Heat maps of two keypoints, as large as the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 5, padding=2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"heatmaps": self.conv(x).sigmoid()}


class Clip(nn.Module):
    """The interface of a CLIP: embeddings of images and of texts, and a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = body()
        self.text = nn.EmbeddingBag(50, 32)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, pixel_values: Tensor) -> Any:
        raise NotImplementedError("a CLIP's forward takes texts too")

    def get_image_features(self, pixel_values: Tensor) -> Any:
        return SimpleNamespace(pooler_output=self.vision(pixel_values))

    def get_text_features(self, input_ids: Tensor) -> Tensor:
        return self.text(input_ids)


def tokenizer(texts: list[str], **options: Any) -> dict[str, Tensor]:
    return {"input_ids": torch.tensor([[len(text) % 50, ord(text[-2]) % 50] for text in texts])}


def expected_scores(kind: str, network: nn.Module, x: Tensor) -> Tensor:
    """Return the scores of an output by its definition, in plain torch."""
    if kind == "regression":
        return network(x)
    if kind == "embedding":
        reference = read("packaged:chelsea").to(x)
        return functional.cosine_similarity(network(x), network((reference - 0.4) / 0.5))[:, None]
    if kind == "zero_shot":
        texts = network.text(tokenizer(["a photo of a cat.", "a photo of a bus."])["input_ids"])
        return torch.tensor(2.0, dtype=x.dtype).exp() * functional.cosine_similarity(
            network.vision(x)[:, None], texts[None], dim=2
        )
    if kind == "region":
        return network(x)["out"][:, :, 16:48, 8:40].mean((2, 3))
    return network(x)["heatmaps"][:, :, 20, 30]


def read(name: str) -> Tensor:
    from lit_viz.images.reading import read_photograph

    return read_photograph(name, (SIDE, SIDE)).pixels[None]


def cases() -> dict[str, tuple[nn.Module, Output]]:
    return {
        "regression": (regressor(), Regression(unit="years")),
        "embedding": (body(), Embedding("packaged:chelsea")),
        "zero_shot": (Clip().eval(), ZeroShot(["cat", "bus"], tokenizer=tokenizer)),
        "region": (segmenter(), Region((8, 16, 40, 48))),
        "keypoint": (Pose().eval(), Keypoint((30.5, 20.5))),
    }


@pytest.mark.parametrize("kind", ["regression", "embedding", "zero_shot", slow("region"), "keypoint"])
def test_scores_and_gradients_equal_float64_autograd(kind: str, images: Tensor) -> None:
    network, output = cases()[kind]
    net = load(network, output)
    x = images.double().requires_grad_()
    exact = network.double()
    expected = expected_scores(kind, exact, (x - 0.4) / 0.5)
    (gradient,) = torch.autograd.grad(expected[:, -1].sum(), x)
    network.float()
    leaf = images.clone().requires_grad_()
    scores, _ = net.fast()(leaf)
    (fast,) = torch.autograd.grad(scores[:, -1].sum(), leaf)
    assert torch.allclose(scores.double(), expected, rtol=1e-4, atol=1e-6)
    assert (fast - gradient).abs().max() <= 1e-4 * gradient.abs().max()
    copy = load(network.double(), output).fast(dtype=torch.float64)
    leaf64 = images.double().requires_grad_()
    (own,) = torch.autograd.grad(copy(leaf64)[0][:, -1].sum(), leaf64)
    assert (own - gradient).abs().max() <= 1e-8 * gradient.abs().max()


def test_a_region_of_predicted_places_has_the_mean_logits_of_its_classes() -> None:
    maps = torch.randn(2, 3, 8, 8)
    scores = Region("predicted").scores({"out": maps}, 2)
    for image in range(2):
        for k in range(3):
            places = maps[image].argmax(0) == k
            expected = maps[image, k][places].mean() if places.any() else maps[image, k].max()
            assert torch.allclose(scores[image, k], expected)


DETECTORS = (
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "ssdlite320_mobilenet_v3_large",
    "fcos_resnet50_fpn",
    "retinanet_resnet50_fpn",
)


class TwoScales(nn.Module):
    """Maps of two scales, of which the second is computed from the first."""

    out_channels = (8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU())
        self.first, self.second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 2, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.stem(x)
        return {"0": self.first(maps), "1": self.second(maps)}


def tiny_ssd(num_classes: int, **_: None) -> nn.Module:
    anchors = torchvision.models.detection.anchor_utils.DefaultBoxGenerator([[2], [2]])
    return torchvision.models.detection.ssd.SSD(TwoScales(), anchors, (96, 96), num_classes)


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (tiny_ssd, "backbone.stem"),
        slow("ssdlite320_mobilenet_v3_large", "backbone.features.0"),
        slow("ssd300_vgg16", "backbone.features"),
        slow("fasterrcnn_mobilenet_v3_large_320_fpn", "backbone.fpn.inner_blocks.1"),
        slow("retinanet_resnet50_fpn", "backbone.fpn.inner_blocks.2"),
    ],
)
def test_grad_cam_of_a_detector_reads_the_last_maps_on_which_all_scales_depend(make: Any, layer: str) -> None:
    build = getattr(torchvision.models.detection, make) if isinstance(make, str) else make
    network = build(weights=None, weights_backbone=None, num_classes=4).eval()
    if not isinstance(network, torchvision.models.detection.ssd.SSD):
        network.transform.min_size, network.transform.max_size = (128,), 128
    net = load(network, Detection(), size=96, mean=0.0, std=1.0)
    run = lv.saliency(net, torch.rand(1, 3, 96, 96), target=1, method="grad_cam", captum="none")
    assert run.records[0]["layer"] == layer
    assert run.maps.max() > 0


@pytest.mark.parametrize("make", DETECTORS)
@pytest.mark.slow
def test_detectors_of_torchvision(make: str) -> None:
    network = getattr(torchvision.models.detection, make)(weights=None, weights_backbone=None, num_classes=4).eval()
    if hasattr(network, "transform"):
        network.transform.min_size, network.transform.max_size = (128,), 128
    net = load(network, Detection((10, 10, 90, 90), iou=0.1), size=96, mean=0.0, std=1.0)
    x = torch.rand(1, 3, 96, 96)
    leaf = x.clone().requires_grad_()
    scores, _ = net.fast()(leaf)
    assert scores.shape[1] == net.num_classes
    assert torch.autograd.grad(scores[:, 1].sum(), leaf)[0].abs().max() > 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "1 skipped of 1 image")  # random weights need not detect anything
        run = lv.attack(net, x, target=1, iterations=2)
    assert run.records[0]["status"] in ("done", "skipped")


@pytest.mark.parametrize(("goal", "upward"), [("above:{}", True), ("below:{}", False)])
def test_an_attack_moves_a_number_to_its_goal(goal: str, upward: bool, images: Tensor) -> None:
    net = load(regressor(), Regression(unit="years"), labels=["age"])
    images = images[:1]
    clean = net.scores(images)[:, 0]
    moved = clean.item() + (0.004 if upward else -0.004)
    run = lv.attack(net, images, goal=goal.format(moved), attack="pgd", eps="8/255", iterations=30)
    for n, record in enumerate(run.records):
        assert record["success_file"] is True
        score = float(net.scores(run.images[n : n + 1])[0, 0])
        assert (score > moved) is upward
        assert record["score"] == pytest.approx(score, abs=1e-6)
        assert record["score_before"] == pytest.approx(float(clean[n]), abs=1e-6)
        assert "probability" not in record
        assert "predicted" not in record


def test_a_change_is_attempted_in_both_directions(images: Tensor) -> None:
    net = load(regressor(), "regression", labels=["age"])
    run = lv.attack(net, images[:1], goal="change:0.002", attack="pgd", eps="8/255", iterations=20)
    up, down = run.records
    assert up["score"] >= up["score_before"] + 0.002
    assert down["score"] <= down["score_before"] - 0.002


class Painted(nn.Module):
    """A segmenter of three classes: the channel of a pixel that is largest; it returns logits at half the size."""

    def forward(self, x: Tensor) -> Tensor:
        return 8 * functional.avg_pool2d(x, 2)


def shares_of(image: Tensor) -> Tensor:
    """Return the share of the pairs of pixels that are red, green and blue."""
    colors = functional.avg_pool2d(image, 2).argmax(0)
    return torch.stack([(colors == color).double().mean() for color in range(3)])


def test_the_scores_of_a_share_are_log_odds(images: Tensor) -> None:
    box = (0, 0, 32, 64)  # the left half
    net = load(Painted(), Share(box), mean=0.0, std=1.0)
    left = images[:, :, :, :32]
    expected = (8 * functional.avg_pool2d(left, 2)).softmax(1).mean((2, 3))
    assert torch.allclose(net.scores(images).sigmoid(), expected, atol=1e-5)
    final = net.scores(images, final=True).sigmoid().double()
    assert torch.allclose(final[0], shares_of(left[0]), atol=1e-5)
    with pytest.raises(lv.LitVizError, match="where of Share must be everywhere, a box or a mask"):
        Share("predicted")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (Region(torch.ones(32, 32)), "a mask must have the input's size 64 x 64 (H x W), got 32 x 32"),
        (Share(np.ones((64, 60))), "a mask must have the input's size 64 x 64 (H x W), got 64 x 60"),
        (Region("mask.png"), "a mask must have the input's size 64 x 64 (H x W), got 64 x 128"),
        (
            Region((8, 8, 80, 40)),
            "a box must lie in the input, x from 0 to 64 and y from 0 to 64, got (8.0, 8.0, 80.0, 40.0)",
        ),
        (Region((-1, 8, 40, 40)), "got (-1.0, 8.0, 40.0, 40.0)"),
        (Detection((8, 8, 40, 65)), "a box must lie in the input, x from 0 to 64 and y from 0 to 64"),
    ],
)
def test_a_region_must_fit_the_input(
    output: Output, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("L", (128, 64), 255).save("mask.png")
    with pytest.raises(lv.LitVizError, match=re.escape(message)):
        load(Painted(), output)


def test_a_mask_of_the_input_and_a_box_to_its_border_are_the_region(tmp_path: Path, images: Tensor) -> None:
    mask = torch.zeros(SIDE, SIDE)
    mask[:, 32:] = 1
    Image.fromarray(mask.mul(255).byte().numpy()).save(tmp_path / "mask.png")
    expected = load(Painted(), Region(mask)).scores(images)
    for where in (tmp_path / "mask.png", (32, 0, SIDE, SIDE), mask.numpy()):
        assert torch.equal(load(Painted(), Region(where)).scores(images), expected)


def test_figures_draw_the_border_of_a_mask(images: Tensor, tmp_path: Path) -> None:
    mask = torch.zeros(SIDE, SIDE)
    mask[0:20, 5:30] = 1
    mask[10:40, 20:50] = 1
    net = load(Painted(), Region(mask), mean=0.0, std=1.0)
    run = lv.saliency(net, images[:1], captum="none", out=tmp_path / "run", logger=None)
    (record,) = lv.resume(tmp_path / "run", net).records
    (polygon,) = record["output_outline"]
    assert "output_box" not in record
    assert polygon[0] == polygon[-1]
    x, y = np.array(polygon).T
    assert (x.min(), x.max(), y.min(), y.max()) == (4.5, 49.5, -0.5, 39.5)
    area = abs(float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]))) / 2
    assert area == pytest.approx(float(mask.sum()), rel=0.01)
    drawn = [patch for axes in run.figure().axes for patch in axes.patches if isinstance(patch, Polygon)]
    assert len(drawn) == 2  # photograph and map
    boxed = load(Painted(), Region((5, 0, 30, 20)), mean=0.0, std=1.0)
    assert lv.saliency(boxed, images[:1], captum="none").records[0]["output_box"] == [5, 0, 30, 20]


def test_an_attack_moves_the_share_of_a_class(images: Tensor, tmp_path: Path) -> None:
    net = load(Painted(), Share(), labels=["red", "green", "blue"], mean=0.0, std=1.0)
    how: dict[str, Any] = {"attack": "pgd", "eps": "64/255", "iterations": 40}
    below = lv.attack(net, images, label="green", goal="share:0.1", **how)
    above = lv.attack(net, images, target="green", goal="share:0.7", **how)
    for run, reaches in ((below, lambda share: share <= 0.1), (above, lambda share: share > 0.7)):
        for record, image in zip(run.records, run.images, strict=True):
            assert record["success_file"] is True
            assert reaches(float(shares_of(image)[1]))
    weak: dict[str, Any] = {"attack": "pgd", "eps": "1/255", "iterations": 5}
    never = lv.attack(net, images[:1], label="green", goal="share:0.1", out=tmp_path / "run", logger=None, **weak)
    assert never.records[0]["success_file"] is False  # the share is below 0.5, and above 0.1
    assert lv.check(tmp_path / "run", net)
    forge(tmp_path / "run", 0, "success_file", True)
    assert not lv.check(tmp_path / "run", net)
    with pytest.warns(UserWarning, match="1 skipped of 1 image"):
        at_once = lv.attack(net, images[:1], label="green", goal="share:0.6", **how)
    assert at_once.records[0]["status"] == "skipped"


OWN_OUTPUT = """
import torch
from torch import nn
from torch.nn import functional
from lit_viz.outputs import Output

class Painted(nn.Module):
    def forward(self, x):
        return 8 * functional.avg_pool2d(x, 2)

class Overlap(Output):
    decision, unit, goals = "independent", "IoU", ("iou",)

    def scores(self, returned, images):
        return self.overlap(returned.softmax(1))

    def final(self, returned, images):
        return self.overlap(functional.one_hot(returned.argmax(1), 3).movedim(3, 1).to(returned))

    def overlap(self, places):
        left = torch.zeros_like(places)
        left[..., :16] = 1
        return (places * left).sum((2, 3)) / (places + left - places * left).sum((2, 3))
"""


def overlap_of(image: Tensor, color: int) -> float:
    """Return the overlap (IoU) of the pairs of pixels of a color with the left half."""
    chosen = (functional.avg_pool2d(image, 2).argmax(0) == color).numpy()
    left = np.arange(SIDE // 2)[None] < 16
    return float((chosen & left).sum() / (chosen | left).sum())


def test_an_output_outside_the_package_has_goals_of_its_own(
    images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_overlap.py").write_text(OWN_OUTPUT)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(images[0].mul(255).round().byte().movedim(0, 2).numpy()).save("noise.png")
    network: dict[str, Any] = {"size": SIDE, "mean": 0.0, "std": 1.0, "labels": ["red", "green", "blue"]}
    net = lv.load_network("own_overlap:Painted", output="own_overlap:Overlap", **network)
    how: dict[str, Any] = {"attack": "pgd", "eps": "64/255", "iterations": 40}
    below = lv.attack(net, "noise.png", label="green", goal="iou:0.05", **how)
    above = lv.attack(net, "noise.png", target="green", goal="iou:0.5", **how)
    for run, reaches in ((below, lambda overlap: overlap <= 0.05), (above, lambda overlap: overlap > 0.5)):
        assert run.records[0]["success_file"] is True
        assert reaches(overlap_of(run.images[0], 1))
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    words = "attack noise.png --label green --goal iou:0.05 --attack pgd --eps 64/255 --iterations 40 --out run"
    words += f" --network own_overlap:Painted --network.output own_overlap:Overlap --network.size {SIDE}"
    words += " --network.mean 0 --network.std 1 --network.labels labels.txt --wandb disabled"
    main(words.split())
    (record,) = FolderStorage.open(tmp_path / "run").records()
    assert record["success_file"] is True
    assert overlap_of(read_png(tmp_path / "run" / record.file), 1) <= 0.05
    with pytest.raises(lv.LitVizError, match=r"^goal must be vanish, appear, become, iou:V, got 'share:0.1'$"):
        lv.attack(net, "noise.png", label="green", goal="share:0.1")


class Darkness(Output):
    """The mean of an image, which the goal ``dim:V`` lowers by V."""

    decision = "number"
    goals = ("dim",)

    def goal(self, kind: str, value: float) -> Goal:
        return Goal(-value, is_upward=False, is_relative=True)

    def scores(self, returned: Any, images: int) -> Tensor:
        return returned.mean((1, 2, 3))[:, None]


def test_an_own_goal_states_its_direction_and_is_relative_to_the_photograph(images: Tensor) -> None:
    net = load(nn.Identity(), Darkness(), mean=0.0, std=1.0)
    run = lv.attack(net, images[:1], goal="dim:0.02", attack="pgd", eps="16/255", iterations=20)
    (record,) = run.records
    assert record["success_file"] is True
    assert float(run.images[0].mean()) <= float(images[0].mean()) - 0.02
    assert record["score_before"] == pytest.approx(float(images[0].mean()), abs=1e-5)


class Bright(Output):
    """Independent decisions on the mean of each color."""

    decision = "independent"

    def scores(self, returned: Any, images: int) -> Tensor:
        return 10 * returned.mean((2, 3)) - torch.tensor([4.6, 5.4, 4.6]) * 8


def test_classes_vanish_and_appear(images: Tensor) -> None:
    net = load(Painted(), Bright(), labels=["red", "green", "blue"], mean=0.0, std=1.0)
    how: dict[str, Any] = {"attack": "pgd", "eps": "32/255", "iterations": 20}
    assert (net.scores(images) > 0).tolist() == [[True, False, True]] * 2
    gone = lv.attack(net, images, target="blue", goal="vanish", **how)
    seen = lv.attack(net, images, target="green", goal="appear", **how)
    for run, index, decision in ((gone, 2, False), (seen, 1, True)):
        assert all(record["success_file"] for record in run.records)
        assert (net.scores(run.images)[:, index] > 0).tolist() == [decision] * 2
    with pytest.warns(UserWarning, match="1 skipped of 1 image"):
        at_once = lv.attack(net, images[:1], target="red", goal="appear", **how)
    assert at_once.records[0]["status"] == "skipped"
    for goal, message in (
        ("above:3", "^goal must be vanish, appear, become, got 'above:3'$"),
        ("share:0.1", "^goal must be vanish, appear, become, got 'share:0.1'$"),
    ):
        with pytest.raises(lv.LitVizError, match=message):
            lv.attack(net, images, target="green", goal=goal)
    with pytest.raises(lv.LitVizError, match=r"^goal appear requires a class: give target$"):
        lv.attack(net, images[:1], label="green", goal="appear", **how)


def test_several_numbers_require_a_target(images: Tensor) -> None:
    """It is one error of the run, not of each image; the largest number is no default."""
    net = load(regressor(2), "regression")
    for explain in (partial(lv.saliency, net), partial(lv.attack, net, goal="above:3")):
        with pytest.raises(lv.LitVizError, match=r"^Sequential has 2 scores: give target, one of its labels$"):
            explain(images)
        explain(images, target=1, iterations=1)


def test_a_photograph_that_meets_the_goal_is_skipped(images: Tensor) -> None:
    net = load(regressor(), "regression")
    with pytest.warns(UserWarning, match="1 skipped of 1 image: image 0: score 0 above -100 before the attack"):
        run = lv.attack(net, images[:1], goal="above:-100")
    assert run.records[0]["status"] == "skipped"
    assert "before the attack" in run.records[0]["error"]


def test_a_caption_of_a_number_states_the_score_and_no_prediction(images: Tensor) -> None:
    net = load(regressor(), Regression(unit="years"), labels=["age"])
    shown = [text.get_text() for text in lv.saliency(net, images[:1], captum="none").figure().findobj(Text)]
    assert any(text.startswith("score ") for text in shown)
    assert not any("predicted" in text for text in shown)
    with pytest.warns(UserWarning, match="1 skipped of 1 image"):
        skipped = lv.attack(net, images[:1], goal="above:-100")
    shown = [text.get_text() for text in skipped.figure().findobj(Text)]
    assert "the score meets the goal before the attack" in " ".join(shown).replace("\n", " ")
    assert not any("predicted" in text for text in shown)


@pytest.mark.parametrize("kind", ["regression", slow("region")])
def test_captum_agrees_on_numbers_and_regions(kind: str, images: Tensor) -> None:
    network, output = cases()[kind]
    run = lv.saliency(load(network, output), images, method=["gradient", "input_x_gradient"], captum="captum")
    assert verdicts(run) == [True] * 4


def test_a_run_folder_of_numbers_is_checked_and_states_the_score(tmp_path: Path, images: Tensor) -> None:
    net = load(regressor(), Regression(unit="years"), labels=["age"])
    run = lv.attack(net, images, goal="above:100", iterations=3, out=tmp_path / "run", logger=None)
    assert run.check()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "years" in page
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["network"]["output"]["class_path"].endswith("Regression")
    resumed = lv.resume(tmp_path / "run", net)
    assert [record.to_dict() for record in resumed.records] == [record.to_dict() for record in run.records]


def test_outputs_are_written_and_read_back() -> None:
    outputs = [
        Region((1, 2, 3, 4)),
        Share((1, 2, 3, 4)),
        Detection((1, 2, 3, 4), iou=0.3),
        Embedding("packaged:chelsea"),
        Regression("age", unit="years", names=["age"]),
        Keypoint((1, 2)),
        ZeroShot(["a", "b"], text_embeddings=[[1.0, 0.0], [0.0, 1.0]]),
    ]
    for output in outputs:
        plain = plain_arguments(output)
        again = as_output(yaml.safe_load(yaml.safe_dump(plain)))
        assert plain_arguments(again) == plain
        assert type(again) is type(output)


def test_references_of_an_embedding_are_files_pictures_arrays_and_tensors(images: Tensor) -> None:
    network = body()
    picture = (images[0] * 255).byte().movedim(0, 2).numpy()
    pixels = images[0].mul(255).byte() / 255
    exact = torch.stack([images[0], read("packaged:chelsea")[0], pixels, pixels])
    embeddings, of_references = network((images - 0.4) / 0.5), network((exact - 0.4) / 0.5)
    expected = functional.cosine_similarity(embeddings[:, None], of_references[None], dim=2)
    net = load(network, Embedding([images[0], "packaged:chelsea", Image.fromarray(picture), picture]))
    assert torch.allclose(net(images), expected, atol=1e-5)
    assert list(net.labels) == ["reference 0", "chelsea", "reference 2", "reference 3"]
    named = load(network, Embedding({"tensor": images[0], "cat": "packaged:chelsea"}))
    assert torch.allclose(named(images), expected[:, :2], atol=1e-5)
    assert list(named.labels) == ["tensor", "cat"]
    assert torch.allclose(load(network, Embedding(images[0]))(images), expected[:, :1], atol=1e-5)
    assert torch.allclose(load(network, Embedding(Image.fromarray(picture)))(images), expected[:, 2:3], atol=1e-5)
    with pytest.raises(lv.LitVizError, match="references must have one image per name, got 2 for 1 name"):
        Embedding({"both": images})


@pytest.mark.parametrize("channels", [1, 2, 13])
def test_references_are_read_as_the_bands_of_the_network(tmp_path: Path, channels: int) -> None:
    """The similarity of a file to itself is 1, whether it is a picture or an array in its own unit."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten()).eval()
    values = np.random.default_rng(0).integers(0, 5000, (channels, SIDE, SIDE)).astype(np.uint16)
    np.save(tmp_path / "a.npy", values)
    file = str(tmp_path / "a.npy")
    options = {"mean": 1000.0, "std": 500.0, "value_range": (0, 5000)}
    net = load(network, Embedding([file, file]), **options)
    scores = net.scores(torch.from_numpy(values[None] / 5000.0).float())
    assert scores[0].tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    other = torch.rand(1, channels, SIDE, SIDE)
    with torch.no_grad():
        embeddings = [network((images - 1000.0) / 500.0) for images in (5000 * other, torch.from_numpy(values[None]))]
    expected = float(functional.cosine_similarity(*embeddings))
    assert net.scores(other)[0].tolist() == pytest.approx([expected, expected], abs=1e-4)


def test_a_reference_of_a_gray_network_is_read_in_gray() -> None:
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten()).eval()
    net = load(network, Embedding("packaged:chelsea"))
    pixels = read_image("packaged:chelsea", (SIDE, SIDE), Bands(1)).pixels
    assert float(net.scores(pixels[None])) == pytest.approx(1.0, abs=1e-5)


def test_functions_indices_and_keys_are_outputs(images: Tensor) -> None:
    class Tuple(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"first": self.body(x)[:, :2], "second": self.body(x)[:, 2:5]}

    network = Tuple().eval()
    assert load(network, "second").num_classes == 3
    assert load(network, lambda returned: returned["first"].sum(1)).num_classes == 1
    assert load(network, "first", labels=["x", "y"]).labels == ("x", "y")
    assert as_output(0).element == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda returned: returned["no"], "fails on what the network returned"),
        (lambda returned: returned.sum(), "a number per image and name"),
        (lambda returned: returned.argmax(1), "floating-point"),
        (lambda returned: "text", "must return a tensor"),
        (Region(), "requires a network that returns maps"),
        (Detection(), r"can't read what Sequential returns \(shape \(2, 32\)\): give read=, a function"),
        (3.5, "output must be"),
        ("embedding", "requires arguments"),
    ],
)
def test_a_wrong_output_is_one_sentence(output: Any, message: str) -> None:
    with pytest.raises(lv.LitVizError, match=message):
        load(body(), output)


@pytest.mark.parametrize("returns", ["mapping", "tensor"])
def test_a_mistyped_name_of_an_output_is_suggested(returns: str) -> None:
    class Returning(Painted):
        def forward(self, x: Tensor) -> Any:
            maps = super().forward(x)
            return {"out": maps} if returns == "mapping" else maps

    with pytest.raises(lv.LitVizError, match=r"output 'regoin' fails on .*; did you mean 'region'\?$"):
        load(Returning(), "regoin")


class Returned(nn.Module):
    """A network that returns a value of the kind that is asked for."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        boxes = {"boxes": x.new_zeros(0, 4), "labels": x.new_zeros(0), "scores": x.new_zeros(0)}
        values: dict[str, Any] = {
            "boxes": [boxes for _ in x],
            "out": {"out": x},
            "maps": x,
            "heatmaps": {"heatmaps": x},
            "age": {"age": x.mean((1, 2, 3))},
            "volume": x[:, None],
        }
        return values[self.kind]


@pytest.mark.parametrize(
    ("kind", "output"),
    [
        ("boxes", "detection"),
        ("out", "region"),
        ("maps", "region"),
        ("heatmaps", "keypoint"),
        ("age", "age"),
    ],
)
def test_a_network_that_is_no_classifier_is_referred_to_a_fitting_output(kind: str, output: str) -> None:
    message = (
        rf"must return logits \(N, K\), got .*; if it is no classifier, give output='{output}' to lv.load_network$"
    )
    with pytest.raises(lv.LitVizError, match=message):
        lv.load_network(Returned(kind), size=SIDE)
    if output != "detection":  # which requires a detector of torchvision
        assert lv.load_network(Returned(kind).eval(), output=output, size=SIDE).num_classes >= 1


def test_a_return_value_of_another_kind_is_referred_to_outputs() -> None:
    with pytest.raises(lv.LitVizError, match=r"got a tensor of shape .*, give output= to lv.load_network$"):
        lv.load_network(Returned("volume"), size=SIDE)


def test_a_score_without_a_gradient_is_one_sentence(images: Tensor) -> None:
    net = load(body(), lambda returned: returned.detach()[:, :1])
    with pytest.raises(lv.LitVizError, match="not differentiable"):
        lv.saliency(net, images)


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (None, "requires goal="),
        ("up:3", "goal must be above"),
        ("change:-1", "goal must be above"),
        ("share:2", "goal must be above"),
    ],
)
def test_goals_of_numbers(goal: str | None, message: str, images: Tensor) -> None:
    net = load(regressor(), "regression")
    with pytest.raises(lv.LitVizError, match=message):
        lv.attack(net, images, goal=goal)
    with pytest.raises(lv.LitVizError, match="goal applies to"):
        lv.attack(lv.load_network(body(), size=SIDE, mean=0.0, std=1.0), images, goal="above:1")


def factory() -> nn.Module:
    torch.manual_seed(3)
    return body()


@pytest.mark.parametrize("kind", ["float", "uint8", "named", "mask"])
def test_small_images_of_an_output_are_read_back_from_a_configuration(kind: str, images: Tensor) -> None:
    """A configuration holds lists in their place."""
    small = images[:, :, :16, :16]
    given: dict[str, Output] = {
        "float": Embedding(small),
        "uint8": Embedding([small[0].mul(255).byte()]),
        "named": Embedding({"first": small[0], "second": small[1]}),
        "mask": Region((torch.rand(SIDE, SIDE) > 0.5).int()),
    }
    recorded = json.loads(json.dumps(plain_arguments(given[kind])))
    network = Painted() if kind == "mask" else body()
    expected, restored = load(network, given[kind]), load(network, as_output(recorded))
    assert torch.equal(restored.scores(images), expected.scores(images))
    assert restored.labels == expected.labels


def test_a_run_with_a_large_reference_is_resumed_in_python(tmp_path: Path, images: Tensor) -> None:
    net = lv.load_network(f"{__name__}:factory", output=Embedding(images[0]), size=SIDE)
    run = lv.saliency(net, images[1:], captum="none", out=tmp_path / "run", logger=None)
    message = (
        "started with an output of Python that a configuration can't hold (Embedding (instance)): continue in Python"
    )
    with pytest.raises(lv.LitVizError, match=re.escape(message)):
        lv.resume(tmp_path / "run")
    resumed = lv.resume(tmp_path / "run", net)
    assert [record.to_dict() for record in resumed.records] == [record.to_dict() for record in run.records]


@pytest.mark.parametrize("kind", OUTPUTS.values())
def test_records_name_an_output_by_its_public_path(kind: type[Output]) -> None:
    assert public_path(kind) == f"lit_viz.outputs.{kind.__name__}"
