"""The files that a report holds in itself, as many as there is room for."""

from __future__ import annotations

import io
from base64 import b64encode
from pathlib import Path

from PIL import Image

from lit_viz.report.markup import Markup

_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".gif": "image/gif", ".svg": "image/svg+xml"}
_THUMBNAIL = 96  # pixels
_QUALITY = 80  # of its JPEG


def can_hold(path: Path) -> bool:
    """Return whether the file is there, and a picture that a page can show (a PDF is not)."""
    return path.suffix.lower() in _TYPES and path.is_file()


def data_uri(path: Path) -> Markup:
    """Return a picture's own bytes as a URI that needs no other file."""
    return _uri(_TYPES[path.suffix.lower()], path.read_bytes())


def printed_width(path: Path) -> int | None:
    """Return how wide a figure is in pixels of 1/96 inch, as a notebook shows it; None where it doesn't say."""
    if path.suffix.lower() != ".png":
        return None
    with Image.open(path) as file:
        dots = file.info.get("dpi", (0.0,))[0]
        return round(96 * file.width / dots) if dots else None


def thumbnail(path: Path) -> Markup:
    """Return a picture, made small, as such a URI: some 3 kB."""
    with Image.open(path) as file:
        picture = file.convert("RGB")
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    small = io.BytesIO()
    picture.save(small, "JPEG", quality=_QUALITY)
    return _uri("image/jpeg", small.getvalue())


def _uri(kind: str, data: bytes) -> Markup:
    return Markup(f"data:{kind};base64,{b64encode(data).decode('ascii')}")
