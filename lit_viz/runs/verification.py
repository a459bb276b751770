"""Verification of a run folder before anything is stated from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lit_viz.errors import LitVizError
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.layout import CONFIG, MANIFEST, TARS
from lit_viz.runs.manifest import NOT_OF_THE_RUN, Manifest, Mismatch, is_derived
from lit_viz.runs.trimming import KeptTasks
from lit_viz.utils.formatting import command_line


class Unverified(LitVizError):
    """A run folder from which nothing is stated.

    Attributes:
        reason: the file, and what is wrong with it.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}: {remedy}")
        self.reason = reason


def verify(folder: FolderStorage) -> list[str]:
    """Compare all files, records and metrics of a complete run with its manifest.

    Args:
        folder: run folder.

    Returns:
        Names of the derived files (figure, animation, report, evidence) that are not as written.

    Raises:
        Unverified: the run is not complete, or another file is not as written.
    """
    manifest = folder.manifest()
    if not manifest.is_complete:
        raise _unfinished(folder.path, manifest)
    mismatches = manifest.run_mismatches(folder.path)
    for index, contents in folder.measure(KeptTasks(folder.queue().indices)).items():
        mismatches += manifest.task_mismatches(index, contents)
    _reject(folder.path, [mismatch for mismatch in mismatches if not is_derived(mismatch.name)])
    return [mismatch.name for mismatch in mismatches]


def _unfinished(path: Path, manifest: Manifest) -> Unverified:
    """Return the error about a run that is not complete."""
    command = command_line("resume", path)
    if manifest.is_damaged:
        return Unverified(f"{path / MANIFEST} is damaged", f"{command} computes what it does not confirm")
    return Unverified(f"{path} is unfinished", command)


def _reject(path: Path, mismatches: Sequence[Mismatch]) -> None:
    """Raise an error about the first one of mismatches that can't be drawn again."""
    if not mismatches:
        return
    first = mismatches[0]
    others = ""
    if len(mismatches) > 1:
        others = f" (and {len(mismatches) - 1} more)"
    remedy = f"{command_line('resume', path)} computes its task again"
    if first.name == CONFIG or first.name.startswith(f"{TARS}/"):
        remedy = "restore it, or start another run"
    elif first.reason == NOT_OF_THE_RUN:
        remedy = "move it away"
    raise Unverified(f"{path / first.name} {first.reason}{others}", remedy)
