"""What receives the arguments that options and keywords name."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from lit_viz.utils.parts import Part, hints_of, short_name


@dataclass(frozen=True)
class Owner:
    """A class or function that receives arguments.

    Attributes:
        label: prefix of dotted names: ``attack``, ``run``, ``logging`` ..., and ``method.occlusion`` of one of several.
        kind: the class or function.
        path: keys of its arguments in the form.
        instance: the object of the caller, with fixed arguments; None for plain values.
        hidden: arguments that are not given by name.
        needs_prefix: whether its arguments are given by dotted names only.
        short: arguments that are options of a command without the prefix too.
        documented: class or function whose docstring describes the arguments; by default ``kind``.
    """

    label: str
    kind: Any
    path: tuple[str | int, ...]
    instance: Part | None = None
    hidden: Collection[str] = ("network", "progress")
    needs_prefix: bool = False
    short: Collection[str] = ()
    documented: Any = None

    @property
    def names(self) -> list[str]:
        """Names of its arguments."""
        return [name for name in hints_of(self.kind) if name not in self.hidden]

    @property
    def long_label(self) -> str:
        """Prefix with the short name of a part, ``attack.pgd``; of others the label."""
        is_part = len(self.path) > 2 and issubclass(self.kind, Part)
        if not is_part:
            return self.label
        return f"{self.label.partition('.')[0]}.{short_name(self.kind)}"
