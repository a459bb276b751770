"""Verification of a run folder before anything is stated from it."""

from __future__ import annotations

from lit_viz.errors import LitVizError
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.layout import CONFIG, MANIFEST, SEGMENTS
from lit_viz.runs.seal import NOT_OF_THE_RUN, Mismatch, Seal, is_derived
from lit_viz.utils.formatting import command_line

_MOVE_AWAY = "move it away"


class Unverified(LitVizError):
    """A run folder from which nothing is stated.

    Attributes:
        reason: the file, and what is wrong with it.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}: {remedy}")
        self.reason = reason


def verify(folder: FolderStorage) -> list[str]:
    """Compare all files of a complete run with its seal and its segments.

    Args:
        folder: run folder.

    Returns:
        Names of the derived files (figure, animation, report, evidence, exports) that are not as written.

    Raises:
        Unverified: the run is not complete, or another file is not as written.
    """
    seal, command = Seal.read(folder.path), command_line("resume", folder.path)
    if seal.is_damaged:
        raise Unverified(f"{folder.path / MANIFEST} is damaged", f"{command} computes what it does not confirm")
    if not seal.is_complete:
        raise Unverified(f"{folder.path} is unfinished", command)
    folder.load()
    found = [*seal.mismatches(folder.path), *folder.damaged_segments()]
    found += [mismatch for _, mismatch in folder.mismatches()]
    found += folder.foreign_files()
    facts = [mismatch for mismatch in dict.fromkeys(found) if not is_derived(mismatch.name)]
    if facts:
        _reject(folder, facts[0], len(facts) - 1)
    return [mismatch.name for mismatch in found]


def verify_segments(folder: FolderStorage) -> None:
    """Check that the loaded segments are as written.

    Raises:
        Unverified: one is not.
    """
    damaged = folder.damaged_segments()
    if damaged:
        _reject(folder, damaged[0], len(damaged) - 1)


def foreign_files_text(folder: FolderStorage) -> str | None:
    """Return the first file that was added to the folders of tasks, with its remedy; None without any.

    A resume leaves such files as they are, and ``lit-viz check`` refuses the run.
    """
    found = folder.foreign_files()
    if not found:
        return None
    return f"{_stated(folder, found[0], len(found) - 1)}: {_MOVE_AWAY}"


def _reject(folder: FolderStorage, first: Mismatch, others: int) -> None:
    remedy = f"{command_line('resume', folder.path)} computes its tasks again"
    if first.name == CONFIG:
        remedy = "restore it, or start another run"
    elif first.reason == NOT_OF_THE_RUN and not first.name.startswith(f"{SEGMENTS}/"):
        remedy = _MOVE_AWAY
    raise Unverified(_stated(folder, first, others), remedy)


def _stated(folder: FolderStorage, first: Mismatch, others: int) -> str:
    more = f" (and {others} more)" if others else ""
    return f"{folder.path / first.name} {first.reason}{more}"
