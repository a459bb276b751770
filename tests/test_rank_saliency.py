"""The ranking of saliency methods: scores are kept, each once, and the page has its tables."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_viz.attributions import ATTRIBUTIONS, Attribution
from lit_viz.networks import FrozenNetwork, Network
from lit_viz.zoo import NAMES, WEIGHTS, planted_pairs
from scripts import rank_saliency
from scripts.rank_saliency import (
    KINDS,
    PAGE,
    SETTINGS,
    Scores,
    closed_table,
    gains_table,
    is_available,
    parts_of,
    report,
)
from scripts.rankings.ground_truth import GroundTruth, Measurement, method_at
from scripts.rankings.pairs import TRUTHS, pairs_table, true_values


def test_scores_are_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--tests", "removal", "--networks", "fashion_cnn", "--methods", "gradient", "occlusion", "legrad"]
    words += ["--budgets", "1", "16", "--images", "2", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["rank_saliency.py", *words])
    rank_saliency.main()
    printed = capsys.readouterr().out
    assert "legrad" in printed
    assert "not defined: LeGrad requires attention maps" in printed
    assert "| `gradient` |" in printed
    scores = (tmp_path / "scores.csv").read_text().splitlines()
    assert len(scores) == 1 + 2 * 3  # occlusion needs more than one evaluation
    rank_saliency.main()
    assert (tmp_path / "scores.csv").read_text().splitlines() == scores
    assert len(Scores(tmp_path / "scores.csv").measurements) == 6


def measurements() -> list[Measurement]:
    found = []
    for image in range(6):
        for method, score in (("gradient", 0.25), ("rise", 0.75)):
            for budget in (16, "default"):
                key = "planted", "planted_cnn", method, budget
                found.append(Measurement(*key, image, 0, score + image / 1000))  # type: ignore[arg-type]
    return found


def test_the_best_method_is_the_first_row() -> None:
    text = report(measurements())
    assert text.index("`rise`") < text.index("`gradient`")
    assert "| `gradient` | 0.25 (0.25-0.25) | 0.25 (0.25-0.25) |" in text
    assert "Networks: planted_cnn. Seed: 0." in text
    assert "16: 6 images, Kendall's tau between their halves 1.00." in text
    contradicting = [m for m in measurements() if m.image % 2 or m.method == "gradient"]
    contradicting += [Measurement("planted", "planted_cnn", "rise", 16, image, 0, 0.1) for image in (0, 2, 4)]
    assert "halves -1.00: the order is noise." in report([m for m in contradicting if m.budget == 16])


def test_the_page_begins_with_methods_and_their_commands() -> None:
    beginning, _, rest = PAGE.read_text(encoding="utf-8").partition("\n## ")
    rows = re.findall(r"^\| .* \| `(\w+)` \| `lit-viz saliency \S+ --method (\w+)\b[^`]*` \|$", beginning, re.MULTILINE)
    assert len(rows) == 7
    assert len(beginning.splitlines()) <= 25
    for method, named in rows:
        assert method == named
        assert method in ATTRIBUTIONS
    assert not re.search(r"\d\.\d", beginning)
    assert re.search(r"\d\.\d", rest)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page with places for the tables."""
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- closed -->\nold\n<!-- end of closed -->\nb\n<!-- tables -->\n<!-- end of tables -->\nc\n")
    monkeypatch.setattr(rank_saliency, "PAGE", page)
    monkeypatch.setattr(rank_saliency, "closed_table", lambda: "| closed |")
    return page


def test_tables_and_figure_are_written(page: Path, tmp_path: Path) -> None:
    rank_saliency.write(measurements(), tmp_path)
    text = page.read_text()
    assert text.startswith("a\n<!-- closed -->\n\n| closed |\n\n<!-- end of closed -->\nb\n")
    assert "### CNN, planted evidence" in text
    assert text.endswith("<!-- end of tables -->\nc\n")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_tables_that_were_not_measured_are_kept(page: Path, tmp_path: Path) -> None:
    rank_saliency.write(measurements(), tmp_path)
    before = page.read_text()
    others = [Measurement("removal", "efficientnet_lite0", "rise", "default", image, 0, 0.5) for image in range(4)]
    rank_saliency.write(others, tmp_path)
    both = page.read_text()
    assert both.index("### CNN, planted evidence") < both.index("### ImageNet CNN, removal")
    rank_saliency.write([Measurement("removal", "efficientnet_lite0", "rise", "default", 0, 0, 0.25)], tmp_path)
    assert "| `rise` | 0.25 (0.25-0.25) |" in page.read_text()
    assert "| `rise` | 0.50 (0.50-0.50) |" not in page.read_text()
    planted = before.partition("### CNN, planted evidence")[2].partition("<!--")[0]
    assert planted.strip() in both
    assert planted.strip() in page.read_text()


def test_a_map_of_one_evaluation_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed, saliency_maps = list[int | None](), rank_saliency.saliency_maps

    def counted(
        method: Attribution, network: Network, truth: GroundTruth, evaluations: int | None, seed: int
    ) -> Tensor:
        computed.append(evaluations)
        return saliency_maps(method, network, truth, evaluations, seed)

    monkeypatch.setattr(rank_saliency, "saliency_maps", counted)
    setting = SETTINGS["planted"][0]("planted_cnn", 2, 0, ())
    scores = Scores(tmp_path / "scores.csv")
    rank_saliency.measure(setting, (1, 16, "default"), ["gradient", "smoothgrad", "occlusion"], 0, scores)
    assert computed == [1, 1, 16, None, 37, None]  # gradient, SmoothGrad, and occlusion, which has no map of one
    assert len(scores.measurements) == 2 * 8
    for budget in (1, 16, "default"):
        assert scores.count(setting, "gradient", budget, 0) == 2  # type: ignore[arg-type]
    assert scores.count(setting, "occlusion", "default", 0) == 2


