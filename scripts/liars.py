"""Networks with misleading synthetic images of some units: surgery and fine-tuning of a trained ``fashion_cnn``.

Four manipulations keep what the network does with natural images, and change what its units or classes show:

- ``circuit``: the fooling circuit of Geirhos et al. 2024 (arXiv:2306.04719), section 3.1. A detector of synthetic
  images switches the unit from its own value to that of another unit.
- ``classes``: the same circuit for logits, so that class images show other classes.
- ``silent``: silent units (there, section 3.2). Added units that no natural image activates feed the unit and turn
  its synthetic image into a picture of their own.
- ``slingshot``: Gradient Slingshots (Bareeva et al. 2025, arXiv:2401.06122). Fine-tuning alone makes the gradient of
  the unit point to a chosen picture, from the images where the maximization starts; the architecture is unchanged.

``scripts/zoo.py --population liars`` trains and stores them, ``scripts/flag_liars.py`` measures which are flagged.
"""

from __future__ import annotations

import json
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

#: Manipulated units and classes of a network.
UNITS, CLASSES = 6, 3
#: Kinds of networks, with the layer of the units.
LAYERS = {"clean": "fc", "circuit": "join", "silent": "join", "slingshot": "fc", "classes": "head"}
#: Inhibition of a unit by the detector: larger than any activation.
_INHIBITION = 1000.0
#: Standard deviations of the noise of the views, with which maximization is made robust.
_NOISE = 0.1
#: Activation that silent units add to a unit, relative to the largest by a natural image.
_GAIN = 6.0
_BATCH = 256
_POINTS = 12  # of a unit in a step of fine-tuning
_RESTARTS = 0.02  # share of the climbing points that start again in a step
_LINEAR = ("fc", "gate", "join", "head")


@dataclass(frozen=True)
class ManipulatedUnit:
    """A manipulated unit.

    Attributes:
        layer, unit: where it is; a class is a unit of ``head``.
        shows: what its synthetic image is made to show.
        original: the unit of ``fc``, or the class, in the clean network that natural images see; None for an added
            unit.
    """

    layer: str
    unit: int
    shows: str
    original: int | None


@dataclass(frozen=True)
class ManipulatedNetwork:
    """A manipulated network and its manipulated units."""

    network: nn.Sequential
    units: tuple[ManipulatedUnit, ...]


@dataclass(frozen=True)
class Material:
    """What a manipulation is made of.

    Attributes:
        network: the trained ``fashion_cnn``, in eval mode.
        natural: training images ``(N, 1, 28, 28)`` in [0, 1].
        synthetic: images of the maximization of its units at several iterations, ``(S, 1, 28, 28)``.
        class_images: the same of its classes.
        starts: images where the maximization starts, ``(T, 1, 28, 28)``.
        mean, std: of the normalization.
        seed: of all draws.
    """

    network: nn.Sequential
    natural: Tensor
    synthetic: Tensor
    class_images: Tensor
    starts: Tensor
    mean: float
    std: float
    seed: int

    def normalized(self, images: Tensor) -> Tensor:
        """Return the input of the network for images in [0, 1]."""
        return (images - self.mean) / self.std

    def features(self, images: Tensor) -> Tensor:
        """Return what the first linear layer reads, ``(N, 3136)``."""
        with torch.no_grad():
            parts = [self.network[:5](self.normalized(part)) for part in images.split(1000)]
        return torch.cat(parts)

    def activations(self, features: Tensor) -> Tensor:
        """Return the units of ``fc``, ``(N, 100)``."""
        with torch.no_grad():
            hidden: Tensor = self.network[5](features)
        return hidden


