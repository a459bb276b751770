"""Counts and messages of ``lit-viz attack`` about radii, files and classes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.errors import LitVizError
from lit_viz.launch.methods import METHODS, method_form
from lit_viz.methods import UniversalPerturbation
from lit_viz.networks import Network
from lit_viz.presentations.adversarial_example import AdversarialExamplePresentation
from lit_viz.runs.records import AdversarialRecord


def photographs(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    from lit_viz.images.reading import encode_png

    paths = [tmp_path / f"{name}.png" for name in ("a", "b")]
    for path, image in zip(paths, photographs(2), strict=True):
        path.write_bytes(encode_png(image))
    return [str(path) for path in paths]


@pytest.mark.parametrize(
    ("norm", "radii", "output"), [("l2", [0.1, 0.3], "0.1"), ("linf", [0.25 / 255, 0.1], "0.25/255")]
)
def test_radii_are_printed_in_their_unit_and_stored_as_evidence(
    norm: str, radii: list[float], output: str, smooth: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = smooth.scores(photographs()).argmax(1)
    out = tmp_path / "run"
    lv.attack(
        smooth,
        photographs(),
        label=labels,
        attack="pgd",
        norm=norm,
        eps=radii,
        iterations=12,
        out=out,
        wandb="disabled",
    )
    found = json.loads((out / "evidence.json").read_text())["robustness"]
    assert next(point["eps"] for point in found["points"]) == output
    assert found["norm"] == norm
    assert output in (out / "report.html").read_text()


@pytest.mark.filterwarnings("ignore:. skipped of 6 images")
def test_the_caption_names_several_targets(files: list[str]) -> None:
    """A photograph that is given twice, untargeted, has one."""
    net = lv.load_network("tests.support.networks:smooth_network", weights="none", size=16, mean=0.5, std=0.25)
    options: dict[str, Any] = {"attack": "pgd", "eps": [0.01, 0.1], "iterations": 3}
    twice = [files[0], *files]

    def texts(run: lv.Run) -> str:
        return " ".join(text.get_text() for text in run.figure().texts)

    assert "at any radius, fools" in texts(lv.attack(net, twice, **options))
    several = lv.attack(net, twice, label=[3, 3, 3], target=[0, 1, 2], **options)
    assert "at any radius and target, fools" in texts(several)
    (axes,) = (axes for axes in several.figure().axes if axes.get_ylabel())
    assert {text.get_text().split(" of ")[1] for text in axes.texts} == {"2"}


def test_a_universal_run_is_named_by_its_target(
    files: list[str], tmp_path: Path, lit_viz: Any, small_options: Any
) -> None:
    table, out = tmp_path / "list.csv", tmp_path / "run"
    table.write_text(f"file,label\n{files[0]},nonsense\n{files[1]},2\n")
    words = ["--attack", "universal", "--target", "1", "--iterations", "2", "--out", str(out)]
    lit_viz("attack", str(table), *small_options, *words)
    (record,) = (json.loads(line) for line in (out / "results.jsonl").read_text().splitlines())
    assert (record["name"], record["target"], record["target_name"]) == ("universal class 1", 1, "class 1")


def test_a_universal_run_keeps_a_part_of_the_residual_gradient(smooth: Network) -> None:
    form = method_form(METHODS["attack"], {"images": "x", "attack": "universal", "residual_gradient": 0.5})
    module = form.build_module(smooth)
    assert isinstance(module, UniversalPerturbation)
    assert module.residual_gradient == 0.5


def test_the_curve_of_an_image_ends_before_rounding(smooth: Network, tmp_path: Path) -> None:
    """The last logged values are those of the float image, not of its file."""
    x = photographs()
    labels, out = smooth.scores(x).argmax(1), tmp_path / "run"
    run = lv.attack(smooth, x, label=labels, attack="pgd", eps=0.9 / 255, iterations=4, out=out, wandb="disabled")
    for outcome in run.outcomes:
        assert outcome.record.l2 == outcome.record.linf == 0  # no other file lies so near
        last = outcome.curve("linf")[-1][1]
        assert 0 < last <= 0.9 / 255 * (1 + 1e-4)
        fooled = outcome.curve("margin")[-1][1] > 0
        assert fooled == outcome.record.success_float
        assert outcome.record.margin < 0


def test_images_of_a_class_form_one_row() -> None:
    def record(predicted: int, **more: Any) -> AdversarialRecord:
        named = {"predicted_before": predicted, "predicted_before_name": f"name {predicted}"}
        common = {"index": 0, "name": "x", "attack": "pgd", "label": 3, "label_name": "name 3"}
        return AdversarialRecord.from_dict({**common, **named, **more})

    rows = AdversarialExamplePresentation().summary([record(3), record(1), record(3), record(7, label=None)])
    assert [(row["class"], row["images"]) for row in rows] == [("name 3", "3"), ("-", "1")]


def test_a_map_is_of_a_class(smooth: Network) -> None:
    with pytest.raises(LitVizError, match="must be classes, got none"):
        lv.saliency(smooth, photographs(), target="none")


def test_occlusion_evaluates_every_window_for_any_number_of_iterations(smooth: Network) -> None:
    maps = [
        lv.saliency(smooth, photographs(1), target=0, method="occlusion", iterations=k, captum="none")
        for k in (None, 3)
    ]
    assert torch.equal(*(run.arrays for run in maps))


@pytest.mark.parametrize(
    "words",
    [
        ["saliency", "--method", "gradient,smoothgrad"],
        ["saliency", "--method", "rise"],
        ["attack", "--target", "predicted"],
    ],
)
def test_count_prints_the_cost_of_every_method(
    words: list[str], files: list[str], capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any
) -> None:
    lit_viz(words[0], files[0], *small_options, *words[1:], "--count")
    assert re.match(r"[12] images?, ", capsys.readouterr().out)


def test_none_is_a_value_in_python(smooth: Network) -> None:
    """``channel=None`` is one image of the whole layer, not of the eight channels of the configuration."""
    run = lv.visualize(smooth, [], layer="features.3", channel=None, iterations=1, views=1)
    assert [record["channel"] for record in run.records] == [None]
