"""Verdicts of the comparison with Captum in the evidence of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lit_viz.runs.evidence import CaptumEvidence, SaliencyEvidence
from lit_viz.runs.folder import FolderStorage


def captum(run: Any) -> CaptumEvidence:
    """Return the part of the evidence of a run, or of a run folder."""
    evidence = FolderStorage(run).evidence(SaliencyEvidence) if isinstance(run, Path) else run.evidence
    assert evidence.captum is not None
    return evidence.captum


def verdicts(run: Any) -> list[bool | None]:
    """Return the verdict of each map in task order; None for maps that were not compared."""
    part, found = captum(run), dict[int, bool | None]()
    for comparison in part.maps:
        found[comparison.index] = comparison.passed
    for unchecked in part.unchecked:
        found[unchecked.index] = None
    return [found[index] for index in sorted(found)]


def reasons(run: Any) -> list[str | None]:
    """Return why maps were not compared."""
    return [unchecked.unchecked for unchecked in captum(run).unchecked]
