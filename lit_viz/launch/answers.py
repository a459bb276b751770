"""Answers that are not given with a network of images and text: the targets, or what it says of the photographs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_viz.errors import LitVizError, require
from lit_viz.images.reading import Fit
from lit_viz.images.sources import Images, Normalization
from lit_viz.methods import SaliencyMap
from lit_viz.methods.photographs import TARGET_RULES
from lit_viz.methods.tasks import ImageTasks
from lit_viz.networks import Network
from lit_viz.networks.loading import with_output
from lit_viz.utils.sequences import as_list

#: Values of targets and labels that are no texts.
_RULES = (*TARGET_RULES, "none", "folders")
#: Arguments of tasks by which their photographs are read.
_READING = ("normalization", "axes", "fill", "clip")


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
        yield task.name, _text_of(network, module.start(task))


def with_answers(network: Network, tasks: dict[str, Any], fit: Fit | None) -> Network:
    """Return the network with its answers: the texts that are targets or labels, or else what it says of photographs.

    Args:
        network: network without answers.
        tasks: arguments of the tasks. Without texts among them, they get the scores of each photograph (``own``).
        fit: how photographs are fitted.

    Raises:
        LitVizError: the tasks are of no images, or the network says nothing of any.
    """
    require(
        "images" in tasks, "an Answer without answers requires images", "none", hint="give answers", is_argument=False
    )
    output: Any = network.output
    vary = tasks.get("vary") or {}
    texts: list[str] = []
    for given in (tasks.get("target"), tasks.get("label"), vary.get("target")):
        for word in as_list(given):
            if isinstance(word, str) and word not in _RULES and Path(word).suffix != ".csv":
                texts.append(word)
    if texts and output.per == "answer":
        return with_output(network, output.with_answers(list(dict.fromkeys(texts))))
    reading = {name: tasks[name] for name in _READING if name in tasks}
    listed = ImageTasks(network, tasks["images"], **reading)
    said = _given(tasks, listed) if texts else _said(network, listed, fit)
    distinct = list(dict.fromkeys(text for text in said if text))
    if not distinct:
        raise LitVizError(f"the network says nothing of any of {len(said)} photographs: give answers or target")
    network = with_output(network, output.with_answers(distinct))
    answers: Any = network.output
    own: list[list[int]] = []
    for text in said:
        own.append(list(answers.scores_of(distinct.index(text))) if text else [])
    for name in ("target", "label"):
        tasks.pop(name, None)
    tasks["own"] = own
    return network


def _given(tasks: dict[str, Any], listed: ImageTasks) -> list[str]:
    """Return the text that is the target of each photograph, of one for all or one for each.

    Raises:
        LitVizError: target is no text.
    """
    target = tasks.get("target")
    several = as_list(target)
    is_text = all(isinstance(text, str) for text in several)
    require(is_text, "per token, texts must be given as target", repr(target))
    if len(several) > 1:
        return several
    return several * len(listed.tasks)


def _said(network: Network, listed: ImageTasks, fit: Fit | None) -> list[str]:
    """Return what the network says of each photograph; nothing of one that can't be read, whose task will fail."""
    module = SaliencyMap(network, method="gradient", fit=fit, images=listed.images)
    texts: list[str] = []
    for task in listed.tasks:
        photograph: Tensor | None = None
        with suppress(LitVizError):
            photograph = module.start(task)
        text = "" if photograph is None else _text_of(network, photograph)
        texts.append(text if text.strip() else "")
    return texts


def _text_of(network: Network, photograph: Tensor) -> str:
    (text,) = network.read(photograph[None].float())
    return text
