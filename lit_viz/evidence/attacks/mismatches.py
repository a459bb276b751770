"""Comparison of the records of adversarial examples with what is computed from their files, field by field."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lit_viz.attacks.norms import NORMS
from lit_viz.attacks.rounding import JPEG_QUALITIES
from lit_viz.evidence.attacks.files import FileValues, RecordedFile, Verdict, evaluate_files
from lit_viz.evidence.comparison import (
    are_close,
    different_iterations,
    different_number,
    different_prediction,
    different_ranking,
    different_reading,
    different_region,
    different_value,
    report_mismatches,
)
from lit_viz.images.formats import LEVELS
from lit_viz.networks import Network
from lit_viz.runs.records import AdversarialRecord, NamedBox
from lit_viz.types import Task
from lit_viz.utils.formatting import Notify, pluralize
from lit_viz.utils.limits import MOST_NAMES

_TOLERANCE = 1e-6  # relative, of a length, for another order of summation
_PIXELS, _SCORE_TOLERANCE = 0.5, 1e-3  # of boxes and their probabilities, on another machine
_OF_NAME = 2e-3  # relative, of a number with four digits in a name
_OF_SIMILARITY = 1e-4  # SSIM is computed in float32, and PSNR from lengths
#: Tolerance of a margin after JPEG, relative to its change by the compression: twice what changes of one level in a
#: third of the values cause; versions of JPEG that round differently change fewer.
_OF_JPEG = 0.2


def mismatches(
    files: Sequence[RecordedFile], network: Network, batch: int, notify: Notify
) -> list[tuple[FileValues, str | None]]:
    """Evaluate files of a run by the original network, and compare their records with the results.

    Args:
        files: the files.
        network: the network.
        batch: maximum number of files that are evaluated at once.
        notify: receives the first mismatches, and the number of photographs that are missing.

    Returns:
        what was computed from each file, and its mismatches as a clause, None without any.

    Raises:
        LitVizError: a file is missing, damaged, or of another size than the network's input.
    """
    results: list[tuple[FileValues, str | None]] = []
    different: list[tuple[str, str]] = []
    missing = 0
    for file, values in zip(files, evaluate_files(files, network, batch), strict=True):
        reason = "; ".join(_reasons(file, values, network)) or None
        results.append((values, reason))
        missing += values.before is None
        if reason is not None:
            different.append((file.file, reason))
    report_mismatches(different, notify)
    if missing:
        notify(f"{pluralize(missing, 'photograph')} missing, so their files can't be verified and do not count")
    return results


def _reasons(file: RecordedFile, values: FileValues, network: Network) -> Iterator[str]:
    """Yield the differences of a record from what was computed, beyond what another machine explains."""
    record, before = file.record, values.before
    if record.success_file and values.inside is False:
        assert file.norm is not None
        yield f"outside its ball, {file.norm} {file.norm.format(file.eps or 0.0)}"
    if values.distances is not None:
        yield from _distances(record, values.distances)
    yield from different_prediction(record, values.file, file.goal, network)
    yield from different_number(record, "margin", values.file.margin, values.file.tolerance)
    yield from different_ranking(record, values.file, network)
    yield from different_value(record, "text", values.file.text)
    yield from different_value(record, "text_agrees", values.file.text_agrees)
    yield from _boxes(record, "boxes", values.file.boxes)
    if before is not None and values.task is not None:
        yield from _success(record, values)
        yield from different_prediction(record, before, file.goal, network, "_before")
        yield from different_value(record, "text_before", before.text)
        yield from _boxes(record, "boxes_before", before.boxes)
        yield from _goal(record, values.task, before, network)
        status = "skipped" if before.success else "done"
        if record.status != status and not before.is_close:
            yield f"status {status}, recorded {record.status}"
    yield from _attack(file)
    yield from different_reading(record, file.reading)
    yield from file.pictures
    if isinstance(record, AdversarialRecord):
        yield from different_region(record, network.output)
    if file.iterations is not None and record.status == "done":
        yield from different_iterations(record, file.iterations)


def _attack(file: RecordedFile) -> Iterator[str]:
    """Yield where the attack or its ball are others than those of the run."""
    record, norm = file.record, file.norm
    if not isinstance(record, AdversarialRecord):
        return
    if record.attack != file.attack:
        yield f"attack {file.attack}, recorded {record.attack}"
    if record.norm != (None if norm is None else norm.name):
        yield f"norm {norm}, recorded {record.norm}"
    if record.eps != file.eps:
        yield f"eps {file.eps}, recorded {record.eps}"
    for name, value in file.settings.items():
        if name not in ("norm", "eps") and record.settings.get(name) != value:
            yield f"{name} {value}, recorded {record.settings.get(name)}"


def _goal(record: Any, task: Task, before: Verdict, network: Network) -> Iterator[str]:
    """Yield where label and target are not those of the task and the prediction of the photograph."""
    for name, index in (("label", task.label), ("target", task.target)):
        recorded = getattr(record, name)
        if recorded != index and not are_close(before, index, recorded):
            yield f"{name} {index}, recorded {recorded}"
    if isinstance(record, AdversarialRecord) and record.against != task.against:
        yield f"against {task.against}, recorded {record.against}"
    yield from _correct(record, task, before, network)
    if record.label_source != task.label_source:
        yield f"label_source {task.label_source}, recorded {record.label_source}"
    label_name = None if record.label is None else network.labels[record.label]
    target_name = task.target_name
    if record.target not in (None, task.target):
        target_name = network.labels[record.target]
    for name, text in (("label_name", label_name), ("target_name", target_name)):
        recorded = getattr(record, name)
        if not _is_same_text(text, recorded):
            yield f"{name} {text}, recorded {recorded}"


def _correct(record: Any, task: Task, before: Verdict, network: Network) -> Iterator[str]:
    """Yield a mismatch if another prediction of the photograph is recorded as its given label."""
    expected, predicted = None, int(before.logits.argmax())
    if task.label is not None and task.has_given_label and network.decision == "exclusive":
        expected = predicted == task.label
    recorded = record.correct
    is_same = recorded == expected
    if not is_same and recorded is not None and expected is not None:
        highest = before.logits.topk(2).indices.tolist()
        is_same = task.label in highest and are_close(before, *highest)
    if not is_same:
        yield f"correct {expected}, recorded {recorded}"


def _is_same_text(text: str | None, recorded: str | None) -> bool:
    """Return whether two names are equal, but for the rounding of a number at the end: ``horizon above 0.1234``."""
    if text == recorded or text is None or recorded is None:
        return text == recorded
    start, _, number = text.rpartition(" ")
    recorded_start, _, recorded_number = recorded.rpartition(" ")
    try:
        return start == recorded_start and math.isclose(float(number), float(recorded_number), rel_tol=_OF_NAME)
    except ValueError:
        return False


def _boxes(record: Any, name: str, found: Sequence[NamedBox] | None) -> Iterator[str]:
    """Yield a mismatch if other boxes are detected than recorded; pixels and probabilities are rounded otherwise on
    another machine."""
    recorded: Sequence[NamedBox] | None = getattr(record, name, found)
    if found is None or recorded is None:
        is_same = found is recorded
    else:
        missing = [box for box in recorded if not any(_are_equal(box, other) for other in found)]
        is_same = len(found) == len(recorded) and not missing
    if not is_same:
        yield f"{name} {_listed(found or ())} detected, recorded {_listed(recorded or ())}"


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
    if len(boxes) > MOST_NAMES:
        texts.append(f"{len(boxes) - MOST_NAMES} more")
    return ", ".join(texts) or "no box"


def _success(record: Any, values: FileValues) -> Iterator[str]:
    """Yield where the success of the file, or of its JPEGs, is another one."""
    is_skipped = record.status == "skipped" and isinstance(record, AdversarialRecord)  # it has no success
    computed: dict[str, bool | None] = {"success_file": values.success}
    tolerances = {"success_file": values.file.is_close}
    for quality in JPEG_QUALITIES:
        name = f"success_jpeg{quality}"
        computed[name] = values.success_after(quality)
        tolerances[name] = values.file.is_close or (quality in values.jpeg and _is_close(values, quality))
    for name, success in computed.items():
        expected = None if is_skipped else success
        recorded = getattr(record, name)
        if recorded != expected and (recorded is None or expected is None or not tolerances[name]):
            yield f"{name} {expected}, recorded {recorded}"


def _is_close(values: FileValues, quality: int) -> bool:
    """Return whether another version of JPEG may reverse a verdict."""
    after = values.jpeg[quality]
    change = abs(after.margin - values.file.margin)
    return abs(after.margin) <= max(after.tolerance, _OF_JPEG * change)


def _distances(record: Any, distances: Mapping[str, float]) -> Iterator[str]:
    """Yield where the distances to the photograph are others."""
    for name, norm in NORMS.items():
        length, recorded = distances[name], getattr(record, name)
        if recorded is None:
            yield f"{norm} distance {norm.format(length)}, recorded none"
        elif not math.isclose(length, recorded, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE / LEVELS):
            yield f"{norm} distance {norm.format(length)}, recorded {norm.format(recorded)}"
    for name in ("l0", "ssim", "psnr"):
        length = distances[name]
        yield from different_number(record, name, length, _OF_SIMILARITY * max(1.0, abs(length)))
