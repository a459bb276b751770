"""Rank the saliency methods by tests with a ground truth and by proxies (docs/which_map_tables.md).

python scripts/rank_saliency.py --tests closed planted cells                       # without photographs
python scripts/rank_saliency.py --photographs FOLDER                               # all tests
python scripts/rank_saliency.py --tests planted --networks planted_vit --images 40 --seed 1    # a hidden test
python scripts/rank_saliency.py --tests gains --networks planted_vit FOLDER/planted_vit_1.safetensors
python scripts/rank_saliency.py --write                                            # tables and figure of the page

  closed    largest errors on networks with closed-form maps
  planted   planted evidence: share of the glyph among the 36 most salient pixels
  bands     planted evidence in one of 13 bands: share of the images of which the map names the right band
  pairs     two glyphs of which a network needs both, either or exactly one: share and value of each
  cells     disconnected cells: share of the map in the cell that alone influences the score
  mosaics   proxy: share of the map in the cell of the class, of 2 x 2; mosaics9: of 3 x 3
  removal   proxy: insertion less deletion
  gains     gains over the gradient, of baselines and rules of backward too, in planted, cells and removal

Networks are those of the zoo, or files of their weights with other seeds (scripts/zoo.py --population).

Scores are appended to a file in --out; a score in the file is not computed again. --write replaces the tables with
scores in the file, and keeps the others. Methods are compared with equal numbers of evaluations, a forward alone
counting a third; `default` is each method's own number.
"""

from __future__ import annotations

import argparse
import copy
import csv
import math
import random
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.attributions import ATTRIBUTIONS, title_of
from lit_viz.cli import errors_reported
from lit_viz.errors import LitVizError
from lit_viz.evidence.judges import MOBILENET, load_judge, mobilenet_weights
from lit_viz.evidence.naturalness import read_input
from lit_viz.images.listing import photographs as list_photographs
from lit_viz.networks import Network
from lit_viz.zoo import WEIGHTS, planted_bands, planted_images
from lit_viz.zoo.networks import VisionTransformer
from scripts.rankings.ground_truth import (
    BUDGETS,
    VARIANTS,
    Budget,
    DisconnectedCells,
    GroundTruth,
    Measurement,
    Summary,
    agreement_of_halves,
    attributions,
    band_accuracy,
    disconnected_truth,
    mass_accuracy,
    method_at,
    mosaics,
    planted_truth,
    rank_accuracy,
    removal_score,
    saliency_maps,
    summarize,
)
from scripts.rankings.markdown import markdown_table
from scripts.rankings.pairs import pair_measurements, pairs_table, true_measurements
from tests.support.closed_forms import UNITS, closed_form_errors, unit_errors

#: Agreement of two halves of the images below which the order of the methods is noise.
LEAST_TAU = 0.8
PAGE = Path(__file__).parents[1] / "docs" / "which_map_tables.md"
TESTS = ("closed", "planted", "bands", "pairs", "cells", "mosaics", "mosaics9", "removal", "gains")
TITLES = {
    "planted": "planted evidence: share of the glyph among the 36 most salient pixels",
    "bands": "planted evidence: share of the images with the right band",
    "cells": "disconnected cells: share of the map in the only cell that influences the score",
    "mosaics": "mosaics of 2 x 2: share of the map in the cell of the class",
    "mosaics9": "mosaics of 3 x 3: share of the map in the cell of the class",
    "removal": "removal: insertion less deletion",
}
#: Methods whose gain over the gradient is measured.
GAINING = (
    "gradient",
    "libra_gradient",
    "input_x_gradient",
    "integrated_gradients",
    "gradient_shap",
    "expected_gradients",
    "deep_lift",
    "guided_backprop",
    "guided_grad_cam",
    "layer_cam",
    "hires_cam",
    "legrad",
    "attention_gradient",
    *VARIANTS,
)
#: Columns of their table: tests with their networks.
GAIN_SETTINGS = (
    ("planted", "planted_cnn"),
    ("planted", "planted_vit"),
    ("cells", "fashion_cnn"),
    ("cells", "fashion_vit"),
    ("removal", "fashion_cnn"),
    ("removal", "fashion_vit"),
)
#: What distinguishes the columns of a table.
Column = TypeVar("Column")
EVERY_BUDGET: tuple[Budget, ...] = (*BUDGETS, "default")
#: Kinds of networks, as the page groups them.
KINDS = {
    "planted_cnn": "CNN",
    "fashion_cnn": "CNN",
    "fashion_robust_cnn": "robust",
    "planted_bands": "CNN of 13 bands",
    "planted_pairs": "CNN of pairs",
    "planted_vit": "ViT",
    "fashion_vit": "ViT",
    "fashion_vit_mean": "ViT",
    "efficientnet_lite0": "ImageNet CNN",
    "mobilenet_v2": "ImageNet CNN",
}


