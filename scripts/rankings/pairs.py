"""What saliency methods show of two glyphs of which a network needs both, either or exactly one (docs/which_map.md)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.zoo import PAIR_LABELS, PlantedPairs, planted_pairs
from scripts.rankings.ground_truth import GroundTruth, Measurement, method_at, rank_accuracy, saliency_maps
from scripts.rankings.markdown import markdown_table

NETWORK = "planted_pairs"
#: What is measured of each relation: the share of a glyph among the most salient pixels, and the value of both.
MEASURED = ("cross", "ring", "value")
#: Rows with the truth, by the network's own four scores.
TRUTHS = ("*Shapley value of a glyph*", "*score less without it*")


def pair_test(relation: str, measured: str) -> str:
    """Return the name of a test: ``pairs xor ring``."""
    return f"pairs {relation} {measured}"


def is_value(test: str) -> bool:
    """Return whether a test measures the value of both glyphs, and no share."""
    return test.endswith("value")


#: In the order of the columns.
TESTS = [pair_test(relation, measured) for relation in PAIR_LABELS for measured in MEASURED]


def pair_measurements(name: str, count: int, seed: int) -> list[Measurement]:
    """Measure the maps of a method, at its default number of evaluations, of images with both glyphs.

    Of each relation the shares of cross and ring among the 72 most salient pixels, of which both together have 72, and
    the mean of the map over both.

    Raises:
        LitVizError: the method does not apply to the network.
    """
    network = lv.load_network(f"zoo/{NETWORK}")
    pairs = planted_pairs(range(count), seed)
    both = pairs.masks.any(1)
    others = planted_pairs(range(100), 900_000 + seed).images[:, 3]
    measurements = []
    for target, relation in enumerate(PAIR_LABELS):
        given = method_at(name, "default", (1, *network.size), others)
        assert given is not None
        truth = GroundTruth(pairs.images[:, 3], torch.full((count,), target), both)
        maps = saliency_maps(given[0], network, truth, seed=1000 * seed)
        for index, saliency in enumerate(maps):
            scores = {}
            for glyph, mask in zip(MEASURED, pairs.masks[index], strict=False):
                scores[glyph] = rank_accuracy(saliency, mask, int(both[index].sum()))
            scores["value"] = float(saliency[both[index]].mean())
            for measured, score in scores.items():
                test = pair_test(relation, measured)
                measurements.append(Measurement(test, NETWORK, name, "default", index, seed, score))
    return measurements


def true_measurements(count: int, seed: int) -> list[Measurement]:
    """Return the true values of a glyph in images with both, by the network's own four scores."""
    pairs = planted_pairs(range(count), seed)
    measurements = []
    for row, values in zip(TRUTHS, true_values(pairs), strict=True):
        for index in range(count):
            for relation, value in zip(PAIR_LABELS, values[index].tolist(), strict=True):
                test = pair_test(relation, "value")
                measurements.append(Measurement(test, NETWORK, row, "default", index, seed, value))
    return measurements


def true_values(pairs: PlantedPairs) -> tuple[Tensor, Tensor]:
    """Return the mean Shapley value of the glyphs, and how much less the score is without one of them, ``(N, 3)``."""
    scores = lv.load_network(f"zoo/{NETWORK}").scores(pairs.images.flatten(0, 1)).unflatten(0, (-1, 4))
    absent, first, second, both = scores.unbind(1)
    return (both - absent) / 2, both - (first + second) / 2


def pairs_table(measurements: Sequence[Measurement]) -> str:
    """Return a table: a row per method, the best first, and of each relation the shares of the glyphs and their value.

    The values of a method are relative to the largest of the three relations; the best method has the largest smallest
    share.
    """
    means = _means(measurements)
    methods = sorted(set(means) - set(TRUTHS), key=lambda method: -_least_share(means[method]))
    header = ["method"]
    for relation in PAIR_LABELS:
        header += [f"{relation}: cross", "ring", "value"]
    rows: list[list[str]] = []
    for method in (*TRUTHS, *methods):
        cells = [method if method in TRUTHS else f"`{method}`"]
        for test in TESTS:
            cells.append(f"{means[method][test]:.2f}" if test in means[method] else "")
        rows.append(cells)
    images = len({(m.seed, m.image) for m in measurements})
    seeds = ", ".join(map(str, sorted({m.seed for m in measurements})))
    remark = f"Network: {NETWORK}. Seed: {seeds}. {images} images, default number of evaluations."
    return f"{markdown_table(header, rows)}\n\n{remark}"


def _means(measurements: Sequence[Measurement]) -> dict[str, dict[str, float]]:
    """Return the mean of each test by method; values relative to the largest of the method."""
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for measurement in measurements:
        scores[measurement.method][measurement.test].append(measurement.score)
    means: dict[str, dict[str, float]] = {}
    for method, of_method in scores.items():
        means[method] = {test: fmean(values) for test, values in of_method.items()}
        values_of_both = list(filter(is_value, of_method))
        largest = max((abs(means[method][test]) for test in values_of_both), default=0.0)
        for test in values_of_both:
            means[method][test] /= largest
    return means


def _least_share(means: dict[str, float]) -> float:
    return min(share for test, share in means.items() if not is_value(test))
