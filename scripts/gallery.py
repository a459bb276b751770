"""Make the figures of a page: run the command above each picture, and put its figure where the page shows it.

python scripts/gallery.py docs/lab.md
python scripts/gallery.py docs/lab.md --only lab_saliency.jpg

A picture belongs to the block of code right above it. It is the run's figure.png, unless the picture's title names
another file of the run folder: ![...](images/x.jpg "localization.png").
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

from PIL import Image

WIDTH = 1400  # pixels, at most
_PICTURE = re.compile(
    r"```bash\n(?P<command>[^`]+?)\n```\n\n!\[[^\]]*\]\((?P<path>[^\s)]+)(?: \"(?P<file>[^\"]+)\")?\)"
)


def make(command: str, file: str, target: Path) -> float:
    """Run a command and convert its figure; return the seconds it took."""
    with tempfile.TemporaryDirectory() as folder:
        words = [*shlex.split(command), "--out", f"{folder}/run", "--wandb", "disabled"]
        known = {"lit-viz": [sys.executable, "-m", "lit_viz"], "python": [sys.executable]}
        began = time.monotonic()
        subprocess.run([*known[words[0]], *words[1:]], check=True)
        seconds = time.monotonic() - began
        with Image.open(Path(folder, "run", file)) as figure:
            picture = figure.convert("RGB")
        picture.thumbnail((WIDTH, 4 * WIDTH), Image.Resampling.LANCZOS)
        target.parent.mkdir(exist_ok=True)
        picture.save(target, quality=88)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--only", nargs="+", help="names of pictures; all unless given")
    options = parser.parse_args()
    for found in _PICTURE.finditer(options.page.read_text(encoding="utf-8")):
        target = options.page.parent / found["path"]
        if options.only and target.name not in options.only:
            continue
        seconds = make(found["command"], found["file"] or "figure.png", target)
        print(f"{target}: {seconds:.0f} s, {found['command']}", flush=True)


if __name__ == "__main__":
    main()
