"""The block of docs/compare.md, and its commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lit_viz.commands import form_of_words
from lit_viz.launch.specs import METHODS

PAGE = (Path(__file__).parents[1] / "docs" / "compare.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*skipped of:UserWarning")
def test_the_block_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(
        compile(block.replace('"zoo:fashion",', '["zoo:fashion/bag_18", "zoo:fashion/coat_6"],'), "page", "exec"), names
    )
    assert [row["method"] for row in names["attacks"].rows] == ["fgsm", "pgd", "ddn"]
    assert names["run"].evidence.faithfulness is not None


def test_the_commands_of_the_page_are_valid() -> None:
    commands = re.findall(r"^lit-viz (saliency|attack) (.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 2
    for name, words in commands:
        form, _ = form_of_words(METHODS[name], words.split())
        assert len(form.runs()) == {"saliency": 1, "attack": 5}[name]
