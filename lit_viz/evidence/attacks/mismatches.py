"""Comparison of saved adversarial examples with their records: prediction, ball and distances."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lit_viz.attacks.norms import NORMS, lengths
from lit_viz.attacks.rounding import LatticeBall, Verifier, change_lengths
from lit_viz.engine.snapshots import PerturbedImageRecord
from lit_viz.errors import LitVizError
from lit_viz.images.formats import LEVELS, PICTURE, FileFormat
from lit_viz.images.reading import read_png
from lit_viz.networks import Network
from lit_viz.runs.records import AdversarialRecord, NamedBox, named_boxes
from lit_viz.types import Record
from lit_viz.utils.formatting import Notify, pluralize
from lit_viz.utils.limits import MOST_NAMES

_TOLERANCE = 1e-6  # relative, of a length, for another order of summation
_PIXELS, _SCORE_TOLERANCE = 0.5, 1e-3  # of boxes and their probabilities, on another machine
_BATCH = 16  # reduces the time of a file by a quarter


@dataclass(frozen=True)
class RecordedFile:
    """An adversarial example in a file, with the recorded values.

    Attributes:
        file, record: the image file and its record.
        source: returns the photograph ``(C, H, W)`` in [0, 1], or None if it is missing.
        attack: record of the attack, with the ``norm`` and the radius ``eps`` of the ball, if it has a budget.
        tolerance: maximal difference, in levels, of the photograph to the one that was attacked.
    """

    file: Path
    record: AdversarialRecord | PerturbedImageRecord
    source: Callable[[], Tensor | None]
    attack: Record
    tolerance: float = 0.0

    @property
    def format(self) -> FileFormat:
        """Format of the file."""
        return FileFormat.of(getattr(self.record, "format", None))

    def image(self) -> Tensor:
        """Return the image ``(C, H, W)`` in the file.

        Raises:
            LitVizError: it is missing or damaged.
        """
        return read_png(self.file) if self.format == PICTURE else self.format.read(self.file)

    @property
    def targeted(self) -> bool:
        """Whether the attack had a target."""
        return self.record.target is not None

    @property
    def goal(self) -> int:
        """Class to reach or to leave.

        Raises:
            LitVizError: the record has neither, since it was edited.
        """
        goal = self.record.target if self.targeted else self.record.label
        if goal is None:
            raise LitVizError(f"the record of {self.file} has neither a target nor a label: start another run")
        return goal

    @property
    def against(self) -> int:
        """Class to leave beside the one to reach; -1 for none."""
        against = getattr(self.record, "against", None)
        return -1 if against is None else against

    def verifier(self, network: Network) -> Verifier:
        """Return the verifier of the file alone."""
        return _verifier([self], network)


def _verifier(files: Sequence[RecordedFile], network: Network) -> Verifier:
    goals = torch.tensor([file.goal for file in files])
    targeted = torch.tensor([file.targeted for file in files])
    against = torch.tensor([file.against for file in files])
    return Verifier(network, goals, targeted, against=against)


def mismatches(
    files: Sequence[RecordedFile], network: Network, batch: int, folder: Path, notify: Notify
) -> list[str | None]:
    """Compare files in a run folder with their records, by the original network and the photographs.

    Args:
        files: the files.
        network: the network.
        batch: maximum number of files that are evaluated at once.
        folder: the run folder.
        notify: receives the first mismatches, and the number of photographs that are missing.

    Returns:
        the mismatches of each file as a clause, None without any.

    Raises:
        LitVizError: a file is missing, damaged, or of another size than the network's input.
    """
    results: list[str | None] = []
    missing = different = 0
    verdicts = evaluate_files(files, network, batch)
    for file, (success, logits) in zip(files, verdicts, strict=True):
        reasons = _prediction_mismatch(file, success, logits, network)
        if network.output.reads:
            reasons += _text_mismatch(file, network)
        if network.output.detects:
            reasons += _box_mismatch(file, network)
        source = file.source()
        if source is None:
            missing += 1
        else:
            reasons += _distance_mismatches(file, source)
        reason = "; ".join(reasons) or None
        results.append(reason)
        different += reason is not None
        if reason is not None and different <= MOST_NAMES:
            notify(f"{file.file.relative_to(folder).as_posix()} is not as recorded: {reason}")
    if different > MOST_NAMES:
        notify(f"{pluralize(different - MOST_NAMES, 'further file')} not as recorded")
    if missing:
        notify(f"{pluralize(missing, 'photograph')} missing, so their distances are not verified")
    return results


def evaluate_files(files: Sequence[RecordedFile], network: Network, batch: int) -> list[tuple[bool, Tensor]]:
    """Return for each file whether the original network's prediction is the goal, as if evaluated alone, and its
    logits ``(K,)``; at most ``batch`` files are evaluated at once.

    Raises:
        LitVizError: a file is missing, damaged, or of another size than the network's input.
    """
    shape = (network.channels, *network.size)
    results: list[tuple[bool, Tensor]] = []
    step = min(_BATCH, batch)
    for first in range(0, len(files), step):
        part = files[first : first + step]
        images: list[Tensor] = []
        for file in part:
            image = file.image()
            if image.shape != shape:
                size = tuple(image.shape)
                raise LitVizError(f"{file.file} must have the shape {shape} of {network.name}, got {size}")
            images.append(image)
        verifier = _verifier(part, network)
        logits = verifier.logits(torch.stack(images))
        results += zip(verifier.success(logits).tolist(), logits, strict=True)
    return results


def _prediction_mismatch(file: RecordedFile, success: bool, logits: Tensor, network: Network) -> list[str]:
    """Return a mismatch if the success differs from the record, or the logits of the two predictions by more than
    rounding on another machine explains."""
    score = getattr(file.record, "score", None)
    if score is not None:
        return _score_mismatch(score, float(logits[file.goal]))
    predicted, recorded = int(logits.argmax()), file.record.predicted
    if recorded is None or not 0 <= recorded < len(logits):
        return [f"predicted {network.labels[predicted]}, recorded {recorded}"]
    is_goal = recorded == file.goal
    if network.multi_label:
        is_goal = (file.record.probability or 0) > 0.5
    recorded_success = is_goal == file.targeted  # a file outside its ball may be predicted as the goal
    if file.against >= 0:
        recorded_success = (getattr(file.record, "margin", None) or 0) > 0
    tolerance = float(file.verifier(network).tolerance(logits[None]))
    if success == recorded_success and not float(logits[predicted] - logits[recorded]) > tolerance:
        return []
    return [f"predicted {network.labels[predicted]}, recorded {network.labels[recorded]}"]


def _text_mismatch(file: RecordedFile, network: Network) -> list[str]:
    """Return a mismatch if the network says or reads another text of the file than recorded."""
    (text,) = network.read(file.image()[None])
    recorded = getattr(file.record, "text", None)
    return [] if text == recorded else [f"the text is {text!r}, recorded {recorded!r}"]


def _box_mismatch(file: RecordedFile, network: Network) -> list[str]:
    """Return a mismatch if the network detects other boxes in the file than recorded; pixels and probabilities are
    rounded otherwise on another machine."""
    (detections,) = network.detections(file.image()[None])
    found = named_boxes(detections, network.labels)
    recorded: Sequence[NamedBox] = getattr(file.record, "boxes", None) or []
    missing = [box for box in recorded if not any(_are_equal(box, other) for other in found)]
    if len(found) == len(recorded) and not missing:
        return []
    return [f"{_listed(found)} detected, recorded {_listed(recorded)}"]


def _are_equal(box: NamedBox, other: NamedBox) -> bool:
    if box["label"] != other["label"] or abs(box["score"] - other["score"]) > _SCORE_TOLERANCE:
        return False
    return all(abs(a - b) <= _PIXELS for a, b in zip(box["box"], other["box"], strict=True))


def _listed(boxes: Sequence[NamedBox]) -> str:
    """Return the first boxes as text."""
    texts: list[str] = []
    for box in boxes[:MOST_NAMES]:
        corners = ", ".join(f"{side:g}" for side in box["box"])
        texts.append(f"{box['label']} {box['score']:.3f} ({corners})")
    more = [] if len(boxes) <= MOST_NAMES else [f"{len(boxes) - MOST_NAMES} more"]
    return ", ".join([*texts, *more]) or "no box"


def _score_mismatch(recorded: float, score: float) -> list[str]:
    """Return a mismatch if the scores differ by more than rounding on another machine explains."""
    if math.isclose(score, recorded, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
        return []
    return [f"score {score:.4g}, recorded {recorded:.4g}"]


def _distance_mismatches(file: RecordedFile, source: Tensor) -> list[str]:
    """Return where the file violates its ball, or its distances to the photograph differ from the record."""
    image, file_format, reasons = file.image(), file.format, []
    levels = file_format.levels(image)
    slack = {name: length / LEVELS for name, length in lengths(torch.full_like(levels, file.tolerance)).items()}
    attack = file.attack
    if attack.norm is not None and attack.eps is not None and file.record.success_file:
        norm, eps = NORMS[attack.norm], attack.eps
        if not LatticeBall(source, norm, eps + slack[norm.name], file_format).contains(levels):
            reasons.append(f"outside its ball, {norm} {norm.format(eps)}")
    rounded = file_format.levels(file_format.image(file_format.levels(source)))  # as when the file was written
    measured = change_lengths(levels - rounded, file_format)
    for name, norm in NORMS.items():
        length, recorded = measured[name], getattr(file.record, name)
        if recorded is None:
            reasons.append(f"{norm} distance {norm.format(length)}, recorded none")
        elif not math.isclose(length, recorded, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE / LEVELS + slack[name]):
            reasons.append(f"{norm} distance {norm.format(length)}, recorded {norm.format(recorded)}")
    return reasons
