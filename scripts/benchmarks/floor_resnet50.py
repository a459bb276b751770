"""The comparison of floor.py for ResNet-50, whose evaluations take five times as long, for some of the methods."""

from __future__ import annotations

from .floor import compare_methods
from .running import Plan

METHODS = (
    "class_images",
    "pgd",
    "deepfool",
    "gradient",
    "guided_backprop",
    "rise",
)


def compare(plan: Plan) -> str:
    """Return the table."""
    return compare_methods(plan, "resnet50", METHODS)