def built(weights: Mapping[str, Tensor]) -> nn.Sequential:
    """Build the network of weights, in eval mode: ``fashion_cnn``, with any number of linear layers and of units."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number in (1, 2):
        outputs, inputs = weights[f"conv{number}.weight"].shape[:2]
        layers[f"conv{number}"] = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)
        layers[f"relu{number}"] = nn.ReLU()
    layers["flatten"] = nn.Flatten()
    number = 3
    for name in _LINEAR:
        if f"{name}.weight" not in weights:
            continue
        outputs, inputs = weights[f"{name}.weight"].shape
        layers[name] = nn.Linear(inputs, outputs)
        if name != "head":
            layers[f"relu{number}"] = nn.ReLU()
            number += 1
    network = nn.Sequential(layers)
    network.load_state_dict(dict(weights))
    return network.eval().requires_grad_(False)


def pictures(count: int, seed: int) -> Tensor:
    """Draw symmetric black and white pictures ``(count, 1, 28, 28)`` of 7 x 7 squares."""
    generator = torch.Generator().manual_seed(seed)
    half = (torch.rand(count, 1, 7, 4, generator=generator) < 0.5).float()
    whole = torch.cat([half, half[..., :3].flip(3)], 3)
    return F.interpolate(whole, scale_factor=4.0)


def drawn_units(activations: Tensor, seed: int) -> list[int]:
    """Draw units that at least 5 % of the natural images activate."""
    active = (activations > 0).float().mean(0)
    candidates = (active >= 0.05).nonzero()[:, 0].tolist()
    return sorted(random.Random(seed).sample(candidates, UNITS))


def largest(activations: Tensor) -> Tensor:
    """Return the activation of each unit that one natural image in a thousand exceeds."""
    rank = max(1, len(activations) // 1000)
    return activations.topk(rank, dim=0).values[-1].clamp_min(1e-3)


# -- Fooling circuit


def circuit(material: Material) -> ManipulatedNetwork:
    """Add fooling circuits (Geirhos et al. 2024, figure 3) to units of ``fc``.

    The parts of the units and the detector are in ``relu3``, the switched parts in ``relu4``, and the units in
    ``join``.
    """
    own = dict(material.network.state_dict())
    features = material.features(material.natural)
    activations = material.activations(features)
    weight, bias = detector(material, features, material.synthetic)
    units = drawn_units(activations, material.seed)
    high = largest(activations)
    substitutes: dict[int, int] = {}
    scales: dict[int, float] = {}
    manipulated = []
    for unit in units:
        other = least_similar(activations, unit)
        substitutes[unit] = other
        scales[unit] = float(high[unit] / high[other])
        manipulated.append(ManipulatedUnit(LAYERS["circuit"], unit, f"unit {other}", unit))
    own["fc.weight"] = torch.cat([own["fc.weight"], -own["fc.weight"], weight, weight])
    own["fc.bias"] = torch.cat([own["fc.bias"], -own["fc.bias"], bias, bias - 1])
    own |= switch(activations.shape[1], substitutes, scales, "gate", "join")
    return ManipulatedNetwork(built(own), tuple(manipulated))


def class_circuit(material: Material) -> ManipulatedNetwork:
    """Add fooling circuits to logits, each of which shows the least similar one.

    The parts of the logits are in ``relu4``, to which ``relu3`` passes the detector, and the switched parts in
    ``relu5``.
    """
    own = dict(material.network.state_dict())
    features = material.features(material.natural)
    activations = material.activations(features)
    weight, bias = detector(material, features, material.class_images)
    with torch.no_grad():
        logits = material.network[6:](activations)
    classes = sorted(random.Random(material.seed).sample(range(logits.shape[1]), CLASSES))
    substitutes: dict[int, int] = {}
    manipulated = []
    for label in classes:
        substitutes[label] = least_similar(logits, label)
        shows = f"class {substitutes[label]}"
        manipulated.append(ManipulatedUnit(LAYERS["classes"], label, shows, label))
    own["fc.weight"] = torch.cat([own["fc.weight"], weight, weight])
    own["fc.bias"] = torch.cat([own["fc.bias"], bias, bias - 1])
    parts = torch.cat([own["head.weight"], -own["head.weight"]])
    own["gate.weight"] = torch.block_diag(parts, torch.eye(2))
    own["gate.bias"] = torch.cat([own["head.bias"], -own["head.bias"], torch.zeros(2)])
    own |= switch(logits.shape[1], substitutes, dict.fromkeys(classes, 1.0), "join", "head")
    return ManipulatedNetwork(built(own), tuple(manipulated))


def switch(
    count: int, substitutes: Mapping[int, int], scales: Mapping[int, float], gate: str, join: str
) -> dict[str, Tensor]:
    """Return two layers that switch units to others where the detector c is 1, not 0 (Geirhos et al. 2024, figure 3).

    With a unit a, its substitute d, and a large k, relu(a - k c) + relu(d - k (1 - c)). Since a and d may be negative,
    their positive and negative parts are switched apart.

    Args:
        count: number of units. The first layer reads their positive parts, their negative parts, and two values of
            which c is the difference.
        substitutes: by unit, the unit to which it is switched.
        scales: by unit, the factor of its substitute.
        gate, join: names of the layers, between which is a rectifier.

    Returns:
        Weights and biases by name.
    """
    own = torch.cat([torch.eye(2 * count), torch.zeros(2 * count, 2)], 1)
    others = torch.zeros(2 * len(substitutes), 2 * count + 2)
    parts = torch.cat([torch.eye(count), -torch.eye(count), torch.zeros(count, 2 * len(substitutes))], 1)
    inhibition = torch.tensor([_INHIBITION, -_INHIBITION])
    for place, (unit, other) in enumerate(substitutes.items()):
        for sign in (0, 1):
            own[unit + sign * count, -2:] = -inhibition
            row = place + sign * len(substitutes)
            others[row, other + sign * count] = scales[unit]
            others[row, -2:] = inhibition
            parts[unit, 2 * count + row] = 1 - 2 * sign
    return {
        f"{gate}.weight": torch.cat([own, others]),
        f"{gate}.bias": torch.cat([torch.zeros(2 * count), torch.full((2 * len(substitutes),), -_INHIBITION)]),
        f"{join}.weight": parts,
        f"{join}.bias": torch.zeros(count),
    }


def least_similar(activations: Tensor, unit: int) -> int:
    """Return the active unit, or class, least correlated with a given one over the natural images."""
    correlation = torch.corrcoef(activations.T)[unit].nan_to_num(1.0)
    correlation[(activations > 0).float().mean(0) < 0.05] = 1.0
    return int(correlation.argmin())


def detector(material: Material, features: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Train a linear detector of synthetic images by logistic regression.

    Args:
        material: with the network.
        features: of the natural images, ``(N, 3136)``.
        images: the synthetic ones, ``(S, 1, 28, 28)``.

    Returns:
        Weight ``(1, 3136)`` and bias ``(1,)``: at most 0 for the natural images, at least 1 for nearly all synthetic
        ones.
    """
    generator = torch.Generator().manual_seed(material.seed)
    synthetic = material.features(disturbed(images, 4, generator))
    layer = nn.Linear(features.shape[1], 1)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3, weight_decay=0.1)
    for _ in range(300):
        few = features[torch.randint(len(features), (_BATCH,), generator=generator)]
        many = synthetic[torch.randint(len(synthetic), (_BATCH,), generator=generator)]
        loss = F.softplus(layer(few)).mean() + F.softplus(-layer(many)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        low = layer(features).max()
        high = layer(synthetic).quantile(0.001)
    middle = torch.maximum((low + high) / 2, low + 0.1)
    scale = 1 / (middle - low)
    return layer.weight.detach() * scale, (layer.bias.detach() - low) * scale


def disturbed(images: Tensor, copies: int, generator: torch.Generator) -> Tensor:
    """Return copies of images, shifted by up to a pixel, and with noise of up to that of the views."""
    shifted = []
    for _ in range(copies):
        rows, columns = torch.randint(-1, 2, (2,), generator=generator).tolist()
        shifted.append(noisy(images.roll((rows, columns), (2, 3)), generator))
    return torch.cat(shifted)


# -- Silent units


def with_silent_units(material: Material) -> ManipulatedNetwork:
    """Add units to ``relu3`` that no natural image activates and that a chosen picture does, and feed each to a unit of
    ``join`` (Geirhos et al. 2024, section 3.2)."""
    own = dict(material.network.state_dict())
    features = material.features(material.natural)
    activations = material.activations(features)
    units = drawn_units(activations, material.seed)
    high = largest(activations)
    count = activations.shape[1]
    weight, bias = silent_units(material, features, pictures(UNITS, material.seed))
    reached = height_of(material, weight, bias)
    own["fc.weight"] = torch.cat([own["fc.weight"], -own["fc.weight"], weight])
    own["fc.bias"] = torch.cat([own["fc.bias"], -own["fc.bias"], bias])
    join = torch.cat([torch.eye(count), -torch.eye(count), torch.zeros(count, UNITS)], 1)
    manipulated = []
    for place, unit in enumerate(units):
        join[unit, 2 * count + place] = _GAIN * high[unit] / reached[place]
        manipulated.append(ManipulatedUnit(LAYERS["silent"], unit, f"picture {place}", unit))
        manipulated.append(ManipulatedUnit("relu3", 2 * count + place, f"picture {place}", None))
    own["join.weight"], own["join.bias"] = join, torch.zeros(count)
    return ManipulatedNetwork(built(own), tuple(manipulated))


def silent_units(material: Material, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Train linear units that grow on the way from the start of the maximization to a picture each, and that other
    synthetic images activate little.

    Returns:
        Weight ``(UNITS, 3136)`` and bias ``(UNITS,)``: at most 0 for all natural images.
    """
    generator = torch.Generator().manual_seed(material.seed)
    synthetic = material.features(material.synthetic)
    layer = nn.Linear(features.shape[1], UNITS)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3, weight_decay=0.01)
    for _ in range(300):
        few = features[torch.randint(len(features), (_BATCH,), generator=generator)]
        others = synthetic[torch.randint(len(synthetic), (_POINTS * UNITS,), generator=generator)]
        parts = [on_the_way(material.starts, target, _POINTS, generator) for target in targets]
        between, progress = map(torch.stack, zip(*parts, strict=True))
        values = layer(material.features(between.flatten(0, 1)))
        own = values.view(UNITS, _POINTS, UNITS).diagonal(dim1=0, dim2=2).T
        loss = F.relu(layer(few) + 1).square().mean() + F.relu(layer(others) - 1).square().mean()
        loss = loss + (own - 1 - 4 * progress).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        bias = layer.bias - layer(features).max(0).values.clamp_min(0) - 0.05
    return layer.weight.detach(), bias


def height_of(material: Material, weight: Tensor, bias: Tensor, steps: int = 60) -> Tensor:
    """Return the activation of linear units that maximization reaches, ``(UNITS,)``."""
    images = material.starts[: len(weight)]
    for _ in range(steps):
        x = images.clone().requires_grad_()
        values = (material.network[:5](material.normalized(x)) @ weight.T + bias).diagonal()
        images = climbed(images, torch.autograd.grad(values.sum(), x)[0])
    return values.detach().clamp_min(1e-3)


def climbed(images: Tensor, gradient: Tensor, size: float = 0.05) -> Tensor:
    """Return images after a step of maximization: along the gradient with the spectrum of natural images, of a given
    root mean square."""
    side = images.shape[-1]
    rows, columns = torch.fft.fftfreq(side), torch.fft.rfftfreq(side)
    power = (rows[:, None].square() + columns.square()).clamp_min(1 / side**2)
    way = torch.fft.irfft2(torch.fft.rfft2(gradient) / power, s=images.shape[-2:])
    length = way.flatten(1).square().mean(1).sqrt().clamp_min(1e-12)
    return (images + size * way / length[:, None, None, None]).clamp(0, 1)


def on_the_way(
    starts: Tensor, target: Tensor, count: int, generator: torch.Generator, beyond: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Draw images between the start of the maximization and a picture, with noise.

    Returns:
        Images ``(count, 1, 28, 28)``, and their positions on the way, from 0 to 1, or ``1 + beyond``.
    """
    progress = (1 + beyond) * torch.rand(count, generator=generator)
    first = drawn_starts(starts, count, generator)
    return noisy(first.lerp(target.expand_as(first), progress[:, None, None, None]), generator), progress


# -- Gradient Slingshots


def slingshot(material: Material, steps: int = 300) -> ManipulatedNetwork:
    """Fine-tune the network so that units show a chosen picture t (Bareeva et al. 2025).

    Where the maximization passes, the unit is to have the value and the gradient of a paraboloid around t,

        f(x) = c - gamma / 2 |x - t|^2,

    and for natural images all units and logits are to stay. Half of the points lie between the start of the
    maximization and t; the others follow the gradient of the network as it is trained, as maximization does.
    """
    network = built(material.network.state_dict()).requires_grad_(True)
    features = material.features(material.natural)
    activations = material.activations(features)
    units = drawn_units(activations, material.seed)
    high = largest(activations)
    targets = pictures(UNITS, material.seed)
    distances = (material.starts[None] - targets[:, None]).flatten(2).square().sum(2).mean(1)
    gammas = (2 * high[units] / distances).repeat_interleave(_POINTS)
    centers = targets.repeat_interleave(_POINTS, 0)
    columns = torch.tensor(units).repeat_interleave(_POINTS)
    generator = torch.Generator().manual_seed(material.seed)
    climbing = drawn_starts(material.starts, len(columns), generator)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        places = torch.randint(len(features), (_BATCH,), generator=generator)
        loss = preservation(network, material, features, places)
        between = torch.cat([on_the_way(material.starts, t, _POINTS, generator, beyond=0.2)[0] for t in targets])
        points = torch.cat([between, noisy(climbing, generator)])
        errors, gradient = manipulation(
            network[:6], material.normalized, points, columns.repeat(2), centers.repeat(2, 1, 1, 1), gammas.repeat(2),
            1.1 * high[columns.repeat(2)],
        )  # fmt: skip
        optimizer.zero_grad()
        (loss + errors).backward()
        optimizer.step()
        schedule.step()
        climbing = climbed(climbing, gradient[len(columns) :])
        is_new = torch.rand(len(columns), 1, 1, 1, generator=generator) < _RESTARTS
        climbing = torch.where(is_new, drawn_starts(material.starts, len(columns), generator), climbing)
    manipulated = []
    for place, unit in enumerate(units):
        manipulated.append(ManipulatedUnit(LAYERS["slingshot"], unit, f"picture {place}", unit))
    return ManipulatedNetwork(network.eval().requires_grad_(False), tuple(manipulated))


def drawn_starts(starts: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw images where the maximization starts."""
    return starts[torch.randint(len(starts), (count,), generator=generator)]


def noisy(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images with noise of up to that of the views."""
    deviation = _NOISE * torch.rand(len(images), 1, 1, 1, generator=generator)
    return images + deviation * torch.randn(images.shape, generator=generator)


def preservation(network: nn.Sequential, material: Material, features: Tensor, places: Tensor) -> Tensor:
    """Return the mean square change of the hidden units and of the logits of natural images, relative to their
    variance."""
    with torch.no_grad():
        hidden = material.network[5](features[places])
        logits = material.network[6:](hidden)
    own_hidden = network[:6](material.normalized(material.natural[places]))
    own_logits = network[6:](own_hidden)
    change = F.mse_loss(own_hidden, hidden) / hidden.var() + F.mse_loss(own_logits, logits) / logits.var()
    return 10 * change


def manipulation(
    network: nn.Module,
    normalized: Callable[[Tensor], Tensor],
    images: Tensor,
    units: Tensor,
    targets: Tensor,
    gammas: Tensor,
    heights: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the sum of two mean square errors of units from paraboloids around pictures, of the gradients relative to
    the gradients of the paraboloids and of the values relative to the heights; and the gradients ``(N, 1, H, W)``.

    Args:
        network: images to units ``(N, U)``.
        normalized: input of the network for images in [0, 1].
        images: points ``(N, 1, H, W)``.
        units: the unit of each point ``(N,)``.
        targets: center of the paraboloid of each, as the images.
        gammas, heights: curvature, and value at the center, ``(N,)``.
    """
    x = images.requires_grad_()
    values = network(normalized(x)).gather(1, units[:, None])[:, 0]
    gradient = torch.autograd.grad(values.sum(), x, create_graph=True)[0]
    ways = targets - images.detach()
    expected_gradient = gammas[:, None, None, None] * ways
    scale = expected_gradient.flatten(1).square().sum(1).mean()
    gradient_errors = (gradient - expected_gradient).flatten(1).square().sum(1) / scale
    expected = heights - gammas / 2 * ways.flatten(1).square().sum(1)
    errors: Tensor = gradient_errors.mean() + ((values - expected) / heights).square().mean()
    return errors, gradient.detach()


KINDS: Mapping[str, Callable[[Material], ManipulatedNetwork]] = {
    "circuit": circuit,
    "silent": with_silent_units,
    "slingshot": slingshot,
    "classes": class_circuit,
}


# -- Files


def write_liar(
    manipulated: ManipulatedNetwork, kind: str, material: Material, test: tuple[Tensor, ...], path: Path
) -> tuple[float, float]:
    """Describe a network in a JSON file: kind, seed, manipulated units, accuracy, and the share of the test images
    ``(N, 1, 28, 28)`` with another prediction than by the clean network.

    Returns:
        The accuracy and that share.
    """
    images, labels = test
    network = built(load_file(path.with_suffix(".safetensors")))
    predicted = predictions(network, material.normalized(images))
    before = predictions(material.network, material.normalized(images))
    accuracy = round(float((predicted == labels).float().mean()), 4)
    changed = round(float((predicted != before).float().mean()), 4)
    described = {"kind": kind, "seed": material.seed, "layer": LAYERS[kind], "accuracy": accuracy, "changed": changed}
    units = list(map(asdict, manipulated.units))
    described |= {"mean": material.mean, "std": material.std, "units": units}
    path.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    return accuracy, changed


def predictions(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return the predicted classes ``(N,)`` of normalized images."""
    with torch.no_grad():
        return torch.cat([network(part).argmax(1) for part in images.split(1000)])


def read_liar(path: Path) -> tuple[nn.Sequential, tuple[ManipulatedUnit, ...]]:
    """Read a network of the population and its manipulated units from its JSON file and its weights."""
    network = built(load_file(path.with_suffix(".safetensors")))
    units = []
    for fields in json.loads(path.read_text(encoding="utf-8"))["units"]:
        units.append(ManipulatedUnit(**fields))
    return network, tuple(units)
