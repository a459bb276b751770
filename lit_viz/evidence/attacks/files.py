"""Evaluation of saved adversarial examples: the files are decoded and the original network is evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lit_viz.attacks.rounding.repair import Goals
from lit_viz.classifiers import Classifier
from lit_viz.errors import LitVizError
from lit_viz.images.reading import read_png

_AT_ONCE = 16  # files that are read again in a batch: a processor takes three quarters of the time for each


def reread(
    paths: Sequence[str | Path],
    classifier: Classifier,
    goals: Sequence[int],
    towards: Sequence[bool],
    at_most: int = _AT_ONCE,
) -> list[tuple[bool, Tensor]]:
    """Read PNGs from the disk and ask the original network again, several in a batch.

    Args:
        paths: N files of the classifier's channels and size.
        classifier: that was attacked.
        goals: the class to reach, or to leave, of each.
        towards: whether it is to be reached.
        at_most: images that the network may be asked about at once.

    Returns:
        of each file whether the network sees what was asked for, which is what it sees in the file alone (see
        :meth:`~lit_viz.attacks.rounding.repair.Goals.logits`), and its logits ``(K,)``.

    Raises:
        LitVizError: a file is missing or broken, or has not the classifier's channels and size.
    """
    found: list[tuple[bool, Tensor]] = []
    at_once = min(_AT_ONCE, at_most)
    for first in range(0, len(paths), at_once):
        some = slice(first, first + at_once)
        wanted = Goals(classifier, torch.tensor(goals[some]), torch.tensor(towards[some]))
        logits = wanted.logits(torch.stack([_read(path, classifier) for path in paths[some]]))
        found += zip(wanted.met(logits).tolist(), logits, strict=True)
    return found


def _read(path: str | Path, classifier: Classifier) -> Tensor:
    image, shape = read_png(path), (classifier.channels, *classifier.size)
    if image.shape != shape:
        raise LitVizError(
            f"{path} holds an image {tuple(image.shape)}, and {classifier.name} takes {shape}: it isn't as the run "
            "wrote it."
        )
    return image
