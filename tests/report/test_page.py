from __future__ import annotations

import html
import json
import re
import shutil
from base64 import b64decode, b64encode
from hashlib import sha256
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import lit_viz as lv
from lit_viz.images.reading import encode_png
from lit_viz.presentations import EvidenceItem, Presentation
from lit_viz.presentations.adversarial_example import AdversarialExamplePresentation
from lit_viz.presentations.class_visualization import ClassVisualizationPresentation
from lit_viz.presentations.saliency_map import SaliencyMapPresentation
from lit_viz.report import index as report_index
from lit_viz.report import page as report
from lit_viz.report.cards import _have_equal_pixels
from lit_viz.report.images import EXACT_BYTES, image_uri
from lit_viz.report.page import record_text, write_report
from lit_viz.report.plots import plot_curves
from lit_viz.runs.evidence import (
    CAPTUM,
    SCALAR_TERMS,
    AdversarialEvidence,
    CaptumEvidence,
    FileEvidence,
    Gate,
    ImageEvidence,
    MapAgreement,
    SaliencyEvidence,
    Similarity,
    TransferCounts,
    TransferEvidence,
    VisualizationEvidence,
)
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.records import ClassImageRecord
from lit_viz.runs.segments import Contents
from lit_viz.types import key_of
from lit_viz.utils.files import plain
from tests.support.segments import forge, write_records

EVIL = "<img src=x onerror=alert(1)>\"'&"


def write_run(path: Path, count: int = 1, frames: int = 3, name: str = "cat", side: int = 4) -> FolderStorage:
    """Write a run folder; each frame has another gray level."""
    folder = FolderStorage.create(path)
    recorded = {"module": "ClassVisualization", "torch": "2.6.0", "weights_sha256": "0123abcd"}
    module = {"class_path": "lit_viz.ClassVisualization", "init_args": {"iterations": 5}}
    tasks = {"class_path": "lit_viz.ClassTasks", "init_args": {"target": ["cat"], "seed": 23}}
    config = {"network": {"name": "tiny"}, "module": module, "tasks": tasks, "run": {"captum": "auto"}}
    folder.write_config(yaml.safe_dump(config), recorded)
    records, contents = [], []
    for index in range(count):
        key = key_of(index, name)
        contents.append(Contents())
        for frame in range(frames):
            png = encode_png(torch.full((3, side, side), (frame + 1) / (frames + 1)))
            for file in (f"frames/{key}/iter_{frame * 10:06d}.png", f"images/{key}.png"):
                (path / file).parent.mkdir(parents=True, exist_ok=True)
                (path / file).write_bytes(png)
                contents[-1].add_file(file, png)
            contents[-1].add_row(index * frames + frame, frame * 10, {"probability": (frame + 1) / 10})
        records.append(record_of(index, name, f"images/{key}.png"))
    write_records(folder, records, contents)
    return folder


def record_of(index: int, name: str, file: str | None) -> dict[str, Any]:
    status, error = ("done", None) if file else ("failed", f"broken {name}")
    values = {
        "kind": "record",
        "index": index,
        "name": name,
        "status": status,
        "error": error,
        "file": file,
        "target_name": name,
    }
    return values | {"seed": index}


def part_items(evidence: MixedEvidence) -> list[EvidenceItem]:
    """Return the items of evidence of several methods."""
    presentations = (AdversarialExamplePresentation(), SaliencyMapPresentation(), ClassVisualizationPresentation())
    items: list[EvidenceItem] = []
    for presentation in presentations:
        items += presentation.part_items(evidence)
    return items


class MixedEvidence(AdversarialEvidence, SaliencyEvidence, VisualizationEvidence):
    """Evidence of several methods."""


