"""The blocks of docs/python.md, in one script as a reader copies them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers, devices and logging intervals
def test_the_page_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    script = "\n".join(blocks).replace("iterations=50", "iterations=2")
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(script, "docs/python.md", "exec"), names)
    correct = names["network"](names["images"][1500:]).argmax(1) == names["labels"][1500:]
    assert correct.float().mean() > 0.9
    results = names["run"].outcomes
    assert {result.record.status for result in results} == {"done"}
    assert (tmp_path / "attack.png").exists()
    for folder in ("attack", "channels"):
        assert (tmp_path / "runs" / folder / "report.html").exists()
