"""``load_network``: any trained vision network, with what of its return value is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lit_viz.errors import ArgumentError, LitVizError, did_you_mean, is_out_of_memory, require
from lit_viz.networks import Network
from lit_viz.networks.bands import ValueRange
from lit_viz.networks.loading import PerChannel, Weights, load
from lit_viz.networks.network import GIVEN_WEIGHTS
from lit_viz.networks.outputs import LOGITS, Logits, Output
from lit_viz.networks.sources import import_object
from lit_viz.outputs.answer import Answer
from lit_viz.outputs.detection import Detection
from lit_viz.outputs.embedding import Embedding
from lit_viz.outputs.keypoint import Keypoint
from lit_viz.outputs.read_text import ReadText
from lit_viz.outputs.region import Region, Share
from lit_viz.outputs.regression import Regression
from lit_viz.outputs.zero_shot import ZeroShot
from lit_viz.utils.checking import checked_types
from lit_viz.utils.formatting import remark
from lit_viz.utils.parts import construct, has_instances, hints_of

#: Outputs by name.
OUTPUTS: dict[str, type[Output]] = {
    "logits": Logits,
    "region": Region,
    "share": Share,
    "detection": Detection,
    "embedding": Embedding,
    "zero_shot": ZeroShot,
    "regression": Regression,
    "keypoint": Keypoint,
    "read_text": ReadText,
    "answer": Answer,
}


@checked_types
def load_network(
    network: str | nn.Module | Enum = "efficientnet_lite0",
    *,
    output: Any = "logits",
    prompt: str | None = None,
    weights: Weights = "DEFAULT",
    labels: Sequence[str] | str | Path | None = None,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    size: int | Sequence[int] | None = None,
    channels: int | None = None,
    bands: Sequence[str] | None = None,
    display: Sequence[str | int] | str | int | None = None,
    value_range: ValueRange | None = None,
    multi_label: bool | None = None,
    processor: Any = None,
    device: str | torch.device | None = None,
    each_image: bool = False,
) -> Network:
    """Load any trained vision network; log what was assumed about it, such as a normalization that was not given.

    Args:
        network: ``efficientnet_lite0`` (also 1 and 2; no download); ``zoo/NAME``, a small network of
            :mod:`lit_viz.zoo` (no download); ``torchvision/NAME``, or a member of its ``Weights``; ``timm/NAME``;
            ``transformers/ORG/NAME`` or ``timm/hf-hub:ORG/NAME`` of the Hugging Face Hub, or a folder saved as there;
            or ``package.module:factory`` (importable, also from the current folder). Of a module without ``forward``,
            such as a Lightning module, the only network in it is used. In Python also a module, which is used as it is.
        output: what of its return value is scored: a name such as ``logits`` or ``region``, or as numbers
            (:class:`~lit_viz.outputs.Regression`) an index or key of it, or ``module:function`` of it. In Python also
            an :class:`~lit_viz.networks.outputs.Output`, or a function of the return value.
        prompt: text before the answer, of ``output="answer"`` (:class:`~lit_viz.outputs.Answer`).
        weights: ``DEFAULT`` for published weights (or those of the factory or module); a ``.pth``, ``.safetensors``
            or Lightning ``.ckpt`` file; ``none`` for random weights, always the same. In Python also a state dict, or
            None for random weights.
        labels: class names, or a text file with one per line; by default as published, else ``class 0`` ...
        mean, std: of the normalization, one value or one per channel, in units of [0, 1], or with ``value_range`` in
            the unit of the files; by default as published (torchvision, timm), or of the image processor of a Hugging
            Face network, both for [0, 1], else 0 and 1.
        size: side, or (height, width), of the input in pixels; by default as published.
        channels: number of channels of the input, 1 to 512; by default read from the first layer, and tested.
        bands: names of the channels.
        display: one or three bands that are drawn, by name or index; by default the first three, or the first.
        value_range: values (low, high) of a file that map to 0 and 1, or one pair per channel.
        multi_label: whether labels do not exclude each other: a probability is then the sigmoid of a logit instead of
            the softmax, and an attack flips the decision on one label. By default as in a Hugging Face configuration,
            else False.
        processor: image processor of a Hugging Face network, for its mean, std, size and
            resizing; by default the one in its folder or in the cache of the Hub.
        device: of the network; by default unchanged. A given module is copied rather than moved.
        each_image: whether the network is evaluated on one image at a time, as a file exported with a batch size of 1
            requires.

    Returns:
        The network, tested on random images. Its scores stand in place of logits everywhere.

    Raises:
        LitVizError: the name is unknown, weights are missing, damaged or don't match, ``size`` is required, the
            outputs are no logits, or the output fails on the network.
    """
    loaded = load(
        network, weights=weights, labels=labels, mean=mean, std=std, size=size, channels=channels, bands=bands,
        display=display, value_range=value_range, multi_label=multi_label, processor=processor, device=device,
        each_image=each_image, output=as_output(output, prompt),
    )  # fmt: skip
    loaded.log_notes(remark)
    return loaded


def load_recorded(arguments: Mapping[str, Any], section: str = "network") -> Network:
    """Load a network by the arguments of :func:`load_network` as a form has them, its name as ``name``.

    Args:
        arguments: by name.
        section: name of these arguments in messages, ``network.size``.

    Raises:
        LitVizError: it was passed as a module, an argument is unknown, the network can't be loaded, or there is not
            enough memory.
    """
    given = dict(arguments)
    name = given.pop("name", "efficientnet_lite0")
    if given.get("weights") == GIVEN_WEIGHTS:
        raise LitVizError(
            f"the run was started with a Python module ({name}): continue in Python with "
            "lit_viz.resume(folder, network) or check(folder, network)"
        )
    for key in given:
        if key not in hints_of(load_network):
            raise LitVizError(f"network.{key} is not an argument{did_you_mean(key, hints_of(load_network))}")
    output, prompt = given.pop("output", None), given.pop("prompt", None)
    if has_instances(output):
        raise LitVizError(
            f"the run was started with an output of Python that a configuration can't hold ({output}): continue in "
            "Python with lit_viz.resume(folder, network) or check(folder, network)"
        )
    try:
        return load(name, output=as_output(output, prompt), **given)
    except ArgumentError as error:
        if error.argument not in given:
            raise
        raise ArgumentError(f"{section}.{error.argument}", error.problem, value=error.value) from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = f"out of memory while {name} is loaded: its weights or inputs need more than there is"
        raise LitVizError(message) from error


def split_section(values: Mapping[str, Any], section: str = "network") -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the arguments of a command into those of a section, ``network.size`` ..., and the others.

    The value of ``network`` itself is the argument ``name`` of the section.
    """
    arguments: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for name, value in values.items():
        first, _, last = name.partition(".")
        if first != section:
            others[name] = value
        elif last:
            arguments[last] = value
        elif value is not None:
            arguments["name"] = value
    return arguments, others


