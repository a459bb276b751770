"""Objectives on layers against closed forms, written out in float64."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.networks import Network
from lit_viz.objectives import (
    Channel,
    Direction,
    Diversity,
    Layer,
    Logit,
    LogProbability,
    Neuron,
    Objective,
    Outputs,
)

A = torch.randn(4, 3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
CHANNELS = torch.tensor([2, 0, 1, 2])


def outputs(activation: Tensor = A, members: list[int] | None = None) -> Outputs:
    rows = len(activation)
    return Outputs(
        torch.zeros(rows, 5),
        torch.zeros(rows, dtype=torch.long),
        {"a": activation},
        channels=CHANNELS[:rows],
        members=None if members is None else torch.tensor(members),
    )


def test_a_channel_is_the_mean_over_its_places() -> None:
    expected = [A[m, c].sum() / 30 for m, c in enumerate(CHANNELS)]
    torch.testing.assert_close(Channel("a")(outputs()), torch.stack(expected))
    torch.testing.assert_close(Channel("a", 1)(outputs()), A[:, 1].sum((1, 2)) / 30)


def test_a_neuron_is_one_place_and_the_centre_by_default() -> None:
    torch.testing.assert_close(Neuron("a", 1)(outputs()), A[:, 1, 2, 3])
    torch.testing.assert_close(Neuron("a", place=(4, 0))(outputs())[0], A[0, 2, 4, 0])
    with pytest.raises(LitVizError, match=r"must be between 0,0 and 4,5, got 5,0"):
        Neuron("a", place=(5, 0))(outputs())


def test_a_layer_is_half_its_mean_square() -> None:
    expected = [sum(float(v) ** 2 for v in a.flatten()) / 90 / 2 for a in A]
    torch.testing.assert_close(Layer("a")(outputs()), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["dot", "cosine"])
def test_a_direction_is_the_mean_of_dot_products_or_cosines(kind: str) -> None:
    vector = [1.0, -2.0, 0.5]
    expected = []
    for a in A:
        total = 0.0
        for y in range(5):
            for x in range(6):
                place = a[:, y, x].tolist()
                dot = sum(p * v for p, v in zip(place, vector, strict=True))
                total += dot if kind == "dot" else dot / math.hypot(*place) / math.hypot(*vector)
        expected.append(total / 30)
    scores = Direction("a", vector, kind)(outputs())
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64))


def test_the_cosine_of_nothing_has_a_finite_gradient() -> None:
    a = torch.zeros(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    score = Direction("a", [1.0, 0.0, 0.0], "cosine")(outputs(a))
    score.sum().backward()
    assert score.tolist() == [0.0]
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_a_direction_is_read_from_a_file(tmp_path: Path) -> None:
    vector = [1.0, -2.0, 0.5]
    np.save(tmp_path / "v.npy", np.array(vector))
    torch.save(torch.tensor(vector), tmp_path / "v.pt")
    torch.save({"no": "vector"}, tmp_path / "dict.pt")
    for name in ("v.npy", "v.pt"):
        torch.testing.assert_close(Direction("a", str(tmp_path / name))(outputs()), Direction("a", vector)(outputs()))
    for name in ("missing.npy", "dict.pt"):
        with pytest.raises(LitVizError, match=f"{name} can't be read"):
            Direction("a", str(tmp_path / name))
    with pytest.raises(LitVizError, match="one finite nonzero vector"):
        Direction("a", [0.0, 0.0])


def test_diversity_is_minus_the_mean_likeness_within_each_task() -> None:
    """Two tasks of three images in two views: twelve rows, in the order task, image, view."""
    a = torch.randn(12, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    members = [g for _ in range(2) for g in range(3) for _ in range(2)]

    def likeness(m: int, n: int) -> float:
        one, two = (a[i].flatten(1) @ a[i].flatten(1).T for i in (m, n))
        return float((one * two).sum() / one.norm() / two.norm())

    scores = Diversity("a")(outputs(a, members))
    for task in range(2):
        for image in range(3):
            for view in range(2):
                row = task * 6 + image * 2 + view
                others = [task * 6 + g * 2 + view for g in range(3) if g != image]
                assert float(scores[row]) == pytest.approx(-sum(likeness(row, o) for o in others) / 2, abs=1e-12)


def test_diversity_of_one_image_is_rejected() -> None:
    for members in (None, [0, 0, 0, 0]):
        with pytest.raises(LitVizError, match="give group 2"):
            Diversity("a")(outputs(A, members))


def test_a_sum_reads_the_layers_and_fields_of_its_terms() -> None:
    both = Channel("a") * Direction("b", [1.0]) - 0.5 * Layer("c")
    assert both.layers == ("a", "b", "c")
    assert both.task_fields == {"channel"}
    assert (Logit() + Channel("a", 2)).task_fields == {"target", "against"}
    assert (Logit(3) + LogProbability(1)).task_fields == frozenset()
    expected = Channel("a")(outputs()) * 2 - Neuron("a")(outputs())
    torch.testing.assert_close((2 * Channel("a") - Neuron("a"))(outputs()), expected)


def test_bound_objectives_know_their_layer(smooth: Network) -> None:
    objective = Channel("features.3") + Diversity("features.0")
    objective.bind(smooth)
    assert objective.channels == 12
    Direction("head", [0.0, 0.0, 1.0, 0.0, 0.0]).bind(smooth)


@pytest.mark.parametrize(
    ("objective", "sentence"),
    [
        (Channel("features.9"), r"no layer 'features.9'; did you mean 'features"),
        (Channel("features.3", 12), "must be between 0 and 11, got 12"),
        (Neuron("features.3", -1), "must be between 0 and 11, got -1"),
        (Direction("features.3", [1.0, 2.0]), "must have 12 numbers, one per channel .*, got 2"),
        (Channel("features.3", axis="feature"), "axis requires a layer of tokens"),
        (Logit() + Channel("fetures.3"), "did you mean 'features"),
    ],
)
def test_missing_channels_and_positions_are_rejected(smooth: Network, objective: Objective, sentence: str) -> None:
    with pytest.raises(LitVizError, match=sentence):
        objective.bind(smooth)


def test_a_missing_channel_is_rejected() -> None:
    with pytest.raises(LitVizError, match="requires a channel, got none"):
        Channel("a")(Outputs(torch.zeros(4, 5), torch.zeros(4, dtype=torch.long), {"a": A}))
