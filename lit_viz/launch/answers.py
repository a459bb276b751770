"""Answers that are not given with a network of images and text: the targets, or what it says of the photographs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_viz.errors import LitVizError, require
from lit_viz.images.reading import Fit
from lit_viz.images.sources import Images, Normalization
from lit_viz.methods import SaliencyMap
from lit_viz.methods.photographs import TARGET_RULES
from lit_viz.methods.tasks import ImageTasks
from lit_viz.networks import Network
from lit_viz.networks.loading import with_output

#: Values of targets and labels that are no texts.
_RULES = (*TARGET_RULES, "none", "folders")


def texts_by_name(
    network: Network, images: Images, fit: Fit | None = None, normalization: Normalization | None = None
) -> Iterator[tuple[str, str]]:
    """Yield the name of each image, and the text that the network says or reads of it.

    Raises:
        LitVizError: the network gives no text, or an image can't be read.
    """
    tasks = ImageTasks(network, images, normalization=normalization)
    module = SaliencyMap(network, method="gradient", fit=fit, images=tasks.images)
    for task in tasks.tasks:
        (text,) = network.read(module.start(task)[None].float())
        yield task.name, text


def with_answers(network: Network, tasks: dict[str, Any], fit: Fit | None) -> Network:
    """Return the network with its answers: the texts that are targets or labels, or else what it says of photographs.

    Args:
        network: network without answers.
        tasks: arguments of the tasks, of which the label of each photograph becomes what the network says.
        fit: how photographs are fitted.

    Raises:
        LitVizError: the tasks are of no images, or the network says nothing of one.
    """
    require(
        "images" in tasks, "an Answer without answers requires images", "none", hint="give answers", is_argument=False
    )
    output: Any = network.output
    vary = tasks.get("vary") or {}
    texts: list[str] = []
    for given in (tasks.get("target"), tasks.get("label"), vary.get("target")):
        for word in given if isinstance(given, (list, tuple)) else [given]:
            if isinstance(word, str) and word not in _RULES and Path(word).suffix != ".csv":
                texts.append(word)
    if not texts:
        texts = _said(network, tasks, fit)
        distinct = list(dict.fromkeys(texts))
        if output.per == "answer":
            tasks["label"] = [distinct.index(text) for text in texts]
    network = with_output(network, output.with_answers(list(dict.fromkeys(texts))))
    if output.per == "token" and tasks.get("target") is None and "target" not in vary:
        tasks["vary"] = {**vary, "target": list(range(network.num_classes))}
    return network


def _said(network: Network, tasks: dict[str, Any], fit: Fit | None) -> list[str]:
    """Return what the network says of each photograph."""
    texts: list[str] = []
    for name, text in texts_by_name(network, tasks["images"], fit, tasks.get("normalization")):
        if not text.strip():
            raise LitVizError(f"the network says nothing of {name}: give answers or target")
        texts.append(text)
    return texts