def as_output(output: Any, prompt: str | None = None) -> Output:
    """Return an output that is given as in :func:`load_network`, or as in a form; None for the logits.

    Raises:
        LitVizError: it is neither, there is no output of the name, or it takes no prompt.
    """
    if prompt is not None:
        made = as_output(output)
        require(isinstance(made, Answer), "prompt applies to the output answer", type(made).__name__)
        return made.with_arguments(prompt=prompt)
    if output is None:
        return LOGITS
    if isinstance(output, Output):
        return output
    if isinstance(output, Mapping):
        if "class_path" not in output:
            raise LitVizError(f"output must have the key class_path, got {', '.join(map(str, output))}")
        found: Output = construct(output, Output, "output")
        return found
    if isinstance(output, type) and issubclass(output, Output):
        return _with_defaults(output)
    if isinstance(output, bool) or not (isinstance(output, (int, str)) or callable(output)):
        raise LitVizError(
            f"output must be an Output, a name, a function of the return value, an index or a key, got {output!r}"
        )
    if not isinstance(output, str):
        return Regression(output)
    if ":" in output:
        return as_output(import_object(output, "output"))
    if output.lower() in OUTPUTS:
        return _with_defaults(OUTPUTS[output.lower()])
    element = Regression(output)
    element.other_names = list(OUTPUTS)
    return element


def _with_defaults(kind: type[Output]) -> Output:
    try:
        return kind()
    except TypeError as error:
        raise LitVizError(f"{kind.__name__} requires arguments: give an instance of it") from error
