"""PNG files of 16 bits in gray or RGB, which Pillow reads with 8 bits per color."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import putchunk

from lit_viz.errors import require

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3}  # by color type: gray and RGB
_COLOR_TYPES = {1: 0, 3: 2}


def is_png16(start: bytes) -> bool:
    """Return whether a file begins as a PNG of 16 bits in gray or RGB, without transparency."""
    return start.startswith(_SIGNATURE) and len(start) > 25 and start[24] == 16 and start[25] in _CHANNELS


def encode_png16(values: NDArray[np.uint16]) -> bytes:
    """Return a PNG file of values ``(C, H, W)``, C = 1 or 3."""
    channels, height, width = values.shape
    rows = values.transpose(1, 2, 0).astype(">u2").reshape(height, -1).view(np.uint8)
    filtered = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)  # of type 0: none
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOR_TYPES[channels], 0, 0, 0)
    data = zlib.compress(filtered.tobytes(), 4)
    content = io.BytesIO()
    content.write(_SIGNATURE)
    for kind, part in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b"")):
        putchunk(content, kind, part)
    return content.getvalue()


def png_size(start: bytes) -> tuple[int, int]:
    """Return (height, width) of the header of a PNG."""
    width, height = struct.unpack(">II", start[16:24])
    return height, width


def decode_png16(content: bytes) -> NDArray[np.uint16]:
    """Return the values ``(C, H, W)`` of a PNG file.

    Raises:
        LitVizError: it is interlaced.
        ValueError: it is damaged.
    """
    height, width = png_size(content)
    channels = _CHANNELS[content[25]]
    require(content[28] == 0, "a PNG of 16 bits must not be interlaced", "an interlaced one", is_argument=False)
    data = b""
    place = len(_SIGNATURE)
    while place < len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        if content[place + 4 : place + 8] == b"IDAT":
            data += content[place + 8 : place + 8 + length]
        place += 12 + length
    step = 2 * channels  # bytes of a pixel
    size = height * (1 + step * width)
    raw = np.frombuffer(zlib.decompressobj().decompress(data, size), np.uint8)
    if raw.size != size:
        raise ValueError("the file is truncated")
    lines = raw.reshape(height, -1)
    above = np.zeros(step * width, np.uint8)
    rows = np.empty((height, step * width), np.uint8)
    for number, line in enumerate(lines):
        above = rows[number] = _unfiltered(int(line[0]), line[1:], above, step)
    levels = rows.view(">u2").astype(np.uint16).reshape(height, width, channels)
    values: NDArray[np.uint16] = levels.transpose(2, 0, 1)
    return values


def _unfiltered(kind: int, line: NDArray[np.uint8], above: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Return the bytes of a row; filters as in the PNG specification, section 9.2."""
    if kind == 0:
        return line
    if kind == 1:  # the sum of the pixels on the left
        return line.reshape(-1, step).cumsum(0, dtype=np.uint8).reshape(-1)
    if kind == 2:
        return line + above
    if kind not in (3, 4):
        raise ValueError(f"there is no filter {kind} of rows")
    row = [0] * step + line.tolist()
    up = [0] * step + above.tolist()
    for i in range(step, len(row)):
        left, upper, corner = row[i - step], up[i], up[i - step]
        predicted = (left + upper) // 2
        if kind == 4:
            predicted = _paeth(left, upper, corner)
        row[i] = (row[i] + predicted) % 256
    return np.array(row[step:], np.uint8)


def _paeth(left: int, upper: int, corner: int) -> int:
    """Return the neighbor that is nearest to ``left + upper - corner``."""
    estimate = left + upper - corner
    distances = abs(estimate - left), abs(estimate - upper), abs(estimate - corner)
    if distances[0] <= distances[1] and distances[0] <= distances[2]:
        return left
    if distances[1] <= distances[2]:
        return upper
    return corner
