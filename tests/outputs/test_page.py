"""The blocks of docs/any_network.md, as a reader pastes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_viz.outputs import OUTPUTS
from tests.support.pages import blocks, read, run

#: Blocks without a file of another package; tests/outputs/test_layout.py runs the one with such a file.
BLOCKS = [code for code in blocks(read("any_network.md")) if "layout_cdla" not in code]
pytestmark = pytest.mark.filterwarnings("ignore:1 skipped of 1 image")  # of networks without training
#: What each block imports, in the order of the page.
IMPORTS = [re.findall(r"from lit_viz.outputs import (\w+)", code) for code in BLOCKS]


def run_block(code: str, names: dict[str, Any]) -> None:
    torch.manual_seed(0)
    run(code, "any_network.md", names)
    results = names["run"].records
    assert {record["status"] for record in results} <= {"done", "skipped"}


def test_the_page_has_a_block_of_each_output_and_they_are_short() -> None:
    assert {len(names) for names in IMPORTS} == {1}
    shown = {name for names in IMPORTS for name in names}
    elsewhere = {"Logits", "Answer"}  # docs/answers.md
    assert shown == {"Output", *(kind.__name__ for kind in OUTPUTS.values())} - elsewhere
    assert max(len(code.splitlines()) for code in BLOCKS) <= 24


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs_alone(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_block(BLOCKS[number], {"__name__": "__main__"})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_blocks_run_in_the_order_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for code in BLOCKS:
        run_block(code, names)
