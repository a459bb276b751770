"""The three methods on a GPU, and on two. Skipped without one."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import lit_viz as lv
from lit_viz.evidence.saliency.cross_check import NOT_CHECKED
from lit_viz.networks import Network
from lit_viz.outputs import load_network
from tests.support.networks import smooth_network
from tests.support.verdicts import reasons, verdicts

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]
GPU: dict[str, Any] = {"trainer": {"accelerator": "gpu", "devices": 1}}
CPU: dict[str, Any] = {"trainer": {"accelerator": "cpu"}}


def photographs(count: int = 4) -> torch.Tensor:
    return (torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255).round() / 255


def test_the_fast_copy_agrees_with_the_original(lite0: Network) -> None:
    x = torch.rand(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    logits, _ = lite0.fast((), torch.device("cuda"))(x.cuda())
    torch.testing.assert_close(logits.cpu(), lite0.scores(x), rtol=1e-2, atol=2e-2)  # TF32


def test_the_fast_copy_computes_channels_last(lite0: Network) -> None:
    x = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)).cuda()
    _, read = lite0.fast(["blocks.3.2"], torch.device("cuda"))(x, ["blocks.3.2"])
    assert read["blocks.3.2"].is_contiguous(memory_format=torch.channels_last)


def test_draws_are_those_of_the_cpu_and_float64_runs_are_equal(smooth: Network) -> None:
    runs = [
        lv.visualize(smooth, [0, 1, 2], iterations=9, trainer={"precision": "64-true"}, slots=2, **device)
        for device in (CPU, GPU)
    ]
    torch.testing.assert_close(runs[1].images, runs[0].images, rtol=0, atol=1 / 255 + 1e-6)
    for actual, its in zip(runs[0].records, runs[1].records, strict=True):
        assert its["logit"] == pytest.approx(actual["logit"], rel=1e-3)


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_every_method_runs_in_every_precision(smooth: Network, precision: str) -> None:
    options = {"trainer": {**GPU["trainer"], "precision": precision}}
    class_image = lv.visualize(smooth, [1], iterations=60, views=2, **options)
    assert class_image.records[0]["status"] == "done"
    assert torch.isfinite(class_image.images).all()
    fooled = lv.attack(smooth, photographs(), attack="pgd", eps=0.2, iterations=20, **options)
    assert all(record["success_file"] for record in fooled.records if record["status"] == "done")
    maps = lv.saliency(smooth, photographs(), method="smoothgrad", iterations=8, captum="none", **options)
    assert torch.isfinite(maps.arrays).all()


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_runs_have_the_same_outcomes(lite0: Network, mode: str) -> None:
    torch._dynamo.reset()
    pictures = torch.rand(5, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    for attack in ("pgd", "deepfool", "carlini_wagner"):  # one gradient a step, several of one forward, of some rows
        runs = [
            lv.attack(lite0, pictures, attack=attack, iterations=12, slots=3, compile=how, **GPU)
            for how in (None, mode)
        ]
        assert [r["success_float"] for r in runs[0].records] == [r["success_float"] for r in runs[1].records]
    maps = [
        lv.saliency(lite0, pictures, method=["smoothgrad"], iterations=8, slots=3, captum="none", compile=how, **GPU)
        for how in (None, mode)
    ]
    torch.testing.assert_close(maps[1].arrays, maps[0].arrays, rtol=0.05, atol=1e-2)
    class_images = lv.visualize(lite0, [1, 2], iterations=40, views=2, compile=mode, **GPU)
    assert all(record["objective"] > 5 for record in class_images.records)
    assert not any("not compiled" in note for note in lite0.notes)


def test_cuda_graphs_keep_no_memory_of_past_steps(lite0: Network) -> None:
    torch._dynamo.reset()
    picture = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    held = []
    for iterations in (20, 20, 200):
        lv.attack(lite0, picture, attack="pgd", iterations=iterations, compile="reduce-overhead", **GPU)
        held.append(torch.cuda.memory_reserved())
    assert held[2] <= held[1] + 2**26


@pytest.mark.parametrize("method", ["gradient", "smoothgrad", "integrated_gradients", "grad_cam"])
@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_captum_agrees_with_maps_of_the_gpu(method: str, place: str) -> None:
    network = load_network(smooth_network().to(place), size=16)
    run = lv.saliency(network, photographs(2), method=method, **GPU)
    first, *others = verdicts(run)
    assert first
    assert False not in others
    assert set(reasons(run)) <= {NOT_CHECKED}  # for want of time


@pytest.mark.parametrize("rule", ["NAdam", "RMSprop", "Adam", "SGD"])
def test_slots_are_emptied_under_every_rule(smooth: Network, rule: str) -> None:
    run = lv.visualize(smooth, [0, 1, 2], iterations=9, slots=2, step_rule=rule, **GPU)
    assert [record["status"] for record in run.records] == ["done"] * 3


def test_a_classifier_that_lives_on_the_gpu(tmp_path: Path) -> None:
    there = load_network(smooth_network().cuda(), size=16)
    lv.visualize(there, [1], iterations=9, out=tmp_path / "run", wandb="disabled", **GPU)
    assert lv.check(tmp_path / "run", there)


def test_a_classifier_that_can_not_be_copied_stays_where_it_is() -> None:
    network = smooth_network()
    network.lock = threading.Lock()  # which can't be copied
    run = lv.attack(load_network(network, size=16), photographs(), attack="pgd", eps=0.2, iterations=20, **GPU)
    assert [record["status"] for record in run.records].count("failed") == 0


def test_two_gpus_share_a_queue(tmp_path: Path, records: Any, small_options: Any) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    run = tmp_path / "run"
    words = [
        "visualize",
        "0",
        "1",
        "2",
        "3",
        "4",
        *small_options,
        "--iterations",
        "20",
        "--slots",
        "2",
        "--out",
        str(run),
    ]
    subprocess.run([sys.executable, "-m", "lit_viz", *words, "--devices", "2"], cwd=ROOT, check=True, timeout=300)
    assert [record["status"] for record in records(run)] == ["done"] * 5
