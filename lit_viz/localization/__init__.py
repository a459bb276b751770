"""From a saliency map to the object that it indicates: its mask and its box."""

from __future__ import annotations

from lit_viz.localization.objects import Seeds, Segment, localize, segment

__all__ = ["Seeds", "Segment", "localize", "segment"]
