"""Public functions and objects reject arguments of other types in one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lit_viz as lv
from lit_viz.networks import Network
from tests.support.networks import Around, smooth_network
from tests.support.runs import Train

CALLS: dict[str, Callable[[Network, Path], Any]] = {
    "multi_label must be True or False, got 'no'": lambda net, run: lv.load_network(
        net.original,
        multi_label="no",  # type: ignore[arg-type]
    ),
    "size must be a whole number or a list of them, got 32.5": lambda net, run: lv.load_network(
        net.original,
        size=32.5,  # type: ignore[arg-type]
    ),
    "size must be a whole number or a list of them, got nan": lambda net, run: lv.visualize(net, 0, size=math.nan),
    "size must be a whole number or a list of them, got True": lambda net, run: lv.visualize(net, 0, size=True),
    "tags must be a list of text, got 5": lambda net, run: lv.visualize(net, 0, tags=5),
    "wandb must be auto or online or offline or disabled, got 'zzz'": lambda net, run: lv.log(
        run,
        logging=lv.LoggerSettings(wandb="zzz"),  # type: ignore[arg-type]
    ),
    "logging must be an instance of LoggerSettings, got 'a'": lambda net, run: lv.log(run, logging="a"),  # type: ignore[arg-type]
    "to must be a name or an instance of Logger or a list of them, got None": lambda net, run: lv.log(run, to=None),  # type: ignore[arg-type]
    "a radius must be a number such as 0.0157 or 4/255, got 'x'": lambda net, run: lv.attacks.PGD(eps="x"),
    "method must be an instance of Attribution, a function, a name or a list of them, got 5": lambda net, run: (
        lv.SaliencyMap(net, method=5)
    ),  # type: ignore[arg-type]
    "path must be a path, got None": lambda net, run: lv.callbacks.RunFolder(None),  # type: ignore[arg-type]
    "every must be a number, got 'often'": lambda net, run: lv.callbacks.ExactCheckpoint(None, "often"),  # type: ignore[arg-type]
    "layers must be text or a list of them, got ndarray of shape (5,)": lambda net, run: lv.microscope(
        net, np.zeros(5), "photos", run
    ),  # type: ignore[arg-type]
    "logger must be a name or an instance of Logger or a list of them, got PosixPath('logs')": lambda net, run: (
        lv.attack(
            net,
            torch.rand(1, 3, 16, 16),
            logger=Path("logs"),  # type: ignore[arg-type]
        )
    ),
    "log_at must be text or a whole number or a list of whole numbers, got array('x', dtype='<U1')": lambda net, run: (
        lv.saliency(net, torch.rand(1, 3, 16, 16), log_at=np.array("x"))
    ),
    "vary must be a mapping from text to a list of numbers, got range(0, 2)": lambda net, run: lv.LayerTasks(
        net,
        "0",
        vary=range(2),  # type: ignore[arg-type]
    ),
    "every_n_epochs must be a whole number, got 'x'": lambda net, run: lv.callbacks.SaliencyProbe([], "x"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("message", CALLS)
def test_a_value_of_another_type_is_one_sentence(message: str, smooth: Network, tmp_path: Path) -> None:
    with pytest.raises(lv.LitVizError) as raised:
        CALLS[message](smooth, tmp_path)
    assert str(raised.value) == message


def test_a_network_that_returns_no_rows_is_rejected() -> None:
    with pytest.raises(lv.LitVizError, match=r"Around: the network must return logits \(N, K\), got a tensor of shape"):
        lv.load_network(Around(smooth_network(), lambda net, x: net(x).sum(0)), size=16)


def test_a_checkpoint_that_cannot_be_written_fails_before_the_training(smooth: Network, train: Train) -> None:
    module = lv.ClassVisualization(smooth, iterations=2)
    for path, reason in {"/dev/null/x": "File exists", "/proc/x": "No such file or directory"}.items():
        with pytest.raises(lv.LitVizError, match=rf"{path} can't be written \({reason}\)"):
            train(module, lv.ClassTasks(smooth, [0]).tasks, [lv.callbacks.ExactCheckpoint(path)])
