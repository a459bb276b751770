"""Regenerate the figures of a page: run the command below each picture and convert its figure.

python scripts/gallery.py docs/gallery.md
python scripts/gallery.py docs/lab.md --only lab_saliency.jpg

The command of a picture follows it: a code block, or inline code in a caption. The picture is the run's figure.png,
unless its title names another file of the run folder: ![...](images/x.jpg "localization.png").
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

from lit_viz.cli import errors_reported

WIDTH = 1400  # pixels, at most
QUALITY = {".webp": 60}  # else 88
PROGRAMS = {"lit-viz": [sys.executable, "-m", "lit_viz"], "python": [sys.executable]}
_PICTURE = re.compile(
    r"!\[[^\]]*\]\((?P<path>[^\s)]+)(?: \"(?P<file>[^\"]+)\")?\)\n\n"
    r"(?:```bash\n(?P<block>[^`]+?)\n```|\*[^`*]*`(?P<inline>[^`]+)`)"
)


class Card(NamedTuple):
    """A picture of a page: its path, the words of its command, and the file of the run folder."""

    picture: Path
    words: list[str]
    file: str


def cards(page: Path) -> list[Card]:
    """Return the pictures of a page that have a command."""
    return [
        Card(
            page.parent / match["path"],
            shlex.split((match["block"] or match["inline"]).replace("\\\n", " ")),
            match["file"] or "figure.png",
        )
        for match in _PICTURE.finditer(page.read_text(encoding="utf-8"))
    ]


def make(card: Card) -> float:
    """Run a card's command and convert its figure; return the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        program, *options = [*card.words, "--out", f"{folder}/run", "--wandb", "disabled"]
        start = time.monotonic()
        subprocess.run([*PROGRAMS[program], *options], check=True)
        seconds = time.monotonic() - start
        with Image.open(Path(folder, "run", card.file)) as figure:
            picture = figure.convert("RGB")
        picture.thumbnail((WIDTH, 4 * WIDTH), Image.Resampling.LANCZOS)
        card.picture.parent.mkdir(exist_ok=True)
        picture.save(card.picture, quality=QUALITY.get(card.picture.suffix, 88))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, help="folder of the pictures; by default where the page has them")
    parser.add_argument("--only", nargs="+", help="names of pictures; all by default")
    options = parser.parse_args()
    if not options.page.is_file():
        sys.exit(f"gallery: page {options.page} does not exist")
    every = cards(options.page)
    invalid = set(options.only or ()) - {card.picture.name for card in every}
    if invalid:
        sys.exit(f"gallery: {options.page} has no picture {', '.join(sorted(invalid))}")
    with errors_reported("gallery"):
        for card in every:
            if options.out:
                card = card._replace(picture=options.out / card.picture.name)
            if not options.only or card.picture.name in options.only:
                print(f"{card.picture}: {make(card):.0f} s, {shlex.join(card.words)}", flush=True)


if __name__ == "__main__":
    main()
