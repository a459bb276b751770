"""The evolution of the images in Weights & Biases. W&B is a view: the run folder stays the record."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import wandb
from pytorch_lightning import Callback, LightningModule, Trainer
from wandb.sdk.wandb_run import Run

from lit_viz.callbacks.wandb_run import RunLogger, Say, open_wandb, say_on_terminal
from lit_viz.engine.run_folder import RunFolder
from lit_viz.engine.tasks import Observation, Task
from lit_viz.errors import first_line
from lit_viz.figures.style import probability_text
from lit_viz.figures.tiles import tile
from lit_viz.images.reading import to_uint8

__all__ = ["RunLogger", "WandbEvolution", "open_wandb"]

# Tables with more pictures than this make the page in the browser unusable; all are in the artifact.
_TABLE_IMAGES = 256


class WandbEvolution(Callback):
    """Log every observation as one row that holds ``iteration``; at the end the records and the results.

    Up to ``separate`` tasks, each has its own keys, ``image/<task.key>``, ``probability/<task.key>`` and so on. Above,
    what was observed at a time is one grid ``image/grid``, and the scalars of a task are in the run folder only.

    An error of W&B is said once; from then on the callback is silent and the run goes on.

    Args:
        run: from :func:`open_wandb`; None does nothing.
        folder: where the final records and images are read from.
        separate: at most so many tasks have keys of their own.
        say: is given the one line on an error.
    """

    def __init__(self, run: Run | None, folder: RunFolder, separate: int = 32, say: Say = say_on_terminal) -> None:
        self.run = run
        self.folder = folder
        self.separate = separate
        self._say = say
        self._failed = False
        self._last = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what this step observed."""
        observations = outputs.get("observations", ()) if isinstance(outputs, Mapping) else ()
        if observations and self.run is not None:
            tasks: Sequence[Task] = pl_module.tasks  # type: ignore[assignment]
            rows = _grid_rows(observations) if len(tasks) > self.separate else map(_row, observations)
            self._safely(lambda run: self._log(run, rows))

    def finish(self) -> None:
        """Log the final records and pictures as a table and the results as an artifact, and end the W&B run.

        To be called when everything that belongs into the run folder is there (records, figure, evidence). Calling it
        again does nothing.
        """
        self._safely(lambda run: run.log({"iteration": self._last, "results": _table(self.folder)}))
        evidence = self.folder.path / "evidence.png"
        if evidence.is_file():
            self._safely(lambda run: run.log({"iteration": self._last, "evidence": wandb.Image(str(evidence))}))
        self._safely(lambda run: run.log_artifact(_artifact(self.folder, run.id)))
        self.close(exit_code=0)

    def _log(self, run: Run, rows: Iterable[dict[str, Any]]) -> None:
        for row in rows:
            self._last = max(self._last, row["iteration"])
            run.log(row)

    def _safely(self, action: Callable[[Run], object]) -> None:
        if self.run is None or self._failed:
            return
        try:
            action(self.run)
        except Exception as error:  # a view must never stop what it shows
            self._failed = True
            self._say(f"W&B failed ({first_line(error)}): the run goes on without it, and {self.folder.path} has all")

    def close(self, exit_code: int) -> None:
        """End the W&B run, if that was not done yet; a resume continues it."""
        run, self.run = self.run, None
        if run is not None:
            try:
                run.finish(exit_code=exit_code)
            except Exception as error:  # as above
                if not self._failed:
                    self._say(
                        f"W&B didn't finish ({first_line(error)}); later: wandb sync {self.folder.path / 'wandb'}"
                    )


def _row(observation: Observation) -> dict[str, Any]:
    key = observation.task.key
    row: dict[str, Any] = {"iteration": observation.iteration}
    row |= {f"{scalar}/{key}": value for scalar, value in observation.scalars.items()}
    if observation.image is not None:
        row[f"image/{key}"] = wandb.Image(to_uint8(observation.image), caption=caption(observation))
    for name, picture in observation.besides.items():
        row[f"{name}/{key}"] = wandb.Image(to_uint8(picture), caption=_headline(observation))
    return row


def _grid_rows(observations: Sequence[Observation]) -> Iterable[dict[str, Any]]:
    by_iteration: dict[int, list[Observation]] = defaultdict(list)
    for observation in observations:
        if observation.image is not None:
            by_iteration[observation.iteration].append(observation)
    for iteration, observed in sorted(by_iteration.items()):
        grid = tile([to_uint8(o.image) for o in observed if o.image is not None], side=2048)
        lines = [f"iteration {iteration}", *(_headline(o) for o in observed)]
        yield {"iteration": iteration, "image/grid": wandb.Image(grid, caption="\n".join(lines))}


def caption(observation: Observation) -> str:
    """Return ``tarantula - iteration 50 - p = 0.93 (rank 1)``, and the five most probable classes on a second line."""
    top5 = ", ".join(f"{name} {probability:.2f}" for name, probability in observation.top5)
    return _headline(observation) + (f"\n{top5}" if top5 else "")


def _headline(observation: Observation) -> str:
    task, scalars = observation.task, observation.scalars
    name = task.name if task.target_name in (None, task.name) else f"{task.name} -> {task.target_name}"
    parts = [name, f"iteration {observation.iteration}"]
    if "probability" in scalars:
        rank = f" (rank {scalars['rank']:.0f})" if "rank" in scalars else ""
        parts.append(probability_text(scalars["probability"]) + rank)
    elif "objective" in scalars:  # no class is asked for
        parts.append(f"objective {scalars['objective']:.3g}")
    if scalars.get("margin", 0.0) > 0:  # of an adversarial example
        parts.append("fooled")
    return " - ".join(parts)


# -- the end


def _table(folder: RunFolder) -> wandb.Table:
    records = folder.records()
    columns = list(dict.fromkeys(key for record in records for key in record if key not in ("file", "array")))
    cells = [_column([record.get(column) for record in records]) for column in columns]
    table = wandb.Table(columns=["image", *columns])
    for place, (record, *row) in enumerate(zip(records, *cells, strict=True)):
        table.add_data(_picture(folder, record) if place < _TABLE_IMAGES else None, *row)
    return table


def _picture(folder: RunFolder, record: Mapping[str, Any]) -> wandb.Image | None:
    file = folder.path / (record.get("file") or "missing")
    return wandb.Image(str(file), caption=str(record["name"])) if file.is_file() else None


def _column(values: Sequence[Any]) -> list[Any]:
    """Return one column of the table; lists become text, and so does everything where the kinds differ: W&B asks so."""
    plain = [json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value for value in values]
    kinds = {float if type(value) is int else type(value) for value in plain if value is not None}
    return plain if len(kinds) < 2 else [None if value is None else str(value) for value in plain]


def _artifact(folder: RunFolder, run_id: str) -> wandb.Artifact:
    artifact = wandb.Artifact(f"results-{run_id}", type="results")
    for pattern in ("config.yaml", "results.jsonl", "metrics.csv", "evidence.*", "figure.*", "evolution.*"):
        for file in sorted(folder.path.glob(pattern)):
            # Immutable: read where it lies instead of copied to a cache outside the run folder.
            artifact.add_file(str(file), policy="immutable", skip_cache=True)
    for name in ("images", "sources"):
        if (folder.path / name).is_dir():
            artifact.add_dir(str(folder.path / name), name=name, policy="immutable", skip_cache=True)
    return artifact
