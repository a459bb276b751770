"""Golden test: recorded results of every step rule, attack, attribution, objective, parameterization, transform and
prior, of the commands and of their records.

Each case computes a few tensors or records on a small network whose weights are a closed formula, and compares them
with ``golden.json``: shapes, integers, strings and the order of keys exactly, floating-point numbers with a tolerance.
A tensor is stored as its sums, projections and some entries. A part of the package without a case is an error.

A deliberate change of results rewrites the file, in a commit of its own::

    UPDATE_GOLDEN=1 python -m pytest tests/test_golden.py -n 0

Cases are named by strings of this file, so that renaming a class or moving a module leaves the data unchanged. The
package is accessed through its registries and package-level exports, and internal interfaces only in the section
"Interfaces".
"""

from __future__ import annotations

import csv
import inspect
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, get_origin

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import lit_viz as lv
from lit_viz import attacks, attributions, images, methods, objectives, optim
from lit_viz.attacks import ATTACKS
from lit_viz.attributions import ATTRIBUTIONS, IntegratedGradients, Occlusion
from lit_viz.cli import main
from lit_viz.launch.methods import METHODS
from lit_viz.rng import Draws, Key, generator_for
from lit_viz.types import Task
from tests.support.networks import Attending

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).with_name("golden.json")
UPDATE = os.environ.get("UPDATE_GOLDEN") == "1"

LABELS = ["apple", "banana", "cherry", "date", "elder"]
MEAN, STD = (0.45, 0.5, 0.4), (0.25, 0.2, 0.3)
LAYER = "features.3"  # of the network below: maps (8, H / 2, W / 2)


# -- Inputs: closed formulas, independent of any random number generator.


def wave(*shape: int, frequency: float = 1.0, phase: float = 0.0) -> Tensor:
    """Return float64 ``sin(frequency * (k + 1) + phase)`` over the entries k."""
    count = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return torch.sin(frequency * count + phase).view(*shape)


def photographs(count: int = 2, side: int = 8) -> Tensor:
    """Return float64 images ``(count, 3, side, side)`` in [0, 1], on the 8-bit lattice."""
    smooth = wave(count, 3, side, side, frequency=0.13) + 0.5 * wave(count, 3, side, side, frequency=1.7)
    tint = wave(count, 3, 1, 1, frequency=1.9)
    return ((0.5 + smooth / 5 + 0.19 * tint) * 255).round() / 255


