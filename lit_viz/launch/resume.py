"""Continuation of a run: which options may change, and whether it is the same network."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError
from lit_viz.launch.arguments import rewrite_arguments
from lit_viz.launch.commands import COMMANDS, SUMMARIES, extra_files
from lit_viz.launch.config import ConfiguredMethod, check_sections
from lit_viz.launch.options import RunOptions
from lit_viz.launch.recording import instances_in
from lit_viz.networks import Network
from lit_viz.networks.sources import exclude_from_imports, import_object
from lit_viz.runs import CONFIG, RECORDED, RESULTS, is_run
from lit_viz.runs.checkpoint import LAST_CHECKPOINT
from lit_viz.runs.folder import FolderStorage
from lit_viz.types import Record, Task
from lit_viz.utils.formatting import Notify, command_line, remark
from lit_viz.utils.parts import INSTANCE, plain_arguments

# Tolerance of probe logits: networks with rounded activations differ by more than rounding between machines.
_TOLERANCE = 1e-2
_PRECISION_ALIASES = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}
#: Options that a resume may change, in addition to the command's own.
_CHANGEABLE = {
    "out", "overwrite", "resume", "logger", "wandb", "project", "tags", "group", "job_type", "trainer",
    "devices_mode", "compile", "slots", "checkpoint_every", "figure", "count",
}  # fmt: skip
#: Packages whose classes and factories are not named when a configuration imports them.
_LIBRARIES = {"lit_viz", "torch", "torchvision", "timm", "transformers", "pytorch_lightning", "lightning"}
#: Options that only apply to a new run.
_NEW_RUN_OPTIONS = ("config", "out", "overwrite", "resume", "count", "print_config")


def has_progress(path: str | Path) -> bool:
    """Return whether a run folder has a checkpoint or a result."""
    return any(Path(path, name).exists() for name in (LAST_CHECKPOINT, RESULTS))


def load_run(
    path: str | Path, arguments: Sequence[str] = (), *, notify: Notify | None = None, **options: Any
) -> ConfiguredMethod:
    """Return the configuration of a run folder, set to continue the run.

    Nothing is imported from the folder itself. One line names the imports of the configuration from other libraries.

    Args:
        path: run folder.
        arguments: options to change, as words of a command line.
        notify: receives the line about imports.
        options: options to change, by name.
    """
    folder = FolderStorage.open(path)
    stored = folder.config
    recorded = stored.pop(RECORDED, None) or {}
    method, module = recorded.get("method"), str(recorded.get("module"))
    if method is None and "module" in recorded:
        raise LitVizError(
            f"{folder.path} was written by a callback of a Trainer, or has a method of its own: continue it in Python, "
            "by trainer.fit(ckpt_path=) or by the same call of lit_viz.run with resume=True"
        )
    if method not in SUMMARIES:
        raise LitVizError(f"the method of {folder.path} must be one of {', '.join(SUMMARIES)}, got {method}")
    if instance := next(instances_in(stored.get("model")), None):
        raise LitVizError(
            f"{folder.path} was started with an instance of {instance}: continue in Python with the same call and "
            "resume=True"
        )
    if not isinstance(stored.get("network"), Mapping):
        raise LitVizError(f"{folder.path} is damaged (its configuration names no classifier): start another run")
    check_sections(stored, folder.path / CONFIG)
    command = COMMANDS[str(method)]
    rewritten = rewrite_arguments(arguments, command)
    given = [word[2:].partition("=")[0] for word in rewritten if word.startswith("--")]
    for name in (*options, *given):
        if name in _NEW_RUN_OPTIONS:
            raise LitVizError(f"{name} only applies to a new run: leave it out to continue {folder.path}")
    stored |= {"out": str(folder.path), "resume": True, "overwrite": False, "count": False}
    for name, value in options.items():
        if name == "trainer":
            stored["trainer"] = {**(stored.get("trainer") or {}), **value}
        else:
            stored[name] = plain_arguments(value)
    exclude_from_imports(folder.path)
    own_module = module if "." in module else None
    if imports := ", ".join(sorted({*_imports(stored), *filter(None, [own_module])})):
        (notify or remark)(f"{folder.path} names parts to import, which run as code: {imports}")
    return ConfiguredMethod(command, ["--config", yaml.safe_dump(stored), *rewritten], _own_method(own_module))


def _own_method(path: str | None) -> type[Any] | None:
    """Return a class of a method that is not of lit_viz, given by its dotted path."""
    if path is None:
        return None
    module, _, name = path.rpartition(".")
    found = import_object(f"{module}:{name}", "method")
    if not (isinstance(found, type) and issubclass(found, ImageTraining)):
        raise LitVizError(f"the method {path} of a run must be a class of methods, got {found!r}")
    return found


def _imports(options: Any) -> Iterator[str]:
    """Yield the classes and factories in stored options of other libraries."""
    if isinstance(options, Mapping):
        named = [options.get("name"), options.get("reshape")]
        names = [options.get("class_path"), *(name for name in named if ":" in str(name))]
        yield from (str(name) for name in names if name and re.split(r"[.:/]", str(name))[0] not in _LIBRARIES)
    for value in options.values() if isinstance(options, Mapping) else options if isinstance(options, list) else ():
        yield from _imports(value)


def open_or_create(
    options: RunOptions, recorded: Mapping[str, Any], resumable: Collection[str]
) -> tuple[FolderStorage, bool]:
    """Return the run folder of a run, and whether it holds a run to continue.

    Args:
        options: options of the run.
        recorded: its configuration, which must be that of the run to continue.
        resumable: options of the method that may differ.

    Raises:
        LitVizError: the folder holds another run, or an option of the run to continue differs.
    """
    assert options.out is not None
    if not (options.resume and is_run(options.out)):
        return FolderStorage.create(options.out, options.overwrite, extra_files()), False
    folder = FolderStorage.open(options.out)
    before, now = _image_options(folder.config), _image_options(recorded)
    for key in now:
        if key in _CHANGEABLE or key in resumable:
            continue
        for name, old, new in _differences(before.get(key), now[key], key):
            raise LitVizError(
                f"{name} can't be changed: {folder.path} was started with {old}, got {new}; "
                f"{command_line('resume', folder.path)} continues it unchanged"
            )
    return folder, True


def _image_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with the precision, the only Trainer option that determines the images, on its own."""
    precision = str((options.get("trainer") or {}).get("precision") or "32-true")
    return {**options, "trainer.precision": _PRECISION_ALIASES.get(precision, precision)}