def test_methods_with_values_per_band_name_the_right_band(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setting = SETTINGS["bands"][0]("planted_bands", 3, 0, ())
    scores = Scores(tmp_path / "scores.csv")
    rank_saliency.measure(setting, (1, 16), ["feature_ablation", "occlusion"], 0, scores)
    assert [(m.method, m.budget, m.score) for m in scores.measurements] == [("feature_ablation", 16, 1.0)] * 3
    assert "the attribution must have a value per band, got 1 channel" in capsys.readouterr().out
    assert "### CNN of 13 bands, planted evidence: share of the images with the right band" in report(
        scores.measurements
    )


def test_pairs_are_measured_once_with_their_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = Scores(tmp_path / "scores.csv")
    rank_saliency.measure_pairs(["gradient", "occlusion", "legrad"], 3, 0, scores)
    assert "LeGrad requires attention maps" in capsys.readouterr().out
    assert len(scores.measurements) == 2 * 3 * 3 + 2 * 9 * 3  # values of the truth, and of two methods
    rank_saliency.measure_pairs(["gradient"], 3, 0, scores)
    assert len(scores.measurements) == 72
    rows = {}
    for line in pairs_table(scores.measurements).splitlines()[2:6]:
        name, *cells = line.strip("| ").split(" | ")
        rows[name] = [float(cell) for cell in cells if cell.strip()]
    shapley, removed = (rows[name] for name in TRUTHS)
    assert shapley == pytest.approx([1, 1, 0], abs=0.1)
    assert removed == pytest.approx([1, 0, -1], abs=0.1)
    occlusion = rows["`occlusion`"][2::3]
    assert occlusion == pytest.approx([1, 0, 0], abs=0.2)  # as without the glyph; negative values are not displayed
    assert min(rows["`gradient`"]) > 0


def test_true_values_of_pairs_are_those_of_their_relations() -> None:
    shapley, removed = true_values(planted_pairs(range(100), seed=5))
    torch.testing.assert_close(shapley.mean(0), torch.tensor([0.5, 0.5, 0.0]), atol=0.02, rtol=0)
    torch.testing.assert_close(removed.mean(0), torch.tensor([1.0, 0.0, -1.0]), atol=0.02, rtol=0)


def test_gains_are_of_the_same_images_and_of_files_of_weights(tmp_path: Path) -> None:
    weights = tmp_path / "planted_cnn_3.safetensors"
    shutil.copy(WEIGHTS / "planted_cnn.safetensors", weights)
    scores = Scores(tmp_path / "scores.csv")
    methods = ["gradient", "input_x_gradient", "input_x_gradient+mean"]
    rank_saliency.measure_gains([str(weights)], methods, 4, 0, scores)
    assert {(m.test, m.network) for m in scores.measurements} == {("gain planted", "planted_cnn_3")}
    unpaired = [m for m in scores.measurements if m.method != "gradient" or m.image > 0]
    unpaired += [Measurement("gain planted", "planted_cnn", "input_x_gradient", "default", 0, 0, 99.0)]
    lines = gains_table(unpaired).splitlines()
    by_method: dict[str, list[float]] = {name: [] for name in methods}
    for measurement in scores.measurements:
        if measurement.image > 0:
            by_method[measurement.method].append(measurement.score)
    gradient, plain, mean = (sum(by_method[name]) / 3 for name in methods)
    assert f"| `gradient` | {gradient:.2f} |  |" in lines[2]
    rows = {line.split("`")[1]: line for line in lines[2:]}
    assert f"| {plain:.2f}, {plain - gradient:+.2f} (" in rows["input_x_gradient"]
    assert f"| {mean:.2f}, {mean - gradient:+.2f} (" in rows["input_x_gradient+mean"]
    assert mean > plain
    assert report(scores.measurements) == ""


@pytest.mark.parametrize("name", ["gradient", "libra_gradient", "hires_cam+libra"])
def test_disconnected_transformers_have_maps_by_the_rule(name: str) -> None:
    setting = SETTINGS["cells"][0]("fashion_vit", 2, 0, ())
    given = method_at(name, "default", (1, 56, 56), setting.baselines, setting.layer)
    assert given is not None
    maps = rank_saliency.saliency_maps(given[0], setting.loaded, setting.truth)
    least = 0.8 if name.startswith("hires_cam") else 1
    assert min(setting.score(n, saliency) for n, saliency in enumerate(maps)) >= least


def test_the_page_has_the_closed_forms_of_today() -> None:
    """Numbers of sampled coalitions may differ in the last digits between processors."""
    written = PAGE.read_text(encoding="utf-8").partition("<!-- closed -->\n\n")[2].partition("\n\n<!--")[0].splitlines()
    expected = closed_table().splitlines()
    assert len(written) == len(expected)
    assert [line for line in expected if line not in written and "kernel_shap" not in line] == []


def test_every_network_is_of_a_kind() -> None:
    used = {name for _, networks in SETTINGS.values() for name in networks}
    assert used <= KINDS.keys()
    assert set(NAMES) <= KINDS.keys()
    assert set(ATTRIBUTIONS) >= {"gradient"}


@pytest.mark.parametrize("name", SETTINGS["cells"][1])
def test_features_and_head_are_the_network(name: str) -> None:
    if not is_available(name):
        pytest.skip(f"the weights of {name} are not installed")
    network = rank_saliency.network(name)
    features, head = parts_of(name, network.original)
    x = torch.rand(2, network.channels, *network.size)
    with torch.no_grad():
        maps = features(x)
        assert maps.ndim == 4
        torch.testing.assert_close(head(maps), network.original(x))
    assert isinstance(network.fast(), FrozenNetwork)
