"""Continuation of a run: which options may change, whether it is the same classifier, and where it continues."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from lit_viz._version import __version__
from lit_viz.classifiers import Classifier
from lit_viz.classifiers.classifier import GIVEN_WEIGHTS
from lit_viz.classifiers.sources import exclude_from_imports
from lit_viz.engine.lightning import AtomicCheckpointIO
from lit_viz.engine.module import CHECKPOINT_VERSION, check_run_state
from lit_viz.errors import LitVizError
from lit_viz.launch.arguments import rewrite_arguments
from lit_viz.launch.commands import COMMANDS, SUMMARIES
from lit_viz.launch.config import INSTANCE, ConfiguredMethod, set_option
from lit_viz.runs import RECORDED, RESULTS, is_run
from lit_viz.runs.folder import RunFolder
from lit_viz.types import Record, Task
from lit_viz.utils.formatting import Notify, command_line, remark

#: File of the last checkpoint, relative to the run folder.
LAST_CHECKPOINT = Path("checkpoints", "last.ckpt")
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
#: Packages whose versions are recorded.
_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "captum", "timm", "wandb", "numpy")
#: Options that only apply to a new run.
_NEW_RUN_OPTIONS = ("config", "out", "overwrite", "resume", "count", "print_config")


def has_progress(path: str | Path) -> bool:
    """Return whether a run folder has a checkpoint or a result."""
    return any(Path(path, name).exists() for name in (LAST_CHECKPOINT, RESULTS))


def method_files() -> tuple[str, ...]:
    """Return the patterns of the files that only runs of some methods contain."""
    return tuple(pattern for name in SUMMARIES for pattern in COMMANDS[name].presented("files"))


def load_run(
    path: str | Path, arguments: Sequence[str] = (), *, notify: Notify | None = None, **options: Any
) -> ConfiguredMethod:
    """Return the configuration of a run folder, set to continue the run.

    Nothing is imported from the folder itself. One line names the imports of the configuration from other libraries.
    """
    folder = RunFolder.open(path)
    stored = folder.config
    recorded = stored.pop(RECORDED, None) or {}
    method: Any = recorded.get("method")
    if method is None and "module" in recorded:
        raise LitVizError(
            f"{folder.path} was written by a callback of a Trainer: continue it by trainer.fit(ckpt_path=), and verify "
            "it by trainer.test"
        )
    if method not in SUMMARIES:
        raise LitVizError(f"the method of {folder.path} must be one of {', '.join(SUMMARIES)}, got {method}")
    if instances := re.findall(rf"(\w+){re.escape(INSTANCE)}", str(stored.get("model"))):
        raise LitVizError(
            f"{folder.path} was started with an instance of {instances[0]}: continue in Python with the same call and "
            "resume=True"
        )
    command = COMMANDS[method]
    rewritten = rewrite_arguments(arguments, command)
    for name in [*options, *(word[2:].partition("=")[0] for word in rewritten if word.startswith("--"))]:
        if name in _NEW_RUN_OPTIONS:
            raise LitVizError(f"--{name} only applies to a new run: leave it out to continue {folder.path}")
    for name, value in options.items():
        set_option(stored, name, value)
    stored |= {"out": str(folder.path), "resume": True, "overwrite": False, "count": False}
    exclude_from_imports(folder.path)
    if imports := ", ".join(sorted(set(_imports(stored)))):
        (notify or remark)(f"{folder.path} names parts to import, which run as code: {imports}")
    return ConfiguredMethod(command, ["--config", yaml.safe_dump(stored), *rewritten])


def _imports(options: Any) -> Iterator[str]:
    """Yield the classes and factories in stored options of other libraries."""
    if isinstance(options, Mapping):
        named = [options.get("name"), options.get("reshape")]
        names = [options.get("class_path"), *(name for name in named if ":" in str(name))]
        yield from (str(name) for name in names if name and re.split(r"[.:/]", str(name))[0] not in _LIBRARIES)
    for value in options.values() if isinstance(options, Mapping) else options if isinstance(options, list) else ():
        yield from _imports(value)


def open_or_create(configured: ConfiguredMethod) -> tuple[RunFolder, bool]:
    """Return the run folder of a configuration, and whether it holds a run to continue."""
    config = configured.config
    if not (config.resume and is_run(config.out)):
        return RunFolder.create(config.out, config.overwrite, method_files()), False
    folder = RunFolder.open(config.out)
    before, now = (_image_options(options) for options in (folder.config, yaml.safe_load(configured.dump())))
    # Runs of an earlier version may lack options.
    for key in [
        key for key in now if key in before and key not in {*_CHANGEABLE, *configured.command.presented("resumable")}
    ]:
        for name, old, new in _differences(before[key], now[key], key):
            raise LitVizError(
                f"--{name} can't be changed: {folder.path} was started with {old}, got {new}; "
                f"{command_line('resume', folder.path)} continues it unchanged"
            )
    return folder, True


def _image_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with the precision, the only Trainer option that determines the images, on its own."""
    precision = str((options.get("trainer") or {}).get("precision") or "32-true")
    return {**options, "trainer.precision": _PRECISION_ALIASES.get(precision, precision)}


