"""Continuation of a run: which arguments may change, and whether it is the same network."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_viz.engine.module import ImageTraining
from lit_viz.engine.queue import TaskQueue
from lit_viz.errors import ArgumentError, LitVizError
from lit_viz.launch.form import Form
from lit_viz.launch.options import RunOptions, extra_files
from lit_viz.networks import Network
from lit_viz.runs.access import is_run
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.layout import LAST_CHECKPOINT
from lit_viz.runs.segments import segment_files
from lit_viz.runs.stored import CHANGEABLE
from lit_viz.runs.tar_store import open_run, storage_class
from lit_viz.types import Record, Task, index_of
from lit_viz.utils.files import plain
from lit_viz.utils.formatting import Notify, command_line, remark
from lit_viz.utils.imports import exclude_from_imports
from lit_viz.utils.parts import INSTANCE, has_instances, plain_arguments

# Tolerance of probe logits: networks with rounded activations differ by more than rounding between machines.
_TOLERANCE = 1e-2
_PRECISION_ALIASES = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}
#: Packages whose classes and factories are not named when a form imports them.
_LIBRARIES = {"lit_viz", "torch", "torchvision", "timm", "transformers", "pytorch_lightning", "lightning"}
#: Arguments that only apply to a new run.
NEW_RUN = ("config", "out", "overwrite", "resume", "shard")


def has_progress(path: str | Path) -> bool:
    """Return whether a run folder has a checkpoint or a result."""
    return Path(path, LAST_CHECKPOINT).exists() or bool(segment_files(Path(path)))


def stored_form(folder: FolderStorage, notify: Notify | None = None) -> Form:
    """Return the form of a run folder.

    Nothing is imported from the folder itself. One line names the imports of the form from other libraries.

    Raises:
        LitVizError: the form is damaged, or has an object that can't be written.
    """
    config = folder.config
    if not config.get("run"):
        raise LitVizError(
            f"{folder.path} was written by a callback of a Trainer: continue it in Python, by trainer.fit(ckpt_path=)"
        )
    form = Form.of_mapping(config, f"{folder.path}/config.yaml")
    if not form.network:
        raise LitVizError(f"{folder.path} is damaged (its configuration names no network): start another run")
    if instance := next(form.instances(), None):
        raise LitVizError(
            f"{folder.path} was started with an instance of {instance}: continue in Python with the same call and "
            "resume=True"
        )
    exclude_from_imports(folder.path)
    if imports := ", ".join(sorted(set(_imports(config)))):
        (notify or remark)(f"{folder.path} names parts to import, which run as code: {imports}")
    return form


def changed_form(folder: FolderStorage, form: Form, changes: Mapping[str, Any]) -> Form:
    """Return the form of a run folder with these arguments changed, set to continue the run.

    What determines the images stays as it is stored: a part that is only named again keeps its arguments.

    Raises:
        LitVizError: an argument determines the images, or applies to a new run only.
    """
    changed, form = form.copy(), form.copy()
    for name, value in changes.items():
        if name in NEW_RUN:
            raise ArgumentError(name, f"only applies to a new run: leave it out to continue {folder.path}")
        if name == "trainer":
            value = {**(form.run.get("trainer") or {}), **value}
        changed.set(name, value)
    check_unchanged(folder.path, form, changed)
    for name in CHANGEABLE:
        if name in changed.module["init_args"]:
            form.module["init_args"][name] = changed.module["init_args"][name]
    form.run = changed.run | {"out": str(folder.path), "resume": True, "overwrite": False, "shard": None}
    return form


def stored_module(folder: FolderStorage, form: Form, network: Network) -> ImageTraining:
    """Return the module of a run folder.

    The initial image of class images is omitted if it can't be read any more, since finished images do not need it.
    """
    try:
        return form.build_module(network)
    except LitVizError:
        init = form.module["init_args"].get("init")
        if init is None or not folder.queue():
            raise
    without = form.copy()
    del without.module["init_args"]["init"]
    module = without.build_module(network)
    module.init_name = init
    return module


def stored_tasks(folder: FolderStorage, form: Form, network: Network) -> TaskQueue:
    """Return the tasks of a run folder, or of the form if the run was stopped before it had any."""
    stored = folder.queue()
    return TaskQueue(()).store(stored) if stored else form.build_tasks(network)


def check_unchanged(path: Path, before: Form, now: Form) -> None:
    """Compare the form of a run with that of its continuation.

    Raises:
        LitVizError: an argument differs that determines the images.
    """
    for name, old, new in changed_arguments(before, now):
        raise ArgumentError(
            name,
            f"can't be changed: {path} was started with {old}, got {new}; "
            f"{command_line('resume', path)} continues it unchanged",
            value=new,
        )


def changed_arguments(before: Form, now: Form) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, old and new value of each argument of both forms that differs and determines the images."""
    for section in ("network", "module", "tasks"):
        old, new = (plain_arguments(getattr(form, section)) for form in (before, now))
        for name, *values in _differences(old, new, section):
            argument = name if section == "network" else name.removeprefix(f"{section}.")
            if section != "module" or argument not in CHANGEABLE:
                yield argument, values[0], values[1]
    old, new = (_precision(form.run.get("trainer")) for form in (before, now))
    if old != new:
        yield "trainer.precision", old, new


