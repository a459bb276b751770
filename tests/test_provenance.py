"""The page of provenance names each packaged file and has its checksum."""

from __future__ import annotations

import hashlib
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

import lit_viz

ROOT = Path(__file__).parents[1]
PACKAGE = Path(lit_viz.__file__).parent
#: Path of a file or folder, and its SHA-256, of each row of the tables.
ROWS: dict[str, str] = {}
for line in (ROOT / "docs" / "provenance.md").read_text().splitlines():
    if row := re.fullmatch(r"\| `([^`]+)` .*\| `([0-9a-f]{64})` \|", line):
        ROWS[row[1]] = row[2]


def located(name: str) -> Path:
    """Return a file or folder of the package, or of a package that is installed with it."""
    if (PACKAGE / name).exists():
        return PACKAGE / name
    spec = find_spec(name.split("/")[0])
    if spec is None or spec.origin is None:
        pytest.skip(f"{name} is not installed")
    return Path(spec.origin).parent.parent / name


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the digests of the files of a folder."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digests = [hashlib.sha256(file.read_bytes()).digest() for file in sorted(path.glob("*.png"))]
    return hashlib.sha256(b"".join(digests)).hexdigest()


@pytest.mark.parametrize("name", ROWS)
def test_checksum(name: str) -> None:
    assert digest(located(name)) == ROWS[name]


def test_each_packaged_network_and_picture_has_a_row() -> None:
    packaged: set[str] = set()
    for suffix in ("safetensors", "pth", "pt", "onnx", "npy", "npz"):
        packaged |= {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob(f"*.{suffix}")}
    for suffix in ("png", "jpg", "jpeg", "gif"):
        packaged |= {str(path.parent.relative_to(PACKAGE)) for path in PACKAGE.rglob(f"*.{suffix}")}
    assert packaged
    assert packaged <= ROWS.keys()


def test_all_tables_are_read() -> None:
    assert len(ROWS) == 19