def _differences(before: Any, now: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, old value and new value of each option that differs; an absent one has its default."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before:
            if key in now:
                yield from _differences(before[key], now[key], f"{name}.{key}")
        return
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for old, new in zip(before, now, strict=True):
            yield from _differences(old, new, name)
        return
    if before != now and not (_is_same_part(before, now) or _repeats(before, now) or _repeats(now, before)):
        yield name, before, now


def _repeats(values: Any, value: Any) -> bool:
    """Return whether a list is one value repeated, such as the sides of a square or a mean for all channels."""
    return isinstance(values, list) and len(values) > 0 and all(element == value for element in values)


def _is_same_part(before: Any, now: Any) -> bool:
    """Return whether two values are the same part: one with its class path only, or an instance of the same class."""
    old, new = (value.get("class_path") if isinstance(value, dict) else value for value in (before, now))
    if not (isinstance(old, str) and isinstance(new, str)):
        return False
    names = [path.removesuffix(INSTANCE).rpartition(".")[2] for path in (old, new)]
    is_same_class = old == new or (_imported(old) is not None and _imported(old) is _imported(new))
    return is_same_class or (INSTANCE in old + new and names[0] == names[1])


def _imported(path: str) -> Any:
    """Return the class of a dotted path; None unless its module is imported, which the comparison does not do."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def check_identity(folder: FolderStorage, network: Network) -> None:
    """Compare the network with the recorded one.

    Raises:
        LitVizError: the run was started with other weights, or other logits.
    """
    compare_identity(folder.path, folder.recorded, network)


def compare_identity(path: Path, before: Mapping[str, Any], network: Network) -> None:
    """Compare the network with the identity that a folder records; errors of :func:`check_identity`."""
    now = network.identity()
    weights = str(before.get("weights_sha256"))
    if weights != now["weights_sha256"]:
        found = str(now["weights_sha256"])
        raise LitVizError(
            f"{path} was started with other weights (sha256 {weights[:12]}..., got {found[:12]}...): use the "
            "same file, or start another run"
        )
    logits: list[Sequence[float | None]] = [before.get("probe_logits") or [], now["probe_logits"]]
    for old, new in zip(*logits, strict=False):
        if old is not None and (new is None or not math.isclose(old, new, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)):
            raise LitVizError(
                f"{path} was started with a network of the same weights but other logits: use the same layers "
                "and hooks, or start another run"
            )


def check_records(folder: FolderStorage, tasks: Sequence[Task], network: Network) -> None:
    """Compare the tasks of a run and its records with one another, and with the network.

    Raises:
        LitVizError: a class is not one of the network, a target is not that of the task, or a finished task has no
            image.
    """
    records = folder.records()
    problems = _wrong_classes([*tasks, *records], network.num_classes)
    for record in records:
        if record.status == "done" and not record.file:
            problems.append(f"task {record.index} is done, and has no image")
        if record.index < len(tasks):
            problems += _contradictions(record, tasks[record.index])
    if problems:
        raise LitVizError(f"{folder.path} is damaged ({problems[0]}): start another run")


def _contradictions(record: Record, task: Task) -> list[str]:
    found = []
    for kind, value in (("target", task.target), ("method", task.options.get("method"))):
        recorded = getattr(record, kind, value)
        if value is not None and recorded != value:
            found.append(f"the {kind} of task {task.index} is {recorded!r}, and {value!r} in the queue")
    return found


def _wrong_classes(entries: Sequence[Task | Record], classes: int) -> list[str]:
    wrong = []
    for entry in entries:
        for kind, index in (("label", entry.label), ("target", entry.target)):
            if index is not None and not 0 <= index < classes:
                wrong.append(f"the {kind} of task {entry.index} is {index}, and there are {classes} classes")
    return wrong