def _precision(trainer: Any) -> str:
    precision = str((trainer or {}).get("precision") or "32-true")
    return _PRECISION_ALIASES.get(precision, precision)


def _imports(options: Any) -> Iterator[str]:
    """Yield the classes and factories in stored options of other libraries."""
    if isinstance(options, Mapping):
        named = [options.get(key) for key in ("name", "reshape", "function", "read", "element")]
        names = [options.get("class_path"), *(name for name in named if ":" in str(name))]
        yield from (str(name) for name in names if name and re.split(r"[.:/]", str(name))[0] not in _LIBRARIES)
    for value in options.values() if isinstance(options, Mapping) else options if isinstance(options, list) else ():
        yield from _imports(value)


def open_or_create(options: RunOptions, form: Form) -> tuple[FolderStorage, bool]:
    """Return the run folder of a run, and whether it holds a run to continue.

    Args:
        options: options of the run.
        form: its form, which must be that of the run to continue.

    Raises:
        LitVizError: the folder holds another run, or an argument of the run to continue differs.
    """
    assert options.folder is not None
    if not (options.continues and is_run(options.folder)):
        return storage_class(options.store).create(options.folder, options.overwrite, extra_files()), False
    folder = open_run(options.folder)
    check_unchanged(folder.path, Form.of_mapping(folder.config, f"{folder.path}/config.yaml"), form)
    return folder, True