class Plain(Presentation):
    """A presentation without texts of its own."""

    title = "Class images"
    command = "visualize"

    def table(self, records: Any) -> list[dict[str, str]]:
        return [{"class": record.name, "place": f"row {record.index}"} for record in records]

    def figure(self, outcomes: Any, options: Any, evidence: Any = None) -> Any:
        raise NotImplementedError

    def evolutions(self, outcomes: Any) -> Any:
        raise NotImplementedError

    def part_items(self, evidence: MixedEvidence) -> list[EvidenceItem]:
        return part_items(evidence)


class Sketches(Plain):
    """A presentation with texts of its own."""

    title = "Sketches"
    result = "sketch"
    note = "a note"

    def subtitle(self, record: Any) -> str:
        return "of a <cat>"


def page_of(folder: FolderStorage) -> str:
    return write_report(folder, Plain(), folder.evidence(MixedEvidence)).read_text(encoding="utf-8")


class Elements(HTMLParser):
    """The elements of a page with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    @property
    def tasks(self) -> list[dict[str, str | None]]:
        """The cards of tasks."""
        return [attributes for _, attributes in self.elements if "data-stops" in attributes]

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_frames_are_embedded_byte_by_byte_and_described(tmp_path: Path) -> None:
    page = Elements(page_of(write_run(tmp_path / "run")))
    files = [file.read_bytes() for file in sorted((tmp_path / "run" / "frames").rglob("*.png"))]
    images = page.of("img")
    assert [b64decode(str(image["src"]).partition("base64,")[2]) for image in images] == files  # the result is the last
    assert ["hidden" in image for image in images] == [True, True, False]
    assert [image["alt"] for image in images] == [f"cat, iteration {k}" for k in (0, 10, 20)]
    (slider,) = page.of("input")
    assert (slider["max"], slider["value"]) == ("2", "2")
    assert slider["id"] in {label["for"] for label in page.of("label")}


def test_the_result_is_a_place_of_its_own_where_it_is_no_frame(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (tmp_path / "run" / "images" / f"{key_of(0, 'cat')}.png").write_bytes(encode_png(torch.rand(3, 4, 4)))
    (task,) = Elements(page_of(folder)).tasks
    assert json.loads(str(task["data-stops"])) == ["0", "10", "20", "the result"]


def test_a_result_with_the_pixels_of_the_last_frame_is_that_frame(tmp_path: Path) -> None:
    """Frames also contain the most probable classes."""
    folder = write_run(tmp_path / "run")
    frame = sorted((tmp_path / "run" / "frames").rglob("*.png"))[-1]
    frame.write_bytes(encode_png(torch.full((3, 4, 4), 0.75), {"top5": "[]"}))
    (task,) = Elements(page_of(folder)).tasks
    assert json.loads(str(task["data-stops"])) == ["0", "10", "20"]


def test_a_single_evaluation_has_no_slider(smooth: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    lv.saliency(smooth, torch.rand(1, 3, 16, 16), target=1, out=out, captum="none", wandb="disabled")
    page = Elements((out / "report.html").read_text(encoding="utf-8"))
    assert not page.of("input")
    assert [image["alt"] for image in page.of("img")][-2:] == ["photograph image 0", "image 0, iteration 1"]


def test_methods_of_a_photograph_are_side_by_side(smooth: Any, tmp_path: Path) -> None:
    """A photograph has one card for all of its methods."""
    out = tmp_path / "run"
    options: dict[str, Any] = {"method": ["gradient", "smoothgrad"], "iterations": 4, "wandb": "disabled"}
    lv.saliency(smooth, torch.rand(3, 3, 16, 16), target=1, out=out, captum="none", **options)
    text = (out / "report.html").read_text(encoding="utf-8")
    page = Elements(text)
    assert len(page.of("article")) == 3
    assert [task["id"] for task in page.tasks] == [f"task-{index}" for index in (0, 3, 1, 4, 2, 5)]
    assert [str(image["alt"]) for image in page.of("img")].count("photograph image 1") == 1
    assert re.findall(r"<h4><span.*?</span>(.*?)</h4>", text)[:2] == ["gradient", "smoothgrad"]
    assert "<small>banana</small>" in text  # what they have in common
    assert (
        text.index('id="figure"') < text.index('id="evidence"') < text.index('id="index"') < text.index('id="images"')
    )


def test_curves_mark_the_slider_positions(tmp_path: Path) -> None:
    metrics = {"rank": [(0, 3.0), (10, 3.0)], "probability": [(0, 0.0), (5, 0.5), (10, 1.0)]}
    (plot,) = plot_curves(metrics, [0, 10, 7, None])  # a constant metric has no plot
    assert plot.marks == [(34.0, 66.0, "0"), (236.0, 8.0, "1"), None, None]
    assert plot.points == "34,66 135,37 236,8"
    page = Elements(page_of(write_run(tmp_path / "run")))
    curve = next(figure for figure in page.of("figure") if figure.get("class") == "curve")
    assert json.loads(str(curve["data-places"])) == [[34.0, 60.2, "0.1"], [135.0, 54.4, "0.2"], [236.0, 48.6, "0.3"]]
    assert page.of("polyline")[0]["points"] == "34,60.2 135,54.4 236,48.6"


def test_curves_share_the_horizontal_axis() -> None:
    long, short = plot_curves({"gradient_norm": [(0, 1.0), (5, 0.0)], "logit": [(0, 0.0), (10, 1.0)]}, [5])
    assert short.points == "34,8 135,66"
    assert long.points == "34,66 236,8"
    assert short.description == "gradient norm over the iterations, from 1 at 0 to 0 at 5"


def test_curves_skip_values_that_are_not_finite() -> None:
    (plot,) = plot_curves({"loss": [(0, 1.0), (1, float("nan")), (2, float("inf")), (3, 0.0)]}, [0])
    assert plot.points == "34,8 236,66"


def test_linf_is_displayed_in_levels() -> None:
    (plot,) = plot_curves({"linf": [(0, 0.0), (1, 8 / 255)]}, [1])
    assert plot.description == "L∞ (/255) over the iterations, from 0 at 0 to 8 at 1"
    assert plot.marks[0] is not None
    assert plot.marks[0][2] == "8"


def test_values_of_records() -> None:
    values = [True, 0.123456, {"a": 1.0, "b": None}, [["cat", 0.5], ["dog", 0.25]], [1, 2]]
    assert [record_text(value) for value in values] == ["yes", "0.1235", "a 1, b None", "cat 0.5; dog 0.25", "1, 2"]


def test_figures_have_their_printed_width(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    Image.new("RGB", (600, 30)).save(folder.path / "figure.png", dpi=(300, 300))
    Image.new("RGB", (600, 30)).save(folder.path / "evidence.png")  # no resolution
    shown = {str(image["alt"]).split()[0]: image.get("width") for image in Elements(page_of(folder)).of("img")}
    assert (shown["figure.png"], shown["evidence.png"]) == ("192", None)


def test_cards_of_several_radii_are_distinguishable(smooth: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options: dict[str, Any] = {"attack": "pgd", "eps": [1 / 255, 4 / 255], "iterations": 2, "wandb": "disabled"}
    lv.attack(smooth, torch.rand(1, 3, 16, 16), target=1, out=out, **options)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"<small>(.*?)</small>", page) == ["still apple, target banana"]
    assert re.findall(r"<h4><span.*?</span>(.*?)</h4>", page) == ["eps 1/255", "eps 4/255"]


def test_text_is_escaped(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", name=EVIL)
    folder.merge_evidence(MixedEvidence(files=FileEvidence(read=1, wrong=[EVIL])))
    page = Elements(page_of(folder))
    assert not [attributes for _, attributes in page.elements if any(name.startswith("on") for name in attributes)]
    assert all(str(image["src"]).startswith("data:image/") for image in page.of("img"))
    assert page.of("img")[0]["alt"] == f"{EVIL}, iteration 0"


def test_the_method_provides_title_and_texts(tmp_path: Path) -> None:
    text = write_report(write_run(tmp_path / "run"), Sketches(), MixedEvidence()).read_text(encoding="utf-8")
    assert "<h1>Sketches</h1>" in text
    assert "<small>of a &lt;cat&gt;</small>" in text
    assert "<figcaption>sketch</figcaption>" in text
    assert "the exact files. a note</p>" in text


def test_the_page_needs_no_external_resource(tmp_path: Path) -> None:
    text = page_of(write_run(tmp_path / "run"))
    page = Elements(text)
    policy = next(str(m["content"]) for m in page.of("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):
        (held,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert f"{tag}-src 'sha256-{b64encode(sha256(held.encode()).digest()).decode()}'" in policy
    assert not page.of("link")
    assert all(str(a["href"]).startswith("#") for a in page.of("a"))
    assert {a["href"] for a in page.of("a")} <= {f"#{attributes.get('id')}" for _, attributes in page.elements}


def test_tasks_beyond_the_cards_are_in_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MAX_CARDS", 2)
    monkeypatch.setattr(report_index, "MAX_THUMBNAILS", 3)
    monkeypatch.setattr(report, "MAX_ROWS", 3)
    text = page_of(write_run(tmp_path / "run", count=6))
    page = Elements(text)
    assert [task["id"] for task in page.tasks] == ["task-0", "task-1"]
    assert sum("loading" in image for image in page.of("img")) == 3
    assert "The first 3 of 6 tasks; results.jsonl has all." in text
    assert re.findall(r"<td>(row \d)</td>", text) == ["row 0", "row 1", "row 2", "row 3", "row 4"]
    assert "4 more" in text
    assert "All 4 records are in results.jsonl; the table has 3 of them." in text


def test_frames_beyond_twelve_are_omitted_evenly(tmp_path: Path) -> None:
    text = page_of(write_run(tmp_path / "run", frames=23))
    (task,) = Elements(text).tasks
    stops = [int(k) for k in json.loads(str(task["data-stops"]))]
    assert len(stops) == 12
    assert stops == list(range(0, 221, 20))
    assert "11 of 23 images are omitted: see frames/0000_cat/" in text


def test_a_page_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "run", count=2, frames=5)
    sizes = [len(image_uri(file)) for file in (folder.path / "frames").rglob("*.png")]
    monkeypatch.setattr(report, "TOTAL_BYTES", 2 * 4 * min(sizes) - 1)  # four frames a task are too many
    monkeypatch.setattr(report, "FIGURE_BYTES", 500)
    Image.new("RGB", (600, 300)).save(folder.path / "figure.png")
    text = page_of(folder)
    stops = [json.loads(str(task["data-stops"])) for task in Elements(text).tasks]
    assert stops == [["0", "20", "40"]] * 2
    assert "figure.png is in the run folder." in text
    assert "2 of 5 images are omitted" in text


def test_large_images_are_embedded_as_jpeg(tmp_path: Path) -> None:
    noise = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0))
    for name, image in {"large": noise, "flat": torch.zeros(3, 128, 128)}.items():
        (tmp_path / f"{name}.png").write_bytes(encode_png(image))
    assert (tmp_path / "large.png").stat().st_size > EXACT_BYTES
    media_type, _, data = image_uri(tmp_path / "large.png").partition(";base64,")
    assert media_type == "data:image/jpeg"
    decoded = np.asarray(Image.open(BytesIO(b64decode(data))))
    assert decoded.shape == (128, 128, 3)
    assert abs(decoded.mean() / 255 - float(noise.mean())) < 0.01
    assert b64decode(image_uri(tmp_path / "flat.png").partition(";base64,")[2]) == (tmp_path / "flat.png").read_bytes()
    small = Image.open(BytesIO(b64decode(image_uri(tmp_path / "large.png", 32).partition(";base64,")[2])))
    assert small.size == (32, 32)


def test_a_failed_task_and_a_run_without_evidence_have_a_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    write_records(folder, [record_of(0, "cat", None)])
    shutil.rmtree(folder.path / "frames")
    text = page_of(folder)
    assert "broken cat" in text
    assert "1 image: 1 failed" in text
    assert "No evidence yet" in text


def test_the_page_contains_the_command_that_repeats_the_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a run")
    text = page_of(folder)
    assert f"lit-viz visualize --config '{folder.path / 'config.yaml'}' --out again" in html.unescape(text)
    for fact in ("0123abcd", "tiny", "23"):
        assert f">{fact}<" in text


def test_evidence_in_words() -> None:
    def similarity(spearman: float | None) -> dict[str, float | None]:
        return {"difference": 0.5, "spearman": spearman, "ssim": 0.5, "top_iou": 0.5}

    record = {"index": 0, "name": "dog", "method": "gradient", "target_name": None}
    agreement = {
        **record,
        "passed": False,
        "formula": {"difference": 1e-9, "passed": True},
        "delivered": {"difference": 0.5, "allowed": 0.1, "captum_float32": 0.05, "passed": False},
        "similarity": similarity(0.9),
        "controls": {"random map": similarity(0.2), "other": similarity(None)},
    }
    unchecked = [{**record, "unchecked": "not in Captum"}]
    content = {
        "files": {"read": 3, "fooled": 2, "wrong": ["dog"]},
        "trust": {"reasons": ["it is masked"], "tried": ["restarts"]},
        "captum": {"version": "1", "passed": False, "maps": [agreement], "unchecked": unchecked},
        "pictures": {"read": 2, "same": 2, "wrong": []},
        "transfer": {"judges": {}},
    }
    evidence = MixedEvidence.from_dict(content)
    assert plain(evidence) == content | {"pictures": {"read": 2, "same": 2, "wrong": [], "verdicts": []}} | {
        "transfer": {"judges": {}, "files": []}
    }
    judged = ClassImageRecord(
        index=3,
        name="dog",
        target_name="dog",
        metrics={"probability": 0.75, "rank": 1},
        top5=[],
        lr=0.1,
        judges={"other": {"probability": 0.5, "rank": 2}},
    )
    items = part_items(evidence)
    (held_out,) = ClassVisualizationPresentation().evidence_items(MixedEvidence(), [judged])
    texts = [item.text for item in items]
    for text in (
        "2 of 3 files fool the original network, re-read from the disk; not as recorded: dog.",
        "Do not trust: it is masked (checked: restarts).",
        "0 of 1 compared maps agree with Captum 1; 1 not in Captum.",
        "2 of 2 files classified as recorded by the original network, re-read from the disk.",
    ):
        assert text in texts
    assert [item.verdict for item in items] == ["failed", "failed", "no verdict", "failed", "passed"]
    assert items[3].rows[0]["most similar control"] == "0.2000"
    assert held_out.text == "Held-out networks: other predicts the class for 0 of 1."
    assert held_out.rows == [{"class": "3 dog, lr 0.1", "this network": "0.75 (rank 1)", "other": "0.50 (rank 2)"}]
    assert held_out.verdict == "no verdict"


def test_evidence_of_no_file_has_no_verdict() -> None:
    items = part_items(
        MixedEvidence(files=FileEvidence(read=0, wrong=[]), pictures=ImageEvidence(read=0, same=0, wrong=[]))
    )
    assert [item.verdict for item in items] == ["no verdict"] * 2
    assert [item.text for item in items] == ["No file was verified.", "No image was verified."]


def test_the_page_shows_verdicts_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MAX_EVIDENCE_ROWS", 1)
    folder = write_run(tmp_path / "run")
    counts = TransferCounts(right=3, fooled=2, mirrored=1, wrong=0)
    transfer = TransferEvidence(judges={"a<b": counts, "c": counts})
    folder.merge_evidence(MixedEvidence(files=FileEvidence(read=1, wrong=[]), transfer=transfer))
    text = page_of(folder)
    assert re.findall(r'aria-label="(passed|no verdict)"', text) == ["passed", "no verdict"]
    assert "<tr><td>a&lt;b</td><td>3</td><td>2</td><td>1</td><td>0</td></tr>" in text
    assert "1 more in evidence.json." in text


def test_runs_and_checks_write_the_report(smooth: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = lv.attack(smooth, torch.rand(2, 3, 16, 16), out=out, iterations=3, wandb="disabled")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert len(Elements(page).tasks) == 2
    assert "difference × 10" in page
    assert len(run.records) == 2
    assert page.count("before rounding to 8 bits") == 1
    (out / "report.html").unlink()
    lv.resume(out, smooth)
    assert (out / "report.html").exists()
    assert "Transfer was not measured" not in page
    lv.check(out, smooth)
    assert "Transfer was not measured" in (out / "report.html").read_text(encoding="utf-8")


_MOVE_SLIDER = """
  report.shown = [];
  const slider = document.querySelector("input[type=range]");
  for (const value of [slider.value, "0", "1"]) {
    slider.value = value;
    slider.dispatchEvent(new Event("input"));
    const seen = [...document.querySelectorAll(".stack img")].filter((image) => image.offsetWidth > 0);
    const circle = document.querySelector("circle");
    report.shown.push([
      seen.map((image) => image.alt), document.querySelector("output").textContent, slider.ariaValueText,
      circle.getAttribute("cx"), document.querySelector("line.mark").getAttribute("x2"),
      document.querySelector(".value").textContent, circle.getBoundingClientRect().width > 0,
    ]);
  }
