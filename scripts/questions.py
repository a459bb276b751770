"""Draw the picture of a question of docs/questions.md: run its code, and draw the figure of its run.

python scripts/questions.py loader --out runs/questions
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "questions.md"
_CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
_NAME = re.compile(r"`python scripts/questions\.py (\w+)`")
DPI = 90
#: Figures of many images.
SMALL = {"units": 44}


def codes() -> dict[str, str]:
    """Return the code of each question that has a picture, by the name of the picture, after the setup of the page."""
    start, *questions = PAGE.read_text(encoding="utf-8").split("\n**")
    found = {}
    for question in questions:
        name = _NAME.search(question)
        if name:
            found[name[1]] = "\n".join(_CODE.findall(start) + _CODE.findall(question))
    return found


def main() -> None:
    every = codes()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=every)
    parser.add_argument("--out", type=Path, default=Path("runs/questions"), help="folder of figure.png")
    parser.add_argument("--wandb", help=argparse.SUPPRESS)  # of scripts/gallery.py; nothing is logged
    options = parser.parse_args()
    names: dict[str, Any] = {}
    exec(compile(every[options.question], PAGE.name, "exec"), names)
    options.out.mkdir(parents=True, exist_ok=True)
    names["run"].figure().savefig(options.out / "figure.png", dpi=SMALL.get(options.question, DPI))
    print(f"figure  {options.out}/figure.png")


if __name__ == "__main__":
    main()
