"""Reading of YAML: configurations and values of options, with one error for everything that is invalid in them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from lit_viz.errors import LitVizError, first_line
from lit_viz.utils.files import check_regular

_MAX_BYTES = 10**8
#: Maximum number of values in a YAML file. Few bytes of nested aliases may stand for more than any memory holds.
_MAX_VALUES = 10**6
_TAG_PREFIX = "tag:yaml.org,2002:"


def config_folder() -> Path:
    """Return the folder of the packaged configurations; in a checkout it is at the top level."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        LitVizError: the file can't be read, is damaged or too large, has an unknown tag, a value that is not of its tag
            or a key twice, or is no mapping. The message has the file and the line.
    """
    source = f"the configuration {path}"
    check_regular(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise LitVizError(f"{source} must have at most {_MAX_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise LitVizError(f"{source} can't be read ({first_line(error)}): give a YAML file") from error
    content = parse_yaml(text, source)
    if _size(content, {}) > _MAX_VALUES:
        raise LitVizError(f"{source} must have at most {_MAX_VALUES} values with its aliases")
    if not isinstance(content, dict):
        raise LitVizError(f"{source} must be a mapping of options: see configs/ for examples")
    return content


def parse_yaml(text: str, source: str) -> Any:
    """Return the value of a YAML text, by the safe loader.

    Args:
        text: the text.
        source: what contains it, for the message.

    Raises:
        LitVizError: see :func:`read_yaml`.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f"line {mark.line + 1}: "
        reason = f"{line}{error.problem}"
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = first_line(error)
    raise LitVizError(f"{source} can't be read ({reason}): give valid YAML")


class _Loader(yaml.SafeLoader):
    """The safe loader; a value that is not of its tag and a repeated key are errors of YAML too."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (AttributeError, LookupError, ValueError) as error:  # !!timestamp x, !!bool maybe, !!int x
            tag = str(node.tag).replace(_TAG_PREFIX, "!!")
            problem = f"{node.value!r} is no value of the tag {tag}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        keys: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in keys:
                raise yaml.composer.ComposerError(None, None, f"the key {key.value!r} is repeated", key.start_mark)
            keys.add((key.tag, key.value))
        return node


def _size(value: Any, sizes: dict[int, float]) -> float:
    """Return the number of values in a tree of lists and mappings; infinite if it contains itself."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in sizes:
        sizes[id(value)] = math.inf  # for aliases of this value inside of it
        items = value.values() if isinstance(value, dict) else value
        sizes[id(value)] = 1 + sum(_size(item, sizes) for item in items)
    return sizes[id(value)]