"""


_FILTER = """
  report.shown = [];
  const select = document.querySelector("select[name=class]");
  for (const value of ["", "dog"]) {
    select.value = value;
    select.dispatchEvent(new Event("input", {bubbles: true}));
    const visible = (selector) => [...document.querySelectorAll(selector)].filter((e) => e.offsetWidth > 0).length;
    report.shown.push([visible(".thumbnails a"), visible(".task"), visible("article"), visible("#more tbody tr"),
                       document.querySelector(".filters output").textContent]);
  }
"""


@pytest.mark.slow
def test_the_index_filters_in_a_browser(
    tmp_path: Path, probe: Any, probe_page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "MAX_CARDS", 4)
    folder = write_run(tmp_path / "run", count=7, side=32)
    for index in (1, 5):
        forge(folder.path, index, target_name="dog")
    script = probe(_FILTER)
    allowed = f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}' "
    page = tmp_path / "probed.html"
    text = page_of(folder).replace("script-src ", allowed)
    page.write_text(text.replace("<body>", f"<body><script>{script}</script>"), encoding="utf-8")
    result = probe_page(page.as_uri(), tmp_path)
    assert result["shown"] == [[7, 4, 4, 3, "7 of 7"], [2, 1, 1, 1, "2 of 7"]]
    assert (result["errors"], result["blocked"], result["wide"]) == ([], [], False)


_MEASURE_TABLE = """
  const wide = document.querySelector("#evidence .wide");
  wide.style.width = "1195px";  // in a window of 1280 pixels
  report.shown = [wide.scrollWidth - wide.clientWidth];