@dataclass
class Setting:
    """A test with a network.

    Attributes:
        test, network: names.
        loaded: the explained network.
        truth: images with the relevant pixels; all pixels where a proxy needs none.
        score: of a map, given the index of its image; of an attribution ``(C, H, W)`` in the test ``bands``.
        baselines: photographs of expected gradients ``(B, C, H, W)``.
        layer: of the variants of Grad-CAM; None for their own choice.
    """

    test: str
    network: str
    loaded: Network
    truth: GroundTruth
    score: Callable[[int, Tensor], float]
    baselines: Tensor
    layer: str | None = None


# -- Networks and images


def network(name: str) -> Network:
    """Return a network by the last part of its name, or with the weights of a file."""
    if name == "mobilenet_v2":
        return load_judge(MOBILENET)
    if name.endswith(".safetensors"):
        return lv.load_network(f"zoo/{base_name(name)}", weights=name)
    return lv.load_network(name if name.startswith("efficientnet") else f"zoo/{name}")


def base_name(name: str) -> str:
    """Return the name of the zoo of a network, or of a file of weights such as ``FOLDER/planted_vit_1.safetensors``."""
    return re.sub(r"_\d+$", "", Path(name).stem)


class Tokens(nn.Module):
    """Feature maps as tokens, in the place of a patch embedding."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return ``(N, T, C)``."""
        return maps.flatten(2).transpose(1, 2)


