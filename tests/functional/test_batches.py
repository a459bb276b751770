"""Batches: equal to runs bit for bit, without side effects, and in other processes."""

from __future__ import annotations

import multiprocessing
import pickle
import random
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.attributions.reducers import REDUCERS
from lit_viz.networks import Network
from lit_viz.types import Record
from tests.support.marks import slow
from tests.support.networks import NAMES, Around, smooth_network

MAPS = {
    "gradient": {},
    "smoothgrad": {"iterations": 6, "sigma": 0.2},
    "integrated_gradients": {"iterations": 5},
    "rise": {"iterations": 7, "grid": 4},
    "grad_cam": {"layer": "features.3"},
}
ATTACKS = {
    "normalized_ascent": {"iterations": 5},
    "pgd": {"eps": "8/255", "norm": "linf", "iterations": 4, "random_start": True},
    "ddn": {"iterations": 6},
    "square": {"eps": 0.1, "norm": "linf", "iterations": 6},
}


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def fields(records: list[Record]) -> list[dict[str, Any]]:
    """Return the fields of records without times."""
    return [record.amend(seconds=None).to_dict() for record in records]


@pytest.mark.parametrize("method", MAPS)
def test_maps_and_records_are_those_of_a_run(smooth: Network, images: Tensor, method: str) -> None:
    options: dict[str, Any] = {"target": [0, 1, 2, 3, 4], "method": method, "seed": 7, **MAPS[method]}
    run = lv.saliency(smooth, images, captum="none", **options)
    maps, records = lv.functional.saliency(smooth, images, **options)
    assert torch.equal(maps, run.maps)
    assert fields(records) == fields(run.records)


@pytest.mark.parametrize("reducer", REDUCERS)
def test_maps_of_each_reducer_are_those_of_a_run(smooth: Network, images: Tensor, reducer: str) -> None:
    run = lv.saliency(smooth, images, target=2, reducer=reducer, captum="none")
    maps, _ = lv.functional.saliency(smooth, images, target=2, method="gradient", reducer=reducer)
    assert torch.equal(maps, run.maps)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(
    "targets", [slow({}), {"label": [0, 1, 2, 3, 4]}, {"target": "banana"}], ids=["", "label", "target"]
)
@pytest.mark.filterwarnings("ignore:.* skipped")
def test_images_and_records_are_those_of_a_run(
    smooth: Network, images: Tensor, attack: str, targets: dict[str, Any]
) -> None:
    options: dict[str, Any] = {"attack": attack, "seed": 11, **targets, **ATTACKS[attack]}
    run = lv.attack(smooth, images, **options)
    attacked, records = lv.functional.attack(smooth, images, **options)
    assert torch.equal(attacked, run.images)
    assert fields(records) == fields(run.records)


def test_a_batch_may_be_larger_than_the_slots(smooth: Network, images: Tensor) -> None:
    options: dict[str, Any] = {"target": "predicted", "method": "smoothgrad", "iterations": 3, "slots": 2}
    run = lv.saliency(smooth, images, captum="none", **options)
    assert torch.equal(lv.functional.saliency(smooth, images, **options)[0], run.maps)


def test_the_draws_of_an_image_are_those_of_its_seed(smooth: Network, images: Tensor) -> None:
    options: dict[str, Any] = {"target": 1, "method": "smoothgrad", "iterations": 4, "slots": 1}
    together, _ = lv.functional.saliency(smooth, images, seed=20, **options)
    alone, _ = lv.functional.saliency(smooth, images[3:4], seed=23, **options)
    assert torch.equal(alone[0], together[3])


def test_bytes_of_numpy_have_their_channels_last(smooth: Network, images: Tensor) -> None:
    levels = (images * 255).round().to(torch.uint8)
    expected, _ = lv.functional.saliency(smooth, levels, target=1, method="gradient")
    maps, _ = lv.functional.saliency(smooth, levels.movedim(1, -1).numpy(), target=1, method="gradient")
    assert torch.equal(maps, expected)


