"""Two networks side by side: against a brute-force computation, and in a browser."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

import lit_viz as lv
from lit_viz.cli import main
from lit_viz.images.reading import read_photograph
from lit_viz.units import comparison
from lit_viz.units.comparison import layer_difference
from lit_viz.units.survey import TOP, LayerSurvey, survey
from lit_viz.zoo.networks import fashion_cnn
from lit_viz.zoo.photographs import photograph_file, photograph_names

LAYER = "relu2"  # the second convolution's activation of fashion_cnn


def zoo_files() -> list[str]:
    return [str(photograph_file(name)) for name in photograph_names("fashion")]


def of_activations(activations: NDArray[np.float32], layer: str = "a") -> LayerSurvey:
    """Return the survey of some activations ``(P, U)``."""
    order = np.argsort(-activations, axis=0, kind="stable")[:TOP].T
    top = np.full((activations.shape[1], TOP), -1)
    top[:, : order.shape[1]] = order
    return LayerSurvey(layer, activations, top, np.zeros((*top.shape, 2), np.float32))


def means_of(network: Any, files: list[str]) -> NDArray[np.float32]:
    """Return the activations of a layer of fashion_cnn by a plain forward of its module."""
    images = torch.stack([read_photograph(file, network.size, network.channels).pixels for file in files])
    module = network.original
    collected: list[torch.Tensor] = []
    handle = module.get_submodule(LAYER).register_forward_hook(lambda m, i, output: collected.append(output.clone()))
    with torch.no_grad():
        network.scores(images)
    handle.remove()
    return np.asarray(collected[0].mean((2, 3)))


def test_differences_equal_a_brute_force_computation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "_BLOCK", 60 * 7)  # seven units at a time
    files = zoo_files()
    networks = [lv.load_network(f"zoo/{name}") for name in ("fashion_cnn", "fashion_robust_cnn")]
    surveys = [survey(network, [LAYER], files, tmp_path / network.name)[0][LAYER] for network in networks]
    found = layer_difference(*surveys)
    own, other = (means_of(network, files) for network in networks)
    checked = 0
    for unit in range(own.shape[1]):
        a, b = own[:, unit], other[:, unit]
        if np.ptp(a) == 0 or np.ptp(b) == 0:
            expected = math.nan if np.ptp(a) == np.ptp(b) == 0 else 1.0
            assert found.photographs[unit] == pytest.approx(expected, nan_ok=True)
            assert found.activations[unit] == pytest.approx(expected, nan_ok=True)
            continue
        tops = [set(np.argsort(-values, kind="stable")[:TOP].tolist()) for values in (a, b)]
        assert found.photographs[unit] == pytest.approx(1 - len(tops[0] & tops[1]) / len(tops[0] | tops[1]))
        assert found.activations[unit] == pytest.approx(1 - spearmanr(a, b).statistic, abs=1e-4)
        checked += 1
    assert checked >= 30


def test_equal_surveys_differ_in_nothing_and_constant_units_are_marked() -> None:
    generator = np.random.default_rng(0)
    activations = generator.normal(size=(30, 4)).astype(np.float32)
    changed = activations.copy()
    changed[:, 1] *= -1
    changed[:, 2:] = 0.5
    activations[:, 3] = 0.0
    same = layer_difference(of_activations(activations[:, :2]), of_activations(activations[:, :2]))
    assert same.photographs.tolist() == [0, 0]
    assert same.activations == pytest.approx([0, 0])
    found = layer_difference(of_activations(activations), of_activations(changed))
    assert found.photographs == pytest.approx([0, 1, 1, math.nan], nan_ok=True)
    assert found.activations == pytest.approx([0, 2, 1, math.nan], nan_ok=True)


def test_missing_photographs_are_not_shared() -> None:
    few = np.asarray([[1.0], [2.0], [3.0]], np.float32)
    found = layer_difference(of_activations(few), of_activations(-few))
    assert found.photographs.tolist() == [0]  # all three in both
    with pytest.raises(lv.LitVizError, match="same units and photographs"):
        layer_difference(of_activations(few), of_activations(few[:2]))


@pytest.mark.slow
def test_both_networks_are_on_pages(tmp_path: Path, probe: Any, probe_page: Any) -> None:
    arguments = [
        "microscope", "zoo/fashion_cnn", "--layers", LAYER, "--channel", "2-4", "--compare", "zoo/fashion_robust_cnn",
        "--images", "zoo:fashion", "--out", str(tmp_path / "out"), "--iterations", "2",
    ]  # fmt: skip
    main(arguments)
    site = tmp_path / "out" / "site"
    assert len(list((site / "units").iterdir())) == len(list((site / "compared" / "units").iterdir())) == 3
    for page in (site / "units" / f"{LAYER}_2.html", site / "compared" / "units" / f"{LAYER}_2.html"):
        link = page.read_text().split(f'pairs/{LAYER}_2.html">')[0].split('href="')[-1]
        assert (page.parent / link / "pairs" / f"{LAYER}_2.html").is_file()
    script = probe(
        "const texts = () => [...document.querySelectorAll('.pairs a')].map((a) => a.textContent);"
        "report.by_photographs = texts();"
        "const sort = document.getElementById('sort');"
        "sort.value = 'activations'; sort.dispatchEvent(new Event('change'));"
        "report.by_activations = texts();"
        "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}));"
        "report.focused = document.activeElement.getAttribute('href');"
        "const search = document.getElementById('search');"
        "search.value = 'relu2 4'; search.dispatchEvent(new Event('input'));"
        "report.matches = texts();"
    )
    report = _opened(site / "compare.html", script, probe_page, tmp_path)
    by_photographs = [float(text.split("photographs ")[1].split(",")[0]) for text in report["by_photographs"]]
    by_activations = [float(text.split("activations ")[1]) for text in report["by_activations"]]
    assert len(by_photographs) == len(by_activations) == 3
    assert by_photographs == sorted(by_photographs, reverse=True)
    assert by_activations == sorted(by_activations, reverse=True)
    assert report["focused"].startswith(f"pairs/{LAYER}_")
    assert len(report["matches"]) == 1
    pair = _opened(site / "pairs" / f"{LAYER}_2.html", probe(""), probe_page, tmp_path)
    assert not pair["errors"]


def _opened(page: Path, script: str, probe_page: Any, scratch: Path) -> Any:
    """Open a page with a script that its policy would forbid, and return what it reports."""
    text = page.read_text()
    start = text.index('<meta http-equiv="Content-Security-Policy"')
    text = text[:start] + text[text.index(">", start) + 1 :]
    tested = page.with_name(f"tested_{page.name}")
    tested.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    report = probe_page(tested.as_uri(), scratch)
    tested.unlink()
    assert report["errors"] == []
    assert report["broken"] == []
    assert not report["wide"]
    assert all(request.startswith("file:") for request in report["requests"])
    return report


def test_networks_with_other_layers_are_rejected(tmp_path: Path) -> None:
    def compared(a: str, b: str, layers: str) -> None:
        lv.microscope(a, layers, "zoo:fashion", tmp_path / "out", compare=b, iterations=1)

    with pytest.raises(lv.LitVizError, match="has no blocks"):
        compared("zoo/fashion_vit", "zoo/fashion_cnn", "blocks.0")
    module = fashion_cnn(10)
    module.conv2 = torch.nn.Conv2d(32, 48, 4, stride=2, padding=1)
    module.fc = torch.nn.Linear(48 * 49, 100)
    own = lv.load_network(module.eval(), size=28, mean=0.0, std=1.0)
    with pytest.raises(lv.LitVizError, match=r"conv2 has 64 in .* and 48"):
        lv.microscope("zoo/fashion_cnn", "conv2", "zoo:fashion", tmp_path / "out", compare=own, iterations=1)
    assert not (tmp_path / "out").exists()
