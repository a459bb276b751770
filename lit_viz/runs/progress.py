"""``progress.json`` of a run folder: how far the run is, as of its last save."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lit_viz.errors import LitVizError
from lit_viz.types import JsonObject
from lit_viz.utils.checking import wrong_value
from lit_viz.utils.files import parse_object, read_regular_text


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class SavedProgress(JsonObject):
    """Progress of a run at a save.

    Attributes:
        tasks: number of tasks.
        done, skipped, failed: number of finished tasks by status.
        time: time of the save, in seconds since 1970.
        seconds: time from the start of the process to the save.
        finished: number of tasks that this process has finished, of ``done``, ``skipped`` and ``failed`` ones.
    """

    tasks: int
    done: int
    skipped: int
    failed: int
    time: float
    seconds: float = 0.0
    finished: int = 0

    @classmethod
    def read(cls, path: Path) -> SavedProgress | None:
        """Return the progress in a file; None if there is none.

        Raises:
            LitVizError: the file is damaged.
        """
        if not path.exists():
            return None
        values = parse_object(read_regular_text(path))
        wrong = wrong_value(values, cls)
        if values is None or wrong is not None:
            raise LitVizError(f"{path} is damaged ({wrong}): the next save of the run writes it again")
        return cls.from_dict(values)
