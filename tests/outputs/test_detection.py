"""Detectors: final detections decide, readers of families, goals in a box, and real weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.attacks import PGD
from lit_viz.attacks.norms import LINF
from lit_viz.attributions import GradCAM
from lit_viz.errors import LitVizError
from lit_viz.evidence.attacks.files import RecordedFile
from lit_viz.evidence.attacks.mismatches import mismatches
from lit_viz.figures.layout import boxed
from lit_viz.images.reading import read_png
from lit_viz.outputs import Detection, Output, as_output
from lit_viz.outputs.detectors import Candidates
from lit_viz.runs.records import AdversarialRecord, NamedBox
from lit_viz.types import Task
from lit_viz.utils.parts import plain_arguments
from tests.support.detectors import FAMILIES, NAMES, SIDE, detector, torchvision_detector
from tests.support.marks import slow
from tests.support.networks import Around


class Peak(Output):
    """Whether any pixel of a color is bright: the largest, and as a score the log-sum-exp, which is never below it."""

    decision = "independent"

    def scores(self, returned: Any, images: int) -> Tensor:
        return returned.flatten(2).logsumexp(2)

    def final(self, returned: Any, images: int) -> Tensor:
        return returned.flatten(2).amax(2)


class Brightness(nn.Module):
    """Log-odds of each pixel: positive above a half."""

    def forward(self, x: Tensor) -> Tensor:
        return 8 * (x - 0.5)


def bright(output: Output) -> Any:
    names = ["red", "green", "blue"]
    return lv.load_network(Brightness().eval(), output=output, size=8, mean=0.0, std=1.0, labels=names)


@pytest.mark.parametrize("attack", ["pgd", "ddn"])
def test_an_image_that_only_the_score_accepts_is_attacked_until_the_final_scores_do(attack: str) -> None:
    net = bright(Peak())
    image = torch.full((1, 3, 8, 8), 0.4)
    assert float(net.scores(image)[0, 0]) > 3
    assert float(net.scores(image, final=True)[0, 0]) < 0
    eps: dict[str, Any] = {"eps": "64/255", "alpha": "4/255"} if attack == "pgd" else {}
    run = lv.attack(net, image, target="red", goal="appear", attack=attack, iterations=40, **eps)
    (record,) = run.records
    assert record["status"] == "done"
    assert record["success_file"] is True
    assert float(net.scores(run.images, final=True)[0, 0]) > 0
    assert record["probability_before"] == pytest.approx(float(torch.tensor(-0.8).sigmoid()), abs=0.01)


def test_the_goal_become_raises_the_target_once_the_final_scores_leave_the_label() -> None:
    """The score of the label remains positive, far above its final one, which is negative after an update."""
    net = bright(Peak())
    image = torch.full((1, 3, 8, 8), 0.4)
    image[:, 0, 0, 0] = 0.55
    attack = PGD(eps="64/255", alpha="8/255", random_start=False)
    run = lv.attack(net, image, target="green", label="red", goal="become", attack=attack, iterations=20)
    red, green, _ = net.scores(run.images, final=True)[0].tolist()
    assert run.records[0].success_file is True
    assert red < 0 < green
    assert float(net.scores(run.images)[0, 0]) > 0


def test_an_image_that_meets_the_goal_by_its_final_scores_is_skipped() -> None:
    net = bright(Peak())
    image = torch.full((1, 3, 8, 8), 0.4)
    with pytest.warns(UserWarning, match="1 skipped of 1 image"):
        run = lv.attack(net, image, label="red", goal="vanish", attack="pgd", eps="4/255", iterations=3)
    assert run.records[0]["status"] == "skipped"


def test_the_scores_of_a_detector_are_the_log_sum_exp_of_overlapping_candidates() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 9, 10], [50, 50, 60, 60]])
    log_odds = torch.tensor([[1.0, -1.0], [2.0, 0.0], [9.0, 9.0]])
    detected = {"boxes": boxes, "labels": torch.tensor([0, 1, 1]), "scores": torch.tensor([0.9, 0.2, 0.99])}
    returned = [Candidates(boxes, log_odds, detected)], (64, 64)
    inside = Detection((0, 0, 10, 10), score=0.5)
    assert torch.allclose(inside.scores(returned, 1)[0], log_odds[:2].logsumexp(0))
    assert torch.allclose(inside.final(returned, 1)[0], torch.logit(torch.tensor([0.9, 0.2])))
    anywhere = Detection(score=0.8)
    assert torch.allclose(anywhere.scores(returned, 1)[0], log_odds.logsumexp(0) - torch.logit(torch.tensor(0.8)))


def test_the_nearest_candidates_of_an_empty_box_are_the_same_after_rounding() -> None:
    """Two candidates are equally near, apart from the last bits, which a copy of a network rounds differently."""
    log_odds = torch.tensor([[1.0], [-3.0], [5.0]], requires_grad=True)
    boxes = torch.tensor([[20.0, 0, 30, 10], [0, 20, 10, 30], [40, 40, 50, 50]])
    empty = Detection((0, 0, 10, 10))
    expected = log_odds[:2].logsumexp(0)
    (gradient,) = torch.autograd.grad(expected.sum(), log_odds)
    for shift in (-1e-4, 0.0, 1e-4):
        moved = boxes + shift * torch.tensor([[1.0], [-1.0], [0.0]])
        scores = empty.scores(([Candidates(moved, log_odds)], (64, 64)), 1)
        assert torch.allclose(scores[0], expected)
        assert torch.equal(torch.autograd.grad(scores.sum(), log_odds)[0], gradient)


# -- readers


def overlaps(boxes: Tensor, box: Sequence[float]) -> Tensor:
    """Return the intersection over union of boxes ``(M, 4)`` with a box, by its definition."""
    x0, y0, x1, y1 = box
    width = (boxes[:, 2].clamp(max=x1) - boxes[:, 0].clamp(min=x0)).clamp(min=0)
    height = (boxes[:, 3].clamp(max=y1) - boxes[:, 1].clamp(min=y0)).clamp(min=0)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return width * height / (areas + (x1 - x0) * (y1 - y0) - width * height)


def expected_scores(boxes: Tensor, log_odds: Tensor, box: Sequence[float], iou: float) -> Tensor:
    """Return the scores of one image by their definition."""
    return log_odds[overlaps(boxes.detach(), box) >= iou].logsumexp(0)


def corners(boxes: Tensor) -> Tensor:
    x, y, width, height = boxes.unbind(-1)
    return torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], -1)


@pytest.mark.parametrize("family", FAMILIES)
def test_detectors_of_transformers_are_read(family: str) -> None:
    exact = detector(family).double()  # in float32, ties of the queries of a random network are rounded
    x = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    leaf = x.double().requires_grad_()
    returned = exact((leaf - 0.5) / 0.25)
    if family in ("Detr", "Yolos"):
        p = returned.logits.softmax(-1)[..., :-1]
        log_odds = torch.log(p / (1 - p))
    else:
        log_odds = returned.logits
    boxes = SIDE * corners(returned.pred_boxes)
    box = [float(round(side)) for side in boxes[0, 0].clamp(1, SIDE - 1).tolist()]
    expected = expected_scores(boxes[0], log_odds[0], box, 0.01)[None]
    (gradient,) = torch.autograd.grad(expected[:, 1].sum(), leaf)

    net = lv.load_network(exact, output=Detection(box, iou=0.01), size=SIDE, mean=0.5, std=0.25)
    assert net.labels == NAMES
    assert torch.allclose(net.scores(x).double(), expected, atol=1e-4)
    own = x.double().requires_grad_()
    scores = net.output(exact, (own - 0.5) / 0.25)
    (own_gradient,) = torch.autograd.grad(scores[:, 1].sum(), own)
    assert (scores - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert (own_gradient - gradient).abs().max() <= 1e-12 * gradient.abs().max()


@pytest.mark.parametrize("family", ["FCOS", "RetinaNet", "SSD", "FasterRCNN", slow("MaskRCNN"), slow("KeypointRCNN")])
def test_detectors_of_torchvision_are_read(family: str) -> None:
    """Their detections are cropped to the image; the score of a class is never below that of a detection of it."""
    network = torchvision_detector(family)
    net = lv.load_network(network, output=Detection((8, 8, 56, 56), iou=0.3), size=SIDE, mean=0.0, std=1.0)
    draws = torch.Generator().manual_seed(1)
    x = torch.rand(4, 3, SIDE, SIDE, generator=draws)
    scores, final = net.scores(x), net.scores(x, final=True)
    is_detected = final > -10
    assert is_detected.any()
    assert (final <= scores + 1e-2)[is_detected].all()  # probabilities near 1 are rounded

    exact = network.double()
    direction = torch.rand(1, 3, SIDE, SIDE, generator=draws).double() - 0.5
    leaf = x[:1].double().requires_grad_()
    (gradient,) = torch.autograd.grad(net.output(exact, leaf)[0, 1], leaf)
    with torch.no_grad():
        ahead, behind = (net.output(exact, leaf + step * direction)[0, 1] for step in (1e-8, -1e-8))
    by_difference = float(ahead - behind) / 2e-8
    is_derivative = float((gradient * direction).sum()) == pytest.approx(by_difference, rel=1e-5)
    assert is_derivative is (not family.endswith("RCNN"))  # which detach their proposals
    assert ("gradients are not the derivative" in str(net.output.note)) is not is_derivative


@pytest.mark.parametrize("family", FAMILIES)
def test_a_note_in_every_record_states_where_gradients_are_no_derivative(family: str) -> None:
    net = lv.load_network(detector(family), output=Detection(), size=SIDE, mean=0.5, std=0.25)
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    run = lv.saliency(net, image, target="cup", captum="none")
    note = run.records[0].output_note
    if family in ("RTDetr", "DFine", "RfDetr"):
        assert "gradients are not the derivative of the scores" in str(note)
        assert note in net.notes
    else:
        assert note is None


def in_float32(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Detect as a network that does not compute in float64."""
    if x.dtype != torch.float32:
        raise TypeError("this detector takes float32")
    returned: dict[str, Tensor] = network(x)
    return returned


