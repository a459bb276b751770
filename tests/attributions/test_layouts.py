"""Networks that run in torch's default memory layout only, by every method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lit_viz.attributions import ATTRIBUTIONS, Attribution, attribute
from lit_viz.errors import LitVizError
from lit_viz.evidence.saliency.captum_reference import CaptumReference, counterpart_of
from lit_viz.networks import Network
from lit_viz.optim.evaluation import LayeredNetwork
from lit_viz.outputs import load_network
from tests.support.attributions import MASK, distance
from tests.support.marks import slow
from tests.support.networks import Viewed

SIZE, TARGETS = 16, [4, 3]
OF_TRANSFORMERS = {"attention_rollout", "attention_gradient", "legrad"}
OPTIONS: dict[str, dict[str, Any]] = {
    "occlusion": {"window": 6},
    "feature_ablation": {"segments": MASK},
    "kernel_shap": {"segments": MASK},
    "shapley_interactions": {"segments": MASK},
    "expected_gradients": {"baseline": "random"},
}
NOTE = "Viewed is evaluated in torch's default memory layout, which is slower: a copy of it"


def photographs() -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.rand(2, 3, SIZE, SIZE, dtype=torch.float64, generator=generator)


def loaded(flattens: bool) -> Network:
    return load_network(Viewed(flattens).eval(), size=SIZE, mean=0.5, std=0.25)


def bound(name: str, network: Network) -> Attribution:
    method = ATTRIBUTIONS[name](**OPTIONS.get(name, {}))
    method.bind(network)
    return method


def evaluations_of(method: Attribution) -> int:
    if method.fixed:
        return method.default_evaluations((3, SIZE, SIZE))
    return max(16, getattr(method, "least_evaluations", 0))


def maps(name: str, network: Network, dtype: torch.dtype) -> Tensor:
    method = bound(name, network)
    networks: dict[str, LayeredNetwork] = {}
    for copy in method.networks:
        networks[copy] = network.fast(method.layers if copy == "plain" else (), dtype=dtype, backprop=copy)
    return attribute(method, networks, photographs().to(dtype), TARGETS, evaluations=evaluations_of(method))[0]


@pytest.mark.parametrize(
    "name",
    [
        *sorted(set(ATTRIBUTIONS) - OF_TRANSFORMERS - {"extremal_perturbation", "shapley_interactions"}),
        slow("extremal_perturbation"),
        slow("shapley_interactions"),
    ],
)
def test_maps_equal_those_of_a_network_of_any_layout(name: str) -> None:
    network = loaded(flattens=False)
    exact = maps(name, network, torch.float64)
    assert distance(exact, maps(name, loaded(flattens=True), torch.float64)) < 1e-9
    (note,) = network.fast().notes
    assert note.startswith(NOTE)
    if name != "extremal_perturbation":  # an optimization, which amplifies rounding
        assert distance(maps(name, network, torch.float32).double(), exact) < 1e-3
    method = bound(name, network)
    if counterpart_of(method) is not None:
        reference = CaptumReference(
            method, network, photographs()[:1], TARGETS[0], seed=0, evaluations=evaluations_of(method)
        )
        assert exact[0].abs().max() > 0
        assert distance(exact[:1], reference.compute()) < 1e-5  # some weights of Captum are in float32


@pytest.mark.parametrize("name", sorted(OF_TRANSFORMERS))
def test_methods_of_transformers_state_what_they_need(name: str) -> None:
    with pytest.raises(LitVizError, match="attention"):
        bound(name, loaded(flattens=False))


def test_norms_are_folded_in_the_default_layout() -> None:
    network = loaded(flattens=False)
    frozen = network.fast()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in frozen.modules())
    x = photographs().float()
    assert distance(frozen(x)[0], network.scores(x)) < 1e-5
