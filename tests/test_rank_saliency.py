"""The ranking of saliency methods: scores with known results, each kept once; the page; errors of sampled maps."""

from __future__ import annotations

import math
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pytest
import torch
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.attributions import ATTRIBUTIONS, Attribution, GradCAM, Gradient, Occlusion
from lit_viz.errors import LitVizError
from lit_viz.evidence.saliency.metrics import random_map
from lit_viz.images.rendering import rank_correlation
from lit_viz.networks import FrozenNetwork, Network
from lit_viz.outputs import load_network
from lit_viz.zoo import NAMES, WEIGHTS, planted_bands, planted_pairs
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
from scripts.rankings.ground_truth import (
    BUDGETS,
    DisconnectedCells,
    GroundTruth,
    Measurement,
    agreement_of_halves,
    band_accuracy,
    disconnected_truth,
    kendall_tau,
    mass_accuracy,
    method_at,
    mosaics,
    planted_truth,
    rank_accuracy,
    removal_score,
    saliency_maps,
    separated,
    stitched,
    summarize,
)
from scripts.rankings.pairs import TRUTHS, pairs_table, true_values
from tests.support.marks import slow
from tests.support.runs import SHARED
from tests.support.scripts import run_script


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
    beginning, _, rest = PAGE.with_name("which_map.md").read_text(encoding="utf-8").partition("\n## ")
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


@pytest.mark.slow
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


REGION = torch.zeros(4, 5, dtype=torch.bool)
REGION[1:3, 1:3] = True


def test_rank_accuracy() -> None:
    saliency = torch.zeros(4, 5)
    saliency[1, 1], saliency[2, 2], saliency[0, 0], saliency[3, 4] = 4, 3, 2, 1
    assert rank_accuracy(saliency, REGION) == 0.5
    assert rank_accuracy(REGION.float(), REGION) == 1
    assert rank_accuracy(-REGION.float(), REGION) == 0
    assert rank_accuracy(torch.ones(4, 5), REGION) == pytest.approx(4 / 20)
    tied = REGION.float()
    tied[1, 1] = 2
    tied[0] = 1  # three of the region and five others share three places
    assert rank_accuracy(tied, REGION) == pytest.approx((1 + 3 * 3 / 8) / 4)
    assert rank_accuracy(saliency, REGION, 3) == 0.5
    assert rank_accuracy(saliency, REGION, 2) == 0.5
    assert rank_accuracy(saliency, REGION, 1) == 0.25


def test_mass_accuracy() -> None:
    saliency = torch.zeros(4, 5)
    saliency[1, 1], saliency[0, 0], saliency[3, 3] = 3, 1, -5
    assert mass_accuracy(saliency, REGION) == 0.75
    assert mass_accuracy(torch.zeros(4, 5), REGION) == pytest.approx(0.2)


class Brightness(nn.Module):
    """Logits of the two classes: twenty times the mean of the left, and of the right half."""

    def forward(self, x: Tensor) -> Tensor:
        return 20 * torch.stack([half.mean((1, 2, 3)) for half in x.chunk(2, 3)], 1)


@pytest.fixture(scope="module")
def brightness() -> Network:
    return load_network(Brightness(), labels=["left", "right"], mean=0.0, std=1.0, size=8)


def test_removal_prefers_the_pixels_that_count(brightness: Network) -> None:
    image = torch.zeros(3, 8, 8)
    image[:, 2:6, :4] = 1
    bright = (image[0] > 0).float()
    scores = [removal_score(brightness, image, 0, saliency) for saliency in (bright, torch.rand(8, 8), 1 - bright)]
    assert scores[0] > scores[1] > scores[2]


def halves(count: int = 12) -> Tensor:
    """Return images that are bright on the left and right in turn, with noise."""
    images = 0.2 * torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for number, image in enumerate(images):
        image[:, :, 4 * (number % 2) :][:, :, :4] += 0.6
    return images


def test_mosaics_have_the_class_in_their_region(brightness: Network) -> None:
    """Two classes are too few for four cells, and those of a low probability are not used."""
    with pytest.raises(LitVizError, match=r"4 classes with a probability of at least 0\.8, got 2"):
        mosaics(brightness, halves(), 3, 2)
    truth = mosaics(brightness, halves(), 6, 1)
    assert truth.images.shape == (6, 3, 8, 8)
    assert torch.equal(brightness.scores(truth.images).argmax(1), truth.targets)
    assert truth.regions.all()
    with pytest.raises(LitVizError, match="got 0"):
        mosaics(brightness, halves() / 20, 3, 1)


def test_parts_of_a_mosaic_in_reading_order() -> None:
    parts = torch.arange(8.0)[:, None, None, None].expand(8, 2, 3, 4)
    images = stitched(parts, 2)
    assert images.shape == (2, 2, 6, 8)
    assert [images[0, 0, y, x].item() for y, x in ((0, 0), (0, 7), (5, 0), (5, 7))] == [0, 1, 2, 3]
    assert torch.equal(separated(images, 2), parts)


