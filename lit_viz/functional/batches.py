"""The functions of a batch: a method module computes the images of one tensor, with the draws of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lit_viz.attacks import Attack
from lit_viz.attributions import AUTO, Attribution
from lit_viz.engine.failures import failures_reported, gradients_enabled
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.snapshots import Result
from lit_viz.errors import ArgumentError, require
from lit_viz.images.rendering import Heat
from lit_viz.images.sources import picture_size
from lit_viz.methods import AdversarialExample, SaliencyMap
from lit_viz.methods.form import MethodForm
from lit_viz.methods.tasks import Classes, ImageTasks
from lit_viz.networks import Network, as_network
from lit_viz.types import Record
from lit_viz.utils.checking import checked_types

#: Images ``(B, C, H, W)``, or ``(B, H, W, C)`` where :func:`lit_viz.saliency` accepts them.
Batch = Tensor | NDArray[Any]
Device = str | torch.device


@checked_types
@gradients_enabled()
def saliency(
    network: Network | nn.Module | str,
    images: Batch,
    *,
    target: Classes | None = None,
    method: str | Attribution | type[Attribution] | Callable[..., Tensor] = AUTO,
    seed: int = 0,
    device: Device | None = None,
    **options: Any,
) -> tuple[Tensor, list[Record]]:
    """Compute the saliency maps of a batch, equal to those of :func:`lit_viz.saliency`.

    Args:
        network: a :class:`~lit_viz.Network`, whose fast copy is kept for the next batch, or an argument of
            :func:`load_network`.
        images: ``(B, C, H, W)`` in [0, 1], or in the unit of the network's ``value_range``.
        target: explained class, one for all images or one per image, as in :func:`lit_viz.saliency`. Default: the
            predicted one.
        method: a name of :data:`lit_viz.attributions.ATTRIBUTIONS`, an instance, or a function
            (:class:`~lit_viz.attributions.FunctionMap`). Default: ``auto``, as in :func:`lit_viz.saliency`.
        seed: seed of the first map; map i uses ``seed + i``.
        device: device of the computation. Default: that of the images.
        options: other arguments of :class:`~lit_viz.SaliencyMap` (``slots=``, ``iterations=``, ``reducer=`` ...), of
            the method (``sigma=`` ...) and of :class:`~lit_viz.ImageTasks` (``against=``, ``label=`` ...).

    Returns:
        The maps ``(B, H, W)`` on the device of the images, and their records. A map that has failed is NaN; its
        record states the reason.

    Raises:
        LitVizError: unknown class, method or argument, or images out of range.

    Example:
        >>> import torch
        >>> import lit_viz as lv
        >>> net = lv.load_network("efficientnet_lite0")
        >>> images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        >>> maps, records = lv.functional.saliency(net, images, target="tabby", method="gradient")
        >>> tuple(maps.shape)
        (2, 224, 224)
    """
    values = {"method": method, "seed": seed, **options}
    if target is not None:
        values["target"] = target
    _check_batch(images)
    network = as_network(network, picture_size(images))
    results = _compute(SaliencyMap, network, images, values, device)
    failed = torch.full(network.size, torch.nan)
    maps: list[Tensor] = []
    for result in results:
        maps.append(result.content.values if isinstance(result.content, Heat) else failed)
    return torch.stack(maps).to(_device_of(images)), [result.record for result in results]


@checked_types
@gradients_enabled()
def attack(
    network: Network | nn.Module | str,
    images: Batch,
    *,
    target: Classes | None = None,
    label: Classes | None = None,
    attack: str | Attack | type[Attack] = "normalized_ascent",
    eps: float | str | None = None,
    seed: int = 0,
    device: Device | None = None,
    **options: Any,
) -> tuple[Tensor, list[Record]]:
    """Compute the adversarial examples of a batch, equal to those of :func:`lit_viz.attack`.

    Args:
        network, images, seed, device: as in :func:`saliency`.
        target: target class, one for all images or one per image. Default: untargeted.
        label: true class, one for all images or one per image. Default: predicted. An image that is not predicted as
            its label is skipped.
        attack: a name of :data:`lit_viz.attacks.ATTACKS`, or an instance.
        eps: radius in units of [0, 1], such as ``4/255``, for attacks with a budget.
        options: other arguments of :class:`~lit_viz.AdversarialExample` (``slots=``, ``iterations=`` ...), of the
            attack (``norm=``, ``alpha=`` ...) and of :class:`~lit_viz.ImageTasks`.

    Returns:
        The images ``(B, C, H, W)`` as their files hold them, on the device of the images, and their records. A skipped
        image is unchanged; one that has failed is NaN, and its record states the reason.

    Raises:
        LitVizError: unknown class, attack or argument, or images out of range.
    """
    given = {"target": target, "label": label, "attack": attack, "eps": eps}
    values = {name: value for name, value in given.items() if value is not None}
    values |= {"seed": seed, **options}
    _check_batch(images)
    network = as_network(network, picture_size(images))
    results = _compute(AdversarialExample, network, images, values, device)
    attacked = torch.full((len(results), network.channels, *network.size), torch.nan)
    for row, result in zip(attacked, results, strict=True):
        if result.image is not None:
            row.copy_(result.image)
    return attacked.to(_device_of(images)), [result.record for result in results]


def _check_batch(images: object) -> None:
    """Raise an error unless images are a batch, as one tensor or array."""
    if not isinstance(images, (Tensor, np.ndarray)):
        problem = f"must be one tensor or array (B, C, H, W), got {type(images).__name__}: lv.saliency takes others"
        raise ArgumentError("images", problem)
    require(images.ndim == 4, "images must be a batch (B, C, H, W)", f"shape {tuple(images.shape)}")


def _compute(
    method: type[ImageTraining], network: Network, images: Batch, values: Mapping[str, Any], device: Device | None
) -> list[Result]:
    """Return the results of a batch in its order.

    Args:
        method: class of the module.
        network, images, device: as in :func:`saliency`.
        values: arguments of module, parts and tasks, by name.
    """
    form = MethodForm(
        module={"class_path": method, "init_args": {}},
        tasks={"class_path": ImageTasks, "init_args": {"images": images}},
    )
    for name in sorted(values, key=lambda name: name not in ("method", "attack")):  # whose arguments have own names
        form.set(name, values[name])
    require(form.module_class is method, "attack must be one of single images", "a universal perturbation")
    module, tasks = form.build_module(network), form.build_tasks(network)
    tasks.attach(module)
    require(
        len(tasks.tasks) == len(images),
        "a batch must have one task per image",
        f"{len(tasks.tasks)} tasks for {len(images)} images",
        hint="give one method, radius, target and goal",
        is_argument=False,
    )
    module.to(_device_of(images) if device is None else device)
    with failures_reported(module):
        return module.compute(tasks.tasks)


def _device_of(images: Batch) -> torch.device:
    return images.device if isinstance(images, Tensor) else torch.device("cpu")