def test_nothing_is_drawn_written_or_left_behind(
    images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(*_: Any) -> None:
        raise AssertionError("a picture was drawn")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lit_viz.images.rendering.heat", draw)
    module = smooth_network().train()
    network = lv.load_network(module, labels=NAMES, size=16)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    before = images.clone()
    lv.functional.saliency(network, images, target=0, method="smoothgrad", iterations=2)
    lv.functional.attack(network, images, attack="pgd", eps=0.1, random_start=True, iterations=2)
    assert torch.equal(images, before)
    assert module.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    assert list(tmp_path.iterdir()) == []


def test_a_network_is_pickled_without_its_fast_copies(smooth: Network, images: Tensor) -> None:
    expected, _ = lv.functional.saliency(smooth, images, target=1, method="gradient")
    function, network = pickle.loads(pickle.dumps((lv.functional.saliency, smooth)))
    assert network._copies == {}
    assert function is lv.functional.saliency
    assert torch.equal(function(network, images, target=1, method="gradient")[0], expected)
    assert repr(network) == repr(smooth)


@pytest.mark.slow
def test_a_spawned_process_computes_the_same(smooth: Network, images: Tensor) -> None:
    saliency: dict[str, Any] = {"target": 1, "method": "smoothgrad", "iterations": 3, "seed": 5}
    attack: dict[str, Any] = {"attack": "pgd", "eps": 0.1, "iterations": 3, "seed": 5}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        maps, records = pool.submit(lv.functional.saliency, smooth, images, **saliency).result()
        attacked, _ = pool.submit(lv.functional.attack, smooth, images, **attack).result()
    expected, expected_records = lv.functional.saliency(smooth, images, **saliency)
    torch.testing.assert_close(maps, expected)
    assert [record.target_name for record in records] == [record.target_name for record in expected_records]
    torch.testing.assert_close(attacked, lv.functional.attack(smooth, images, **attack)[0])


# -- failures


def refuse_white(network: nn.Module, x: Tensor) -> Tensor:
    """Raise for batches with a white image; the logits have no finite gradient for black ones."""
    if bool((x.flatten(1).amin(1) > 1.9).any()):
        raise ValueError("white")
    logits: Tensor = network(x)
    return logits


def refusing() -> Network:
    return lv.load_network(
        Around(smooth_network(), refuse_white), labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16
    )


def test_an_image_that_fails_is_nan(images: Tensor) -> None:
    images[2] = 1
    network = refusing()
    maps, records = lv.functional.saliency(network, images, target=1, method="gradient")
    assert [record.status for record in records] == ["done", "done", "failed", "done", "done"]
    assert "white" in str(records[2].error)
    assert bool(maps[2].isnan().all())
    assert bool(maps[[0, 1, 3, 4]].isfinite().all())
    attacked, records = lv.functional.attack(network, images, target=1, iterations=2)
    assert records[2].status == "failed"
    assert bool(attacked[2].isnan().all())


def test_a_network_that_raises_on_all_images_is_an_error(images: Tensor) -> None:
    with pytest.raises(lv.LitVizError, match=r"ValueError .* on images of shape"):
        lv.functional.saliency(refusing(), torch.ones_like(images), target=1, method="gradient")


def test_records_state_why_all_images_of_a_batch_have_failed(smooth: Network, images: Tensor) -> None:
    attacked, records = lv.functional.attack(smooth, images, label=0, target=0)
    assert all("the target must differ from the label apple" in str(record.error) for record in records)
    assert bool(attacked.isnan().all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "gradientt"}, "did you mean 'gradient'"),
        ({"method": "gradient", "sigma": 0.2}, "sigma is not an argument"),
        ({"method": "gradient,smoothgrad"}, "a batch must have one task per image, got 10 tasks for 5 images"),
        ({"method": "gradient", "out": "folder"}, "out is not an argument of SaliencyMap or Gradient"),
        ({"method": "gradient", "network.size": 8}, "network.size is not an argument of SaliencyMap or Gradient"),
        ({"method": "gradient", "target": "cow"}, "cow"),
        ({"method": "gradient", "target": [0, 1]}, "one per image: got 2 for 5 images"),
        ({"method": "gradient", "seed": "0"}, "seed must be"),
    ],
)
def test_invalid_arguments_of_maps(smooth: Network, images: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(lv.LitVizError, match=message):
        lv.functional.saliency(smooth, images, **{"target": 0, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": "universal"}, "attack must be one of single images"),
        ({"attack": "pgd", "eps": "1/255,2/255"}, "got 10 tasks for 5 images"),
        ({"attack": "ddn", "eps": 0.1}, "eps"),
    ],
)
def test_invalid_arguments_of_attacks(smooth: Network, images: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(lv.LitVizError, match=message):
        lv.functional.attack(smooth, images, **options)


@pytest.mark.parametrize("given", [None, [torch.rand(3, 16, 16)], (i for i in range(2)), Path("a.png"), "a.png"])
def test_images_that_are_no_batch_are_one_sentence(smooth: Network, given: Any) -> None:
    for function in (lv.functional.saliency, lv.functional.attack):
        method: dict[str, Any] = {"method": "gradient"} if function is lv.functional.saliency else {}
        with pytest.raises(lv.LitVizError, match=r"images must be one tensor or array \(B, C, H, W\), got"):
            function(smooth, given, target=0, **method)


def test_images_are_checked(smooth: Network, images: Tensor) -> None:
    with pytest.raises(lv.LitVizError, match=r"images must be a batch \(B, C, H, W\), got shape \(3, 16, 16\)"):
        lv.functional.saliency(smooth, images[0], target=0, method="gradient")
    with pytest.raises(lv.LitVizError, match="must be in"):
        lv.functional.saliency(smooth, images * 2, target=0, method="gradient")


def test_the_defaults_are_those_of_a_run(smooth: Any) -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    maps, records = lv.functional.saliency(smooth, images)
    run = lv.saliency(smooth, images, captum="none")
    assert torch.equal(maps, run.maps)
    assert [record["method"] for record in records] == [record.method for record in run.records]
    assert [record.target for record in records] == [record.target for record in run.records]
    own, _ = lv.functional.saliency(smooth, images, method=lambda score, x: x * score(x).view(-1, 1, 1, 1))
    assert own.shape == maps.shape
