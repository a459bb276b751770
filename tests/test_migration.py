"""The blocks of docs/migrate, which compare calls of other packages with those of lit_viz."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

import lit_viz as lv
from lit_viz.runs.records import AdversarialRecord, SaliencyRecord

FOLDER = Path(__file__).parents[1] / "docs" / "migrate"
PAGES = sorted(FOLDER.glob("*.md"))


def blocks(page: Path) -> list[str]:
    """Return the code of each section of a page, the first before the first heading."""
    sections = page.read_text(encoding="utf-8").split("\n## ")
    return ["\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL)) for section in sections]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_compares_five_calls_and_names_what_is_missing(page: Path) -> None:
    beginning, *comparisons, end = blocks(page)
    assert "import lit_viz as lv" in beginning
    assert len(comparisons) == 5
    for code in comparisons:
        assert "theirs" in code
        assert "ours" in code
        assert re.search(r"^(assert|torch\.testing\.assert_close)\b", code.splitlines()[-1])
    assert end == ""
    assert re.search(r"^## What .+ has and lit_viz lacks$", page.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_what_runs_and_records_have(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    known = set(dir(SaliencyRecord)) | set(dir(AdversarialRecord))
    for record in (SaliencyRecord, AdversarialRecord):
        known |= {field.name for field in fields(record)}
    assert set(re.findall(r"run\.records\[0\]\.(\w+)", text)) <= known
    assert set(re.findall(r"\brun\.(\w+)", text)) <= set(dir(lv.Run))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the other packages
@pytest.mark.usefixtures("peers")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "__main__"}
    for code in blocks(page):
        exec(compile(code, page.name, "exec"), names)
    assert not list(tmp_path.iterdir())
