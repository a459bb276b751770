"""Blocks of pages of the documentation, which tests run as a reader copies them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"


def read(page: str) -> str:
    """Return the text of a page in ``docs/``."""
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(text: str) -> list[str]:
    """Return the blocks of Python in a text."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def run(code: str, page: str, names: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run a block, or several as one script; return its names, which include the given ones."""
    names = {"__name__": "__main__"} if names is None else names
    exec(compile(code, page, "exec"), names)
    return names
