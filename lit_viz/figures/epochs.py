"""Figure and animation of the run folders that a probe has written in a training, by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lit_viz.attacks.norms import format_distance
from lit_viz.attributions import title_of
from lit_viz.errors import LitVizError
from lit_viz.evidence.attacks import robustness
from lit_viz.figures.curves import plot_band
from lit_viz.figures.evolution import Evolution, save_evolution
from lit_viz.figures.layout import Cell, Grid, Plot, Text, compose, pixels, stack
from lit_viz.figures.sheet import sweep_figure
from lit_viz.figures.style import COLORS, GRAY, NORMAL, save_figure
from lit_viz.runs.access import is_run
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.records import AdversarialRecord, SaliencyRecord
from lit_viz.runs.results import Outcome
from lit_viz.runs.verification import Unverified, verify
from lit_viz.types import Picture
from lit_viz.utils.formatting import Notify, remark
from lit_viz.utils.limits import MOST_EPOCHS, MOST_TILES, evenly

_PREFIX = "epoch_"
_MOST_DIGITS = 10


def epoch_folder(folder: str | Path, epoch: int) -> Path:
    """Return the run folder of an epoch, counted from 1."""
    return Path(folder) / f"{_PREFIX}{epoch:04d}"


def epoch_folders(folder: str | Path) -> dict[int, Path]:
    """Return the run folders of a probe by epoch, in order."""
    paths = {}
    for path in Path(folder).glob(f"{_PREFIX}*"):
        epoch = _epoch_of(path)
        if epoch is not None and is_run(path):
            paths[epoch] = path
    return dict(sorted(paths.items()))


def _epoch_of(path: Path) -> int | None:
    """Return the epoch in a folder's name; None for other names."""
    number = path.name.removeprefix(_PREFIX)
    if number.isdecimal() and len(number) < _MOST_DIGITS:
        return int(number)
    return None


def delete_epochs(folder: str | Path, after: int) -> None:
    """Delete the run folders of the epochs after one."""
    for epoch, path in epoch_folders(folder).items():
        if epoch > after:
            FolderStorage.open(path).clear()
            path.rmdir()


def read_epochs(folder: str | Path, notify: Notify = remark) -> dict[int, list[Outcome]]:
    """Return the outcomes in the run folders of a probe, by epoch, compared with their digests.

    Args:
        folder: ``out`` of a probe.
        notify: receives a line for each epoch that is omitted because it can't be verified.

    Raises:
        LitVizError: no epoch can be verified.
    """
    epochs = {}
    for path in sorted(Path(folder).glob(f"{_PREFIX}*")):
        epoch = _epoch_of(path)
        if epoch is None:
            notify(f"{path} is left out: its name has no number of an epoch")
            continue
        try:
            stored = FolderStorage.open(path)
            verify(stored)
            outcomes = list(stored.outcomes())
        except LitVizError as error:
            reason = error.reason if isinstance(error, Unverified) else str(error)
            notify(f"epoch {epoch} is left out ({reason}): delete {path} if it is lost")
            continue
        if outcomes:
            epochs[epoch] = outcomes
    if not epochs:
        raise LitVizError(f"{folder} contains no run folders {_PREFIX}0001 ...: give the folder out= of a probe")
    return dict(sorted(epochs.items()))


def epoch_figure(folder: str | Path) -> Figure:
    """Draw the results of a probe by epoch: an image per class or photograph, or the robust accuracy.

    Args:
        folder: ``out`` of a probe (:class:`~lit_viz.callbacks.probes.Probe`).

    Raises:
        LitVizError: it contains no run folders.
    """
    return _figure(read_epochs(folder))


def _figure(epochs: dict[int, list[Outcome]]) -> Figure:
    if _is_robustness(epochs):
        return _robustness_figure(epochs)
    numbers = list(epochs)
    selected = evenly(numbers, MOST_EPOCHS)
    evolutions = _evolutions(epochs)[:MOST_TILES]
    photographs = _photographs(epochs)[:MOST_TILES]
    has_photographs = any(photograph is not None for photograph in photographs)
    columns = [f"epoch {epoch}" for epoch in selected]
    if has_photographs:
        columns.insert(0, "image")
    methods = _methods(epochs)[:MOST_TILES]
    rows, names, caption = [], [], ""
    for evolution, photograph, method in zip(evolutions, photographs, methods, strict=True):
        row = _row(evolution, selected)
        if has_photographs:
            row.insert(0, None if photograph is None else Cell(pixels(photograph)))
        rows.append(row)
        names.append([evolution.name, *method])
        if evolution.curve:
            caption = "p: probability of the class, by the network of the epoch."
    return sweep_figure(names, columns, rows, caption)


