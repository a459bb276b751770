"""Captum's own test cases, given to these methods: every case either agrees, or there is a reason why it can't."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from torch import Tensor

from lit_viz.attributions.base import Attribution, attribute
from lit_viz.attributions.gradient import Gradient, InputXGradient
from lit_viz.attributions.integrated_gradients import IntegratedGradients
from lit_viz.attributions.occlusion import Occlusion
from lit_viz.attributions.smoothgrad import SmoothGrad
from tests.support.attributions import Counted

pytest.importorskip("captum.testing", reason="Captum 0.8 does not install its test cases")
with torch.random.fork_rng(devices=[]):
    from captum.testing.attr.helpers.test_config import config
    from captum.testing.helpers.basic_models import BasicModel_ConvNet

Case = Mapping[str, Any]
IMPLEMENTED = ("Saliency", "InputXGradient", "IntegratedGradients", "Occlusion")
TESTED_ELSEWHERE = ("GuidedBackprop", "Deconvolution", "GuidedGradCam", "LayerGradCam")
PAIRS = [(case, algorithm) for case in config for algorithm in case["algorithms"]]


def reason(case: Case, algorithm: type) -> str | None:
    """Return why the case is not for these methods, or None."""
    name = algorithm.__name__
    if name in TESTED_ELSEWHERE:
        return "tested with the methods that change the network or read a layer"
    if name not in IMPLEMENTED:
        return (
            "explains a layer or neuron"
            if name.startswith(("Layer", "Neuron", "Internal"))
            else "not among the methods"
        )
    if isinstance(case["attribute_args"]["inputs"], tuple):
        return "several inputs: an image is one"
    if name == "Occlusion" and case["attribute_args"]["inputs"].ndim != 4:
        return "occlusion takes images"
    if case.get("noise_tunnel") and name != "Saliency":
        return "noise around another method than the gradient"
    return None


RUN = [pair for pair in PAIRS if reason(*pair) is None]


def test_every_case_is_accounted_for() -> None:
    reasons = [reason(*pair) for pair in PAIRS]
    counts = {why: reasons.count(why) for why in dict.fromkeys(reasons)}
    assert len(config) == 77
    assert sum(counts.values()) == len(PAIRS)
    assert counts[None] == 24
    assert counts["several inputs: an image is one"] == 10
    assert counts["noise around another method than the gradient"] == 10


@pytest.mark.parametrize(("case", "algorithm"), RUN, ids=[f"{c['name']}-{a.__name__}" for c, a in RUN])
@pytest.mark.filterwarnings("ignore:Internal batch size cannot be less")
@pytest.mark.usefixtures("exact_captum")
def test_case(case: Case, algorithm: type) -> None:
    arguments = {key: _double(value) for key, value in case["attribute_args"].items()}
    network = copy.deepcopy(case["model"]).double()
    if isinstance(network, BasicModel_ConvNet):
        _vary_the_last_layer(network)
    method, evaluations = _method(algorithm, arguments, bool(case.get("noise_tunnel")))
    more = arguments.get("additional_forward_args", ())
    x = arguments["inputs"]
    outputs = network(x, *more)
    targets = _flat(arguments["target"], outputs.shape[1:], len(x))
    actual, _ = attribute(method, Counted(lambda x: network(x, *more).flatten(1)), x, targets, evaluations=evaluations)
    expected = captum.attr.NoiseTunnel(algorithm(network)) if case.get("noise_tunnel") else algorithm(network)
    reference = expected.attribute(**arguments | {"inputs": x.clone().requires_grad_()}).detach()
    actual = actual.abs() if algorithm.__name__ == "Saliency" else actual
    torch.testing.assert_close(
        actual.expand_as(reference), reference, rtol=0, atol=1e-12 * float(reference.abs().max())
    )
    assert reference.abs().max() > 0


def _vary_the_last_layer(network: BasicModel_ConvNet) -> None:
    """Give its classes different weights; with Captum's equal ones, probabilities do not depend on the image."""
    with torch.no_grad():
        network.fc2.weight.copy_(torch.linspace(-1e-3, 1e-3, network.fc2.weight.numel()).view_as(network.fc2.weight))


def _method(algorithm: type, arguments: Case, noisy: bool) -> tuple[Attribution, int | None]:
    """Return the method and its number of evaluations."""
    if noisy:
        method = SmoothGrad()
        method.sigma = arguments["stdevs"]
        return method, arguments["nt_samples"]
    if algorithm is captum.attr.Occlusion:
        *_, height, width = (1, 1, *arguments["sliding_window_shapes"])
        sides = [width] if arguments["inputs"].ndim == 2 else [height, width]
        return Occlusion(sides, 1, 0.0), None
    if algorithm is captum.attr.IntegratedGradients:
        method = IntegratedGradients()
        if "baselines" in arguments:
            method.baseline = lambda x, seeds: arguments["baselines"]
        return method, None
    return {"Saliency": Gradient, "InputXGradient": InputXGradient}[algorithm.__name__](), None


def _double(value: object) -> object:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _flat(target: Any, shape: tuple[int, ...], count: int) -> list[int]:
    """Return the place of each row's target among the row's outputs, flattened."""
    several = target.tolist() if isinstance(target, Tensor) else target if isinstance(target, list) else [target]
    places = [int(np.ravel_multi_index(t if isinstance(t, tuple) else (t,), shape)) for t in several]
    return list(itertools.islice(itertools.cycle(places), count))