def disconnected() -> tuple[Network, Network]:
    """Return a network of one cell, and of four disconnected ones."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    labels = ["a", "b", "c"]
    one = load_network(nn.Sequential(features, head), labels=labels, mean=0.0, std=1.0, size=8)
    names = [f"{label} {cell}" for cell in range(4) for label in labels]
    return one, load_network(DisconnectedCells(features, head, 2), labels=names, mean=0.0, std=1.0, size=16)


def test_only_the_cell_of_a_class_influences_it() -> None:
    one, four = disconnected()
    photographs = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    truth = disconnected_truth(one, photographs, 5, 2, classes=3)
    logits = four.scores(truth.images).gather(1, truth.targets[:, None])
    torch.testing.assert_close(
        four.scores(truth.images * truth.regions[:, None]).gather(1, truth.targets[:, None]), logits
    )
    for image, target, region in zip(truth.images, truth.targets.tolist(), truth.regions, strict=True):
        cell = image[:, region].view(1, 3, 8, 8)
        assert one.scores(cell).argmax() == target % 3
    shares = four.scores(truth.images).softmax(1).gather(1, truth.targets[:, None])
    for image, target, share in zip(truth.images, truth.targets.tolist(), shares, strict=True):
        cell = separated(image[None], 2)[target // 3 : target // 3 + 1]
        torch.testing.assert_close(share[0], one.scores(cell).softmax(1)[0, target % 3] / 4)
    gradients = saliency_maps(Gradient(), four, truth)
    assert (gradients * ~truth.regions).max() == 0
    assert [mass_accuracy(*pair) for pair in zip(gradients, truth.regions, strict=True)] == [1] * 5
    cams = saliency_maps(GradCAM(layer="maps"), four, truth)
    assert min(mass_accuracy(*pair) for pair in zip(cams, truth.regions, strict=True)) < 0.9  # Rao et al., figure 4


def test_maps_are_those_of_a_run(brightness: Network) -> None:
    import lit_viz as lv

    truth = mosaics(brightness, halves(), 4, 1)
    maps = saliency_maps(Occlusion(4, 2), brightness, truth, 10, seed=3)
    run = lv.saliency(
        brightness, truth.images, target=truth.targets.tolist(), method=Occlusion(4, 2), captum="none", seed=3
    )
    torch.testing.assert_close(maps, run.maps)


def test_planted_images_have_glyphs_as_regions() -> None:
    truth = planted_truth(20, seed=4)
    assert truth.images.shape == (20, 1, 28, 28)
    assert truth.regions.flatten(1).sum(1).tolist() == [36] * 20
    assert not torch.equal(planted_truth(20, seed=5).images, truth.images)


def test_the_named_band_has_the_largest_sum_of_absolute_values() -> None:
    attribution = torch.zeros(3, 4, 4)
    attribution[0, 0, 0], attribution[1, :, 0] = 2.0, -1.0
    assert [band_accuracy(attribution, band) for band in range(3)] == [0.0, 1.0, 0.0]
    truth = planted_truth(5, 4, planted_bands)
    assert truth.images.shape == (5, 13, 32, 32)
    assert truth.bands is not None


def test_features_are_bands_within_a_budget() -> None:
    given = method_at("feature_ablation", 16, (13, 32, 32), by_bands=True)
    assert given is not None
    assert given[1] == 14
    assert method_at("feature_ablation", 1, (13, 32, 32), by_bands=True) is None


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_budget_is_not_exceeded(budget: int) -> None:
    """Forwards count a third; integrated gradients take two more."""
    for name in ATTRIBUTIONS:
        given = method_at(name, budget, (3, 56, 56))
        if given is None:
            assert budget == 1, name
            continue
        method, evaluations = given
        assert evaluations is not None, name
        is_forward_only = name in ("rise", "occlusion", "feature_ablation", "kernel_shap", "shapley_interactions")
        most = 3 * budget if is_forward_only else budget
        assert 1 <= evaluations <= most, name
        if name not in ("occlusion", "feature_ablation") and not method.fixed:
            assert evaluations == most, name


def test_the_default_is_that_of_the_method() -> None:
    default = method_at("smoothgrad", "default", (3, 56, 56))
    assert default is not None
    assert default[1] is None
    assert default[0].evaluations == 128


def measured(method: str, scores: list[float], network: str = "a") -> list[Measurement]:
    return [Measurement("planted", network, method, 1, n, 0, score) for n, score in enumerate(scores)]


def test_an_interval_contains_the_mean_and_has_its_width() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(400, generator=generator).tolist()
    summary = summarize(measured("x", scores))
    assert summary.mean == pytest.approx(sum(scores) / 400)
    assert summary.low < summary.mean < summary.high
    assert summary.high - summary.low == pytest.approx(2 * 1.96 / 20, rel=0.1)
    constant = summarize(measured("x", [0.3] * 5))
    assert (constant.low, constant.high) == (pytest.approx(0.3), pytest.approx(0.3))


def test_networks_count_equally_and_widen_the_interval() -> None:
    scores = [*measured("x", [0.0] * 30), *measured("x", [1.0] * 10, "b")]
    summary = summarize(scores)
    assert summary.mean == pytest.approx(0.5)
    assert (summary.low, summary.high) == (0, 1)
    assert summary.count == 40


def test_kendall_tau_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randint(0, 6, (12,), generator=generator).tolist() for _ in range(2))
    names = [f"method {n}" for n in range(12)]
    tau = kendall_tau(dict(zip(names, first, strict=True)), dict(zip(names, second, strict=True)))
    assert tau == pytest.approx(stats.kendalltau(first, second).statistic)
    assert math.isnan(kendall_tau({"a": 1, "b": 1}, {"a": 1, "b": 2}))


def test_agreement_of_halves() -> None:
    same = [*measured("a", [1, 1, 1, 1]), *measured("b", [2, 2, 2, 2]), *measured("c", [3, 3, 3, 3])]
    assert agreement_of_halves(same) == pytest.approx(1)
    reversed_ = [*measured("a", [1, 3, 1, 3]), *measured("b", [2, 2, 2, 2]), *measured("c", [3, 1, 3, 1])]
    assert agreement_of_halves(reversed_) == pytest.approx(-1)


DAISY = SHARED / "data" / "images" / "n11939491_daisy.JPEG"
PHOTOGRAPHS = ["packaged:chelsea", "packaged:coffee", *([str(DAISY)] if DAISY.exists() else [])]
SMALL = [2, 4, 8, 16, 32, 64, 128, 256]


def calibrated(method: str, counts: Sequence[int], most: int, *words: str) -> dict[int, tuple[float, float]]:
    """Return the shares of errors within a factor of 1.5 and of unresolved ones by number of samples, in percent."""
    printed = run_script(
        "calibrate_saliency_error.py", *words, "--method", method, "--most", most, "--samples", *counts
    )
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if re.match(r"\| \d", line)]
    return {int(row[0]): (float(row[4].rstrip("%")), float(row[5].rstrip("%"))) for row in rows}


def test_errors_are_calibrated_on_a_network_for_gray_images() -> None:
    words = ["packaged:chelsea", "zoo:fashion/bag_18", "--network", "zoo/fashion_cnn"]
    assert list(calibrated("smoothgrad", [2, 4], 8, *words)) == [2, 4]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smoothgrad", "smoothgrad_squared", "vargrad", "gradient_shap"])
def test_the_error_of_gradients_holds(name: str) -> None:
    shares = calibrated(name, SMALL, 256, *PHOTOGRAPHS)
    assert all(within == 100 or unresolved == 100 for within, unresolved in shares.values()), shares
    assert shares[128] == shares[256] == (100, 0)


@pytest.mark.slow
def test_the_error_of_rise_holds() -> None:
    shares = calibrated("rise", [*SMALL, 512, 1000], 1280, *PHOTOGRAPHS).values()
    resolved = [(within, 100 - unresolved) for within, unresolved in shares if unresolved < 100]
    assert sum(within * share for within, share in resolved) > 90 * sum(share for _, share in resolved)
    assert sum(share for _, share in resolved) > 50  # of all maps of a number of samples


@pytest.fixture(scope="module")
def transformer() -> Network:
    return lv.load_network("zoo/fashion_vit")


def explained(network: Network, method: str, targets: str) -> lv.Run:
    return lv.saliency(network, "zoo:fashion", label="folders", target=targets, method=method, captum="none")


@pytest.mark.parametrize("method", [slow("attention_gradient"), "legrad", slow("layer_cam")])
def test_salient_pixels_count(method: str, transformer: Network) -> None:
    """Replacing them first lowers the probability of the class more than a random order; not so with Grad-CAM."""
    run = explained(transformer, method, "label")
    found, by_chance = [], []
    for index in range(0, len(run), 2):
        image, target = run[index].source(), run.records[index]["target"]
        assert image is not None
        found.append(removal_score(transformer, image, target, run.maps[index], steps=14))
        by_chance.append(removal_score(transformer, image, target, random_map(run.maps[index], index), steps=14))
    assert fmean(found) > fmean(by_chance) + 0.05


@pytest.mark.parametrize("method", [slow("attention_gradient"), "legrad", slow("grad_cam")])
def test_maps_depend_on_the_class(method: str, transformer: Network) -> None:
    own, other = (explained(transformer, method, targets).maps for targets in ("label", "least-likely"))
    pairs = zip(own, other, strict=True)
    correlations = torch.tensor([rank_correlation(a[None], b[None]) for a, b in pairs]).nan_to_num(0)
    assert correlations.mean() < 0.7


def test_rollout_does_not(transformer: Network) -> None:
    own, other = (explained(transformer, "attention_rollout", targets).maps for targets in ("label", "least-likely"))
    assert torch.equal(own, other)
