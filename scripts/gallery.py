"""Make the figures of a page: run the command below each picture, and put its figure where the page shows it.

python scripts/gallery.py docs/gallery.md
python scripts/gallery.py docs/lab.md --only lab_saliency.jpg

Below a picture stands its command: a block of code, or in a caption between backticks. The picture is the run's
figure.png, unless its title names another file of the run folder: ![...](images/x.jpg "localization.png").
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from lit_viz.cli.main import errors_reported

WIDTH = 1400  # pixels, at most
_PICTURE = re.compile(
    r"!\[[^\]]*\]\((?P<path>[^\s)]+)(?: \"(?P<file>[^\"]+)\")?\)\n\n"
    r"(?:```bash\n(?P<block>[^`]+?)\n```|\*[^`*]*`(?P<inline>[^`]+)`)"
)


class Card(NamedTuple):
    """A picture of a page: its file, the words of the command that makes it, and which file of the run it is."""

    picture: Path
    words: list[str]
    file: str


def cards(page: Path) -> list[Card]:
    """Return the pictures of a page below which a command stands."""
    found = _PICTURE.finditer(page.read_text(encoding="utf-8"))
    return [Card(page.parent / one["path"], _words(one["block"] or one["inline"]), one["file"] or "figure.png")
            for one in found]  # fmt: skip


def _words(command: str) -> list[str]:
    return shlex.split(command.replace("\\\n", " "))


def make(card: Card) -> float:
    """Run a card's command and convert its figure; return the seconds it took."""
    with tempfile.TemporaryDirectory() as folder:
        words = [*card.words, "--out", f"{folder}/run", "--wandb", "disabled"]
        known = {"lit-viz": [sys.executable, "-m", "lit_viz"], "python": [sys.executable]}
        began = time.monotonic()
        subprocess.run([*known[words[0]], *words[1:]], check=True)
        seconds = time.monotonic() - began
        with Image.open(Path(folder, "run", card.file)) as figure:
            picture = figure.convert("RGB")
        picture.thumbnail((WIDTH, 4 * WIDTH), Image.Resampling.LANCZOS)
        card.picture.parent.mkdir(exist_ok=True)
        picture.save(card.picture, quality=88)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--only", nargs="+", help="names of pictures; all unless given")
    options = parser.parse_args()
    if not options.page.is_file():
        sys.exit(f"gallery: there is no page {options.page}")
    found = cards(options.page)
    unknown = set(options.only or ()) - {card.picture.name for card in found}
    if unknown:
        sys.exit(f"gallery: {options.page} shows no {', '.join(sorted(unknown))}")
    with errors_reported("gallery"):
        for card in found:
            if not options.only or card.picture.name in options.only:
                print(f"{card.picture}: {make(card):.0f} s, {shlex.join(card.words)}", flush=True)


if __name__ == "__main__":
    main()
