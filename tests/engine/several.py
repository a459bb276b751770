"""Runs of all methods in each of several processes; rank 0 saves the outcomes."""

from __future__ import annotations

import os
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.errors import LitVizError
from tests.conftest import NAMES, smooth_network

Case = tuple[str, str, int]  # method, devices mode, slots


def cases() -> list[Case]:
    return [("visualize", "images", 1), *((kind, mode, 3) for kind in KINDS for mode in ("images", "views"))]


def photographs() -> Tensor:
    return (torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255).round() / 255


def _visualize(net: Any, **options: Any) -> Any:
    return lv.visualize(
        net, [0, 1, 2, 3, 4], iterations=5, model__views=8, model__oversample=1.0, model__shown=1.0, **options
    )


def _attack(net: Any, **options: Any) -> Any:
    return lv.attack(net, photographs(), [0] * 5, target=2, attack="pgd", eps=0.05, iterations=6, **options)


def _ddn(net: Any, **options: Any) -> Any:
    return lv.attack(net, photographs(), attack="ddn", iterations=6, **options)


def _saliency(net: Any, **options: Any) -> Any:
    return lv.saliency(net, photographs(), [1] * 5, method="smoothgrad", iterations=7, check="none", **options)


KINDS = {"visualize": _visualize, "attack": _attack, "ddn": _ddn, "saliency": _saliency}


def given(case: Case, **options: Any) -> dict[str, Any]:
    """Run a case and return the outcomes, which must not depend on the number of processes."""
    kind, mode, slots = case
    net = lv.load_classifier(smooth_network(), labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16)
    run = KINDS[kind](
        net, slots=slots, devices_mode=mode, trainer__precision="64-true", trainer__accelerator="cpu", **options
    )
    if not run.outcomes:
        return {}
    return {
        "results": [{key: value for key, value in record.items() if key != "seconds"} for record in run.results],
        "arrays": run.attributions if kind == "saliency" else run.images,
        "curves": [outcome.curve("objective") for outcome in run.outcomes],
        "frames": [[k for k, _ in outcome.frames()] for outcome in run.outcomes],
    }


def only_on_the_first() -> Any:
    """Return a network on rank 0; raise on the others."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        raise LitVizError("there is no network for the other processes.")
    return smooth_network()


def run_rank(rank: int, size: int, port: int, file: Path) -> None:
    """Run all cases as one of the processes that torchrun would start; its stderr is the file ``<file>.<rank>``."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "GROUP_RANK": 0}
    names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "none"}
    os.environ.update({name: str(value) for name, value in names.items()})
    torch.set_num_threads(1)
    with file.with_suffix(f".{rank}").open("w") as stream, redirect_stderr(stream):
        outcomes = {case: given(case) for case in cases()}
        if all(outcomes.values()):
            torch.save(outcomes, file)
