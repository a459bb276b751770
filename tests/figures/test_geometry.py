"""Geometry of every figure: all texts are inside of it, on nothing else, and large enough to be read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from lit_viz.attacks.norms import LINF
from lit_viz.evidence.measures import Compared, Measure
from lit_viz.figures.attack import attack_figure, robustness_figure
from lit_viz.figures.comparison import comparison_figure
from lit_viz.figures.curves import robustness_chart
from lit_viz.figures.evolution import Evolution, evolution_figure
from lit_viz.figures.layout import Cell, compose
from lit_viz.figures.saliency import saliency_figure
from lit_viz.figures.sentence import sentence_figure
from lit_viz.figures.sheet import channel_grid, contact_sheet, sweep_figure
from lit_viz.presentations.class_visualization import ClassVisualizationPresentation
from lit_viz.runs.evidence import DiagnosisEvidence
from tests.support.figures import (
    AGREEMENT,
    BROKEN,
    LONG,
    ChannelOutcome,
    accuracies,
    attacked,
    compare,
    evolution,
    levels,
    localization,
    localized,
    panels,
    picture,
    sentence,
    trace,
    without_a_box,
)
from tests.support.marks import slow

FOUR = ("gradient", "grad-cam", "smoothgrad", "occlusion")
FILE = "IMG_20240611_174523_PORTRAIT_edited_final_version_2.jpeg"


def long_maps(count: int, *methods: str) -> Figure:
    drawn = []
    for panel, name in zip(panels(count, methods), (LONG, "", "x" * 30), strict=False):
        text = f"explains: {LONG}, p = 0.93\nfile: {LONG}"
        drawn.append(replace(panel, name=name, subtitle=text, uncertainty={methods[0]: LONG}))
    return saliency_figure(drawn, overlays=True, scale="map")


def long_headers(count: int) -> Figure:
    drawn = panels(count, (f"integrated gradients, {LONG}, {LONG}",))
    return saliency_figure([replace(panel, name=FILE) for panel in drawn], overlays=True)


def faint_maps() -> Figure:
    drawn = panels(7)
    return saliency_figure([replace(panel, maps={"gradient": 1e-5 * panel.maps["gradient"]}) for panel in drawn])


def maps_by_band() -> Figure:
    values = {f"B{n:02d}": float(n - 5) for n in range(13)}
    bands = {"gradient": values, "feature ablation": values}
    return saliency_figure([replace(panel, bands=bands) for panel in panels(4, ("gradient", "occlusion"), (32, 32))])


def attack_traces(**curves: Any) -> Figure:
    return attack_figure([attacked(curves=curves, target_name=LONG)])


def attack_until(last: int) -> Figure:
    return attack_traces(margin=[(k, k - last + 0.5) for k in range(last + 1)])


def long_attacks(count: int) -> Figure:
    names = dict.fromkeys(("name", "predicted_before_name", "predicted_name", "target_name"), LONG)
    drawn = []
    for seed in range(count):
        size = (33, 20 + 10 * seed)
        result = levels(seed + 1, size=size)
        drawn.append(attacked(seed, size, result=result, settings={"by": LONG}, **names))
    return attack_figure(drawn)


def robust_attacks() -> Figure:
    outcomes = []
    for seed in range(5):
        for eps in (1 / 255, 2 / 255):
            settings = {"eps": eps, "norm": "linf"}
            outcomes.append(attacked(seed, success_file=seed > 0, settings=settings, name=f"photograph {seed}"))
    return robustness_figure(outcomes, LINF, DiagnosisEvidence(reasons=["masked gradients"], tried=["gradients"]))


def robust_networks(count: int) -> Figure:
    return compose(robustness_chart(accuracies(count) | {"empty": []}, LINF, "robust"))


def compared_methods() -> Figure:
    compared = {}
    for name in ("gradient", LONG):
        values = {n: 0.1 * n + len(name) for n in range(5)}
        measures = [Measure("deletion", values, "lower"), Measure("insertion", values, "higher"), Measure(LONG, values)]
        compared[name] = Compared(name, 5, measures)
    return comparison_figure(compared, {measure.name: [True, False] for measure in measures})


def channel_evolutions(shape: tuple[int, int], iterations: range) -> Figure:
    known = ChannelOutcome(5, shape)
    known.frames = lambda: [(k, known.image()) for k in iterations]  # type: ignore[method-assign]
    return evolution_figure(ClassVisualizationPresentation().evolutions([known]))


def sweep() -> Figure:
    cell = Cell(np.zeros((8, 8, 3), np.uint8), ["p = 1"])
    rows = [[LONG, "lr 0.1"], ["another", "lr 0.2"]]
    return sweep_figure(rows, ["iterations 50", "iterations 100"], [[cell, cell], [None, cell]], "A caption.")


LONG_EVOLUTION = "jack-o'-lantern, of the $5 kind, carved from a pumpkin and put before the door in the last October"
SLOW = ("many maps", "two long attacks", "agreement of three", "many channels")
FIGURES: dict[str, Callable[[], Figure | None]] = {
    "maps of methods": lambda: saliency_figure(panels(3, FOUR[:2]), scale="shared"),
    "overlays": lambda: saliency_figure(panels(2), overlays=True),
    "overlay of one": lambda: saliency_figure(panels(1), overlays=True),
    "overlays of methods": lambda: saliency_figure(panels(2, FOUR), overlays=True),
    "many maps": lambda: saliency_figure(panels(36), scale="shared"),
    "long headers, one": lambda: long_headers(1),
    "long headers": lambda: long_headers(3),
    "long names, one": lambda: long_maps(1, "gradient"),
    "long names": lambda: long_maps(3, "gradient"),
    "long names and method, one": lambda: long_maps(1, "gradient", "integrated gradients of many steps and names"),
    "long names and method": lambda: long_maps(3, "gradient", "integrated gradients of many steps and names"),
    "faint maps": faint_maps,
    "maps by band": maps_by_band,
    "attack": lambda: attack_figure([attacked()]),
    "attacks": lambda: attack_figure([attacked(n, curves=trace(5 + n, 3 if n else None)) for n in range(7)]),
    **{f"attack until {last}": lambda last=last: attack_until(last) for last in (1, 10, 13, 17, 100, 333)},
    "margin that is no number": lambda: attack_traces(margin=[(0, -1.0), (1, math.nan), (2, 1.0)]),
    "one iteration": lambda: attack_traces(probability=[(0, 0.2)], margin=[(0, 0.1)], l2=[(0, 0.0)], linf=[(0, 0.0)]),
    "two iterations": lambda: attack_traces(probability=[(0, 0.2), (10, 0.9)], margin=[(12, 1.0)]),
    "no number": lambda: attack_traces(probability=[(0, math.nan)], margin=[(0, math.inf)], l2=[(0, math.nan)]),
    "late iterations": lambda: attack_traces(probability=[(99_990, 0.1), (100_000, 0.9)]),
    "long attack": lambda: long_attacks(1),
    "two long attacks": lambda: long_attacks(2),
    "long attacks": lambda: long_attacks(7),
    "robust accuracy": robust_attacks,
    "no network": lambda: compose(robustness_chart({}, LINF, "robust")),
    **{f"robust networks, {count}": lambda count=count: robust_networks(count) for count in (1, 3, 13)},
    "comparison": compared_methods,
    "agreement": lambda: compare(*[AGREEMENT] * 2),
    "agreement of three": lambda: compare(*[AGREEMENT] * 3),
    "agreement of seven": lambda: compare(*[AGREEMENT] * 7),
    "long agreement": lambda: compare(
        replace(AGREEMENT, controls={LONG: AGREEMENT.similarity}), BROKEN, size=(33, 33), name=LONG
    ),
    "localization": lambda: localization(
        [localized(), without_a_box("the map has 50176 non-finite pixels, so it has no box"), localized(1)], name=LONG
    ),
    "many localizations": lambda: localization([localized(seed) for seed in range(7)]),
    "channels": lambda: channel_grid([ChannelOutcome(c) for c in (3, 14, 127)]),
    "many channels": lambda: channel_grid([ChannelOutcome(c) for c in range(240)]),
    "groups": lambda: channel_grid([ChannelOutcome(c, (16, 76)) for c in range(5)]),
    "evolution of a channel": lambda: channel_evolutions((16, 16), range(0, 20, 10)),
    "evolution of a group": lambda: channel_evolutions((16, 76), range(0, 50, 10)),
    "evolution": lambda: evolution_figure([evolution()]),
    "long evolution": lambda: evolution_figure([evolution(LONG_EVOLUTION), evolution("a", (5,))]),
    "long evolution of one": lambda: evolution_figure([evolution(LONG_EVOLUTION, (7,))]),
    "gray evolution": lambda: evolution_figure([evolution("seven", (0, 5, 10), channels=1)]),
    "geometric evolution": lambda: evolution_figure([evolution("geometric", (0, 1, 2, 4, 8, 16, 32, 64, 128, 256))]),
    "late evolution": lambda: evolution_figure([evolution("late", (9_999_990, 9_999_995, 10_000_000))]),
    "evolution of a map": lambda: evolution_figure([Evolution("no curve", [(0, picture(0)), (10, picture(1))])]),
    "many evolutions": lambda: evolution_figure([evolution(str(n)) for n in range(9)]),
    "no evolution": lambda: evolution_figure([]),
    "sentences": lambda: sentence_figure(
        [sentence("a.png", "a red car"), sentence("b.png", "a dog", 100.0)], "max_abs", False
    ),
    "long sentence": lambda: sentence_figure([sentence("a.png", " ".join(["word"] * 20))], "max_abs"),
    "contact sheet": lambda: contact_sheet(
        [*(picture(n) for n in range(3)), torch.zeros(1, 16, 8)], ["a"] * 4, columns=2
    ),
    "sweep": sweep,
}


@pytest.mark.parametrize("name", [slow(name) if name in SLOW else name for name in FIGURES])
def test_texts_are_inside_apart_and_legible(name: str, figures: Any) -> None:
    figure = FIGURES[name]()
    figures.assert_no_overlap(figure)
    figures.assert_legible(figure)