def test_a_note_states_where_the_derivative_could_not_be_verified() -> None:
    output = Detection(read=read_polar)
    net = lv.load_network(Around(Polar(), in_float32).eval(), output=output, size=32, mean=0.0, std=1.0, labels=["cat"])
    run = lv.saliency(net, torch.rand(1, 3, 32, 32), target="cat", method="gradient", captum="none")
    assert run.records[0].output_note == (
        "whether gradients are the derivative of the scores could not be verified "
        "(TypeError: this detector takes float32)"
    )


def rounded(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Detect as a network that returns float32 whatever it computes in, as OWL-ViT."""
    returned: dict[str, Tensor] = network(x)
    return {name: value.float() for name, value in returned.items()}


@pytest.mark.parametrize(("is_rounded", "forwards"), [(False, 2), (True, 4)])
def test_rounding_to_float32_is_no_wrong_gradient(
    is_rounded: bool, forwards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second step of the difference is computed where the first is another number than the gradient."""
    evaluated: list[Tensor] = []
    without_graph = Detection.without_graph

    def counting(self: Detection, exact: nn.Module, x: Tensor) -> Tensor:
        evaluated.append(x)
        return without_graph(self, exact, x)

    monkeypatch.setattr(Detection, "without_graph", counting)
    torch.manual_seed(0)
    network = Around(Polar(), rounded) if is_rounded else Polar()
    output = Detection(read=read_polar)
    net = lv.load_network(network.eval(), output=output, size=32, mean=0.0, std=1.0, labels=["cat"])
    assert net.output.note is None
    assert sum(x.dtype == torch.float64 for x in evaluated) == forwards


def dictionary_of(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return the dictionary of the original DETR and RF-DETR."""
    returned = network(x)
    return {"pred_logits": returned.logits, "pred_boxes": returned.pred_boxes}


def read_dictionary(returned: dict[str, Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Read the dictionary of RF-DETR: a sigmoid for each class."""
    height, width = size
    pixels = returned["pred_boxes"] * returned["pred_boxes"].new_tensor([width, height, width, height])
    centers, sides = pixels.split(2, -1)
    return torch.cat([centers - sides / 2, centers + sides / 2], -1), returned["pred_logits"]


def read_attributes(returned: Any, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    return read_dictionary({"pred_boxes": returned.pred_boxes, "pred_logits": returned.logits}, size)


@pytest.mark.parametrize("family", ["TableTransformer", "original"])
def test_a_family_that_is_not_named_is_read_by_a_function_of_ten_lines(family: str) -> None:
    exact = detector("RfDetr" if family == "original" else family).double()
    read = read_attributes
    if family == "original":
        exact, read = Around(exact, dictionary_of).eval(), read_dictionary
        with pytest.raises(lv.LitVizError, match=r"a dict of pred_logits, pred_boxes\): give read=, a function"):
            lv.load_network(exact, output=Detection(), size=SIDE)
    x = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    leaf = x.double().requires_grad_()
    boxes, log_odds = read(exact((leaf - 0.5) / 0.25), (SIDE, SIDE))
    largest = int((boxes[0, :, 2:] - boxes[0, :, :2]).clamp(0, SIDE).prod(1).argmax())
    box = [float(round(side)) for side in boxes[0, largest].clamp(1, SIDE - 1).tolist()]
    expected = expected_scores(boxes[0], log_odds[0], box, 0.01)[None]
    (gradient,) = torch.autograd.grad(expected[:, 1].sum(), leaf)

    net = lv.load_network(exact, output=Detection(box, iou=0.01, read=read), size=SIDE, mean=0.5, std=0.25)
    own = x.double().requires_grad_()
    scores = net.output(exact, (own - 0.5) / 0.25)
    (own_gradient,) = torch.autograd.grad(scores[:, 1].sum(), own)
    assert (scores - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert (own_gradient - gradient).abs().max() <= 1e-12 * gradient.abs().max()
    copied = x.clone().requires_grad_()
    (fast_gradient,) = torch.autograd.grad(net.fast()(copied)[0][:, 1].sum(), copied)
    assert (fast_gradient - gradient).abs().max() <= 1e-3 * gradient.abs().max()
    assert "could not be verified" not in str(net.output.note)


class Yolo(nn.Module):
    """A head ``(N, 4 + K, M)`` of two classes: boxes of 8 pixels at each cell, whose probability is a color."""

    def __init__(self) -> None:
        super().__init__()
        self.colors = nn.Conv2d(3, 2, 4, stride=4)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.colors(x)
        rows, columns = maps.shape[2:]
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        centers = 4 * torch.stack([x, y]).to(maps).expand(len(maps), -1, -1, -1) + 2
        sides = torch.full_like(centers, 8.0)
        return torch.cat([centers, sides, maps.sigmoid()], 1).flatten(2)


class TwoScales(Yolo):
    """A head of two scales, the second of the first one's maps before its colors."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 3, padding=1)
        self.coarse = nn.Conv2d(3, 3, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.stem(x)
        coarse_maps = self.coarse(maps)
        return torch.cat([super().forward(maps), super().forward(coarse_maps)], 2)


@pytest.mark.parametrize(("family", "layer"), [("dense", "stem"), ("Detr", "model.input_projection")])
def test_grad_cam_reads_the_last_maps_on_which_the_candidates_of_all_scales_depend(family: str, layer: str) -> None:
    torch.manual_seed(0)
    network = TwoScales().eval() if family == "dense" else detector(family)
    net = lv.load_network(network, output=Detection(), size=SIDE, mean=0.5, std=0.25)
    x = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    run = lv.saliency(net, x, target=1, method=GradCAM(relu=False), captum="none")
    assert run.records[0].layer == layer
    leaf = x.clone().requires_grad_()
    read: list[Tensor] = []
    handle = net.original.get_submodule(layer).register_forward_hook(lambda module, args, output: read.append(output))
    scores = net.output(net.original, (leaf - 0.5) / 0.25)
    handle.remove()
    (gradient,) = torch.autograd.grad(scores[0, 1], read)
    cam = (gradient.mean((2, 3), keepdim=True) * read[0]).sum(1, keepdim=True)
    expected = nn.functional.interpolate(cam, (SIDE, SIDE), mode="bilinear")[0, 0].detach().abs()
    assert torch.allclose(torch.as_tensor(run.maps[0]), expected, atol=1e-3 * float(expected.max()))


class Colors(nn.Module):
    """A head of one scale, whose maps are log-odds of two classes, after maps of 8 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.heat = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        heat: Tensor = self.heat(self.stem(x).tanh())
        return heat


def read_colors(returned: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    log_odds = returned.flatten(2).transpose(1, 2)
    return torch.tensor([0.0, 0.0, 8.0, 8.0]).expand(*log_odds.shape[:2], 4), log_odds


def test_grad_cam_reads_the_maps_before_those_of_the_scores() -> None:
    torch.manual_seed(0)
    net = lv.load_network(Colors().eval(), output=Detection(read=read_colors), size=SIDE, mean=0.5, std=0.25)
    run = lv.saliency(net, torch.rand(1, 3, SIDE, SIDE), target=1, method="grad_cam", captum="none")
    assert run.records[0].layer == "stem"


class Sides(nn.Module):
    """Two scales with a layer each, or with none of both."""

    def __init__(self, layers: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = (4, 8) if layers else ()
        self.heads = nn.ModuleList(nn.Conv2d(3, 2, size, stride=size) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        maps = [head(x) for head in self.heads] or [nn.functional.avg_pool2d(x[:, :2], 4)]
        return torch.cat([values.flatten(2) for values in maps], 2)


@pytest.mark.parametrize("layers", [True, False])
def test_grad_cam_of_a_detector_without_maps_of_all_candidates_is_rejected(layers: bool) -> None:
    net = lv.load_network(Sides(layers).eval(), output=Detection(read=read_colors), size=SIDE, mean=0.5, std=0.25)
    with pytest.raises(LitVizError, match=r"maps \(N, C, h, w\) of all candidates, and Sides has none: give layer, or"):
        lv.saliency(net, torch.rand(1, 3, SIDE, SIDE), target=1, method="grad_cam")


def suppressed(boxes: Tensor, log_odds: Tensor, suppression: float) -> list[list[int]]:
    """Return the detections of each class that are left by greedy suppression."""
    left: list[list[int]] = []
    for k in range(log_odds.shape[1]):
        own: list[int] = []
        for m in log_odds[:, k].argsort(descending=True).tolist():
            if log_odds[m, k] > 0 and all(overlaps(boxes[[m]], boxes[other].tolist()) <= suppression for other in own):
                own.append(m)
        left.append(own)
    return left


def test_a_dense_head_is_read_and_suppressed() -> None:
    torch.manual_seed(0)
    network = Yolo().double().eval()
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        head = network(x)
    boxes, p = corners(head[:, :4].transpose(1, 2)), head[:, 4:].transpose(1, 2)
    log_odds = torch.log(p / (1 - p))
    box = (4.0, 4.0, 14.0, 14.0)
    output = Detection(box, iou=0.3, suppression=0.3)
    net = lv.load_network(network, output=output, size=32, mean=0.0, std=1.0)
    scores, final = net.scores(x).double(), net.scores(x, final=True).double()
    suppressed_in_box = 0
    for n in range(2):
        assert torch.allclose(scores[n], expected_scores(boxes[n], log_odds[n], box, 0.3), atol=1e-6)
        in_box = overlaps(boxes[n], box) >= 0.3
        for k, left in enumerate(suppressed(boxes[n], log_odds[n], 0.3)):
            detected = [float(log_odds[n, m, k]) for m in left if in_box[m]]
            suppressed_in_box += int((log_odds[n, in_box, k] > 0).sum()) - len(detected)
            if detected:
                assert float(final[n, k]) == pytest.approx(max(detected), abs=1e-6)
            else:
                assert float(final[n, k]) <= 0
    assert suppressed_in_box > 0


class Polar(nn.Module):
    """A detector of a family of its own: a dictionary of centers, radii and probabilities of a cat."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 8, stride=8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        p = self.conv(x).flatten(1).sigmoid()
        centers = torch.tensor([[8.0 * (m % 4) + 4, 8.0 * (m // 4) + 4] for m in range(16)]).to(x)
        return {"centers": centers, "radii": torch.full_like(p, 4.0), "p": p}


def read_polar(returned: dict[str, Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    radii = returned["radii"][..., None]
    centers = returned["centers"].expand(len(radii), -1, -1)
    return torch.cat([centers - radii, centers + radii], -1), torch.logit(returned["p"])[..., None]


def test_any_detector_is_read_by_a_function(tmp_path: Path) -> None:
    torch.manual_seed(0)
    output = Detection((8, 8, 16, 16), read=read_polar)
    network = Polar().eval()
    net = lv.load_network(network, output=output, size=32, mean=0.0, std=1.0, labels=["cat"])
    x = torch.rand(1, 3, 32, 32)
    assert torch.allclose(net.scores(x)[0, 0], torch.logit(network(x)["p"])[0, 5], atol=1e-5)
    plain = plain_arguments(output)
    assert plain["init_args"]["read"] == f"{__name__}:read_polar"
    again = lv.load_network(network, output=as_output(plain), size=32, mean=0.0, std=1.0, labels=["cat"])
    assert torch.equal(again.scores(x), net.scores(x))


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (
            lambda returned, size: returned["boxes"],
            r"read <lambda> fails on what the network returned, a dict \(KeyErr",
        ),
        (
            lambda returned, size: (returned["p"], returned["p"]),
            r"must return boxes \(N, M, 4\) .* got shapes \(2, 16\)",
        ),
        (
            lambda returned, size: (read_polar(returned, size)[0], returned["p"][..., None] > 0),
            r"floating-point log-odds .* of torch.bool",
        ),
    ],
)
def test_a_reader_that_fails_is_one_sentence(read: Any, message: str) -> None:
    with pytest.raises(lv.LitVizError, match=message):
        lv.load_network(Polar().eval(), output=Detection(read=read), size=32, mean=0.0, std=1.0)


# -- goals in a box


def yolo() -> Any:
    """Return a detector of dark (a cat) and bright cells (a cup)."""
    network = Yolo().eval()
    with torch.no_grad():
        network.colors.weight.fill_(1 / 48)
        network.colors.weight[0] *= -20
        network.colors.weight[1] *= 20
        network.colors.bias.copy_(torch.tensor([8.0, -12.0]))
    output = Detection((4, 4, 16, 16), iou=0.3, suppression=0.4)
    return lv.load_network(network, output=output, size=32, mean=0.0, std=1.0, labels=["cat", "cup"])


def scene() -> Tensor:
    """Return an image with a dark square in the box, and another one outside."""
    image = torch.full((1, 3, 32, 32), 0.5)
    image[:, :, 8:12, 8:12] = 0.25
    image[:, :, 24:28, 24:28] = 0.25
    return (image * 255).round() / 255


def detected(net: Any, image: Tensor) -> set[tuple[str, bool]]:
    """Return the names of what a network detects in an image, and whether it is in the box, by definition."""
    with torch.no_grad():
        head = net.original(image.double().float())[0].T
    boxes, log_odds = corners(head[:, :4]), torch.logit(head[:, 4:])
    in_box = overlaps(boxes, net.output.box) >= 0.3
    found = set()
    for k, left in enumerate(suppressed(boxes, log_odds, 0.4)):
        found |= {(net.labels[k], bool(in_box[m])) for m in left}
    return found


@pytest.mark.parametrize("goal", ["vanish", slow("appear"), slow("become")])
def test_classes_vanish_appear_and_become_others_in_a_box(goal: str, tmp_path: Path) -> None:
    net, image = yolo(), scene()
    assert detected(net, image) == {("cat", True), ("cat", False)}
    classes = {"vanish": {"label": "cat"}, "appear": {"target": "cup"}, "become": {"target": "cup", "label": "cat"}}[
        goal
    ]
    how: dict[str, Any] = {"attack": "pgd", "eps": "96/255", "alpha": "6/255", "iterations": 40}
    run = lv.attack(net, image, goal=goal, out=tmp_path / "run", logger=None, **classes, **how)
    (record,) = run.records
    assert record.success_file is True
    assert record.margin > 0
    file = read_png(tmp_path / "run" / record.file)[None]
    found = detected(net, file)
    assert (("cat", True) in found) is (goal == "appear")
    assert ("cup", True) in found or goal == "vanish"
    assert [box["label"] for box in record.boxes_before] == ["cat", "cat"]
    assert {box["label"] for box in record.boxes} == {name for name, _ in found}
    assert record.boxes_before[0]["box"] == [6.0, 6.0, 14.0, 14.0]
    drawn = [text.get_text() for text in run.figure().findobj(Text)]
    assert sum(text.startswith("cat 0.") for text in drawn) >= 2
    assert run.check()


def test_names_of_boxes_at_the_edges_are_on_the_image() -> None:
    boxes = [NamedBox(label="cat", score=0.5, box=box) for box in ([0, 0, 64, 64], [40, 30, 70, 60], [-3, 20, 20, 40])]
    figure = Figure(figsize=(3, 3), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow([[0.0] * 64] * 64)
    draw = boxed(AdversarialRecord.of(Task(0, "", 0), attack="pgd"), boxes)
    assert draw is not None
    draw(axes)
    renderer = FigureCanvasAgg(figure).get_renderer()
    for text in axes.texts:
        drawn = text.get_window_extent(renderer)
        assert drawn.x0 >= -1
        assert drawn.x1 <= 301
        assert drawn.y1 <= 301


def test_a_goal_that_an_image_meets_is_named() -> None:
    with pytest.warns(UserWarning, match="goal appear of cat is met before the attack: give another goal"):
        lv.attack(yolo(), scene(), target="cat", goal="appear", iterations=1)


def test_the_goal_become_requires_two_classes() -> None:
    with pytest.raises(lv.LitVizError, match="goal become requires a class: give target"):
        lv.attack(yolo(), scene(), label="cat", goal="become")
    with pytest.warns(UserWarning, match="target and label of the goal become must be two classes, got cat for both"):
        run = lv.attack(yolo(), torch.cat([scene()] * 2), target=["cat", "cup"], goal="become", iterations=1)
    assert [record.status for record in run.records] == ["failed", "done"]


def test_check_reads_the_boxes_of_files_again(tmp_path: Path) -> None:
    net = yolo()
    run = lv.attack(
        net, scene(), label="cat", goal="vanish", attack="pgd", eps="1/255", iterations=2, out=tmp_path / "run"
    )
    record = run.records[0]
    assert record.boxes[0]["label"] == "cat"
    assert run.check()
    wrong = [{**record.boxes[0], "box": [6.0, 6.0, 15.0, 15.0]}, *record.boxes[1:]]
    reasons = []
    for boxes in (record.boxes, wrong):
        file = RecordedFile(
            record.file, run[0].image, record.amend(boxes=boxes), lambda: None, lambda _: Task(0, "", 0),
            norm=LINF, eps=1 / 255, attack="pgd",
        )  # fmt: skip
        ((_, reason),) = mismatches([file], net, 1, lambda text: None)
        reasons.append(reason)
    assert reasons[0] is None
    reason = reasons[1]
    assert "cat 0." in str(reason)
    assert "cat 0.952 (22, 22, 30, 30)" in str(reason)
    assert "detected, recorded cat 0.952 (6, 6, 15, 15)" in str(reason)
