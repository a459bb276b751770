from __future__ import annotations

import html
import json
import re
import shutil
from base64 import b64decode, b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import lit_viz as lv
from lit_viz.images.reading import encode_png
from lit_viz.report import page as report
from lit_viz.report import tasks as report_tasks
from lit_viz.report.curves import curves
from lit_viz.report.evidence import evidence_section
from lit_viz.report.markup import Markup, element, joined
from lit_viz.report.page import write_report
from lit_viz.runs.writer import RunFolder
from lit_viz.types import key_of
from tests.browser import needs_browser, probe, told_by

EVIL = "<img src=x onerror=alert(1)>\"'&"


def write_run(path: Path, count: int = 1, frames: int = 3, name: str = "cat", side: int = 4) -> RunFolder:
    """Write a run as it lies on the disk, each frame of another grey."""
    folder = RunFolder.create(path)
    recorded = "recorded:\n  method: visualize\n  torch: 2.6.0\n  weights_sha256: 0123abcd\n"
    folder.write_config(f"iterations: 5\nclassifier:\n  name: tiny\n{recorded}")
    records, rows = [], ["task,iteration,metric,value\n"]
    for index in range(count):
        key = key_of(index, name)
        for frame in range(frames):
            png = encode_png(torch.full((3, side, side), (frame + 1) / (frames + 1)))
            for file in (path / "frames" / key / f"iter_{frame * 10:06d}.png", path / "images" / f"{key}.png"):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(png)
            rows.append(f"{key},{frame * 10},probability,{(frame + 1) / 10}\n")
        records.append(record_of(index, name, f"images/{key}.png"))
    (path / "metrics.csv").write_text("".join(rows))
    (path / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def record_of(index: int, name: str, file: str | None) -> dict[str, Any]:
    status, error = ("done", None) if file else ("failed", f"broken {name}")
    return {"index": index, "name": name, "status": status, "error": error, "file": file, "target_name": name}


def rows_of(records: Any) -> list[dict[str, str]]:
    return [{"class": record["name"], "place": f"row {record['index']}"} for record in records]


def page_of(folder: RunFolder) -> str:
    return write_report(folder, rows_of).read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_text_is_escaped_and_markup_is_not() -> None:
    assert element("p", "a < b & c") == "<p>a &lt; b &amp; c</p>"
    assert element("p", element("b", "x"), None) == "<p><b>x</b></p>"
    assert joined("<", Markup("<")) == "&lt;<"
    assert element("img", alt='"><b>', hidden=True, src=None) == '<img alt="&quot;&gt;&lt;b&gt;" hidden>'
    assert (
        element("svg", viewBox="0", class_="a", text_anchor="end")
        == '<svg viewBox="0" class="a" text-anchor="end"></svg>'
    )


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
    (task,) = Elements(page_of(folder)).of("article")
    assert json.loads(str(task["data-stops"])) == ["0", "10", "20", "the result"]


def test_curves_mark_the_places_of_the_slider() -> None:
    made = curves({"rank": [(0, 3.0), (10, 3.0)], "probability": [(0, 0.0), (5, 0.5), (10, 1.0)]}, [0, 10, 7, None])
    assert len(made) == 1  # what never changes is no curve
    (curve,) = Elements(made[0]).of("figure")
    first, last, unknown, none = json.loads(str(curve["data-places"]))
    assert (first, last) == ([34.0, 66.0, "0"], [236.0, 8.0, "1"])
    assert unknown is None
    assert none is None
    assert Elements(made[0]).of("polyline")[0]["points"] == "34,66 135,37 236,8"


def test_curves_side_by_side_have_the_same_iterations() -> None:
    short, long = curves({"gradient_norm": [(0, 1.0), (5, 0.0)], "logit": [(0, 0.0), (10, 1.0)]}, [5])[::-1]
    assert Elements(short).of("polyline")[0]["points"] == "34,8 135,66"
    assert Elements(long).of("polyline")[0]["points"] == "34,66 236,8"
    assert "from 1 at 0 to 0 at 5" in short


def test_a_curve_with_values_that_are_no_numbers_is_drawn_without_them() -> None:
    (made,) = curves({"loss": [(0, 1.0), (1, float("nan")), (2, float("inf")), (3, 0.0)]}, [0])
    assert Elements(made).of("polyline")[0]["points"] == "34,8 236,66"


def test_the_largest_value_is_told_in_levels_as_in_the_figures() -> None:
    (made,) = curves({"linf": [(0, 0.0), (1, 8 / 255)]}, [1])
    assert "L∞ (/255) over the iterations, from 0 at 0 to 8 at 1" in made
    (curve,) = Elements(made).of("figure")
    assert json.loads(str(curve["data-places"]))[0][2] == "8"


def test_figures_are_as_wide_as_they_are_printed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    Image.new("RGB", (600, 30)).save(folder.path / "figure.png", dpi=(300, 300))
    Image.new("RGB", (600, 30)).save(folder.path / "evidence.png")  # which doesn't say
    shown = {str(image["alt"]).split()[0]: image.get("width") for image in Elements(page_of(folder)).of("img")}
    assert (shown["figure.png"], shown["evidence.png"]) == ("192", None)


def test_cards_of_several_radii_are_told_apart(smooth: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options: dict[str, Any] = {"attack": "pgd", "radii": [1 / 255, 4 / 255], "iterations": 2, "wandb": "disabled"}
    lv.attack(smooth, torch.rand(1, 3, 16, 16), target=1, out=out, **options)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"<small>(.*?)</small>", page) == [f"towards banana, eps {level}/255" for level in (1, 4)]


def test_names_of_files_are_only_text(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", name=EVIL)
    folder.merge_evidence({"files": {"read": 1, "wrong": [EVIL]}, EVIL: 1})
    page = Elements(page_of(folder))
    assert not [attributes for _, attributes in page.found if any(name.startswith("on") for name in attributes)]
    assert all(str(image["src"]).startswith("data:image/") for image in page.of("img"))
    assert page.of("img")[0]["alt"] == f"{EVIL}, iteration 0"


def test_nothing_is_asked_for_outside_the_page(tmp_path: Path) -> None:
    text = page_of(write_run(tmp_path / "run"))
    page = Elements(text)
    policy = next(str(m["content"]) for m in page.of("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):
        (held,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert f"{tag}-src 'sha256-{b64encode(sha256(held.encode()).digest()).decode()}'" in policy
    assert not page.of("link")
    assert all(str(a["href"]).startswith("#") for a in page.of("a"))
    assert {a["href"] for a in page.of("a")} <= {f"#{attributes.get('id')}" for _, attributes in page.found}


def test_tasks_beyond_the_cards_are_in_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "CARDS", 2)
    monkeypatch.setattr(report_tasks, "_THUMBNAILS", 2)
    monkeypatch.setattr(report_tasks, "_ROWS", 3)
    text = page_of(write_run(tmp_path / "run", count=6))
    page = Elements(text)
    assert [task["id"] for task in page.of("article")] == ["task-0", "task-1"]
    assert sum("loading" in image for image in page.of("img")) == 2
    assert re.findall(r"<td>(row \d)</td>", text) == ["row 0", "row 1", "row 2", "row 3", "row 4"]
    assert "4 more" in text
    assert "All 4 records are in results.jsonl, 3 of them here." in text


def test_frames_beyond_twelve_are_left_out_evenly_and_it_is_said(tmp_path: Path) -> None:
    text = page_of(write_run(tmp_path / "run", frames=23))
    (task,) = Elements(text).of("article")
    stops = [int(k) for k in json.loads(str(task["data-stops"]))]
    assert len(stops) == 12
    assert stops == list(range(0, 221, 20))
    assert "11 more of 23 pictures: frames/0000_cat/" in text


def test_a_page_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "run", count=2, frames=5)
    sizes = [file.stat().st_size for file in (folder.path / "frames").rglob("*.png")]
    monkeypatch.setattr(report, "ROOM", 2 * 4 * min(sizes) - 1)  # four frames a task are too many
    monkeypatch.setattr(report, "FIGURES_ROOM", 500)
    (folder.path / "figure.png").write_bytes(b"\0" * 501)
    text = page_of(folder)
    stops = [json.loads(str(task["data-stops"])) for task in Elements(text).of("article")]
    assert stops == [["0", "20", "40"]] * 2
    assert "figure.png lies beside this page." in text
    assert "2 more of 5 pictures" in text


def test_a_failed_task_and_a_run_without_evidence_have_a_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder.path / "results.jsonl").write_text(json.dumps(record_of(0, "cat", None)) + "\n")
    shutil.rmtree(folder.path / "frames")
    text = page_of(folder)
    assert "broken cat" in text
    assert "1 image: 1 failed" in text
    assert "Nothing has been looked for yet" in text


def test_the_page_says_how_to_repeat_the_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a run")
    text = page_of(folder)
    assert f"lit-viz visualize --config '{folder.path / 'config.yaml'}' --out again" in html.unescape(text)
    assert "0123abcd" in text


def test_evidence_in_words() -> None:
    gates = {"formula": {"difference": 1e-9}, "delivered": {"difference": 0.5, "allowed": 0.1}}
    likeness = {
        "similarity": {"spearman": 0.9},
        "controls": {"random map": {"spearman": 0.2}, "other": {"spearman": None}},
    }
    map_ = {"name": "dog", "method": "gradient", "target_name": None, "passed": False, **gates, **likeness}
    evidence = {
        "files": {"read": 3, "fooled": 2, "wrong": ["dog"]},
        "trust": {"reasons": ["it is masked"], "tried": ["restarts"]},
        "captum": {"version": "1", "passed": False, "maps": [map_], "unchecked": [{"unchecked": "not in Captum"}]},
        "pictures": {"read": 2, "same": 2},
        "transfer": {"judges": {}},
        "more": 1,
    }
    judged = {
        "index": 3,
        "target_name": "dog",
        "lr": 0.1,
        "probability": 0.75,
        "rank": 1,
        "judges": {"other": {"probability": 0.5, "rank": 2}},
    }
    said = evidence_section(evidence, [judged])
    for sentence in (
        "3 files were read back from the disk",
        "shown to the original network: 2 of them fool it. Not as recorded: dog.",
        "Do not trust what resisted: it is masked.",
        "0 of 1 maps that were held against Captum 1 agree with it. 1: not in Captum.",
        "2 of 2 files, read back, are seen by the original network as their records say.",
        "More is in evidence.json: more.",
        "other sees the class in 0 of 1",
        "<td>3 dog, lr 0.1</td>",
        "<td>0.50 (rank 2)</td>",
        "<td>0.2000</td>",
    ):
        assert sentence in said
    assert re.findall(r'aria-label="(\w+)', said) == ["failed", "failed", "failed", "passed", "no", "no", "no"]


def test_where_there_was_nothing_to_look_at_nothing_has_passed() -> None:
    said = evidence_section({"files": {"read": 0, "wrong": []}, "pictures": {"read": 0, "same": 0}}, [])
    assert re.findall(r'aria-label="(\w+)', said) == ["no", "no"]
    assert "There was no file to look at again." in said
    assert "0 of 0" not in said


def test_runs_and_checks_write_the_report(smooth: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = lv.attack(smooth, torch.rand(2, 3, 16, 16), out=out, iterations=3, wandb="disabled")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert len(Elements(page).of("article")) == 2
    assert "difference × 10" in page
    assert len(run.results) == 2
    assert page.count("before it was rounded to 8 bits") == 2
    (out / "report.html").unlink()
    lv.resume(out, smooth)
    assert (out / "report.html").exists()
    assert "No other network was asked" not in page
    lv.check(out, smooth)
    assert "No other network was asked" in (out / "report.html").read_text(encoding="utf-8")


_MOVED = """
  told.shown = [];
  const slider = document.querySelector("input[type=range]");
  for (const value of [slider.value, "0", "1"]) {
    slider.value = value;
    slider.dispatchEvent(new Event("input"));
    const seen = [...document.querySelectorAll(".stack img")].filter((image) => image.offsetWidth > 0);
    const circle = document.querySelector("circle");
    told.shown.push([
      seen.map((image) => image.alt), document.querySelector("output").textContent, slider.ariaValueText,
      circle.getAttribute("cx"), document.querySelector("line.mark").getAttribute("x2"),
      document.querySelector(".value").textContent, circle.getBoundingClientRect().width > 0,
    ]);
  }
"""


@pytest.mark.slow
@needs_browser
def test_in_a_browser_the_slider_moves_the_picture(tmp_path: Path) -> None:
    script = probe(_MOVED)
    allowed = f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}' "
    text = page_of(write_run(tmp_path / "run", name=EVIL, side=32)).replace("script-src ", allowed)
    page = tmp_path / "probed.html"
    page.write_text(text.replace("<body>", f"<body><script>{script}</script>"), encoding="utf-8")
    told = told_by(page.as_uri(), tmp_path)
    assert told.pop("shown") == [
        [[f"{EVIL}, iteration 20"], "20", "iteration 20", "236", "236", "0.3", True],
        [[f"{EVIL}, iteration 0"], "0", "iteration 0", "34", "34", "0.1", True],
        [[f"{EVIL}, iteration 10"], "10", "iteration 10", "135", "135", "0.2", True],
    ]
    told["asked"] = [name for name in told["asked"] if not name.startswith("data:")]
    assert told == {"errors": [], "blocked": [], "broken": [], "asked": [], "wide": False}
