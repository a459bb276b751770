"""Figure and animation of the run folders that a probe has written in a training, by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lit_viz.attacks.norms import format_distance
from lit_viz.errors import LitVizError
from lit_viz.evidence.attacks import robustness
from lit_viz.figures.curves import spread
from lit_viz.figures.evolution import Evolution, save_evolution
from lit_viz.figures.layout import Cell, Grid, Plot, Text, compose, pixels, stack
from lit_viz.figures.sheet import sweep_figure
from lit_viz.figures.style import COLORS, GRAY, NORMAL, save_figure
from lit_viz.methods.records import AdversarialRecord
from lit_viz.runs import is_run
from lit_viz.runs.folder import RunFolder
from lit_viz.runs.results import Outcome, stored_outcomes

_MOST_EPOCHS, _MOST_TASKS = 10, 16
_PREFIX = "epoch_"


def epoch_folder(folder: str | Path, epoch: int) -> Path:
    """Return the run folder of an epoch, counted from 1."""
    return Path(folder) / f"{_PREFIX}{epoch:04d}"


def epoch_folders(folder: str | Path) -> dict[int, Path]:
    """Return the run folders of a probe by epoch, in order."""
    paths = (path for path in Path(folder).glob(f"{_PREFIX}*") if is_run(path))
    return dict(sorted((int(path.name.removeprefix(_PREFIX)), path) for path in paths))


def delete_epochs(folder: str | Path, after: int) -> None:
    """Delete the run folders of the epochs after one."""
    for epoch, path in epoch_folders(folder).items():
        if epoch > after:
            RunFolder.open(path).clear()
            path.rmdir()


def read_epochs(folder: str | Path) -> dict[int, list[Outcome]]:
    """Return the outcomes in the run folders of a probe, by epoch.

    Raises:
        LitVizError: there are none.
    """
    found = {epoch: stored_outcomes(RunFolder.open(path)) for epoch, path in epoch_folders(folder).items()}
    epochs = {epoch: outcomes for epoch, outcomes in found.items() if outcomes}
    if not epochs:
        raise LitVizError(f"{folder} contains no run folders {_PREFIX}0001 ...: give the folder out= of a probe")
    return epochs


def epoch_figure(folder: str | Path) -> Figure:
    """Draw what a probe has found by epoch: an image per class or photograph, or the robust accuracy.

    Args:
        folder: ``out`` of a probe (:class:`~lit_viz.callbacks.probes.Probe`).

    Raises:
        LitVizError: it contains no run folders.
    """
    return _figure(read_epochs(folder))


def _figure(epochs: dict[int, list[Outcome]]) -> Figure:
    if _is_robustness(epochs):
        return _robustness_figure(epochs)
    shown = [list(epochs)[place] for place in spread(len(epochs), _MOST_EPOCHS)]
    evolutions = _evolutions(epochs)[:_MOST_TASKS]
    columns = [f"epoch {epoch}" for epoch in shown]
    frames = [dict(evolution.frames) for evolution in evolutions]
    cells = [
        [Cell(pixels(images[epoch]), [evolution.value_text(epoch)]) if epoch in images else None for epoch in shown]
        for evolution, images in zip(evolutions, frames, strict=True)
    ]
    complete = (outcome for outcomes in epochs.values() for outcome in outcomes if outcome.record.file is not None)
    photographs = list({outcome.record.index: outcome.pictures()[0] for outcome in complete}.values())[:_MOST_TASKS]
    if any(photograph is not None for photograph in photographs):
        columns = ["image", *columns]
        first = [None if photograph is None else Cell(pixels(photograph)) for photograph in photographs]
        cells = [[photograph, *row] for photograph, row in zip(first, cells, strict=True)]
    has_probability = any(evolution.curve for evolution in evolutions)
    caption = "p: probability of the class, by the network of the epoch." if has_probability else ""
    return sweep_figure([[evolution.name] for evolution in evolutions], columns, cells, caption)


def save_epochs(folder: str | Path) -> list[Path]:
    """Write :func:`epoch_figure` as ``epochs.png``, and images of several epochs as ``epochs.gif``; return the paths.

    Raises:
        LitVizError: the folder contains no run folders, or the disk is full.
    """
    epochs = read_epochs(folder)
    saved = [save_figure(_figure(epochs), Path(folder) / "epochs.png")]
    if len(epochs) > 1 and not _is_robustness(epochs):
        saved += filter(None, [save_evolution(_evolutions(epochs), Path(folder) / "epochs.gif")])
    return saved


def _is_robustness(epochs: dict[int, list[Outcome]]) -> bool:
    return isinstance(next(iter(epochs.values()))[0].record, AdversarialRecord)


def _evolutions(epochs: dict[int, list[Outcome]]) -> list[Evolution]:
    """Return the images and the probability of each task by epoch."""
    by_task: dict[int, list[tuple[int, Outcome]]] = {}
    for epoch, outcomes in epochs.items():
        for outcome in outcomes:
            if outcome.record.file is not None:
                by_task.setdefault(outcome.record.index, []).append((epoch, outcome))
    evolutions = []
    for entries in by_task.values():
        frames = [(epoch, picture) for epoch, o in entries if (picture := o.pictures()[1]) is not None]
        curve = [(epoch, o.record.probability) for epoch, o in entries if o.record.probability is not None]
        evolutions.append(Evolution(entries[0][1].name, frames, curve, unit="epoch"))
    return evolutions


def _robustness_figure(epochs: dict[int, list[Outcome]]) -> Figure:
    """Draw the accuracy and the accuracy under attack against the epoch, with 95 % intervals."""
    first = next(iter(epochs.values()))
    record = robustness.attack_record(first[0])
    clean = {epoch: robustness.clean_accuracy(outcomes) for epoch, outcomes in epochs.items()}
    robust = {epoch: robustness.robust_accuracy(outcomes)[-1] for epoch, outcomes in epochs.items()}
    radius = format_distance(record.eps or 0.0, record.norm or "linf")
    curves = {"accuracy": clean, f"{robustness.accuracy_label(first)}, eps {radius}": robust}
    key = [Text(name, color=COLORS[place], weight="bold") for place, name in enumerate(curves)]
    plot = Plot(1.8, partial(_plot_shares, list(curves.values())), 3.6, below=0.4)
    caption = f"{record.attack}, {clean[max(clean)].total} images; shaded: 95 % interval."
    return compose(Grid([[Text("", 0.3), stack(*key, gap=0.03)], [None, plot]]), caption)


def _plot_shares(curves: Sequence[dict[int, robustness.RobustAccuracy]], axes: Axes) -> None:
    for place, curve in enumerate(curves):
        epochs, points = list(curve), list(curve.values())
        low, high = zip(*(point.interval for point in points), strict=True)
        axes.fill_between(epochs, low, high, color=COLORS[place], alpha=0.15, linewidth=0)
        shares = [point.share for point in points]
        axes.plot(epochs, shares, "o-", color=COLORS[place], ms=3.5, mec="white", mew=0.5, clip_on=False)
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("epoch", size=NORMAL, color=GRAY)
    axes.set_ylabel("share of the images", size=NORMAL, color=GRAY)
