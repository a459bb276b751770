"""The grid of channels, and its labels where there is no class."""

from __future__ import annotations

from typing import Any

import torch

from lit_viz.engine.snapshots import Snapshot
from lit_viz.figures.evolution import evolution_figure
from lit_viz.figures.sheet import channel_grid
from lit_viz.images.canvas import join_group
from lit_viz.presentations.class_visualization import ClassVisualizationPresentation
from lit_viz.types import Task
from tests.support.figures import ChannelOutcome


def test_channels_are_numbered(figures: Any) -> None:
    figure = channel_grid([ChannelOutcome(c) for c in (3, 14, 127)])
    assert figures.texts(figure) == ["features.3 · 3 channels", "3", "14", "127"]
    assert len(figure.axes) == 3


def test_evolution_without_class_shows_objective(figures: Any) -> None:
    (evolution,) = ClassVisualizationPresentation().evolutions([ChannelOutcome(5)])
    assert evolution.metric == "objective"
    figure = evolution_figure([evolution])
    assert "objective 12.3" in figures.texts(figure)
    assert not any("p =" in text for text in figures.texts(figure))
    (curve,) = [axes for axes in figure.axes if axes.axison]
    assert curve.get_ylabel() == "objective"
    assert curve.get_ylim()[0] < -0.2 < 12.34 < curve.get_ylim()[1]


def test_groups_are_drawn_wider(figures: Any) -> None:
    wide, square = ChannelOutcome(5, (16, 76)), ChannelOutcome(5)
    wide.frames = lambda: [(k, wide.image()) for k in range(0, 50, 10)]
    figure = evolution_figure(ClassVisualizationPresentation().evolutions([wide]))
    pictures = [axes for axes in figure.axes if not axes.axison]
    assert len(pictures) == 3
    widths = [axes.get_position().width * figure.get_size_inches()[0] for axes in pictures]
    assert min(widths) > 4
    assert len(evolution_figure(ClassVisualizationPresentation().evolutions([square])).axes) == 3


def test_gap_between_groups_exceeds_gap_inside(figures: Any) -> None:
    group = join_group(torch.rand(3, 3, 16, 16))
    known = [ChannelOutcome(c, tuple(group.shape[1:])) for c in (1, 2)]
    for one in known:
        one.frames = lambda: [(k, group) for k in (0, 5, 10)]
    for figure in (channel_grid(known), evolution_figure(ClassVisualizationPresentation().evolutions(known[:1]))):
        wide = figure.get_size_inches()[0]
        first, second = [axes.get_position() for axes in figure.axes if not axes.axison][:2]
        inside = (group.shape[2] - 3 * 16) / 2 * first.width / group.shape[2]
        assert (second.x0 - first.x1) * wide > 2 * inside * wide


def test_wandb_and_progress_bar_show_objective() -> None:
    from lit_viz.callbacks.progress import Progress
    from lit_viz.engine.module import RunProgress
    from lit_viz.loggers.rows import caption

    snapshot = Snapshot(Task(0, "features.3_ch5", 0), 50, {"objective": 12.345, "objective_file": 13.0})
    assert caption(snapshot, ClassVisualizationPresentation()) == "features.3_ch5 - iteration 50 - objective 12.3"
    progress = RunProgress(4, 1, 0, 0, 120, 120, 400, 50, objective=12.345)
    bar = Progress()
    bar._start = progress
    assert "objective 12.3" in bar._state(progress)