def parts_of(name: str, module: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return the layers of a network up to its last feature maps, and the others."""
    if name in ("fashion_cnn", "fashion_robust_cnn"):
        assert isinstance(module, nn.Sequential)
        return module[:4], module[4:]
    if name == "planted_cnn":
        assert isinstance(module, nn.Sequential)
        return module[:6], module[6:]
    if isinstance(module, VisionTransformer):
        head = copy.deepcopy(module)
        head.patch_embed = Tokens()  # type: ignore[assignment]
        return module.patch_embed.proj, head
    if name == "mobilenet_v2":
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return module.features, nn.Sequential(pool, module.classifier)  # type: ignore[arg-type]
    raise LitVizError(f"the test of disconnected cells does not support {name}")


def files_in(folder: str) -> list[str]:
    """Return the photographs in a folder."""
    return [entry.path for entry in list_photographs([folder]).entries]


def pictures(names: Sequence[str], network: Network) -> Tensor:
    """Return photographs ``(P, C, H, W)`` fitted to a network."""
    return torch.stack([read_input(network, name) for name in names])


def of_images(truth: GroundTruth, score: Callable[[Tensor, Tensor], float]) -> Callable[[int, Tensor], float]:
    return lambda index, saliency: score(saliency, truth.regions[index])


def planted(name: str, count: int, seed: int, photographs: Sequence[str]) -> Setting:
    draw = planted_bands if name == "planted_bands" else planted_images
    truth = planted_truth(count, seed, draw)
    others = draw(range(100), seed=900_000 + seed).images
    return Setting("planted", name, network(name), truth, of_images(truth, rank_accuracy), others)


def bands(name: str, count: int, seed: int, photographs: Sequence[str]) -> Setting:
    """Return planted evidence in one of several bands, which the map names."""
    setting = planted(name, count, seed, photographs)
    right = setting.truth.bands
    assert right is not None
    return replace(setting, test="bands", score=lambda index, values: band_accuracy(values, int(right[index])))


def cells(name: str, count: int, seed: int, photographs: Sequence[str]) -> Setting:
    """Return four disconnected cells of a network, with images of its kind."""
    one = network(name)
    if base_name(name).startswith("planted"):
        images = planted_images(range(200), seed).images
    elif base_name(name).startswith("fashion"):
        images = pictures(files_in("zoo:fashion"), one)
    else:
        images = pictures(photographs[:100], one)
    labels = []
    for cell in range(4):
        for label in one.labels:
            labels.append(f"{label} {cell}")
    is_transformer = isinstance(one.original, VisionTransformer)
    module = DisconnectedCells(*parts_of(name, one.original), cells=2, normalized=not is_transformer)
    size = (2 * one.size[0], 2 * one.size[1])
    classifier = lv.load_network(module, labels=labels, mean=one.mean, std=one.std, size=size)
    truth = disconnected_truth(one, images, count, 2, len(one.labels), seed)
    others = disconnected_truth(one, images, 30, 2, len(one.labels), seed + 900_000).images
    return Setting("cells", name, classifier, truth, of_images(truth, mass_accuracy), others, "maps")


def mosaic(name: str, count: int, seed: int, photographs: Sequence[str], cells: int = 2) -> Setting:
    """Return mosaics of ``cells`` x ``cells`` photographs, as large as these together."""
    one = network(name)
    images = pictures(photographs, one)
    truth = mosaics(one, images, count, cells, seed)
    size = (cells * one.size[0], cells * one.size[1])
    classifier = lv.load_network(one.original, labels=one.labels, mean=one.mean, std=one.std, size=size)
    others = mosaics(one, images, 20, cells, seed + 900_000).images
    test = "mosaics" if cells == 2 else "mosaics9"
    return Setting(test, name, classifier, truth, of_images(truth, mass_accuracy), others)


def removal(name: str, count: int, seed: int, photographs: Sequence[str]) -> Setting:
    """Return photographs, of which the predicted class is explained."""
    classifier = network(name)
    if base_name(name).startswith("planted"):
        images, others = planted_truth(count, seed).images, planted_images(range(100), 900_000 + seed).images
    elif base_name(name).startswith("fashion"):
        everything = pictures(files_in("zoo:fashion"), classifier)
        order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(seed))
        images, others = everything[order[:count]], everything[order[count:]]
    else:
        images = pictures(photographs[:count], classifier)
        others = pictures(photographs[count : count + 100], classifier)
    targets = classifier.scores(images).argmax(1)
    everywhere = torch.ones(len(images), *classifier.size, dtype=torch.bool)
    truth = GroundTruth(images, targets, everywhere)

    def score(index: int, saliency: Tensor) -> float:
        return removal_score(classifier, images[index], int(targets[index]), saliency)

    return Setting("removal", name, classifier, truth, score, others)


#: Tests with their networks.
SETTINGS: dict[str, tuple[Callable[[str, int, int, Sequence[str]], Setting], tuple[str, ...]]] = {
    "planted": (planted, ("planted_cnn", "planted_vit", "planted_bands")),
    "bands": (bands, ("planted_bands",)),
    "cells": (cells, ("planted_cnn", "fashion_cnn", "fashion_robust_cnn", "fashion_vit", "mobilenet_v2")),
    "mosaics": (mosaic, ("efficientnet_lite0", "mobilenet_v2")),
    "mosaics9": (partial(mosaic, cells=3), ("efficientnet_lite0", "mobilenet_v2")),
    "removal": (
        removal,
        ("fashion_cnn", "fashion_robust_cnn", "fashion_vit", "fashion_vit_mean", "efficientnet_lite0", "mobilenet_v2"),
    ),
}


def is_available(name: str) -> bool:
    """Return whether the weights of a network are installed."""
    if name == "mobilenet_v2":
        return mobilenet_weights() is not None
    return name.startswith("efficientnet") or (WEIGHTS / f"{name}.json").is_file()


# -- Measurements


def budget_of(text: str) -> Budget:
    """Read a number of evaluations, or ``default``."""
    return "default" if text == "default" else int(text)


class Scores:
    """Measurements in a CSV file, to which new ones are appended.

    Args:
        path: of the file.
    """

    columns = tuple(field.name for field in fields(Measurement))

    def __init__(self, path: Path) -> None:
        self.path, self.measurements = path, list[Measurement]()
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(",".join(self.columns) + "\n", encoding="utf-8")
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                key = row["test"], row["network"], row["method"], budget_of(row["budget"])
                numbers = int(row["image"]), int(row["seed"]), float(row["score"])
                self.measurements.append(Measurement(*key, *numbers))

    def count(self, setting: Setting, method: str, budget: Budget, seed: int) -> int:
        """Return the number of images that have been measured."""
        key = (setting.test, setting.network, method, budget, seed)
        return sum((m.test, m.network, m.method, m.budget, m.seed) == key for m in self.measurements)

    def add(self, measurements: Sequence[Measurement]) -> None:
        """Append measurements."""
        self.measurements += measurements
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(map(astuple, measurements))


def measure(setting: Setting, budgets: Iterable[Budget], methods: Sequence[str], seed: int, scores: Scores) -> None:
    """Measure all methods that apply to the network."""
    network = setting.loaded
    shape = (network.channels, *network.size)
    by_bands = setting.test == "bands"
    compute = attributions if by_bands else saliency_maps
    for name in methods:
        of_one: list[float] = []  # scores of the maps of a method of one evaluation, which are those of each budget
        for budget in budgets:
            if scores.count(setting, name, budget, seed) >= len(setting.truth):
                continue
            try:
                given = method_at(name, budget, shape, setting.baselines, setting.layer, by_bands)
                if given is None:
                    continue
                method, evaluations = given
                is_of_one = (evaluations or method.evaluations) == 1
                if is_of_one and of_one:
                    values = of_one
                else:
                    maps = compute(method, network, setting.truth, evaluations, seed=1000 * seed)
                    values = []
                    for index, saliency in enumerate(maps):
                        values.append(setting.score(index, saliency))
            except LitVizError as error:
                print(f"{setting.test:8} {setting.network:20} {name:22} not defined: {error}", flush=True)
                break
            if is_of_one:
                of_one = values
            measurements = []
            for index, value in enumerate(values):
                measurements.append(Measurement(setting.test, setting.network, name, budget, index, seed, value))
            scores.add(measurements)
            mean = sum(values) / len(values)
            print(f"{setting.test:8} {setting.network:20} {name:22} {budget!s:>8} {mean:7.3f}", flush=True)


def measure_pairs(methods: Sequence[str], count: int, seed: int, scores: Scores) -> None:
    """Measure what all methods show of pairs of glyphs, as far as they are not measured."""
    measured = {m.method for m in of_pairs(scores.measurements) if m.seed == seed}
    if not measured:
        scores.add(true_measurements(count, seed))
    for name in methods:
        if name in measured:
            continue
        try:
            scores.add(pair_measurements(name, count, seed))
        except LitVizError as error:
            print(f"{'pairs':8} {name:22} not defined: {error}", flush=True)


def measure_gains(names: Sequence[str], methods: Sequence[str], count: int, seed: int, scores: Scores) -> None:
    """Measure methods at their default on networks of the zoo, or with the weights of files."""
    for test, base in GAIN_SETTINGS:
        for name in names:
            if base_name(name) == base:
                setting = SETTINGS[test][0](name, count, seed, ())
                setting = replace(setting, test=f"gain {test}", network=Path(name).stem)
                measure(setting, ("default",), methods, seed, scores)


def of_gains(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Return the measurements of gains over the gradient."""
    return [m for m in measurements if m.test.startswith("gain ")]


def of_pairs(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Return the measurements of pairs of glyphs."""
    return [m for m in measurements if m.test.startswith("pairs ")]


def print_closed_forms() -> None:
    print(closed_table())


# -- Tables


def closed_table() -> str:
    """Return the errors of the closed forms by method."""
    header = ["method", "linear", "quadratic", "outside of the reach", *UNITS]
    rows: list[list[str]] = []
    for name in ATTRIBUTIONS:
        try:
            errors = closed_form_errors(name)
        except LitVizError:
            continue  # attention
        cells = [f"`{name}`"]
        for form in ("linear", "quadratic", "outside"):
            cells.append(_error(errors[form]) if form in errors else "")
        of_units = unit_errors(name)
        for unit in UNITS:
            cells.append(_error(of_units[unit]) if unit in of_units else "")
        rows.append(cells)
    return markdown_table(header, rows)


def _error(value: float | None) -> str:
    if value is None:
        return "nothing"
    return "exact" if value < 1e-12 else f"{value:.1g}"


def table(measurements: Sequence[Measurement], test: str, kind: str) -> str:
    """Return a table of a test: a row per method, a column per budget, the best first."""
    chosen = [m for m in measurements if m.test == test and KINDS[m.network] == kind]
    summaries = _summaries(chosen, lambda measurement: measurement.budget)
    best = _best_means(summaries)
    methods = sorted(best, key=lambda method: (-round(best[method], 6), method))
    by_budget: dict[Budget, list[Measurement]] = defaultdict(list)
    for measurement in chosen:
        by_budget[measurement.budget].append(measurement)
    budgets = [budget for budget in EVERY_BUDGET if budget in by_budget]
    rows: list[list[str]] = []
    for method in methods:
        cells = [f"`{method}`"]
        for budget in budgets:
            summary = summaries.get((method, budget))
            cells.append("" if summary is None else f"{summary.mean:.2f} ({summary.low:.2f}-{summary.high:.2f})")
        rows.append(cells)
    networks = sorted({m.network for m in chosen})
    seeds = ", ".join(map(str, sorted({m.seed for m in chosen})))
    lines = [markdown_table(["method", *map(_heading, budgets)], rows), ""]
    lines.append(f"Networks: {', '.join(networks)}. Seed: {seeds}.")
    for budget in budgets:
        images = len({(m.network, m.seed, m.image) for m in by_budget[budget]})
        tau = agreement_of_halves(by_budget[budget])
        if math.isnan(tau):
            lines.append(f"{_heading(budget)}: {images} images, and equal scores of all methods.")
            continue
        note = "" if tau >= LEAST_TAU else ": the order is noise"
        lines.append(f"{_heading(budget)}: {images} images, Kendall's tau between their halves {tau:.2f}{note}.")
    return "\n".join(lines)


def gains_table(measurements: Sequence[Measurement]) -> str:
    """Return a table: a row per method, a column per test and network, with the gain over the gradient.

    The gain is the mean of the differences of the same images.
    """
    header = ["method"]
    for test, network in GAIN_SETTINGS:
        header.append(f"{network}, {test}")
    rows: list[list[str]] = []
    for method in GAINING:
        cells = [f"`{method}`"]
        for test, network in GAIN_SETTINGS:
            of_column = [m for m in measurements if m.test == f"gain {test}" and base_name(m.network) == network]
            cells.append(_gain_cell(of_column, method))
        rows.append(cells)
    return markdown_table(header, rows)


def _gain_cell(measurements: Sequence[Measurement], method: str) -> str:
    """Return the mean score of a method, and its gain with the interval; empty if it has no scores."""
    reference = {}
    for measurement in measurements:
        if measurement.method == "gradient":
            reference[measurement.network, measurement.image, measurement.seed] = measurement.score
    own, gains = [], []
    for measurement in measurements:
        key = measurement.network, measurement.image, measurement.seed
        if measurement.method == method and key in reference:
            own.append(measurement)
            gains.append(replace(measurement, score=measurement.score - reference[key]))
    if not own:
        return ""
    mean = f"{summarize(own).mean:.2f}"
    if method == "gradient":
        return mean
    gain = summarize(gains)
    return f"{mean}, {gain.mean:+.2f} ({gain.low:+.2f} to {gain.high:+.2f})"


def _summaries(
    measurements: Sequence[Measurement], column: Callable[[Measurement], Column]
) -> dict[tuple[str, Column], Summary]:
    """Summarize the measurements of each method and column."""
    groups: dict[tuple[str, Column], list[Measurement]] = defaultdict(list)
    for measurement in measurements:
        groups[measurement.method, column(measurement)].append(measurement)
    return {key: summarize(group) for key, group in groups.items()}


def _best_means(summaries: Mapping[tuple[str, Column], Summary]) -> dict[str, float]:
    """Return the largest mean of each method over the columns."""
    best: dict[str, float] = {}
    for (method, _), summary in summaries.items():
        best[method] = max(summary.mean, best.get(method, summary.mean))
    return best


def _heading(budget: Budget) -> str:
    return "default" if budget == "default" else f"{budget:,}"


def report(measurements: Sequence[Measurement]) -> str:
    """Return all tables, the tests with a ground truth first."""
    return "\n\n".join(tables(measurements).values())


def tables(measurements: Sequence[Measurement]) -> dict[str, str]:
    """Return the tables with their headings, by heading."""
    texts = {}
    measured = {(m.test, KINDS[m.network]) for m in measurements if m.test in TITLES}
    for test, kind, heading in _headings():
        if (test, kind) in measured:
            texts[heading] = f"{heading}\n\n{table(measurements, test, kind)}"
    return texts


def _headings() -> Iterator[tuple[str, str, str]]:
    """Yield test, kind and heading of each table that a page may have, in order."""
    for test, title in TITLES.items():
        for kind in dict.fromkeys(KINDS.values()):
            yield test, kind, f"### {kind}, {title}"


def figure(measurements: Sequence[Measurement]) -> Figure:
    """Draw the scores of planted evidence at the default, a row per method, with intervals."""
    kinds = ("CNN", "ViT")
    chosen = [m for m in measurements if m.test == "planted" and m.budget == "default"]
    summaries = _summaries(chosen, lambda measurement: KINDS[measurement.network])
    best = _best_means(summaries)
    names = sorted(best, key=lambda name: best[name])
    drawing = Figure(figsize=(8, 0.28 * len(names) + 1.2))
    axes = drawing.subplots()
    for kind, marker, offset in zip(kinds, "os", (0.12, -0.12), strict=True):
        heights, means, limits = [], [], []
        for place, name in enumerate(names):
            summary = summaries.get((name, kind))
            if summary is not None:
                heights.append(place + offset)
                means.append(summary.mean)
                limits.append((summary.low, summary.high))
        errors = abs(np.array(limits).T - np.array(means))
        axes.errorbar(means, heights, xerr=errors, fmt=marker, markersize=5, capsize=2, label=kind)
    axes.axvline(36 / 784, color="0.6", linewidth=1, linestyle=":")
    axes.set_yticks(range(len(names)), list(map(title_of, names)))
    axes.set_xlabel("share of the glyph among the 36 most salient pixels (dotted: chance)")
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    drawing.tight_layout()
    return drawing


def write(measurements: Sequence[Measurement], folder: Path) -> None:
    """Replace the tables of the page that were measured, and draw its figure into ``folder/figure.png``."""
    text = PAGE.read_text(encoding="utf-8")
    _, written, _ = _parts(text, "tables")
    sections = _by_heading(written) | tables(measurements)
    ordered = [sections[heading] for _, _, heading in _headings() if heading in sections]
    contents = {"closed": closed_table(), "tables": "\n\n".join(ordered)}
    if pairs := of_pairs(measurements):
        contents["pairs"] = pairs_table(pairs)
    if gains := of_gains(measurements):
        contents["gains"] = gains_table(gains)
    for name, content in contents.items():
        before, _, after = _parts(text, name)
        text = f"{before}\n{content}\n\n{after}"
    PAGE.write_text(text, encoding="utf-8")
    if any(m.test == "planted" for m in measurements):
        figure(measurements).savefig(folder / "figure.png", dpi=140)


def _parts(text: str, name: str) -> tuple[str, str, str]:
    """Return the part of a page up to the mark of this name, what it encloses, and the part from its end on."""
    before, mark, rest = text.partition(f"<!-- {name} -->\n")
    content, end, after = rest.partition(f"<!-- end of {name} -->")
    return before + mark, content, end + after


def _by_heading(content: str) -> dict[str, str]:
    """Return tables with their headings, by heading."""
    sections = {}
    for text in content.split("\n### ")[1:]:
        section = f"### {text.strip()}"
        sections[section.partition("\n")[0]] = section
    return sections


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", nargs="+", choices=TESTS, default=TESTS, help="all by default")
    parser.add_argument("--networks", nargs="+", default=list(KINDS), help="all by default; or files of weights")
    choices = (*ATTRIBUTIONS, *VARIANTS)
    parser.add_argument("--methods", nargs="+", choices=choices, metavar="METHOD", help="all by default")
    parser.add_argument("--budgets", nargs="+", default=[*map(str, BUDGETS), "default"], help="evaluations of a map")
    parser.add_argument("--images", type=int, default=100, help="images of each network and test [100]")
    parser.add_argument("--seed", type=int, default=0, help="of images and draws [0]")
    parser.add_argument("--photographs", metavar="FOLDER", help="photographs of ImageNet's classes")
    parser.add_argument("--out", type=Path, default=Path("runs/rank_saliency"), help="folder of scores.csv")
    parser.add_argument("--write", action="store_true", help="write tables and figure of the page, and measure nothing")
    parser.add_argument("--wandb", help=argparse.SUPPRESS)  # of scripts/gallery.py; nothing is logged
    options = parser.parse_args()
    for name in options.networks:
        if base_name(name) not in KINDS:
            parser.error(f"--networks must be of {', '.join(KINDS)}, got {name}")
    warnings.simplefilter("ignore")
    scores = Scores(options.out / "scores.csv")
    if options.write:
        write(scores.measurements, options.out)
        return
    budgets = list(map(budget_of, options.budgets))
    methods = options.methods or list(ATTRIBUTIONS)
    photographs = []
    if options.photographs:
        photographs = files_in(options.photographs)
        random.Random(0).shuffle(photographs)  # folders are sorted by class
    for test in options.tests:
        if test == "closed":
            print_closed_forms()
            continue
        if test == "pairs":
            measure_pairs(methods, options.images, options.seed, scores)
            continue
        if test == "gains":
            measure_gains(options.networks, options.methods or GAINING, options.images, options.seed, scores)
            continue
        make, networks = SETTINGS[test]
        for name in networks:
            needs = name in ("efficientnet_lite0", "mobilenet_v2")
            if name not in options.networks or not is_available(name) or (needs and not photographs):
                continue
            setting = make(name, options.images, options.seed, photographs)
            measure(setting, budgets, methods, options.seed, scores)
    print(report(scores.measurements))
    if pairs := of_pairs(scores.measurements):
        print(pairs_table(pairs))
    if gains := of_gains(scores.measurements):
        print(gains_table(gains))


if __name__ == "__main__":
    with errors_reported("rank_saliency"):
        main()
