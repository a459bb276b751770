"""Rows of loggers: keys, captions and images of the tasks over the iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lit_viz.figures.layout import pixels
from lit_viz.loggers.base import ImageAdapter
from lit_viz.presentations import Presentation
from lit_viz.types import Picture, Snapshot, Task, slug


def names_of(tasks: Sequence[Task]) -> list[str]:
    """Return the name of each task in keys, by index: its own if names are unique, so that runs can be compared."""
    names = [slug(task.name) for task in tasks]
    return names if len(set(names)) == len(names) else [task.key for task in tasks]


def caption(snapshot: Snapshot, presentation: Presentation) -> str:
    """Return ``tarantula - iteration 50 - p = 0.93 (rank 1)`` and, on a second line, the top five classes."""
    metrics = snapshot.metrics if snapshot.file_metrics is None else snapshot.file_metrics
    texts = presentation.metric_texts(metrics)
    headline = " - ".join([presentation.task_name(snapshot.task), f"iteration {snapshot.iteration}", *texts])
    top5 = ", ".join(f"{name} {probability:.2f}" for name, probability in snapshot.top5)
    return headline + (f"\n{top5}" if top5 else "")


def log_snapshot(
    adapter: ImageAdapter, name: str, snapshot: Snapshot, images: Mapping[str, Picture], caption: str
) -> None:
    """Log the metrics of a snapshot as ``<metric>/<name>``, and its images as ``<kind>/<name>``.

    Args:
        adapter: adapter to a logger.
        name: name of the task in keys.
        snapshot: the snapshot; its own images are not read.
        images: images by kind: ``image``, and further ones.
        caption: caption of the image; those of the further ones are its first line.
    """
    metrics = {f"{metric}/{name}": value for metric, value in snapshot.metrics.items()}
    texts = {kind: caption if kind == "image" else f"{kind}: {caption.splitlines()[0]}" for kind in images}
    captioned = {f"{kind}/{name}": (pixels(image), texts[kind]) for kind, image in images.items()}
    adapter.log(metrics, captioned, snapshot.iteration)