def _row(evolution: Evolution, epochs: Sequence[int]) -> list[Cell | None]:
    """Return the images of a task at some epochs; None where it has none."""
    images = dict(evolution.frames)
    row: list[Cell | None] = []
    for epoch in epochs:
        if epoch in images:
            row.append(Cell(pixels(images[epoch]), [evolution.value_text(epoch)]))
        else:
            row.append(None)
    return row


def _photographs(epochs: dict[int, list[Outcome]]) -> list[Picture | None]:
    """Return the photograph of each task that has a file; None for tasks without a photograph."""
    photographs: dict[int, Picture | None] = {}
    for outcomes in epochs.values():
        for outcome in _complete(outcomes):
            photographs[outcome.record.index] = outcome.pictures()[0]
    return list(photographs.values())


def _methods(epochs: dict[int, list[Outcome]]) -> list[list[str]]:
    """Return the saliency method of each task that has a file; nothing for other tasks."""
    methods: dict[int, list[str]] = {}
    for outcomes in epochs.values():
        for outcome in _complete(outcomes):
            record = outcome.record
            methods[record.index] = [title_of(record.method)] if isinstance(record, SaliencyRecord) else []
    return list(methods.values())


def _complete(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.record.file is not None]


def save_epochs(folder: str | Path, notify: Notify = remark) -> list[Path]:
    """Write :func:`epoch_figure` as ``epochs.png``, and images of several epochs as ``epochs.gif``; return the paths.

    Args:
        folder, notify: see :func:`read_epochs`.

    Raises:
        LitVizError: the folder contains no run folders that are verified, or the disk is full.
    """
    epochs = read_epochs(folder, notify)
    saved = [save_figure(_figure(epochs), Path(folder) / "epochs.png")]
    if len(epochs) > 1 and not _is_robustness(epochs):
        animation = save_evolution(_evolutions(epochs), Path(folder) / "epochs.gif")
        if animation is not None:
            saved.append(animation)
    return saved


def _is_robustness(epochs: dict[int, list[Outcome]]) -> bool:
    return isinstance(next(iter(epochs.values()))[0].record, AdversarialRecord)


def _evolutions(epochs: dict[int, list[Outcome]]) -> list[Evolution]:
    """Return the images and the probability of each task by epoch."""
    by_task: dict[int, list[tuple[int, Outcome]]] = {}
    for epoch, outcomes in epochs.items():
        for outcome in _complete(outcomes):
            by_task.setdefault(outcome.record.index, []).append((epoch, outcome))
    evolutions = []
    for entries in by_task.values():
        frames, curve = [], []
        for epoch, outcome in entries:
            picture, probability = outcome.pictures()[1], outcome.record.probability
            if picture is not None:
                frames.append((epoch, picture))
            if probability is not None:
                curve.append((epoch, probability))
        evolutions.append(Evolution(entries[0][1].name, frames, curve, unit="epoch"))
    return evolutions


def _robustness_figure(epochs: dict[int, list[Outcome[Any]]]) -> Figure:
    """Draw the accuracy and the accuracy under attack against the epoch, with 95 % intervals."""
    first = next(iter(epochs.values()))
    record = first[0].record
    clean, robust = {}, {}
    for epoch, outcomes in epochs.items():
        clean[epoch] = robustness.clean_accuracy(outcomes)
        robust[epoch] = robustness.robust_share(outcomes)[-1]
    radius = format_distance(record.eps or 0.0, record.norm or "linf")
    curves = {"accuracy": clean, f"{robustness.accuracy_label(first)}, eps {radius}": robust}
    key = [Text(name, color=COLORS[place], weight="bold") for place, name in enumerate(curves)]
    plot = Plot(1.8, partial(_plot_shares, list(curves.values())), 3.6, below=0.4)
    caption = f"{record.attack}, {clean[max(clean)].total} images; shaded: 95 % interval."
    return compose(Grid([[Text("", 0.3), stack(*key, gap=0.03)], [None, plot]]), caption)


def _plot_shares(curves: Sequence[dict[int, robustness.RobustAccuracy]], axes: Axes) -> None:
    for place, curve in enumerate(curves):
        epochs = list(curve)
        shares = plot_band(axes, epochs, list(curve.values()), COLORS[place])
        axes.plot(epochs, shares, "o-", color=COLORS[place], ms=3.5, mec="white", mew=0.5, clip_on=False)
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("epoch", size=NORMAL, color=GRAY)
    axes.set_ylabel("share of the images", size=NORMAL, color=GRAY)
