"""Run a notebook, and write its results into it: printed lines, and pictures of a moderate size.

Progress and warnings are left out: their times and paths are those of a machine.

pip install jupyter
python scripts/notebook.py docs/tour.ipynb
"""

from __future__ import annotations

import argparse
import base64
import re
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

WIDTH = 1000  # pixels, at most
QUALITY = 75  # of JPEG
_EMBEDDED = re.compile(r"data:image/(?:jpeg|png);base64,([A-Za-z0-9+/=]+)")


def reduced(encoded: str, width: int = WIDTH) -> str:
    """Return a base64 encoded picture as a JPEG of at most the width."""
    with Image.open(BytesIO(base64.b64decode(encoded))) as image:
        picture = image.convert("RGB")
    picture.thumbnail((width, 4 * width), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    picture.save(buffer, "jpeg", quality=QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()


def is_result(output: dict[str, Any]) -> bool:
    """Return whether an output is a printed line or the value of a cell."""
    return output["output_type"] == "execute_result" or output.get("name") == "stdout"


def reduce_pictures(output: dict[str, Any]) -> None:
    """Reduce the pictures of an output in place: PNG files, and those in HTML."""
    data, metadata = output.get("data", {}), output.get("metadata", {})
    if "image/png" in data:
        shown = metadata.pop("image/png")  # the width in the page
        data["image/jpeg"] = reduced(data.pop("image/png"), min(2 * shown["width"], WIDTH))
        metadata["image/jpeg"] = shown
    if "text/html" in data:
        data["text/html"] = _EMBEDDED.sub(
            lambda match: f"data:image/jpeg;base64,{reduced(match[1])}", data["text/html"]
        )


def run(path: Path, folder: str) -> nbformat.NotebookNode:
    """Return the notebook with the outputs of a run in a folder."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": folder}}
    NotebookClient(notebook, timeout=3600, record_timing=False, resources=resources).execute()
    notebook.metadata.language_info = {"name": "python"}  # without the version
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if is_result(output)]
            for output in cell.outputs:
                reduce_pictures(output)
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        notebook = run(options.notebook, folder)
    nbformat.write(notebook, options.notebook)


if __name__ == "__main__":
    main()
