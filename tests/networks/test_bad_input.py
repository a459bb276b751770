"""Arguments and networks that are no classifier: each is one sentence, or works."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.errors import LitVizError
from lit_viz.networks.outputs import Output
from lit_viz.outputs import load_network
from tests.support.networks import Around, conv_net


def test_weights_may_be_a_state_dict() -> None:
    trained = {key: value + 1 for key, value in conv_net().state_dict().items()}
    for network in (conv_net(), f"{__name__}:conv_net"):
        classifier = load_network(network, weights={"state_dict": trained}, size=16)
        assert torch.equal(classifier.original.state_dict()["0.weight"], trained["0.weight"])
        assert (classifier.weights, classifier.sha256) == ("given", None)
    with pytest.raises(LitVizError, match="keys of the given state dict don't match the network; missing in the file"):
        load_network(conv_net(), weights={"a": torch.zeros(1)}, size=16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": 3}, "weights must be a path or a mapping, got 3"),
        ({"labels": 5}, "labels must be a path or a list of text, got 5"),
        ({"labels": [None] * 5}, r"labels must be a path or a list of text, got \[None, "),
        ({"mean": "a"}, "mean must be a number or a list of them, got 'a'"),
        ({"mean": [0.5, None, 0.5]}, r"mean must be a number or a list of them, got \[0.5, None, 0.5\]"),
        ({"std": float("nan")}, "std must be finite, got nan"),
        ({"size": "a"}, "size must be a whole number or a list of them, got 'a'"),
    ],
)
def test_invalid_arguments_give_a_one_line_error(options: dict[str, Any], words: str) -> None:
    with pytest.raises(LitVizError, match=words):
        load_network(conv_net(), **{"size": 16, **options})


@pytest.mark.parametrize("network", [None, nn.Conv2d, len])
def test_a_network_is_a_module_or_a_name(network: Any) -> None:
    for function in (load_network, lv.visualize):
        with pytest.raises(LitVizError, match=r"network must be .*an instance of Module.*, got"):
            function(network)


@pytest.mark.parametrize("x", [np.zeros((1, 3, 16, 16), np.float32), [[1.0]], None])
def test_images_that_are_no_tensor_are_rejected(x: Any) -> None:
    with pytest.raises(LitVizError, match=r"takes images \(N, 3, H, W\) as a tensor, got (ndarray|list|NoneType)"):
        load_network(conv_net(), size=16).scores(x)


class Failing(nn.Module):
    """Fails from its n-th forward on."""

    def __init__(self, forwards: int, error: BaseException) -> None:
        super().__init__()
        self.body, self.left, self.error = conv_net(), [forwards], error  # numbers are restored after a forward

    def forward(self, x: Tensor) -> Tensor:
        self.left[0] -= 1
        if self.left[0] < 0:
            raise self.error
        return self.body(x)


@pytest.mark.parametrize("forwards", [0, 2, 4, 6, 9, 14, 20])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no more"), "no more"),
        (SystemExit(3), "it calls sys.exit"),
        (StopIteration(), "raised StopIteration at test_bad_input.py"),
    ],
)
def test_a_network_that_raises_or_exits_gives_a_one_line_error(
    forwards: int, error: BaseException, reason: str
) -> None:
    def run() -> None:
        network = load_network(Failing(forwards, error), size=16)
        lv.attack(network, torch.rand(2, 3, 16, 16), attack="pgd", iterations=10, wandb="disabled")

    with pytest.raises(LitVizError, match=reason):
        run()


def test_a_network_without_classes_is_rejected() -> None:
    with pytest.raises(LitVizError, match=r"must return logits \(N, K\), got a tensor of shape \(2, 0\)"):
        load_network(Around(conv_net(), lambda net, x: net(x)[:, :0]), size=16)


class Scores(Output):
    """A part of what the network returns."""

    def __init__(self, part: slice | int) -> None:
        self.part = part

    def scores(self, returned: Tensor, images: int) -> Tensor:
        return returned[:, self.part]


@pytest.mark.parametrize(("part", "shape"), [(slice(0), r"\(2, 0\)"), (0, r"\(2,\)")])
def test_an_output_gives_one_or_more_scores(part: slice | int, shape: str) -> None:
    with pytest.raises(LitVizError, match=rf"must give one or more scores per image \(N, K\), got shape {shape}$"):
        lv.load_network(conv_net(), output=Scores(part), size=16)


class Changing(nn.Module):
    """Multiplies a weight after each forward, in place."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.maps = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head, self.factor = nn.Linear(4, 5), factor

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.maps(x))
        with torch.no_grad():
            self.head.weight.mul_(self.factor)
        return logits


def test_weights_that_change_in_a_forward_give_a_one_line_error() -> None:
    message = r"^Changing changes its weights in its forward: change them outside of it$"
    for factor in (2, 1.001):
        with pytest.raises(LitVizError, match=message):
            load_network(Changing(factor), size=16)
    network = Changing(1)
    changing = load_network(network, size=16)
    network.factor = 1.001  # from now on
    for call in (
        lambda: lv.saliency(changing, torch.rand(1, 3, 16, 16), method="gradient", captum="none"),
        lambda: lv.attack(changing, torch.rand(1, 3, 16, 16), attack="pgd", iterations=2),
        lambda: lv.visualize(changing, 0, iterations=2),
    ):
        with pytest.raises(LitVizError, match=r"^the network changes weights or activations in place that"):
            call()


@pytest.mark.parametrize("statement", ["raise SystemExit(2)", "def make(): raise SystemExit(2)"])
def test_a_module_or_factory_that_exits_gives_a_one_line_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    (tmp_path / "leaving.py").write_text(statement)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "leaving", raising=False)
    with pytest.raises(LitVizError, match="SystemExit: 2"):
        load_network("leaving:make", size=16)
