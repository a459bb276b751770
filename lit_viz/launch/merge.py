"""``lv.merge``: the shards of a run as one run, with evidence, figure and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_viz.engine.shards import Shard
from lit_viz.errors import LitVizError
from lit_viz.launch.form import Form
from lit_viz.launch.options import extra_files
from lit_viz.launch.resume import changed_arguments, differs_in
from lit_viz.runs.access import check_new, folder_lock, is_run
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.merging import intact_tasks, merge_tasks, new_folder
from lit_viz.runs.seal import Seal
from lit_viz.runs.stored import QueuePart
from lit_viz.runs.tar_store import open_run
from lit_viz.runs.verification import verify
from lit_viz.utils.checking import shortened
from lit_viz.utils.formatting import Notify, pluralize

_MOST_NAMED = 8  # shards or tasks in a sentence


def shard_folders(paths: Sequence[str | Path]) -> list[Path]:
    """Return run folders; in place of a folder with shards, these in their order."""
    folders: list[Path] = []
    for path in map(Path, paths):
        shards = [folder for folder in path.glob("shard-*-of-*") if is_run(folder)]
        if is_run(path) or not shards:
            folders.append(path)
        else:
            folders += sorted(shards, key=lambda folder: [int(word) for word in folder.name.split("-")[1::2]])
    return folders


def merge_shards(paths: Sequence[str | Path], out: str | Path, partial: bool, notify: Notify) -> None:
    """Merge shards to a run folder whose images are finished, which a resume completes; see :func:`lit_viz.merge`.

    Args:
        paths: run folders of shards, or folders of them.
        out: a missing or empty folder, or that of a merge of these shards that was killed before its end.
        partial: whether tasks may be missing.
        notify: receives lines about missing tasks and different devices.
    """
    out = Path(out)
    if _is_unfinished_merge(out, paths):
        notify(f"{out} is continued: its tasks are merged already")
        return
    check_new(out, False, extra_files())
    with folder_lock(new_folder(out), out):
        check_new(out, False, extra_files())  # again, since another process may have merged it before
        _merge(paths, out, partial, notify)


def _is_unfinished_merge(out: Path, paths: Sequence[str | Path]) -> bool:
    """Return whether a folder is an unfinished run that was merged of these shards."""
    if not is_run(out):
        return False
    folder = open_run(out)
    merged = {Path(shard["folder"]).resolve() for shard in folder.recorded.get("shards") or ()}
    given = {path.resolve() for path in shard_folders(paths)}
    return merged == given and not Seal.read(folder.path).is_complete


def _merge(paths: Sequence[str | Path], out: Path, partial: bool, notify: Notify) -> None:
    folders = [open_run(path) for path in shard_folders(paths)]
    if not folders:
        raise LitVizError("shards to merge must be at least one, got none")
    parts = [_part_of(folder) for folder in folders]
    _check_alike(folders, parts)
    missing = _missing_shards(folders, parts)
    if missing and not partial:
        raise LitVizError(f"{_named(missing)} missing: name all shards, or give partial")
    shards: dict[FolderStorage, set[int]] = {}
    for folder, part in zip(folders, parts, strict=True):
        if not partial:
            verify(folder)
        shards[folder] = intact_tasks(folder)
        lost = part.tasks - len(shards[folder])
        if lost:
            missing.append(f"{pluralize(lost, 'task')} of {part.name}")
    if not any(shards.values()):
        raise LitVizError("shards to merge must have finished tasks, got none")
    if missing:
        notify(f"{_named(missing)} missing")
    form = Form.of_mapping(folders[0].config, str(folders[0].path))
    form.run |= {"out": str(out), "shard": None, "resume": False, "overwrite": False}
    merge_tasks(shards, out, form.to_yaml(), _provenance(folders, missing, notify))


def _part_of(folder: FolderStorage) -> QueuePart:
    part = folder.part
    if part is None or part.shard is None:
        raise LitVizError(f"{folder.path} is not a shard: give the folders of runs with shard=i/n")
    return part


def _check_alike(folders: Sequence[FolderStorage], parts: Sequence[QueuePart]) -> None:
    """Check that shards are different shards of one run.

    Raises:
        LitVizError: two have the same tasks, or another queue, network or options.
    """
    first, form = folders[0], Form.of_mapping(folders[0].config, str(folders[0].path))
    seen: dict[Shard, Path] = {}
    for folder, part in zip(folders, parts, strict=True):
        pair = f"{first.path} and {folder.path}"
        shard = Shard.parse(str(part.shard))
        if shard in seen:
            raise LitVizError(f"{seen[shard]} and {folder.path} are both shard {shard}: leave one out")
        seen[shard] = folder.path
        if shard.count != next(iter(seen)).count:
            raise LitVizError(f"{pair} overlap: they are shards {next(iter(seen))} and {shard}")
        difference = differs_in(first.recorded, folder.recorded)
        if difference is not None:
            raise LitVizError(f"{pair} are of networks with other {difference}: merge shards of one network")
        other_form = Form.of_mapping(folder.config, str(folder.path))
        changes = list(changed_arguments(form, other_form))
        stores = [of_shard.run.get("store", "files") for of_shard in (form, other_form)]
        if stores[0] != stores[1]:
            changes.append(("store", *stores))
        for name, one, other in changes:
            raise LitVizError(f"{pair} have other options: {name} is {_text(one)}, and {_text(other)}")
        if (part.total, part.sha256) != (parts[0].total, parts[0].sha256):
            raise LitVizError(f"{pair} have other tasks: their photographs or classes were not the same")


def _missing_shards(folders: Sequence[FolderStorage], parts: Sequence[QueuePart]) -> list[str]:
    """Return the shards with tasks that are not among the folders."""
    given = {Shard.parse(str(part.shard)) for part in parts}
    count = next(iter(given)).count
    missing: list[str] = []
    for index in range(min(count, parts[0].total)):
        if Shard(index, count) not in given:
            missing.append(f"shard {index}/{count}")
    return missing


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return shortened(value)


def _named(missing: Sequence[str]) -> str:
    """Return ``shard 1/3 is``, or ``shard 1/3 and 2 tasks of shard 2/3 are``."""
    named = list(missing[:_MOST_NAMED])
    if len(missing) > _MOST_NAMED:
        named.append(f"{len(missing) - _MOST_NAMED} more")
    verb = "is" if len(missing) == 1 and missing[0].startswith(("shard", "1 ")) else "are"
    return f"{', '.join(named)} {verb}"


def _provenance(folders: Sequence[FolderStorage], missing: Sequence[str], notify: Notify) -> dict[str, Any]:
    """Return the provenance of a merged run: that of the first shard, with the folders and devices of all."""
    recorded: dict[str, Any] = dict(folders[0].recorded)
    shards: list[Mapping[str, Any]] = []
    for folder in folders:
        shards.append({"folder": str(folder.path), "device": folder.recorded.get("device")})
    devices = sorted({str(shard["device"]) for shard in shards})
    if len(devices) > 1:
        notify(f"the shards are of different devices: {', '.join(devices)}")
    recorded["shards"] = shards
    if missing:
        recorded["missing"] = list(missing)
    return recorded
