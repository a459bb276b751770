"""Pages of the documentation: their blocks run, print what the page shows, and their commands are valid."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import lit_viz as lv
from lit_viz.commands import form_of_words
from lit_viz.launch.specs import METHODS
from lit_viz.runs.records import AdversarialRecord, SaliencyRecord
from tests.support.pages import DOCS, blocks, read, run

pytestmark = pytest.mark.draws  # the maps of large images are written with the figure
QUESTIONS = read("questions.md")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
#: Pages that compare calls of other packages with those of lit_viz.
MIGRATION = sorted(str(path.relative_to(DOCS)) for path in (DOCS / "migrate").glob("*.md"))
of_migration = pytest.mark.parametrize("page", MIGRATION)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


@pytest.mark.slow
def test_the_page_of_bands_runs_from_top_to_bottom(tmp_path: Path) -> None:
    names = run("\n".join(blocks(read("bands.md"))), "docs/bands.md")
    assert names["record"].status in ("done", "skipped")
    for folder in ("bands", "attack", "ct", "slide", "tiles"):
        assert (tmp_path / "runs" / folder / "report.html").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers, devices and logging intervals
def test_the_page_of_python_runs_from_top_to_bottom(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    script = "\n".join(blocks(read("python.md"))).replace("iterations=50", "iterations=2")
    names = run(script, "docs/python.md")
    correct = names["network"](names["images"][1500:]).argmax(1) == names["labels"][1500:]
    assert correct.float().mean() > 0.9
    assert {outcome.record.status for outcome in names["run"].outcomes} == {"done"}
    assert (tmp_path / "attack.png").exists()
    for folder in ("attack", "channels"):
        assert (tmp_path / "runs" / folder / "report.html").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*skipped of:UserWarning")
def test_the_block_of_the_page_of_comparisons_runs() -> None:
    (block,) = blocks(read("compare.md"))
    names = run(block.replace('"zoo:fashion",', '["zoo:fashion/bag_18", "zoo:fashion/coat_6"],'), "docs/compare.md")
    assert [row["method"] for row in names["attacks"].rows] == ["fgsm", "pgd", "ddn"]
    assert names["run"].evidence.faithfulness is not None


def test_the_commands_of_the_page_of_comparisons_are_valid() -> None:
    commands = re.findall(r"^lit-viz (saliency|attack) (.*)$", read("compare.md"), re.MULTILINE)
    assert len(commands) == 2
    for name, words in commands:
        form, _ = form_of_words(METHODS[name], words.split())
        assert len(form.runs()) == {"saliency": 1, "attack": 5}[name]


def test_each_question_has_a_source_and_an_answer_of_few_lines() -> None:
    questions = QUESTIONS.split("\n**")[1:]
    assert len(questions) >= 15
    for question in questions:
        assert re.search(r"https://github.com/[^)]+/issues/\d+\)", question)
        (code,) = blocks(question)
        statements = [line for line in code.splitlines() if line and not line.startswith("from ")]
        assert len(statements) <= 5


def test_pictures_of_questions_are_small() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\((images/question_\w+\.webp)\)", QUESTIONS)
    assert len(pictures) == len(set(pictures)) >= 8
    for picture in pictures:
        assert (DOCS / picture).stat().st_size <= 40_000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers
def test_the_answers_print_the_lines_of_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"__name__": "__main__"}
    for code, _, printed in re.findall(r"```python\n(.*?)```\n(\n```text\n(.*?)```)?", QUESTIONS, re.DOTALL):
        run(code, "docs/questions.md", names)
        actual = capsys.readouterr().out
        assert NUMBER.split(actual) == NUMBER.split(printed)
        numbers = [float(number) for number in NUMBER.findall(printed)]
        assert [float(number) for number in NUMBER.findall(actual)] == pytest.approx(numbers, rel=0.1, abs=0.02)
    assert not list(tmp_path.iterdir())


def sections(page: str) -> list[str]:
    """Return the code of each section of a page, the first before the first heading."""
    return ["\n".join(blocks(section)) for section in read(page).split("\n## ")]


@of_migration
def test_a_page_compares_five_calls_and_names_what_is_missing(page: str) -> None:
    beginning, *comparisons, end = sections(page)
    assert "import lit_viz as lv" in beginning
    assert len(comparisons) == 5
    for code in comparisons:
        assert "theirs" in code
        assert "ours" in code
        assert re.search(r"^(assert|torch\.testing\.assert_close)\b", code.splitlines()[-1])
    assert end == ""
    assert re.search(r"^## What .+ has and lit_viz lacks$", read(page), re.MULTILINE)


@of_migration
def test_a_page_names_what_runs_and_records_have(page: str) -> None:
    known = set(dir(SaliencyRecord)) | set(dir(AdversarialRecord))
    for record in (SaliencyRecord, AdversarialRecord):
        known |= {field.name for field in fields(record)}
    assert set(re.findall(r"run\.records\[0\]\.(\w+)", read(page))) <= known
    assert set(re.findall(r"\brun\.(\w+)", read(page))) <= set(dir(lv.Run))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the other packages
@pytest.mark.usefixtures("peers")
@of_migration
def test_a_page_of_other_packages_runs_from_top_to_bottom(page: str, tmp_path: Path) -> None:
    run("\n".join(sections(page)), page)
    assert not list(tmp_path.iterdir())