class Net(nn.Module):
    """Convolution, batch norm, rectifier, convolution, rectifier, global mean, linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, 1, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU()
        )
        self.head = nn.Linear(8, 5)
        for n, parameter in enumerate(self.parameters()):
            scale = 1.3 / math.sqrt(math.prod(parameter.shape[1:])) if parameter.ndim > 1 else 0.2
            parameter.data = (scale * wave(*parameter.shape, frequency=2.3 + 0.31 * n, phase=n)).float()
        self.features[1].weight.data += 1
        self.features[1].running_mean = 0.3 * wave(6, frequency=1.1).float()
        self.features[1].running_var = 1 + 0.4 * wave(6, frequency=0.7).float()
        self.head.weight.data *= 40
        with torch.no_grad():  # logits of 0 for the mean color: no class prevails
            self.head.bias -= self.eval()(torch.zeros(1, 3, 8, 8))[0]

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.features(x).mean((2, 3))
        return self.head(hidden)


def network() -> nn.Module:
    return Net().eval()


def transformer() -> Any:
    """Return a network of two transformer blocks with 3 x 3 patches of 4 pixels."""
    net = Attending((12, 12))
    for n, parameter in enumerate(net.parameters()):
        parameter.data = (wave(*parameter.shape, frequency=2.3 + 0.31 * n, phase=n) * 0.6).float()
    return lv.load_network(net, labels=LABELS, mean=MEAN, std=STD, size=12)


def wrapped(size: int = 8) -> Any:
    return lv.load_network(network(), labels=LABELS, mean=MEAN, std=STD, size=size)


# -- Interfaces: the internal functions and fields that the cases use, each in one place.


def frozen(of: Any, layers: Sequence[str] = (), backprop: str = "plain") -> Callable[..., Any]:
    """Return the float64 fast copy: images, layers -> logits, activations."""
    copy: Callable[..., Any] = of.fast(tuple(layers), dtype=torch.float64, backprop=backprop)
    return copy


def draws_of(keys: Sequence[tuple[int, int, int]], last: int = 9) -> Draws:
    return Draws([Key(*key) for key in keys], last_iterations=[last] * len(keys))


def outputs_of(logits: Tensor, targets: Tensor, **fields: Any) -> Any:
    return objectives.Outputs(logits, targets, **fields)


def attack_outputs(logits: Tensor) -> Any:
    """Return outputs of which every second row is targeted."""
    rows = torch.arange(len(logits))
    targets, targeted = rows % 5, rows % 2 == 0
    return outputs_of(logits, targets, labels=torch.where(targeted, (targets + 2) % 5, targets), targeted=targeted)


def run_steps(rule: Any, x: Tensor, score: Callable[[Tensor, Tensor], Tensor], steps: int) -> tuple[Tensor, Any]:
    """Run a step rule without an engine; ``score`` maps images and logits to ``(N,)``."""
    fast, n = frozen(wrapped(x.shape[-1])), len(x)

    def evaluate(x: Tensor, **options: Any) -> Any:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            logits, _ = fast(leaf)
            return optim.Evaluation(leaf, score(leaf, logits), logits)

    count, last = torch.zeros(n, dtype=torch.long), torch.full((n,), steps)
    tasks = [Task(i, f"task {i}", 3 + i, target=i) for i in range(n)]
    state = {**rule.init(x, tasks), "iteration": count, "iterations": last, "until": last}
    with torch.no_grad():
        for k in range(steps):
            x, state, _ = rule.step(x, {**state, "iteration": count + k}, evaluate)
    return x, state


def run_attack(attack: Any, steps: int, side: int = 8, **goals: Any) -> dict[str, Any]:
    """Attack without an engine; return the outcomes, which of them succeed, and the counted rows."""
    of = wrapped(side)
    attack.bind(of)
    fast, rows = frozen(of), {"forward": 0, "backward": 0}

    def counted(x: Tensor) -> Tensor:
        rows["forward"] += len(x)
        logits: Tensor = fast(x)[0]
        if logits.requires_grad:
            logits.register_hook(count)
        return logits

    def count(gradient: Tensor) -> None:
        rows["backward"] += int((gradient != 0).any(1).sum())

    x = photographs(3, side)
    goals = goals or {"label": fast(x)[0].argmax(1).tolist()}
    outcome, state = attacks.run_attack(attack, counted, x, iterations=steps, **goals)
    return {"images": outcome, "success": state["fooled"], **rows}


def run_attribution(method: Any, evaluations: int | None = None, of: Any = None) -> dict[str, Any]:
    """Compute maps without an engine; return them and their uncertainty."""
    of = of or wrapped()
    method.bind(of)
    networks = {name: frozen(of, method.layers, name) for name in method.networks}
    maps, uncertainty = attributions.attribute(
        method, networks, photographs(2, of.size[0]), torch.tensor([3, 1]), evaluations=evaluations
    )
    return {"maps": maps, **uncertainty}


# -- Fingerprints and their comparison.


def rounded(value: float) -> Any:
    return float(f"{value:.9g}") if math.isfinite(value) else str(value)


def fingerprint(tensor: Tensor) -> dict[str, Any]:
    """Return shape, kind, sum, sum of absolute values, three projections on cosines, and some entries."""
    x = tensor.detach().double().flatten()
    k = torch.arange(1, len(x) + 1, dtype=torch.float64)
    sums = [x.sum(), x.abs().sum(), *((x * torch.cos(f * k + f)).sum() for f in (0.37, 1.0, 2.71))]
    places = sorted({0, len(x) // 3, len(x) // 2, (2 * len(x)) // 3, len(x) - 1}) if len(x) else []
    return {
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "sums": [rounded(float(value)) for value in sums],
        "entries": [rounded(float(x[place])) for place in places],
    }


#: Keys of records and evidence that vary from machine to machine.
VOLATILE = {"seconds", "sha256", "versions", "version", "weights", "fingerprint", "device", "path", "source"}


def plain(value: Any) -> Any:
    """Return a result as JSON holds it: tensors as fingerprints, mappings as ordered pairs."""
    if isinstance(value, Tensor):
        return fingerprint(value)
    if isinstance(value, Mapping):
        return {"pairs": [[str(k), "volatile" if k in VOLATILE else plain(v)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return rounded(value)
    return value


def tolerances(case: str, dtype: str = "float64") -> tuple[float, float]:
    """Return the relative and the absolute tolerance of a case."""
    if case.startswith("command"):
        return 2e-3, 2e-4  # float32 runs, rounded to 8 bits
    return (1e-5, 1e-7) if dtype == "float64" else (1e-4, 1e-6)


def differences(found: Any, expected: Any, case: str, where: str = "") -> list[str]:
    """Return one line for each difference."""
    if isinstance(expected, dict) and "sums" in expected and isinstance(found, dict) and "sums" in found:
        same = [key for key in ("shape", "dtype") if found[key] != expected[key]]
        if same:
            return [f"{where}: {same[0]} {found[same[0]]}, expected {expected[same[0]]}"]
        rtol, atol = tolerances(case, expected["dtype"])
        exact = expected["dtype"] in ("int64", "bool")
        total = expected["sums"][1] if isinstance(expected["sums"][1], float) else 0.0
        count = max(math.prod(expected["shape"]), 1)
        bounds = {"sums": atol * math.sqrt(count) + rtol * total, "entries": atol + rtol * total / count}
        return [
            f"{where}.{key}: {found[key]}, expected {expected[key]}"
            for key in bounds
            if not all(
                close(a, b, 0 if exact and key == "entries" else rtol, bounds[key])
                for a, b in zip(found[key], expected[key], strict=True)
            )
        ]
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys() == {"pairs"}:
        keys, expected_keys = ([key for key, _ in pairs["pairs"]] for pairs in (found, expected))
        if keys != expected_keys:
            return [f"{where}: keys {keys}, expected {expected_keys}"]
        pairs = zip(found["pairs"], expected["pairs"], strict=True)
        return [line for (key, a), (_, b) in pairs for line in differences(a, b, case, f"{where}.{key}")]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = zip(found, expected, strict=True)
        return [line for n, (a, b) in enumerate(pairs) for line in differences(a, b, case, f"{where}[{n}]")]
    same_kind = isinstance(found, float) and isinstance(expected, float)
    equal = close(found, expected, *tolerances(case)) if same_kind else found == expected
    return [] if equal else [f"{where}: {found!r}, expected {expected!r}"]


def close(found: Any, expected: Any, rtol: float, atol: float) -> bool:
    if isinstance(found, str) or isinstance(expected, str):  # nan, inf
        return bool(found == expected)
    return bool(abs(found - expected) <= atol + rtol * abs(expected))


# -- Parts: a name in the data, how the part is constructed.

Make = Callable[[], Any]


def cosine(lr: float, final: float = 0.0) -> Any:
    return optim.Cosine(lr, final)


STEP_RULES: dict[str, Make] = {
    "adam": lambda: optim.Adam(),
    "adam, cosine": lambda: optim.Adam(cosine(0.1, 0.1), betas=(0.8, 0.9)),
    "nadam": lambda: optim.NAdam(0.03),
    "sgd": lambda: optim.SGD(0.5),
    "sgd, nesterov": lambda: optim.SGD(0.5, 0.8, nesterov=True),
    "rmsprop": lambda: optim.RMSprop(),
    "adapted adagrad": lambda: optim.Adapted(torch.optim.Adagrad, 0.1),
    "gradient ascent": lambda: optim.GradientAscent(0.7),
    "normalized ascent": lambda: optim.NormalizedAscent(0.4),
    "normalized ascent, cosine": lambda: optim.NormalizedAscent(cosine(0.4)),
}

LEARNING_RATES: dict[str, Make] = {
    "constant": lambda: optim.Constant(0.3),
    "cosine": lambda: cosine(0.3, 0.2),
}

#: Attack, keyword arguments, iterations; a second word of the name tells cases of one attack apart. An attack that is
#: not listed has a case of its default arguments.
ATTACK_CASES: dict[str, tuple[dict[str, Any], int]] = {
    "normalized_ascent": ({"lr": 0.1}, 12),
    "normalized_ascent normalized": ({"space": "normalized", "clamp": False, "lr": 0.3}, 12),
    "fgsm": ({"eps": 0.03}, 1),
    "fgsm l2": ({"norm": "l2", "eps": 0.5}, 1),
    "pgd": ({"eps": 0.03, "early_stop": False}, 8),
    "pgd early": ({"eps": 0.1}, 12),
    "pgd l2": ({"norm": "l2", "eps": 0.5, "early_stop": False}, 8),
    "pgd momentum": ({"eps": 0.05, "momentum": 0.9, "early_stop": False}, 6),
    "pgd nesterov": ({"eps": 0.05, "momentum": 0.9, "nesterov": True, "alpha": 0.01, "random_start": False}, 6),
    "pgd restarts": ({"eps": 0.02, "restarts": 3, "early_stop": False}, 9),
    "apgd": ({"eps": 0.03, "early_stop": False}, 25),
    "apgd dlr": ({"eps": 0.03, "loss": "dlr", "early_stop": False}, 25),
    "apgd l2": ({"norm": "l2", "eps": 0.5, "restarts": 2, "early_stop": False}, 24),
    "ddn": ({}, 20),
    "deepfool": ({}, 10),
    "deepfool linf": ({"norm": "linf", "classes": 3}, 10),
    "fmn": ({}, 20),
    "fmn linf": ({"norm": "linf"}, 20),
    "carlini_wagner": ({"c": 0.1, "steps": 3}, 30),
    "square": ({"eps": 0.02, "early_stop": False}, 40),
    "square l2": ({"norm": "l2", "eps": 0.3, "p": 0.3, "early_stop": False}, 40),
    "ensemble": ({"eps": 0.01, "queries": 20, "classes": 2}, 60),
    "ensemble l2": ({"norm": "l2", "eps": 0.1, "queries": 20, "restarts": 2}, 60),
}
UNIVERSAL: dict[str, dict[str, Any]] = {"universal": {}, "universal l2": {"norm": "l2", "eps": 1.0, "alpha": 0.3}}
for name in ATTACKS:
    if name not in UNIVERSAL:
        ATTACK_CASES.setdefault(name, ({}, 10))

#: Method, keyword arguments, evaluations. A method that is not listed has a case of its default arguments.
ATTRIBUTION_CASES: dict[str, tuple[dict[str, Any], int | None]] = {
    "gradient": ({}, None),
    "libra_gradient": ({}, None),
    "input_x_gradient": ({}, None),
    "smoothgrad": ({}, 6),
    "smoothgrad_squared": ({"sigma": 0.1}, 5),
    "vargrad": ({}, 6),
    "integrated_gradients": ({}, 15),
    "integrated_gradients random": ({"baseline": "random"}, 15),
    "integrated_gradients blurred": ({"baseline": "blurred", "sigma": 2.0}, 7),
    "gradient_shap": ({"baseline": ["black", "mean", "random"], "sigma": 0.1}, 6),
    "expected_gradients": ({"sigma": 0.1}, 6),
    "deep_lift": ({"baseline": 0.3}, None),
    "guided_backprop": ({}, None),
    "deconvolution": ({}, None),
    "grad_cam": ({}, None),
    "grad_cam layer": ({"layer": LAYER, "relu": False}, None),
    "guided_grad_cam": ({}, None),
    "grad_cam_plus_plus": ({}, None),
    "layer_cam": ({}, None),
    "hires_cam": ({"relu": False}, None),
    "attention_rollout": ({}, None),
    "attention_gradient": ({}, None),
    "legrad": ({}, None),
    "grad_cam tokens": ({}, None),
    "occlusion": ({"window": 3, "stride": 2}, None),
    "feature_ablation": ({"segments": 9}, None),
    "kernel_shap": ({"segments": 9}, 40),
    "shapley_interactions": ({"segments": 9}, 100),
    "rise": ({"grid": 3, "p": 0.4}, 12),
    "extremal_perturbation": ({"area": 0.3, "sigma": 1.5, "cell": 2, "blur": 2.0}, 12),
}
for name in ATTRIBUTIONS:
    ATTRIBUTION_CASES.setdefault(name, ({}, None))
#: Cases on the transformer.
ATTENTION_CASES = ("attention_rollout", "attention_gradient", "legrad", "grad_cam tokens", "libra_gradient")
#: Methods of the command case, in their order.
SALIENCY_NAMES = (
    "gradient", "input_x_gradient", "smoothgrad", "smoothgrad_squared", "vargrad", "integrated_gradients",
    "guided_backprop", "deconvolution", "grad_cam", "guided_grad_cam", "occlusion", "rise", "extremal_perturbation",
)  # fmt: skip

ATTACK_OBJECTIVES: dict[str, Make] = {
    "cross-entropy": lambda: objectives.CrossEntropy(),
    "clipped cross-entropy": lambda: objectives.ClippedCrossEntropy(1.5),
    "target logit": lambda: objectives.TargetLogit(),
    "margin": lambda: objectives.Margin(),
    "dlr": lambda: objectives.DLR(),
    "square loss": lambda: ATTACKS["square"]().objective,
}
OBJECTIVES: dict[str, Make] = {
    "logit": lambda: objectives.Logit(),
    "logit of 2": lambda: objectives.Logit(2),
    "log-probability": lambda: objectives.LogProbability(),
    "probability": lambda: objectives.Probability(),
    "sum": lambda: objectives.Sum([objectives.Logit(), objectives.Probability()], [0.5, -2.0]),
    "product": lambda: objectives.Product([objectives.Logit(1), objectives.Layer(LAYER)]),
    "arithmetic": lambda: 2 * objectives.Logit() - objectives.LogProbability() * objectives.Probability(),
    "layer": lambda: objectives.Layer(LAYER),
    "channel": lambda: objectives.Channel(LAYER, 3),
    "channel of the task": lambda: objectives.Channel(LAYER),
    "neuron": lambda: objectives.Neuron(LAYER, 5, (1, 2)),
    "neuron, centre": lambda: objectives.Neuron(LAYER, 5),
    "direction": lambda: objectives.Direction(LAYER, wave(8).tolist()),
    "direction, cosine": lambda: objectives.Direction(LAYER, wave(8).tolist(), "cosine"),
    "diversity": lambda: objectives.Diversity(LAYER),
    "batch norm statistics": lambda: objectives.BatchNormStatistics(4.0),
}

PARAMETERIZATIONS: dict[str, Make] = {
    "pixels": lambda: images.Pixels(),
    "pixels, normalized": lambda: images.Pixels("normalized", 0.5),
    "fourier": lambda: images.Fourier(),
    "fourier, options": lambda: images.Fourier(decay=1.3, sd=0.1, chroma=0.6),
    "fourier, grey": lambda: images.Fourier(decorrelate=False),
    "maco": lambda: images.MACO(),
    "maco, options": lambda: images.MACO(decay=1.2, contrast=0.8, chroma=0.7),
}

TRANSFORMS: dict[str, Make] = {
    "random crop": lambda: images.RandomCrop(),
    "random crop, shrinking": lambda: images.RandomCrop(0.5, 1.2, 0.5),
    "scale": lambda: images.Scale(0.8, 1.3),
    "rotate": lambda: images.Rotate(),
    "shear": lambda: images.Shear(),
    "flip": lambda: images.Flip(),
    "jitter": lambda: images.Jitter(3),
    "roll": lambda: images.Roll(5),
    "diverse input": lambda: images.DiverseInput(0.7, 0.6),
    "color shift": lambda: images.ColorShift(),
    "exponential color shift": lambda: images.ExponentialColorShift(),
    "saturation": lambda: images.Saturation(),
    "noise": lambda: images.Noise(0.1),
    "blur": lambda: images.Blur(0.5, 1.5),
}

PRIORS: dict[str, Make] = {
    "l2": lambda: images.L2(),
    "squared l2": lambda: images.SquaredL2(0.01),
    "total variation": lambda: images.TotalVariation(0.02),
}
PROJECTIONS: dict[str, Make] = {
    "gaussian blur": lambda: images.GaussianBlur(0.8, 2),
    "clamp": lambda: images.Clamp(),
}

KEYS = [(0, 0, 0), (0, 1, 0), (0, 0, 1), (7, 3, 2), (-5, 8, 1), (2**40, 2, 0)]


# -- Cases: name -> results.


def step_rule_case(rule: Any) -> Any:
    targets = torch.tensor([1, 4, 0])
    score = lambda x, logits: logits.gather(1, targets[:, None])[:, 0] - 0.05 * x.square().flatten(1).sum(1)  # noqa: E731
    return run_steps(rule, photographs(3), score, 5)[0]


def learning_rate_case(rate: Any) -> Any:
    tasks = [Task(0, "a", 0), Task(1, "b", 1, lr=0.7), Task(2, "c", 2)]
    count = torch.tensor([0, 3, 9])
    return rate({**rate.init(torch.zeros(3, 2), tasks), "iteration": count, "iterations": torch.full((3,), 10)})


def universal_case(options: dict[str, Any]) -> Any:
    """Return the perturbation after some steps; its images are the mean over a mini-batch."""
    attack, batch = ATTACKS["universal"](**options), photographs(3)
    fast, labels = frozen(wrapped()), torch.tensor([0, 1, 2])

    def score(x: Tensor, logits: Tensor) -> Tensor:
        rows, _ = fast((x + batch).clamp(0, 1))
        return attack.objective(outputs_of(rows, labels, targeted=torch.zeros(3, dtype=torch.bool))).mean()[None]

    return run_steps(attack, torch.zeros(1, 3, 8, 8, dtype=torch.float64), score, 6)[0]


def objective_case(objective: Any) -> Any:
    """Return the scores of two tasks of a group of two images each, and their gradient."""
    of = wrapped()
    objective.bind(of)
    x = photographs(4).requires_grad_()
    logits, activations = frozen(of, objective.layers)(x, objective.layers)
    targets, members = torch.tensor([3, 1, 0, 2]), torch.tensor([0, 1, 0, 1])
    fields = {"channels": torch.tensor([2, 7, 0, 4]), "members": members, "inputs": 2}
    scores = objective(outputs_of(logits, targets, activations=activations, **fields))
    (gradient,) = torch.autograd.grad((scores * wave(4, frequency=0.9)).sum(), x)
    return {"scores": scores, "gradient": gradient}


def attack_objective_case(objective: Any) -> Any:
    logits = (4 * wave(8, 5, frequency=1.9)).requires_grad_()
    scores = objective(attack_outputs(logits))
    (gradient,) = torch.autograd.grad((scores * wave(8, frequency=0.9)).sum(), logits)
    return {"scores": scores, "gradient": gradient}


def canvas() -> Any:
    return images.Canvas(3, 8, 10, MEAN, STD)


def parameterization_case(parameterization: Any) -> Any:
    start = parameterization.start(draws_of(KEYS), canvas())
    x = start.double().requires_grad_()
    decoded = parameterization.decode(x, canvas())
    (gradient,) = torch.autograd.grad((decoded * wave(*decoded.shape, frequency=0.7)).sum(), x)
    given = 0.5 + 0.45 * wave(2, 3, 8, 10, frequency=0.21)
    error = images.encoding_error(parameterization, given, canvas())
    encoded = parameterization.encode(given, canvas())
    again = parameterization.decode(encoded, canvas())
    # Phases are determined up to multiples of 2 pi: compared by what they are decoded to.
    return {"start": start, "decoded": decoded, "gradient": gradient, "again": again, "error": list(error)}


def transform_case(transform: Any) -> Any:
    """Return the views of the transform alone, of a list of two of its kind at another size, and the gradient."""
    x = photographs(len(KEYS)).requires_grad_()
    alone = transform(x, draws_of(KEYS))
    (gradient,) = torch.autograd.grad((alone * wave(*alone.shape, frequency=0.7)).sum(), x)
    pair = images.Compose([transform, transform])(x[:2], draws_of(KEYS))
    smaller = images.Compose([transform])(x[:3], draws_of(KEYS), (6, 7))
    return {"alone": alone, "gradient": gradient, "pair": pair, "smaller": smaller}


def all_transforms_case() -> Any:
    every = images.Compose([make() for make in TRANSFORMS.values()])
    return every(photographs(3), draws_of(KEYS))


def prior_case(prior: Any) -> Any:
    x = wave(3, 3, 6, 7, frequency=0.4).requires_grad_()
    penalties = prior(x)
    (gradient,) = torch.autograd.grad((penalties * wave(3, frequency=0.9)).sum(), x)
    return {"name": prior.name, "penalties": penalties, "gradient": gradient}


def projection_case(projection: Any) -> Any:
    x, iteration = 1.5 * wave(3, 3, 8, 10, frequency=0.4), torch.tensor([1, 2, 4])
    spaces = (images.Pixels(), images.Pixels("normalized"))
    return [projection(x, iteration, space, canvas()) for space in spaces]


def draws_case() -> Any:
    draws = draws_of(KEYS)
    scoped = draws.scoped("0.golden")
    return {
        "uniform": draws.uniform("a", -2, 3),
        "uniform, shape": draws.uniform("a", shape=(2, 3)),
        "uniform, large": draws.uniform("a", -1, 1, (3, 8, 8)),
        "normal": draws.normal("a", (5,)),
        "normal, large": draws.normal("a", (3, 8, 8)),
        "integers": draws.integers("a", -4, 9, (7,)),
        "noise": draws.noise("a", (3, 8, 8)),
        "purpose": draws.uniform("b"),
        "scope": scoped.uniform("a"),
        "scope in a scope": scoped.scoped("inner").normal("a", (3, 8, 8)),
        "rows": draws.rows([4, 1]).uniform("a"),
        "progress": draws.progress,
        "generator": torch.rand(6, generator=generator_for(Key(3, 4, 5), "golden")),
    }


def part_cases() -> dict[str, Callable[[], Any]]:
    def attack(name: str, targeted: bool) -> Any:
        options, steps = ATTACK_CASES[name]
        goals = {"target": [4, 2, 0], "label": [1, 3, 2]} if targeted else {}
        return run_attack(ATTACKS[name.split()[0]](**options), steps, **goals)

    def attribution(name: str) -> Any:
        options, evaluations = ATTRIBUTION_CASES[name]
        method = ATTRIBUTIONS[name.split()[0]](**options)
        return run_attribution(method, evaluations, transformer() if name in ATTENTION_CASES else None)

    kinds: list[tuple[str, dict[str, Make], Callable[[Any], Any]]] = [
        ("step rule", STEP_RULES, step_rule_case),
        ("learning rate", LEARNING_RATES, learning_rate_case),
        ("objective", OBJECTIVES, objective_case),
        ("attack objective", ATTACK_OBJECTIVES, attack_objective_case),
        ("parameterization", PARAMETERIZATIONS, parameterization_case),
        ("transform", TRANSFORMS, transform_case),
        ("prior", PRIORS, prior_case),
        ("projection", PROJECTIONS, projection_case),
    ]
    cases: dict[str, Callable[[], Any]] = {
        f"{kind}: {name}": lambda make=make, case=case: case(make())
        for kind, parts, case in kinds
        for name, make in parts.items()
    }
    for name in ATTACK_CASES:
        for mode in ("untargeted", "targeted"):
            cases[f"attack: {name}, {mode}"] = lambda name=name, mode=mode: attack(name, mode == "targeted")
    cases |= {f"attack: {name}": lambda options=options: universal_case(options) for name, options in UNIVERSAL.items()}
    cases |= {f"attribution: {name}": lambda name=name: attribution(name) for name in ATTRIBUTION_CASES}
    return {**cases, "transform: all in one list": all_transforms_case, "draws": draws_case}


# -- Commands: results of the Python functions, and of the command line with its run folder.

WORDS = [
    "--network", f"{__name__}:network",
    "--network.weights", "none",
    "--network.size", "16",
    "--network.mean", json.dumps(MEAN),
    "--network.std", json.dumps(STD),
    "--wandb", "disabled",
]  # fmt: skip


def command_line(tmp_path: Path, *words: str) -> Path:
    """Run a command of ``lit-viz`` in this process; return its run folder."""
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        status: Any = 0
        try:
            main([*words, *WORDS, "--out", str(out)])
        except SystemExit as stop:
            status = stop.code
    assert not status
    return out


def files_of(tmp_path: Path, count: int = 3) -> list[str]:
    paths = [tmp_path / f"photograph{n}.png" for n in range(count)]
    for path, image in zip(paths, photographs(count, 16), strict=True):
        Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(path)
    return list(map(str, paths))


def run_result(run: Any, arrays: bool) -> Any:
    result = {"results": [record.to_dict() for record in run.records], "images": run.images}
    return {**result, **({"arrays": [outcome.array() for outcome in run.outcomes]} if arrays else {})}


def json_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def metrics_of(path: Path) -> dict[str, Any]:
    """Return the rows of ``metrics.csv``: the header, and task -> metric -> iterations and values, in order."""
    header, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
    tables: dict[str, dict[str, list[Any]]] = {}
    for task, iteration, metric, value in rows:
        tables.setdefault(task, {}).setdefault(metric, []).append([int(iteration), float(value)])
    return {"header": header, "rows": tables}


def outline(evidence: Any) -> Any:
    """Return evidence without its numbers and sentences: keys, verdicts, counts and names."""
    if isinstance(evidence, dict):
        return {key: outline(value) for key, value in evidence.items()}
    if isinstance(evidence, list):
        return [outline(value) for value in evidence]
    sentence = isinstance(evidence, str) and " " in evidence
    return "number" if isinstance(evidence, float) else "text" if sentence else evidence


def without_digests(task: dict[str, Any]) -> dict[str, Any]:
    """Return a task without the digests of its photographs, whose bytes depend on the version of zlib."""
    values = {name: value for name, value in task.items() if name != "source_digest"}
    if "photographs" in values:
        values["photographs"] = list(map(without_digests, values["photographs"]))
    return values


def folder_result(out: Path) -> dict[str, Any]:
    """Return a run folder: its files, records, metrics, queue and evidence."""
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    lines = [name for name in names if name.endswith(".jsonl") and name != "queue.jsonl"]
    lines = [name for name in lines if not name.startswith("records/")]  # whose digests are of exact results
    evidence = out / "evidence.json"
    return {
        "files": names,
        "metrics": metrics_of(out / "metrics.csv") if (out / "metrics.csv").exists() else None,
        "queue": list(map(without_digests, json_lines(out / "queue.jsonl"))),
        "evidence": outline(json.loads(evidence.read_text(encoding="utf-8"))) if evidence.exists() else None,
        **{name: json_lines(out / name) for name in lines},
        **{name: torch.from_numpy(np.load(out / name)) for name in names if name.endswith(".npy")},
        **{
            name: torch.from_numpy(np.asarray(Image.open(out / name)).copy())
            for name in names
            if name.endswith(".png") and name.startswith(("images/", "photographs/"))
        },
    }


def visualize_in_memory(tmp_path: Path) -> Any:
    how: dict[str, Any] = {"config": "small", "iterations": 6, "seed": 3}
    both = lv.visualize(wrapped(16), ["banana", 4], **how)
    channels = lv.visualize(wrapped(16), layer=LAYER, channel=[2, 5], **how)
    default = lv.visualize(wrapped(16), [1], iterations=2)
    return [run_result(run, False) for run in (both, channels, default)]


def saliency_in_memory(tmp_path: Path) -> Any:
    x = photographs(2, 16).float()
    names = [*SALIENCY_NAMES]
    run = lv.saliency(wrapped(16), x, target="banana", method=names, label=[1, 2], iterations=12, captum="none")
    options = [Occlusion(window=5, stride=3), IntegratedGradients(baseline="mean")]
    few = lv.saliency(wrapped(16), x, target="predicted", method=options, captum="none", seed=5)
    return [{**run_result(run, True), "maps": run.maps} for run in (run, few)]


def attack_in_memory(tmp_path: Path) -> Any:
    x = photographs(2, 16).float()
    how: dict[str, Any] = {"iterations": 10, "seed": 2}
    with pytest.warns(UserWarning, match="1 skipped of 2 images"):
        skipped = lv.attack(wrapped(16), x, label=[0, 1], target="date", attack="pgd", eps="8/255", **how)
    runs = [
        lv.attack(wrapped(16), x, lr=0.1, **how),
        skipped,
        lv.attack(wrapped(16), x, attack="pgd", momentum=0.9, norm="l2", eps=[0.2, 1.0], **how),
        lv.attack(wrapped(16), x, attack="ddn", **how),
        lv.attack(wrapped(16), x, attack="ensemble", eps=0.02, iterations=40),
    ]
    return [run_result(run, False) for run in runs]


def universal_in_memory(tmp_path: Path) -> Any:
    x = photographs(4, 16).float()
    run = lv.attack(wrapped(16), x, attack="universal", eps=0.1, iterations=6, seed=1, held_out=0.25)
    return {
        **run_result(run, True),
        "photographs": [perturbed_image.record.to_dict() for perturbed_image in run.outcomes[0].perturbed_images()],
    }


def visualize_in_a_folder(tmp_path: Path) -> Any:
    words = ["visualize", "0", "3", "--config", "small", "--iterations", "5", "--log-at", "1,3", "--seed", "4"]
    return folder_result(command_line(tmp_path, *words))


def saliency_in_a_folder(tmp_path: Path) -> Any:
    words = ["saliency", *files_of(tmp_path, 2), "--iterations", "6", "--target", "2", "--captum", "captum"]
    return folder_result(command_line(tmp_path, *words, "--method", "gradient,smoothgrad"))


def attack_in_a_folder(tmp_path: Path) -> Any:
    words = ["attack", *files_of(tmp_path, 2), "--attack", "pgd", "--eps", "40/255", "--iterations", "12"]
    return folder_result(command_line(tmp_path, *words))


def universal_in_a_folder(tmp_path: Path) -> Any:
    words = ["attack", *files_of(tmp_path), "--attack", "universal", "--eps", "0.2", "--iterations", "4"]
    return folder_result(command_line(tmp_path, *words))


def saliency_metrics(tmp_path: Path) -> Any:
    """Return random targets, and the metrics of their maps: deletion, insertion, sensitivity, randomization."""
    how: dict[str, Any] = {"method": "smoothgrad", "sigma": 0.1, "iterations": 4, "wandb": "disabled"}
    out = tmp_path / "run"
    run = lv.saliency(wrapped(16), photographs(3, 16).float(), target="random", out=out, captum="none", seed=2, **how)
    lv.check(out, wrapped(16), faithfulness=True)
    evidence = json.loads((out / "evidence.json").read_text(encoding="utf-8"))
    return {"targets": [record["target"] for record in run.records], "metrics": evidence["faithfulness"]}


def maco_of_photographs(tmp_path: Path) -> Any:
    files_of(tmp_path)
    return parameterization_case(images.MACO(str(tmp_path), contrast=1.2))


COMMAND_CASES: dict[str, Callable[[Path], Any]] = {
    "visualize": visualize_in_memory,
    "saliency": saliency_in_memory,
    "attack": attack_in_memory,
    "universal": universal_in_memory,
    "saliency metrics": saliency_metrics,
    "maco of photographs": maco_of_photographs,
    "visualize, run folder": visualize_in_a_folder,
    "saliency, run folder": saliency_in_a_folder,
    "attack, run folder": attack_in_a_folder,
    "universal, run folder": universal_in_a_folder,
}
#: The exported methods, by the case that holds their records.
RECORDS = {
    "visualize": "ClassVisualization",
    "saliency": "SaliencyMap",
    "attack": "AdversarialExample",
    "universal": "UniversalPerturbation",
}

PART_CASES = part_cases()
CASES = [*PART_CASES, *(f"command: {name}" for name in COMMAND_CASES)]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread: several wait for each other on tensors this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def golden() -> Iterator[dict[str, Any]]:
    """Yield the recorded results; with ``UPDATE_GOLDEN=1`` write what the cases put into them."""
    recorded = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    yield recorded
    if UPDATE:
        lines = [f"{json.dumps(name)}:{_line(recorded[name])}" for name in CASES if name in recorded]
        GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _line(result: Any) -> str:
    return json.dumps(result, separators=(",", ":"), ensure_ascii=False)


@pytest.mark.parametrize("case", CASES)
def test_results_are_unchanged(case: str, golden: dict[str, Any], tmp_path: Path) -> None:
    kind, _, name = case.partition(": ")
    result = plain(COMMAND_CASES[name](tmp_path) if kind == "command" else PART_CASES[case]())
    if UPDATE:
        golden[case] = result
    assert case in golden, f"no recorded result of {case}: run with UPDATE_GOLDEN=1"
    found = differences(json.loads(_line(result)), golden[case], case)
    assert not found, f"{case} differs from golden.json:\n" + "\n".join(found[:20])


def test_every_recorded_result_has_a_case(golden: dict[str, Any]) -> None:
    assert set(golden) == set(CASES)


# -- Coverage.


def concrete(base: type) -> set[type]:
    """Return the concrete public subclasses of the package, exported or not."""
    found = {base}
    while True:
        more = {child for parent in found for child in parent.__subclasses__()} - found
        if not more:
            break
        found |= more
    own = {kind for kind in found if kind.__module__.split(".")[0] == "lit_viz" and not kind.__name__.startswith("_")}
    return {kind for kind in own if not inspect.isabstract(kind)}


def covered() -> set[type]:
    parts = (STEP_RULES, LEARNING_RATES, OBJECTIVES, ATTACK_OBJECTIVES)
    parts += (PARAMETERIZATIONS, TRANSFORMS, PRIORS, PROJECTIONS)
    made = {type(make()) for each in parts for make in each.values()}
    made |= {ATTACKS[name.split()[0]] for name in [*ATTACK_CASES, *UNIVERSAL]}
    made.add(attributions.FunctionMap)  # whose maps are those of the function of the user
    return made | {ATTRIBUTIONS[name.split()[0]] for name in ATTRIBUTION_CASES}


@pytest.mark.parametrize(
    "base",
    [
        optim.StepRule,
        optim.LearningRate,
        objectives.Objective,
        images.Parameterization,
        images.Transform,
        images.Prior,
        images.Projection,
    ],
    ids=lambda base: str(base.__name__),
)
def test_every_part_has_a_case(base: type) -> None:
    for package in (optim, attacks, attributions, objectives, images):
        for file in Path(str(package.__file__)).parent.glob("*.py"):
            import_module(f"{package.__name__}.{file.stem}")
    missing = sorted(kind.__name__ for kind in concrete(base) - covered())
    assert not missing, f"no golden case of {', '.join(missing)}"


def test_every_registered_name_has_a_case() -> None:
    assert {name.split()[0] for name in [*ATTACK_CASES, *UNIVERSAL]} == set(ATTACKS)
    assert {name.split()[0] for name in ATTRIBUTION_CASES} == set(ATTRIBUTIONS)
    for package in (optim, attacks, attributions, objectives, images):
        bases = (optim.StepRule, optim.LearningRate, objectives.Objective, images.Parameterization)
        bases += (images.Transform, images.Prior, images.Projection)
        exported = [getattr(package, name) for name in package.__all__]
        classes = [value for value in exported if inspect.isclass(value) and get_origin(value) is None]  # no aliases
        parts = {kind for kind in classes if issubclass(kind, bases)}
        assert {kind for kind in parts if not inspect.isabstract(kind)} <= covered()


def test_every_command_and_record_has_a_case() -> None:
    assert set(METHODS) <= set(COMMAND_CASES)
    assert set(RECORDS.values()) == set(methods.__all__)
    for name in RECORDS:
        assert f"{name}, run folder" in COMMAND_CASES
