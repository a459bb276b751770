"""Images as data URIs, which a page without external resources contains."""

from __future__ import annotations

import io
from base64 import b64encode
from pathlib import Path

from PIL import Image
from torch import Tensor

from lit_viz.errors import LitVizError, first_line
from lit_viz.images.reading import IMAGE_ERRORS, encode_png
from lit_viz.types import Picture

_MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".gif": "image/gif", ".svg": "image/svg+xml"}
#: Size in bytes up to which a file is embedded unchanged.
EXACT_BYTES = 16_000


def is_embeddable(picture: Picture) -> bool:
    """Return whether a picture is an image, or an existing file in an image format that browsers display."""
    return isinstance(picture, Tensor) or (picture.suffix.lower() in _MEDIA_TYPES and picture.is_file())


def image_uri(picture: Picture, width: int | None = None) -> str:
    """Return a picture as a data URI: a PNG of more than :data:`EXACT_BYTES` as JPEG, other files unchanged.

    Args:
        picture: file, or image ``(C, H, W)``.
        width: maximum width in pixels.

    Raises:
        LitVizError: the file must be converted and is no image.
    """
    if isinstance(picture, Tensor):
        return data_uri(encode_png(picture), width=width)
    try:
        return data_uri(picture.read_bytes(), _MEDIA_TYPES[picture.suffix.lower()], width)
    except IMAGE_ERRORS as error:
        raise LitVizError(f"{picture} is no image that can be read ({first_line(error)})") from error


def data_uri(data: bytes, media_type: str = "image/png", width: int | None = None) -> str:
    """Return an encoded image as :func:`image_uri` does."""
    if media_type == "image/png" and len(data) > EXACT_BYTES:
        with Image.open(io.BytesIO(data)) as file:
            image = file.convert("RGB")
        image.thumbnail((width or image.width, image.height))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        if len(buffer.getvalue()) < len(data):
            media_type, data = "image/jpeg", buffer.getvalue()
    return f"data:{media_type};base64,{b64encode(data).decode('ascii')}"


def printed_width(path: Path) -> int | None:
    """Return the width of a PNG in CSS pixels (1/96 inch); None if it has no resolution."""
    if path.suffix.lower() != ".png":
        return None
    with Image.open(path) as file:
        dpi = file.info.get("dpi", (0.0,))[0]
        width = file.width
    if dpi:
        return round(96 * int(width) / float(dpi))
    return None
