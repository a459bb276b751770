"""The microscope: against a brute-force pass, known receptive fields, and in a browser."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.cli import main
from lit_viz.engine.step import Step
from lit_viz.images.reading import read_photograph
from lit_viz.networks import Network
from lit_viz.outputs import load_network
from lit_viz.runs.evidence import LayerNaturalness
from lit_viz.units import build, matching_layers
from lit_viz.units import pages as pages_module
from lit_viz.units import survey as survey_module
from lit_viz.units.effects import ClassEffects, crop_box, receptive_field
from lit_viz.units.pages import Crop, UnitPage, with_deviations
from lit_viz.units.site import write_site
from lit_viz.units.survey import TOP, channel_of, survey
from tests.support.marks import slow
from tests.support.networks import vit_network

SIDE = 48


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()


@pytest.fixture
def net() -> Network:
    return load_network(network(), size=SIDE, mean=0.5, std=0.5, labels=["ant", "bee", "cat", "dog", "elk"])


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for n in range(21):
        coarse = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{n:02d}.png")
    (folder / "20.png").write_bytes(b"no image")
    return folder


def plain_activations(paths: list[str], depth: int) -> Tensor:
    """Return the maps ``(P, U, H, W)`` after some layers, by the plain network."""
    images = torch.stack([read_photograph(path, (SIDE, SIDE)).pixels for path in paths])
    with torch.no_grad():
        return network()[:depth]((images - 0.5) / 0.5)


def test_the_survey_equals_a_brute_force_pass(net: Network, photographs: Path, tmp_path: Path) -> None:
    files = [str(path) for path in sorted(photographs.iterdir())]
    surveys, readable = survey(net, ["0", "3"], files, tmp_path / "activations")
    assert readable == files[:-1]
    for layer, depth in (("0", 1), ("3", 4)):
        maps = plain_activations(readable, depth)
        means = maps.mean((2, 3))
        found = surveys[layer]
        assert np.allclose(found.activations, means, atol=1e-5)
        assert found.top.tolist() == means.topk(TOP, dim=0).indices.T.tolist()
        for unit in range(maps.shape[1]):
            for index, place in zip(found.top[unit], found.places[unit], strict=True):
                largest = int(maps[index, unit].argmax())
                height, width = maps.shape[2:]
                assert place.tolist() == pytest.approx(
                    [(largest // width + 0.5) / height, (largest % width + 0.5) / width], abs=1e-6
                )


def test_features_of_tokens_are_surveyed_as_a_brute_force_pass_does(photographs: Path, tmp_path: Path) -> None:
    """The class token has no place, and is left out."""
    plain = vit_network(img_size=SIDE).eval()
    transformer = load_network(plain, size=SIDE, mean=0.5, std=0.5)
    files = [str(path) for path in sorted(photographs.iterdir())][:-1]
    surveys, _ = survey(transformer, ["blocks.1"], files, tmp_path)
    outputs: list[Tensor] = []
    images = torch.stack([read_photograph(path, (SIDE, SIDE)).pixels for path in files])
    with torch.no_grad(), plain.blocks[1].register_forward_hook(lambda *arguments: outputs.append(arguments[2])):
        plain((images - 0.5) / 0.5)
    tokens = outputs[0][:, 1:]
    means = tokens.mean(1)
    found = surveys["blocks.1"]
    assert np.allclose(found.activations, means, atol=1e-5)
    assert found.top.tolist() == means.topk(TOP, dim=0).indices.T.tolist()
    index = int(found.top[5, 0])
    row, column = divmod(int(tokens[index, :, 5].argmax()), SIDE // 8)
    assert found.places[5, 0].tolist() == pytest.approx([(row + 0.5) / 6, (column + 0.5) / 6], abs=1e-6)


def test_a_layer_of_tokens_has_pages(photographs: Path, tmp_path: Path) -> None:
    transformer = load_network(vit_network(img_size=SIDE).eval(), size=SIDE, mean=0.5, std=0.5)
    made = lv.microscope(transformer, "blocks.1", photographs, tmp_path / "out", channel="3,5", iterations=2)
    assert [page.unit for page in made.pages] == [3, 5]
    assert (made.index.parent / "units" / "blocks.1_5.html").exists()


@pytest.mark.parametrize(("layer", "side"), [("0", 3), ("2", 7)])
def test_receptive_fields_are_those_of_the_kernels(net: Network, layer: str, side: int) -> None:
    assert receptive_field(net, layer) == (side, side)


def test_a_pooled_layer_sees_the_whole_image(net: Network) -> None:
    assert receptive_field(net, "5") == (SIDE - 1, SIDE - 1) or receptive_field(net, "5") == (SIDE, SIDE)


@pytest.mark.parametrize(
    ("place", "box"), [((0.5, 0.5), (20, 20, 28, 28)), ((0.0, 1.0), (40, 0, 48, 8)), ((1.0, 0.0), (0, 40, 8, 48))]
)
def test_crops_are_moved_into_the_image(place: tuple[float, float], box: tuple[int, ...]) -> None:
    assert crop_box(place, (8, 8), (SIDE, SIDE)) == box


def test_raised_classes_have_positive_effects(net: Network) -> None:
    names = ["ant", "bee", "cat", "dog", "elk"]
    raised, lowered = pages_module._largest_changes(net, torch.tensor([-0.5, 0.25, 0.0, -0.1, 1.0]))
    assert (raised, lowered) == ([("elk", 1.0), ("bee", 0.25)], [("ant", -0.5), ("dog", pytest.approx(-0.1))])
    assert net.labels == tuple(names)
    assert pages_module._largest_changes(net, -torch.rand(5) - 0.1)[0] == []


def test_a_page_without_positive_activations_says_so(net: Network, photographs: Path, tmp_path: Path) -> None:
    net.original[0].bias.data.fill_(-100.0)
    made = lv.microscope(net, "0", photographs, tmp_path / "out", channel="0", iterations=1)
    assert made.pages[0].is_negative
    page = (made.index.parent / "units" / "0_0.html").read_text()
    assert "No photograph activates the unit above zero" in page
    assert page.count("<td>") % 4 == 0


@pytest.mark.slow
def test_images_in_memory_are_surveyed_as_their_files(net: Network, photographs: Path, tmp_path: Path) -> None:
    files = sorted(photographs.iterdir())[:-1]
    images = torch.stack([read_photograph(path, (SIDE, SIDE)).pixels for path in files])
    of_files = lv.microscope(net, "0", photographs, tmp_path / "files", channel="0", iterations=1)
    for name, given in {"tensor": images, "list": list(images), "mixed": [str(files[0]), *images[1:].numpy()]}.items():
        made = lv.microscope(net, "0", given, tmp_path / name, channel="0", iterations=1)
        assert np.array_equal(made.surveys["0"].activations, of_files.surveys["0"].activations)
    lv.microscope(net, "0", images, tmp_path / "tensor", channel="0", iterations=1)  # continued
    with pytest.raises(lv.LitVizError, match="must be in"):
        lv.microscope(net, "0", images + 2, tmp_path / "wrong", channel="0", iterations=1)
    assert not (tmp_path / "wrong").exists()


def test_a_microscope_is_one_line(net: Network, photographs: Path, tmp_path: Path) -> None:
    made = lv.microscope(net, "0", photographs, tmp_path / "out", channel="0", iterations=1)
    assert repr(made) == f"Microscope(1 unit of 1 layer: {made.index})"
    for part in (made.surveys["0"], made.pages[0]):
        assert "memmap" not in repr(part)
        assert "array" not in repr(part)


def test_class_effects_are_differences_of_logits(net: Network) -> None:
    images = torch.rand(3, 3, SIDE, SIDE)
    plain = network()
    with torch.no_grad():
        hidden = plain[:4]((images - 0.5) / 0.5)
        ablated = hidden.clone()
        ablated[:, 2] = 0.25
        expected = (plain[4:](hidden) - plain[4:](ablated)).mean(0)
    effects = ClassEffects(net, channel_of(net, "3"))
    rows = 0

    def count(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        nonlocal rows
        rows += len(arguments[0])

    with net.fast(["3"]).register_forward_pre_hook(count):
        assert torch.allclose(effects.of(2, dict(zip((7, 4, 9), images, strict=True)), 0.25), expected, atol=1e-5)
        assert rows == 6
        effects.of(1, {9: images[2], 4: images[1]}, 0.5)
        assert rows == 8  # the unchanged photographs are known


def test_layers_by_patterns(net: Network) -> None:
    assert matching_layers(net, "3,0") == ["0", "3"]
    assert matching_layers(net, "[0-2]") == ["0", "1", "2"]
    with pytest.raises(lv.LitVizError, match="no layer of Sequential matches 'blocks"):
        matching_layers(net, "blocks.*")


def test_pages_are_written_and_continued(
    net: Network, photographs: Path, tmp_path: Path, probe: Any, probe_page: Any
) -> None:
    made = lv.microscope(net, "0,3", photographs, tmp_path / "out", iterations=3)
    site = made.index.parent
    pages = sorted(path.name for path in (site / "units").iterdir())
    assert len(pages) == 6 + 4
    page = (site / "units" / "3_2.html").read_text()
    assert "unit 2" in page
    assert page.count("<figure>") == TOP
    records = (tmp_path / "out" / "layers" / "3" / "results.jsonl").read_text()
    again = lv.microscope(net, "0,3", photographs, tmp_path / "out", iterations=3)
    assert (tmp_path / "out" / "layers" / "3" / "results.jsonl").read_text() == records
    assert torch.equal(again.runs["3"].images, made.runs["3"].images)
    index = made.index.read_text()
    script = probe(
        "report.links = document.querySelectorAll('.grid a').length;"
        "const search = document.getElementById('search');"
        "search.value = '3 2'; search.dispatchEvent(new Event('input'));"
        "report.matches = document.querySelectorAll('.grid a').length;"
        "search.value = ''; search.dispatchEvent(new Event('input'));"
        "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}));"
        "report.focused = document.activeElement.getAttribute('href');"
    )
    start = index.index('<meta http-equiv="Content-Security-Policy"')
    open_index = index[:start] + index[index.index(">", start) + 1 :]
    tested = site / "tested.html"
    tested.write_text(open_index.replace("</body>", f"<script>{script}</script></body>"))
    report = probe_page(tested.as_uri(), tmp_path)
    assert report["errors"] == []
    assert report["broken"] == []
    assert not report["wide"]
    assert report["links"] == 10
    assert report["matches"] >= 1
    assert report["focused"].startswith("units/0_0")
    assert all(request.startswith("file:") for request in report["requests"])


def test_the_command_counts_and_rejects(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "microscope",
        "zoo/fashion_cnn",
        "--layers",
        "*",
        "--images",
        str(photographs),
        "--out",
        str(tmp_path),
    ]
    main([*words, "--count", "--channel", "0"])
    assert "evaluations" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*words, "--chanels", "3"])
    assert "unrecognized option --chanels" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["microscope", "zoo/fashion_cnn"])
    assert "requires --layers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("own", "function"), [slow(survey_module, "_read"), (Step, "finish"), slow(pages_module, "_crops")]
)
def test_an_interrupted_command_names_itself(
    own: Any,
    function: str,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = getattr(own, function)

    def interrupted(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    words = [
        "microscope",
        "zoo/fashion_cnn",
        "--layers",
        "relu1",
        "--images",
        str(photographs),
        "--channel",
        "0-1",
    ]
    words += ["--iterations", "1", "--out", str(tmp_path / "my units")]
    with monkeypatch.context() as patched:
        patched.setattr(own, function, interrupted)
        with pytest.raises(SystemExit) as ended:
            main(words)
    assert ended.value.code == 130
    message = capsys.readouterr().err.splitlines()[-1]
    assert shlex.split(message.partition("; continue with: lit-viz ")[2]) == words
    main(words)
    assert (tmp_path / "my units" / "site" / "index.html").exists()


def test_the_data_of_the_index_is_small(net: Network, photographs: Path, tmp_path: Path) -> None:
    made = lv.microscope(net, "0", photographs, tmp_path / "out", iterations=1)
    text = (made.index.parent / "data.js").read_text().removeprefix("const UNITS = ").rstrip(";\n")
    rows = json.loads(text)
    assert [row[1] for row in rows] == list(range(6))
    assert 2000 * len(text) / len(rows) < 2_000_000


def test_progress_counts_photographs_and_pages(
    net: Network,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(build, "_STEP", 0.0)
    lv.microscope(net, "0", photographs, tmp_path / "out", channel="0-2", iterations=1, progress=True)
    written = "".join(capsys.readouterr())
    assert re.search(r"\d+ of \d+ photographs, \d+ s left", written)
    for done in (1, 2, 3):
        assert re.search(rf"{done} of 3 pages, \d+ s left", written)


@pytest.mark.parametrize(
    ("activations", "synthetic", "flag"),
    [
        ([0.0, 0.0, 0.0], 0.0, "silent"),
        ([0.0, 0.1, 0.5], 5.1, "silent"),
        ([0.0, 0.1, 0.5], 4.9, ""),
        ([-3.0, -2.0, -1.0], 7.9, ""),  # of a layer without an activation function: above the mean
        ([-3.0, -2.0, -1.0], 8.1, "silent"),
        ([-3.0, -3.0, -3.0], 8.0, "silent"),
    ],
)
def test_silent_units_are_flagged(activations: list[float], synthetic: float, flag: str) -> None:
    page = UnitPage("a", 0, "", "", synthetic, np.asarray(activations, np.float32), [], [], [])
    assert page.flag == flag


def test_units_are_compared_with_the_others_of_their_layer() -> None:
    pages = []
    activations = np.asarray([0.0, 0.5, 1.0], np.float32)
    crops = [Crop("", "", 1.0), Crop("", "", 0.5)]
    for unit, half in enumerate([0.38, 0.39, 0.4, 0.41, 0.42, 0.37, 0.43, 0.4, 0.41, 0.39, 0.7, 0.2]):
        figure = LayerNaturalness(layer="a", value=0.5 + 0.01 * (unit % 4), low=0.0, high=1.0, is_decidable=True)
        if unit == 3:
            figure = LayerNaturalness(layer="a", value=-9.0, low=-9.5, high=-8.0, is_decidable=True)
        pages.append(UnitPage("a", unit, "", "", 2.0, activations, crops, [], [], [figure], half=half))
    pages.append(UnitPage("a", 12, "", "", 2.0, activations - 1, crops, [], [], half=0.9))
    pages.append(UnitPage("a", 13, "", "", 0.3, activations, crops, [], [], half=0.9))
    found = with_deviations(pages)
    assert [page.unit for page in found if page.flag == "unnatural"] == [3, 10]
    others = np.array([page.half for page in pages[:12] if page.unit != 10], float)
    spread = 1.4826 * np.median(np.abs(others - np.median(others)))
    assert found[10].half_deviation == pytest.approx((0.7 - np.median(others)) / spread)
    assert [page.unit for page in found if page.half_deviation is None] == [12, 13]
    assert [page.half_deviation for page in with_deviations(pages[:8])] == [None] * 8


@pytest.mark.parametrize(
    ("held", "deviation", "flag"),
    [
        (0.9, -1.0, ""),
        (0.9, None, ""),
        (0.9, -20.0, "unnatural"),
        (0.9, 20.0, ""),
        (0.4, 0.0, "silent"),
        (-3.0, -20.0, "silent"),
    ],
)
def test_flags_of_silent_channels_and_of_the_null_distribution(held: float, deviation: float | None, flag: str) -> None:
    activations = np.asarray([0.0, 0.5, 1.0], np.float32)
    page = UnitPage("a", 0, "", "", 1.0, activations, [], [], [], held=held, deviation=deviation)
    assert page.flag == flag


@pytest.mark.slow
def test_units_that_no_photograph_activates_are_flagged_on_pages(
    photographs: Path, tmp_path: Path, probe: Any, probe_page: Any
) -> None:
    module = network()
    with torch.no_grad():
        module[0].weight[2] *= 40  # a strong edge, which smooth photographs lack
        module[0].bias[2] = -60.0
        module[0].weight[4] = 0.0
        module[0].bias[4] = -1.0
    net = load_network(module, size=SIDE, mean=0.5, std=0.5, labels=["ant", "bee", "cat", "dog", "elk"])
    made = lv.microscope(net, "1", photographs, tmp_path / "out", iterations=20)
    site = made.index.parent
    flagged = [unit for unit in range(6) if "Flagged as silent" in (site / "units" / f"1_{unit}.html").read_text()]
    assert flagged == [2, 4]
    script = probe(
        "flaggedOnly.checked = true; flaggedOnly.dispatchEvent(new Event('change'));"
        "report.shown = [...document.querySelectorAll('.grid a')].map((a) => a.textContent);"
    )
    text = made.index.read_text()
    assert "flagged only (2)" in text
    start = text.index('<meta http-equiv="Content-Security-Policy"')
    text = text[:start] + text[text.index(">", start) + 1 :]
    tested = site / "tested.html"
    tested.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    report = probe_page(tested.as_uri(), tmp_path)
    assert report["errors"] == []
    assert report["shown"] == ["2 silent", "4 silent"]


def page_text(page: UnitPage, tmp_path: Path) -> str:
    """Return the text of the page of a unit without tags, in one line."""
    index = write_site(tmp_path / "site", "net", "1 unit", [page])
    text = re.sub(r"<[^>]+>", " ", (index.parent / "units" / page.page).read_text())
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("half", "deviation", "words"),
    [
        (
            0.41,
            None,
            "the share of the activation that the picture reaches at half its contrast (0.41) is not decidable.",
        ),
        (None, None, "the picture reaches at half its contrast is not decidable."),
        (0.41, 1.25, "the picture reaches at half its contrast (0.41) lies at +1.2."),
    ],
)
def test_sentences_about_the_share_at_half_contrast(
    half: float | None, deviation: float | None, words: str, tmp_path: Path
) -> None:
    figure = LayerNaturalness(layer="a", value=0.5, low=0.4, high=0.6, is_decidable=True)
    activations = np.asarray([0.0, 1.0], np.float32)
    page = UnitPage("a", 0, "", "", 1.0, activations, [], [], [], [figure], half=half, half_deviation=deviation)
    assert words in page_text(page, tmp_path)


def test_gray_pictures_are_explained(photographs: Path, tmp_path: Path) -> None:
    module = network()
    with torch.no_grad():
        module[0].weight[1] = torch.tensor([-1.0, 0.0, 1.0])  # an edge, which uniform images lack
        module[0].bias[1] = -2.5
    net = load_network(module, size=SIDE, mean=0.5, std=0.5, labels=["ant", "bee", "cat", "dog", "elk"])
    made = lv.microscope(net, "1", photographs, tmp_path / "out", channel="0-1", iterations=3)
    assert made.surveys["1"].activations[:, 1].max() > 0
    assert [bool(page.gray) for page in made.pages] == [False, True]
    units = made.index.parent / "units"
    assert "Gray: the unit does not respond to the nearly uniform image" in (units / "1_1.html").read_text()
    assert "Gray:" not in (units / "1_0.html").read_text()
    rows = json.loads((made.index.parent / "data.js").read_text().removeprefix("const UNITS = ").rstrip(";\n"))
    assert [row[5] for row in rows] == ["", "gray"]
    assert "flagged only (1)" in made.index.read_text()


@pytest.mark.slow
def test_two_thousand_units_are_listed_at_once(tmp_path: Path, probe: Any, probe_page: Any) -> None:
    pages = []
    classes = [("Staffordshire bullterrier", 0.5)] * 5
    for unit in range(2000):
        name = f"blocks.0_{unit}"
        activations = np.zeros(3, np.float32)
        page = UnitPage("blocks.0", unit, f"{name}.png", f"{name}.jpg", 1.0, activations, [], classes, classes)
        pages.append(page)
    index = write_site(tmp_path / "site", "net", "2,000 units", pages)
    assert (index.parent / "data.js").stat().st_size < 500_000
    for page in pages[:500]:
        Image.new("RGB", (8, 8)).save(index.parent / page.thumbnail)
    script = probe(
        "const units = () => document.querySelectorAll('.grid a').length;"
        "report.units = units();"
        "report.images = document.images.length;"
        "search.value = 'blocks.0 199'; search.dispatchEvent(new Event('input'));"
        "report.matches = units();"
    )
    text = index.read_text()
    start = text.index('<meta http-equiv="Content-Security-Policy"')
    text = text[:start] + text[text.index(">", start) + 1 :]
    tested = index.with_name("tested.html")
    tested.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    report = probe_page(tested.as_uri(), tmp_path)
    assert report["errors"] == []
    assert report["broken"] == []
    assert not report["wide"]
    assert report["units"] == 2000
    assert report["images"] < 500
    assert report["matches"] == 11  # 199, 1990 to 1999