"""


@pytest.mark.slow
def test_the_comparison_with_captum_fits_a_window_of_1280_pixels(tmp_path: Path, probe: Any, probe_page: Any) -> None:
    folder = write_run(tmp_path / "run", side=32)
    agreement = MapAgreement(
        index=0,
        name="chelsea_of_skimage",
        method="integrated_gradients",
        target_name="Egyptian cat vs. tabby",
        passed=True,
        family=SCALAR_TERMS,
        reference=CAPTUM,
        terms=128,
        recomputed=16,
        formula=Gate(difference=1.23e-9, passed=True),
        sum=Gate(difference=8.58e-8, allowed=1.82e-6, passed=True),
        delivered=Gate(difference=8.58e-8, allowed=1.82e-6, captum_float32=None, passed=True),
        similarity=Similarity(difference=1e-7, spearman=1.0, ssim=1.0, top_iou=1.0),
        controls={"random map": Similarity(difference=1.0, spearman=0.0154, ssim=0.1, top_iou=0.1)},
    )
    folder.merge_evidence(
        MixedEvidence(captum=CaptumEvidence(version="0.9.0", passed=True, maps=[agreement], unchecked=[]))
    )
    script = probe(_MEASURE_TABLE)
    allowed = f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}' "
    page = tmp_path / "probed.html"
    text = page_of(folder).replace("script-src ", allowed)
    page.write_text(text.replace("<body>", f"<body><script>{script}</script>"), encoding="utf-8")
    result = probe_page(page.as_uri(), tmp_path)
    assert (result["errors"], result["blocked"], result["shown"]) == ([], [], [0])


@pytest.mark.slow
def test_the_slider_selects_the_image_in_a_browser(tmp_path: Path, probe: Any, probe_page: Any) -> None:
    script = probe(_MOVE_SLIDER)
    allowed = f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}' "
    text = page_of(write_run(tmp_path / "run", name=EVIL, side=32)).replace("script-src ", allowed)
    page = tmp_path / "probed.html"
    page.write_text(text.replace("<body>", f"<body><script>{script}</script>"), encoding="utf-8")
    result = probe_page(page.as_uri(), tmp_path)
    assert result.pop("shown") == [
        [[f"{EVIL}, iteration 20"], "20", "iteration 20", "236", "236", "0.3", True],
        [[f"{EVIL}, iteration 0"], "0", "iteration 0", "34", "34", "0.1", True],
        [[f"{EVIL}, iteration 10"], "10", "iteration 10", "135", "135", "0.2", True],
    ]
    result["requests"] = [name for name in result["requests"] if not name.startswith("data:")]
    assert result == {"errors": [], "blocked": [], "broken": [], "requests": [], "wide": False}


@pytest.mark.parametrize("damage", ["text", "truncated", "size"])
def test_a_damaged_image_is_named(tmp_path: Path, damage: str) -> None:
    """Larger files are converted, and must be read."""
    good = encode_png(torch.rand(3, 128, 128))
    assert len(good) > EXACT_BYTES
    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + good[24:29]
    contents = {
        "text": b"no image" * EXACT_BYTES,
        "truncated": good[:EXACT_BYTES] + bytes(1000),
        "size": good[:12] + header + crc32(header).to_bytes(4, "big") + good[33:],  # 3,600 million pixels
    }
    path, other = tmp_path / "iter_000001.png", tmp_path / "other.png"
    path.write_bytes(contents[damage])
    other.write_bytes(good)
    with pytest.raises(lv.LitVizError, match=f"^{path} is no image that can be read"):
        image_uri(path)
    assert not _have_equal_pixels(path, other)


def test_all_methods_have_one_order_of_sections_and_settings_at_the_top(smooth: Any, tmp_path: Path) -> None:
    photographs = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    method = lv.attributions.SmoothGrad(sigma=0.2)
    lv.saliency(smooth, photographs, method=method, iterations=2, captum="none", out=tmp_path / "saliency")
    lv.attack(smooth, photographs, attack="pgd", iterations=2, seed=5, out=tmp_path / "attack")
    settings = {"saliency": "SmoothGrad (sigma 0.2", "attack": "PGD ("}
    for name, text in settings.items():
        page = (tmp_path / name / "report.html").read_text(encoding="utf-8")
        sections = re.findall(r'<section id="(\w+)">', page)
        assert sections[:3] == ["figure", "evidence", "images"]
        header = page.partition("</header>")[0]
        assert f"Smooth · {text}" in header
    assert "iterations 2 · seed 5" in header
    assert 'content: "scroll sideways' in page
    assert "overflow-x: auto" in page
