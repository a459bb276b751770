"""timm's classes, for those who may meet its layers: importing timm takes a second, and most need nothing of it."""

from __future__ import annotations

import sys
from typing import Any

CONV2D_SAME = "timm.layers.conv2d_same.Conv2dSame"


def timm_types(path: str) -> tuple[type[Any], ...]:
    """Return a class of timm as ``isinstance`` takes it; empty while timm isn't imported, when no object can be of it.

    Args:
        path: dotted, such as ``timm.layers.conv2d_same.Conv2dSame``.
    """
    module, _, name = path.rpartition(".")
    return (getattr(sys.modules[module], name),) if module in sys.modules else ()