def _differences(before: Any, now: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, old value and new value of each value that differs; an argument that one form omits is equal."""
    if isinstance(before, dict) and isinstance(now, dict) and before.get("class_path") == now.get("class_path"):
        old, new = (value.get("init_args", value) for value in (before, now))
        for key in old:
            if key in new and key != "class_path":
                yield from _differences(old[key], new[key], f"{name}.{key}")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for old, new in zip(before, now, strict=True):
            yield from _differences(old, new, name)
    elif _class_name(before, now) != _class_name(now, before) and _for_all(before, now) != _for_all(now, before):
        yield name, _shown(before), _shown(now)


def _class_name(value: Any, other: Any) -> Any:
    """Return the name of the class of a part that is compared with an instance, whose arguments are not known."""
    classes = [_shown(value), _shown(other)]
    if not all(isinstance(kind, str) for kind in classes) or not has_instances(classes):
        return value
    return classes[0].removesuffix(INSTANCE).rpartition(".")[2]


def _for_all(value: Any, other: Any) -> Any:
    """Return one value as often as the other form has it: one side of a square, or a mean for all channels."""
    return [value] * len(other) if isinstance(other, list) and other and not isinstance(value, list) else value


def _shown(value: Any) -> Any:
    """Return the class of a part; another value unchanged."""
    return value.get("class_path", value) if isinstance(value, dict) else value


def check_identity(folder: FolderStorage, network: Network) -> None:
    """Compare the network with the recorded one.

    Raises:
        LitVizError: the run was started with other weights, or other logits.
    """
    compare_identity(folder.path, folder.recorded, network)


def compare_identity(path: Path, before: Mapping[str, Any], network: Network) -> None:
    """Compare the network with the identity that a folder records; errors of :func:`check_identity`."""
    now = network.identity()
    difference = differs_in(before, now)
    if difference == "weights":
        weights, found = str(before.get("weights_sha256")), str(now["weights_sha256"])
        raise LitVizError(
            f"{path} was started with other weights (sha256 {weights[:12]}..., got {found[:12]}...): use the "
            "same file, or start another run"
        )
    if difference is not None:
        raise LitVizError(
            f"{path} was started with a network of the same weights but other logits: use the same layers "
            "and hooks, or start another run"
        )


def differs_in(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return what differs between two recorded identities of networks, ``weights`` or ``logits``; None if nothing."""
    if str(before.get("weights_sha256")) != now.get("weights_sha256"):
        return "weights"
    logits: list[Sequence[float | None]] = [before.get("probe_logits") or [], now.get("probe_logits") or []]
    for old, new in zip(*logits, strict=False):
        if old is not None and (new is None or not math.isclose(old, new, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)):
            return "logits"
    return None


def check_records(folder: FolderStorage, network: Network) -> None:
    """Compare the tasks of a run and its records with one another, and with the network.

    Raises:
        LitVizError: a class is not one of the network, a target is not that of the task, or a finished task has no
            image.
    """
    tasks, classes = folder.queue(), network.num_classes
    for task in tasks:
        if (problem := _wrong_class(task, classes)) is not None:
            raise _damaged(folder, problem)
    for record in folder.records():
        problem = _wrong_class(record, classes)
        if record.status == "done" and not (record.file or record.array):
            problem = problem or f"task {record.index} is done, and has no image"
        if record.index in tasks.indices:
            problem = problem or _contradiction(record, tasks.of_index(record.index))
        if problem is not None:
            raise _damaged(folder, problem)


def _damaged(folder: FolderStorage, problem: str) -> LitVizError:
    return LitVizError(f"{folder.path} is damaged ({problem}): start another run")


#: Fields of a record that are those of the task in the queue, and those that are if the queue has them.
_OF_THE_TASK, _IF_GIVEN = ("name", "source", "seed", "tile"), ("label", "target", "method", "layer", "channel", "axis")


def _contradiction(record: Record, task: Task) -> str | None:
    """Return where a record contradicts its task, or itself; None if nowhere."""
    if record.status == "done" and record.error is not None:
        return f"task {task.index} is done, and has an error"
    if record.status in ("skipped", "failed") and record.error is None:
        return f"the status of task {task.index} is {record.status!r}, without a reason"
    for kind in (*_OF_THE_TASK, *_IF_GIVEN):
        value = getattr(task, kind)
        recorded = plain(getattr(record, kind, value))
        is_given = value is not None or kind in _OF_THE_TASK
        if is_given and recorded != value:
            return f"the {kind} of task {task.index} is {recorded!r}, and {value!r} in the queue"
    for name in (record.file, record.array):
        if name is not None and index_of(Path(name).name) != record.index:
            return f"the file of task {task.index} is {name!r}"
    return None


def _wrong_class(entry: Task | Record, classes: int) -> str | None:
    for kind, index in (("label", entry.label), ("target", entry.target)):
        if index is not None and not 0 <= index < classes:
            return f"the {kind} of task {entry.index} is {index}, and there are {classes} classes"
    return None
