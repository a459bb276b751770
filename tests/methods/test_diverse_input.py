"""Diverse input changes the gradients of an attack; success is tested on the image itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.attacks import PGD
from lit_viz.images import DiverseInput, Noise
from lit_viz.images.transforms import Transform
from lit_viz.launch.run import Run
from lit_viz.networks import Network

ROOT = Path(__file__).parents[2]

DIVERSE = DiverseInput(probability=1.0, low=0.3)
NOISE = Noise(sd=0.5)


def images() -> Tensor:
    return (torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 255).round() / 255


def attacked(smooth: Network, *transforms: Transform) -> Run:
    labels = smooth.scores(images()).argmax(1).tolist()
    options = {"transforms": list(transforms)} if transforms else {}
    attack = PGD(eps=0.2, norm="linf", random_start=False)
    return lv.attack(smooth, images(), label=labels, attack=attack, iterations=40, **options)


def test_success_is_that_of_the_image_itself(smooth: Network) -> None:
    """Each image stops when it fools by itself; if views decide, some stop earlier or later."""
    outcomes = attacked(smooth, DIVERSE).outcomes
    assert sum(o.record.success_float for o in outcomes) >= 4
    for outcome in outcomes:
        *before, last = [margin for _, margin in outcome.curve("margin")]
        assert max(before) <= 0
        assert outcome.record.success_float == outcome.record.success_file == (last > 0)
    by_views = attacked(smooth, NOISE).records
    assert any(r.repaired or r.status == "skipped" for r in by_views)  # what views saw is not in the file


def test_the_gradients_are_those_of_the_views(smooth: Network) -> None:
    """Records of the photographs are equal, and the first step differs."""
    plain, diverse = attacked(smooth).outcomes, attacked(smooth, DIVERSE).outcomes
    for one, other in zip(plain, diverse, strict=True):
        assert abs(one.curve("margin")[0][1] - other.curve("margin")[0][1]) < 1e-5
        assert one.curve("objective")[0][1] != other.curve("objective")[0][1]
        assert one.curve("margin")[1] != other.curve("margin")[1]


def test_it_costs_a_forward_more(smooth: Network) -> None:
    for views, run in ((1, attacked(smooth)), (2, attacked(smooth, DIVERSE))):
        for record in run.records:
            assert record["forwards"] == views * (record["iterations"] + 1)
            assert record["backwards"] == record["iterations"]


def test_the_packaged_configuration(
    tmp_path: Path, monkeypatch: Any, lit_viz: Any, records: Any, small_options: Any
) -> None:
    monkeypatch.chdir(ROOT)
    run = tmp_path / "run"
    words = ["--config", "diverse_pgd", "--iterations", "3", "--out", str(run)]
    lit_viz("attack", "packaged:chelsea", "packaged:coffee", *small_options, *words)
    assert [record["iterations"] for record in records(run)] == [3, 3]
    assert "DiverseInput" in (run / "config.yaml").read_text()
