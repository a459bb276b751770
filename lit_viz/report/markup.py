"""HTML that is escaped by construction: only what :func:`element` has made is taken as it is."""

from __future__ import annotations

from html import escape

#: Elements that hold nothing and have no end.
_VOID = frozenset({"img", "input", "meta"})


class Markup(str):
    """Text that is HTML already. Any other text is escaped where it becomes part of an element."""

    __slots__ = ()


def element(tag: str, *children: str | None, **attributes: str | int | bool | None) -> Markup:
    """Return an element as HTML.

    Args:
        tag: its name.
        children: what it holds, in order; text is escaped, :class:`Markup` is not, None is nothing.
        attributes: by name, an underscore for a dash and ``class_`` for ``class``; True is an attribute without value,
            and those that are None or False are left out.
    """
    named = "".join(_attribute(name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items())
    if tag in _VOID:
        return Markup(f"<{tag}{named}>")
    return Markup(f"<{tag}{named}>{joined(*children)}</{tag}>")


def joined(*children: str | None) -> Markup:
    """Return children one after another, escaped as :func:`element` escapes them."""
    return Markup("".join(c if isinstance(c, Markup) else escape(c) for c in children if c is not None))


def _attribute(name: str, value: str | int | bool | None) -> str:
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{value if isinstance(value, Markup) else escape(str(value))}"'
