"""Image files embedded in a page as data URIs."""

from __future__ import annotations

import io
from base64 import b64encode
from pathlib import Path

from PIL import Image

_MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".gif": "image/gif", ".svg": "image/svg+xml"}
_THUMBNAIL_SIDE = 96  # pixels
_THUMBNAIL_QUALITY = 80  # JPEG


def file_in(folder: Path, name: str | None) -> Path | None:
    """Return the path of an image file that a record names.

    Args:
        folder: run folder.
        name: path relative to ``folder``.

    Returns:
        None if there is no such image, or if ``name`` points outside the folder.
    """
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        return None
    path = folder / name
    return path if is_embeddable(path) else None


def is_embeddable(path: Path) -> bool:
    """Return whether ``path`` is an existing file in an image format that browsers display."""
    return path.suffix.lower() in _MEDIA_TYPES and path.is_file()


def data_uri(path: Path) -> str:
    """Return the bytes of an image file as a data URI."""
    return _encode(_MEDIA_TYPES[path.suffix.lower()], path.read_bytes())


def thumbnail_uri(path: Path) -> str:
    """Return a small JPEG version of an image file as a data URI of about 3 kB."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_THUMBNAIL_QUALITY)
    return _encode("image/jpeg", buffer.getvalue())


def printed_width(path: Path) -> int | None:
    """Return the width of a PNG in CSS pixels (1/96 inch); None if it has no resolution."""
    if path.suffix.lower() != ".png":
        return None
    with Image.open(path) as file:
        dpi = file.info.get("dpi", (0.0,))[0]
        return round(96 * file.width / dpi) if dpi else None


def _encode(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{b64encode(data).decode('ascii')}"
