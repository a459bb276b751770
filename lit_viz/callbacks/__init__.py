"""Lightning callbacks: image logging, run folder, checkpoint and progress."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_viz.callbacks.logging import ImageLogger
    from lit_viz.callbacks.run_folder import RunFolder
    from lit_viz.callbacks.saving import ExactCheckpoint

# Modules of the public callbacks; imported on first use, as in lit_viz itself.
_MODULES = {"ExactCheckpoint": "saving", "ImageLogger": "logging", "RunFolder": "run_folder"}

__all__ = ["ExactCheckpoint", "ImageLogger", "RunFolder"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