def _differences(before: Any, now: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, old value and new value of each option that differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before:
            yield from _differences(before[key], now.get(key), f"{name}.{key}")
    elif before != now:
        yield name, before, now


def provenance(configured: ConfiguredMethod, classifier: Classifier | None) -> dict[str, Any]:
    """Return what config.yaml records in addition to the options: method, versions, and the identity of the classifier
    once it is loaded."""
    recorded: dict[str, Any] = {
        "method": configured.command.name,
        "module": configured.command.method(configured.config).__name__,
        "lit_viz": __version__,
        "python": sys.version.split()[0],
        **{package: metadata.version(package) for package in _PACKAGES},
    }
    if classifier is None:
        return {**recorded, "weights_sha256": None}
    labels = {"labels": list(classifier.labels)} if classifier.weights == GIVEN_WEIGHTS else {}
    return {**recorded, **classifier.identity(), **labels, "multi_label": classifier.multi_label}


def check_identity(folder: RunFolder, configured: ConfiguredMethod, classifier: Classifier, is_resumed: bool) -> None:
    """Record the identity of the classifier; of a resumed run, compare it to the recorded one."""
    recorded = provenance(configured, classifier)
    before = folder.recorded if is_resumed else {}
    weights, now = before.get("weights_sha256"), str(recorded["weights_sha256"])
    if weights is None:  # new, or killed while the network was loaded
        folder.write_config(configured.dump(), recorded)
        return
    if weights != now:
        raise LitVizError(
            f"{folder.path} was started with other weights (sha256 {weights[:12]}..., got {now[:12]}...): use the same "
            "file, or start another run"
        )
    logits: list[Sequence[float | None]] = [before.get("probe_logits") or [], recorded["probe_logits"]]
    for old, new in zip(*logits, strict=False):
        if old is not None and (new is None or not math.isclose(old, new, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)):
            raise LitVizError(
                f"{folder.path} was started with a network of the same weights but other logits: use the same layers "
                "and hooks, or start another run"
            )


class LastCheckpoint:
    """The last checkpoint of a run folder, compared once with the rows, files and records in the folder.

    Raises:
        LitVizError: the checkpoint is damaged, or of another version.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._path = folder, folder.path / LAST_CHECKPOINT
        self._checkpoint: dict[str, Any] = {"lit_viz": {"finished": {}, "slots": []}, "checksums": {}}
        if self._path.exists():
            self._checkpoint = AtomicCheckpointIO().load_checkpoint(self._path)
            check_run_state(self._checkpoint["lit_viz"])
        self._state = self._checkpoint["lit_viz"]
        self._recorded: dict[int, dict[str, int]] = self._checkpoint.get("checksums", {})

    @cached_property
    def _on_disk(self) -> dict[int, dict[str, int]]:
        return self._folder.measure(self._state["finished"], _iterations(self._state))

    @cached_property
    def incomplete(self) -> set[int]:
        """Tasks whose rows, files or record are not those of the time of the checkpoint."""
        return {index for index, checksums in self._on_disk.items() if checksums != self._recorded.get(index, {})}

    @property
    def damaged_files(self) -> list[str]:
        """Names of the files of tasks that have been changed since the checkpoint."""
        pairs = ((self._recorded.get(index, {}), checksums) for index, checksums in self._on_disk.items())
        files = ((name, recorded.get(name), crc) for recorded, of_task in pairs for name, crc in of_task.items())
        return [name for name, recorded, crc in files if "/" in name and recorded not in (None, crc)]

    def is_finished(self, tasks: Sequence[Task]) -> bool:
        """Return whether every task is finished and complete."""
        return len(self._state["finished"]) == len(tasks) and not self.incomplete

    def restore(self) -> None:
        """Remove everything later than the checkpoint from the folder, and the incomplete tasks from both; they are
        computed again."""
        state, lost = self._state, self.incomplete
        if lost:
            state["finished"] = {i: status for i, status in state["finished"].items() if i not in lost}
            state["slots"] = [slot for slot in state["slots"] if slot["task"] not in lost]
            AtomicCheckpointIO().save_checkpoint({**_new_trainer_state(), **self._checkpoint}, self._path)
        self._folder.trim(state["finished"].keys(), _iterations(state))
        self._folder.checksums = {i: parts for i, parts in self._on_disk.items() if i not in lost}


def _new_trainer_state() -> dict[str, Any]:
    """Return the part of a checkpoint that Lightning requires; saved runs of earlier versions lack it."""
    version = metadata.version("pytorch-lightning")
    return {"state_dict": {}, "optimizer_states": [], "lr_schedulers": [], "pytorch-lightning_version": version}


def write_checkpoint(folder: RunFolder, records: Iterable[Record]) -> None:
    """Write the checkpoint of a run in memory: finished tasks and checksums, with the state of a new Trainer."""
    finished = {record.index: record.status for record in records}
    checkpoint = {
        "lit_viz": {"version": CHECKPOINT_VERSION, "slots": [], "finished": finished},
        "checksums": folder.checksums,
        **_new_trainer_state(),
    }
    AtomicCheckpointIO().save_checkpoint(checkpoint, folder.path / LAST_CHECKPOINT)


def _iterations(state: Mapping[str, Any]) -> dict[int, int]:
    """Return the iteration of each task in progress, by index."""
    return {slot["task"]: int(slot["state"]["iteration"]) for slot in state["slots"]}
