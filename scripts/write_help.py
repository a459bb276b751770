"""Write the help of the commands, which `lit-viz COMMAND --help` prints without importing torch.

python scripts/write_help.py
"""

from __future__ import annotations

from pathlib import Path

from lit_viz.cli import COMMAND_NAMES
from lit_viz.launch.parser import help_text

FOLDER = Path(__file__).parents[1] / "lit_viz" / "launch" / "help"


def main() -> None:
    """Write a text file per command."""
    for name in COMMAND_NAMES:
        (FOLDER / f"{name}.txt").write_text(help_text(name), encoding="utf-8")


if __name__ == "__main__":
    main()
