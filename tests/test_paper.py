"""The paper: its sections, length and blanks, and the script that makes its figures and measures its claims."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "paper.md"
_, HEADER, BODY = PAGE.read_text(encoding="utf-8").split("---\n", 2)


def test_it_has_the_sections_of_joss() -> None:
    sections = re.findall(r"^# (.+)$", BODY, re.MULTILINE)
    required = ["Summary", "Statement of need", "State of the field", "Software design", "Research impact statement"]
    required += ["AI usage disclosure", "Acknowledgements", "References"]
    assert [section for section in sections if section in required] == required


def test_its_length_is_that_of_a_joss_paper() -> None:
    text = re.sub(r"```.*?```|<!--.*?-->", "", BODY, flags=re.DOTALL)
    assert 750 <= len(text.split()) <= 1750


def test_authors_and_disclosures_are_marked_blanks() -> None:
    for start in ("author", "affiliation", "date of submission"):
        assert f"[{start}" in HEADER
    for section in ("AI usage disclosure", "Acknowledgements"):
        _, _, text = BODY.partition(f"# {section}\n")
        assert re.match(r"\n\[[^\]]+: to be filled in by those who submit\.\]\n", text)


def test_every_citation_is_in_the_bibliography() -> None:
    bibliography = (PAGE.parent / "paper.bib").read_text(encoding="utf-8")
    assert set(re.findall(r"@(\w+\d{4})", BODY)) == set(re.findall(r"^@\w+\{(\w+),", bibliography, re.MULTILINE))


def test_one_command_measures_its_claims_and_makes_its_figures() -> None:
    """The figures and their commands are tested with those of all pages."""
    assert "python scripts/benchmark.py paper --out figures\n" in BODY
    assert "![" in BODY
