"""Where objects truly are: boxes drawn by people, in Pascal VOC or COCO files, and how far a found box agrees.

A box is (left, top, right, bottom) in pixels from the upper left corner, where pixel k covers the stretch from k to
k + 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from lit_viz.errors import LitVizError
from lit_viz.images.fitting import Box


@dataclass(frozen=True)
class TrueBoxes:
    """The objects of one photograph.

    Attributes:
        boxes: in its pixels; may be empty.
        size: (height, width) of the photograph that they were drawn in, or None where the file doesn't say.
        path: of the file that says so.
    """

    boxes: tuple[Box, ...]
    size: tuple[int, int] | None
    path: Path


def iou(a: Box, b: Box) -> float:
    """Return the area that two boxes share, as a part of the area that they cover together; 0 for boxes of no area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    together = _area(a) + _area(b) - shared
    return shared / together if together > 0 else 0.0


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def read_boxes(path: str | Path) -> dict[str, TrueBoxes]:
    """Return true boxes by the stem of the photograph's file name (``n02084071_1234`` of ``n02084071_1234.JPEG``).

    Args:
        path: a Pascal VOC file (.xml; ImageNet's boxes come in them too), a folder with such files at any depth, or
            COCO's instances (.json). VOC counts pixels from 1 and its ``xmax`` is the last pixel inside (Everingham et
            al. 2010, the development kit); COCO's ``bbox`` is [left, top, width, height]. Crowds (``iscrowd``) are no
            objects, and are left out.

    Raises:
        LitVizError: nothing is there, a file is broken or no such file, or two speak of photographs of one stem.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.rglob("*.xml"))
        if not files:
            raise LitVizError(f"{path} has no Pascal VOC file (.xml): give the folder that true boxes lie in")
        return _by_stem((file.stem, _read_voc(file)) for file in files)
    if not path.is_file():
        raise LitVizError(f"there is no file or folder {path} with true boxes")
    if path.suffix.casefold() == ".json":
        return _by_stem(_read_coco(path))
    return {path.stem: _read_voc(path)}


def _by_stem(found: Iterator[tuple[str, TrueBoxes]]) -> dict[str, TrueBoxes]:
    by_stem: dict[str, TrueBoxes] = {}
    for stem, boxes in found:
        if stem in by_stem:
            where = " and ".join(dict.fromkeys(str(one.path) for one in (by_stem[stem], boxes)))
            raise LitVizError(f"{where}: boxes of two photographs called {stem} can't be told apart, keep one of them")
        by_stem[stem] = boxes
    return by_stem


# -- Pascal VOC


def _read_voc(path: Path) -> TrueBoxes:
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, UnicodeDecodeError, OSError) as error:
        raise LitVizError(f"the true boxes {path} can't be read as XML: {error}") from error
    if root.tag != "annotation":
        raise LitVizError(f"{path} is no Pascal VOC file: it begins with <{root.tag}>, not with <annotation>")
    try:
        boxes = tuple(_voc_box(thing) for thing in root.iterfind("object"))
        height, width = (int(root.findtext(f"size/{side}", "0")) for side in ("height", "width"))
    except ValueError as error:
        raise LitVizError(f"the true boxes {path} hold a number that is none: {error}") from error
    _refuse_reversed(boxes, path)
    return TrueBoxes(boxes, (height, width) if height > 0 and width > 0 else None, path)


def _voc_box(thing: ElementTree.Element) -> Box:
    # Only the object's own box: those of its <part>s, a head or a hand, are no objects.
    left, top, right, bottom = (float(thing.findtext(f"bndbox/{end}", "")) for end in ("xmin", "ymin", "xmax", "ymax"))
    return max(0.0, left - 1), max(0.0, top - 1), right, bottom  # some of ImageNet's begin at 0


# -- COCO


def _read_coco(path: Path) -> Iterator[tuple[str, TrueBoxes]]:
    """Yield the stem of each picture, and its boxes."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also of what is not UTF-8
        raise LitVizError(f"the true boxes {path} can't be read as JSON: {error}") from error
    if not isinstance(whole, dict) or not all(isinstance(whole.get(key), list) for key in ("images", "annotations")):
        raise LitVizError(f"{path} is no COCO file: it wants the lists 'images' and 'annotations'")
    try:
        yield from _coco_pictures(whole["images"], whole["annotations"], path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LitVizError(
            f"{path} is no whole COCO file ({type(error).__name__}: {error}): its images want id and file_name, its "
            "annotations image_id and bbox [left, top, width, height]"
        ) from error


def _coco_pictures(
    images: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]], path: Path
) -> Iterator[tuple[str, TrueBoxes]]:
    boxes: dict[Any, list[Box]] = {image["id"]: [] for image in images}
    for annotation in annotations:
        left, top, width, height = map(float, annotation["bbox"])
        if not annotation.get("iscrowd"):
            boxes[annotation["image_id"]].append((left, top, left + width, top + height))
    for image in images:
        _refuse_reversed(boxes[image["id"]], path)
        size = (int(image["height"]), int(image["width"])) if {"height", "width"} <= image.keys() else None
        yield Path(image["file_name"]).stem, TrueBoxes(tuple(boxes[image["id"]]), size, path)


def _refuse_reversed(boxes: Sequence[Box], path: Path) -> None:
    for left, top, right, bottom in boxes:
        if not (left <= right and top <= bottom):  # NaN is refused too
            raise LitVizError(f"a true box in {path} ends before it begins: {left:g} {top:g} {right:g} {bottom:g}")
