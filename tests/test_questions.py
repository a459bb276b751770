"""The blocks of docs/questions.md in one script, and the lines that they print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = Path(__file__).parents[1] / "docs" / "questions.md"
NUMBER = re.compile(r"\d+(?:\.\d+)?")
TEXT = PAGE.read_text(encoding="utf-8")


def test_each_question_has_a_source_and_an_answer_of_few_lines() -> None:
    questions = TEXT.split("\n**")[1:]
    assert len(questions) >= 15
    for question in questions:
        assert re.search(r"https://github.com/[^)]+/issues/\d+\)", question)
        (code,) = re.findall(r"```python\n(.*?)```", question, re.DOTALL)
        statements = [line for line in code.splitlines() if line and not line.startswith("from ")]
        assert len(statements) <= 5


def test_pictures_of_questions_are_small() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\((images/question_\w+\.webp)\)", TEXT)
    assert len(pictures) == len(set(pictures)) >= 8
    for picture in pictures:
        assert (PAGE.parent / picture).stat().st_size <= 40_000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers
def test_the_blocks_print_the_lines_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "__main__"}
    for code, _, printed in re.findall(r"```python\n(.*?)```\n(\n```text\n(.*?)```)?", TEXT, re.DOTALL):
        exec(compile(code, PAGE.name, "exec"), names)
        actual = capsys.readouterr().out
        assert NUMBER.split(actual) == NUMBER.split(printed)
        numbers = [float(number) for number in NUMBER.findall(printed)]
        assert [float(number) for number in NUMBER.findall(actual)] == pytest.approx(numbers, rel=0.1, abs=0.02)
    assert not list(tmp_path.iterdir())
