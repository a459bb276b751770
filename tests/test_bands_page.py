"""The blocks of docs/bands.md, in one script as a reader copies them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.draws]  # the maps of large images are written with the figure

PAGE = Path(__file__).parents[1] / "docs" / "bands.md"


def test_the_page_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile("\n".join(blocks), "docs/bands.md", "exec"), names)
    assert names["record"].status in ("done", "skipped")
    for folder in ("bands", "attack", "ct", "slide", "tiles"):
        assert (tmp_path / "runs" / folder / "report.html").exists()
