"""Is a saved file still what its record says? What the network sees in it, its ball, and its distance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_viz.attacks.rounding.lattice import LEVELS, LatticeBall, image_of, levels_of
from lit_viz.attacks.rounding.repair import Goals
from lit_viz.attacks.rounding.verification import lengths
from lit_viz.classifiers import Classifier
from lit_viz.errors import LitVizError
from lit_viz.images.reading import read_png
from lit_viz.utils.formatting import NORMS, format_distance

#: A length that is measured again may differ by this part of it: another machine adds in another order.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class RecordedFile:
    """What a record says of an adversarial example in its file.

    Attributes:
        file: the PNG.
        record: ``label``, ``target``, ``predicted``, ``success_file``, ``l2``, ``linf`` ...
        source: gives the photograph ``(C, H, W)`` in [0, 1] that distances are from, or None where it is gone.
        ball: has the ``norm`` and the radius ``eps`` that the file keeps to; neither where there was no ball.
        off: by how many levels a value of the photograph may be another than the one that was attacked.
    """

    file: Path
    record: Mapping[str, Any]
    source: Callable[[], Tensor | None]
    ball: Mapping[str, Any]
    off: float = 0.0


def mismatches(claims: Sequence[RecordedFile], classifier: Classifier, at_most: int) -> tuple[list[str | None], int]:
    """Read files and their photographs again, and ask the original network.

    Args:
        claims: of the files.
        classifier: that was attacked.
        at_most: images that it may be asked about at once.

    Returns:
        of each file in what it isn't as its record says, in half a sentence, None where it is; and how many photographs
        are gone, so that nothing is known of the distances of their files.

    Raises:
        LitVizError: a file is missing or broken, or has not the classifier's channels and size.
    """
    asked = [_asked(claim.record) for claim in claims]
    goals, targeted = [goal for goal, _ in asked], [targeted for _, targeted in asked]
    seen = reread([claim.file for claim in claims], classifier, goals, targeted, at_most)
    found: list[str | None] = []
    gone = 0
    for claim, (success, logits) in zip(claims, seen, strict=True):
        reasons, source = _seen_otherwise(claim.record, success, logits, classifier), claim.source()
        if source is None:
            gone += 1
        else:
            reasons += _lies_elsewhere(claim, source)
        found.append("; ".join(reasons) or None)
    return found, gone


def _asked(record: Mapping[str, Any]) -> tuple[int, bool]:
    """Return the class to reach or to leave, and whether it is to be reached."""
    targeted = record["target"] is not None
    return record["target"] if targeted else record["label"], targeted


def _said_to_fool(record: Mapping[str, Any]) -> bool:
    """Return whether the network saw in the file what the record was asked for, as the record says. Outside of its ball
    (which may hold no 8-bit image) a file is no success, also where it fools."""
    goal, targeted = _asked(record)
    return bool((record["predicted"] == goal) == targeted)


def _seen_otherwise(record: Mapping[str, Any], success: bool, logits: Tensor, classifier: Classifier) -> list[str]:
    """Return what is seen in the file instead of the recorded class. Where both are asked for, or neither is, another
    machine's rounding may decide between them: then nothing, unless their logits differ by more."""
    now, before = int(logits.argmax()), int(record["predicted"])
    goal, targeted = _asked(record)
    doubt = Goals(classifier, torch.tensor([goal]), torch.tensor([targeted])).doubt(logits[None])
    if success == _said_to_fool(record) and not float(logits[now] - logits[before]) > float(doubt):
        return []
    return [f"it is seen as {classifier.labels[now]}, not as {classifier.labels[before]}"]


def _lies_elsewhere(claim: RecordedFile, source: Tensor) -> list[str]:
    """Return how the file lies to its ball, and how far from its photograph, where a record says otherwise."""
    levels, reasons = levels_of(read_png(claim.file)), []
    slack = {"linf": claim.off / LEVELS, "l2": claim.off / LEVELS * math.sqrt(levels.numel())}
    norm = claim.ball.get("norm")
    if norm is not None and claim.ball.get("eps") is not None and claim.record.get("success_file"):
        eps = claim.ball["eps"]
        if not LatticeBall(source, norm, eps + slack[norm]).contains(levels):
            reasons.append(f"it lies outside its ball of {NORMS[norm]} {format_distance(eps, norm)}")
    now = lengths(levels - levels_of(image_of(levels_of(source))))  # rounded as it was when the file was made
    for key, name in NORMS.items():
        before = float(claim.record[key])
        if not math.isclose(now[key], before, rel_tol=_ROUNDING, abs_tol=_ROUNDING / LEVELS + slack[key]):
            far, recorded = format_distance(now[key], key), format_distance(before, key)
            distance = f"{far} from its photograph, not {recorded}" if far != recorded else f"not quite at {recorded}"
            reasons.append(f"in {name} it lies {distance}")
    return reasons


_AT_ONCE = 16  # files that are read again in a batch: a processor takes three quarters of the time for each


def reread(
    paths: Sequence[str | Path],
    classifier: Classifier,
    goals: Sequence[int],
    targeted: Sequence[bool],
    at_most: int = _AT_ONCE,
) -> list[tuple[bool, Tensor]]:
    """Read PNGs from the disk and ask the original network again, several in a batch.

    Args:
        paths: N files of the classifier's channels and size.
        classifier: that was attacked.
        goals: the class to reach, or to leave, of each.
        targeted: whether it is to be reached.
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
        wanted = Goals(classifier, torch.tensor(goals[some]), torch.tensor(targeted[some]))
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
