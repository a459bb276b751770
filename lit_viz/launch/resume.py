"""The run in a folder: whether it may go on, and from where."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from lit_viz._version import __version__
from lit_viz.classifiers import Classifier
from lit_viz.classifiers.classifier import GIVEN_WEIGHTS
from lit_viz.engine.checkpoint import AtomicCheckpointIO, check_run_state
from lit_viz.errors import LitVizError
from lit_viz.launch.commands import Command
from lit_viz.launch.config import MethodCLI, dump
from lit_viz.presentations import METHOD_FILES
from lit_viz.runs.folder import RunFolder
from lit_viz.types import Task
from lit_viz.utils.formatting import command_line

#: Of a run folder, the file of its last checkpoint.
LAST_CHECKPOINT = Path("checkpoints", "last.ckpt")
_ROUNDED = 1e-2  # a network with steps (rounded activations) may depart by more than the last bits
#: Short names of precisions, and Lightning's own.
_PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}
#: Options that may differ between a run and its continuation.
_FREE = (
    "out",
    "overwrite",
    "resume",
    "wandb",
    "project",
    "trainer",
    "devices_mode",
    "compile",
    "slots",
    "checkpoint_every",
    "figure",
    "count",
    "check",
    "explain",
)


def open_or_make(config: Any, cli: MethodCLI) -> tuple[RunFolder | None, bool]:
    """Return the folder, made or opened, and whether the run in it goes on."""
    if config.out is None:
        return None, False
    if config.resume and RunFolder.is_run(config.out):
        folder = RunFolder.open(config.out)
        _refuse_another(folder, cli)
        return folder, True
    return RunFolder.create(config.out, config.overwrite, METHOD_FILES), False


def _refuse_another(folder: RunFolder, cli: MethodCLI) -> None:
    """Refuse to continue a run under another configuration."""
    before, now = ({**o, **_of_trainer(o)} for o in (folder.config, yaml.safe_load(cli.parser.dump(cli.config))))
    # A later lit_viz may have more options.
    begun_with = {key: before[key] for key in now if key in before and key not in _FREE}
    for name, was, given in _changed(begun_with, now):
        raise LitVizError(
            f"--{name} can't be changed: {folder.path} was begun with {was}, not {given}; "
            f"{command_line('resume', folder.path)} goes on as it was begun."
        )


def _of_trainer(options: Mapping[str, Any]) -> dict[str, str]:
    """Return what of the Trainer's options makes the images, by name, as Lightning has it."""
    given = str((options.get("trainer") or {}).get("precision") or "32-true")
    return {"trainer.precision": _PRECISIONS.get(given, given)}


def _changed(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the options, dotted, that differ, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before:
            yield from _changed(before[key], now.get(key), f"{name}.{key}".lstrip("."))
    elif before != now:
        yield name, before, now


def recorded_of(command: Command, classifier: Classifier | None) -> dict[str, Any]:
    """Return what a run records of itself beside its options: the versions, and what tells its classifier from
    others."""
    packages = ("torch", "torchvision", "pytorch-lightning", "captum", "timm", "wandb", "numpy")
    return {
        "method": command.name,
        "lit_viz": __version__,
        "python": sys.version.split()[0],
        **{package: metadata.version(package) for package in packages},
        **({"weights_sha256": None} if classifier is None else classifier.identity()),
        **(
            {"labels": list(classifier.labels)}
            if classifier is not None and classifier.weights == GIVEN_WEIGHTS
            else {}
        ),
    }


def keep_identity(folder: RunFolder, cli: MethodCLI, recorded: dict[str, Any], continues: bool) -> None:
    """Record which classifier it is, or on a resume hold the classifier against that record."""
    before = folder.recorded if continues else {}
    weights, now = before.get("weights_sha256"), str(recorded["weights_sha256"])
    if weights is None:  # it begins, or was killed while the network was loaded
        folder.write_config(dump(cli, recorded))
        return
    if weights != now:
        raise LitVizError(
            f"{folder.path} was begun with other weights (sha256 {weights[:12]}..., now {now[:12]}...): give the same "
            "file, or start another run."
        )
    if not _alike(before.get("probe_logits") or [], recorded["probe_logits"]):
        raise LitVizError(
            f"{folder.path} was begun with a network of the same weights that gave other logits: give the same layers "
            "and hooks, or start another run."
        )


def _alike(before: Sequence[float | None], now: Sequence[float | None]) -> bool:
    """Return whether logits are the same, but for what another machine rounds otherwise."""
    return all(
        was is None or (given is not None and math.isclose(was, given, rel_tol=_ROUNDED, abs_tol=_ROUNDED))
        for was, given in zip(before, now, strict=False)
    )


def trim(folder: RunFolder) -> None:
    """Drop from the folder what is later than the last checkpoint, and from that the tasks whose records are lost: they
    are computed again."""
    checkpoint = _last_checkpoint(folder)
    if checkpoint is None:
        folder.trim((), {})
        return
    kept = check_run_state(checkpoint["lit_viz"])
    recorded = _recorded(folder)
    lost = kept["finished"].keys() - recorded
    if lost:
        kept["finished"] = {index: how for index, how in kept["finished"].items() if index in recorded}
        AtomicCheckpointIO().save_checkpoint(checkpoint, folder.path / LAST_CHECKPOINT)
    iterations = {entry["task"]: int(entry["state"]["iteration"]) for entry in kept["slots"]}
    folder.trim(kept["finished"].keys(), iterations)


def is_finished(folder: RunFolder, tasks: Sequence[Task]) -> bool:
    """Return whether the last checkpoint calls every task finished, and the folder has all records."""
    checkpoint = _last_checkpoint(folder)
    if checkpoint is None or len(check_run_state(checkpoint["lit_viz"])["finished"]) != len(tasks):
        return False
    return _recorded(folder) >= {task.index for task in tasks}


def _last_checkpoint(folder: RunFolder) -> dict[str, Any] | None:
    path = folder.path / LAST_CHECKPOINT
    return AtomicCheckpointIO().load_checkpoint(path) if path.exists() else None


def _recorded(folder: RunFolder) -> set[int]:
    return {record["index"] for record in folder.records()}
