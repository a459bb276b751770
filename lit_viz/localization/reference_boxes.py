"""Reference boxes of objects from Pascal VOC or COCO files.

A box is (left, top, right, bottom) in pixels from the upper left corner; pixel k spans k to k + 1.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from lit_viz.errors import LitVizError
from lit_viz.images.fitting import Box
from lit_viz.images.reading import PACKAGED_PREFIX

_MAX_NOTES = 3  # ambiguous files that are named


@dataclass(frozen=True)
class ReferenceBoxes:
    """Boxes of the objects in one photograph.

    Attributes:
        boxes: in pixels of the photograph; may be empty.
        size: (height, width) of the annotated photograph; None if not recorded.
        path: annotation file.
        name: file name of the photograph; empty if not recorded.
        stem: file name without suffix, used if ``name`` matches no photograph.
    """

    boxes: tuple[Box, ...]
    size: tuple[int, int] | None
    path: Path
    name: str = ""
    stem: str = ""

    @property
    def label(self) -> str:
        """Name in messages: of the photograph in COCO, of the annotation file in Pascal VOC."""
        return self.name if self.path.suffix.casefold() == ".json" else self.path.name


class BoxMatches(NamedTuple):
    """Reference boxes by the ``source`` of their photograph, and notes on those without a unique photograph."""

    by_source: Mapping[str, ReferenceBoxes]
    notes: Sequence[str]


def iou(a: Box, b: Box) -> float:
    """Return the intersection over union of two boxes; 0 for boxes without area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(0.0, width) * max(0.0, height)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - intersection
    return intersection / union if union > 0 else 0.0


def read_boxes(path: str | Path) -> list[ReferenceBoxes]:
    """Read the reference boxes of photographs.

    Args:
        path: a Pascal VOC file (.xml), a folder of such files at any depth, or a COCO instances file (.json). VOC
            counts pixels from 1 and ``xmax`` is the last pixel inside (Everingham et al. 2010, development kit); COCO's
            ``bbox`` is [left, top, width, height]. Crowds (``iscrowd``) are excluded.

    Raises:
        LitVizError: a file is missing or malformed, or two entries have the same photograph.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.rglob("*.xml"))
        if not files:
            raise LitVizError(f"no Pascal VOC file (.xml) in {path}")
        return _unique(map(_read_voc, files))
    if not path.is_file():
        raise LitVizError(f"no file or folder with reference boxes: {path}")
    return _unique(_read_coco(path) if path.suffix.casefold() == ".json" else [_read_voc(path)])


def _unique(entries: Iterable[ReferenceBoxes]) -> list[ReferenceBoxes]:
    by_name: dict[tuple[str, str], ReferenceBoxes] = {}
    for entry in entries:
        first = by_name.setdefault((entry.name, entry.stem), entry)
        if first is not entry:
            files = " and ".join(dict.fromkeys((str(first.path), str(entry.path))))
            raise LitVizError(f"{files}: two entries for the photograph {entry.name or entry.stem}")
    return list(by_name.values())


def match_boxes(references: Sequence[ReferenceBoxes], sources: Iterable[str]) -> BoxMatches:
    """Assign reference boxes to photographs by file name (``val/000007.jpg``), else by a unique stem.

    Args:
        references: see :func:`read_boxes`.
        sources: ``source`` of each photograph.
    """
    by_name, by_stem = defaultdict(list), defaultdict(list)
    for source in dict.fromkeys(sources):
        file = Path(source.removeprefix(PACKAGED_PREFIX))
        by_name[file.name].append(source)
        by_stem[file.stem].append(source)
    named = [_in_same_folder(entry.name, by_name[Path(entry.name).name]) for entry in references]
    assigned = {source for candidates in named for source in candidates}
    pairs = [
        (entry, candidates or [source for source in by_stem[entry.stem] if source not in assigned])
        for entry, candidates in zip(references, named, strict=True)
    ]
    claims: dict[str, list[ReferenceBoxes]] = defaultdict(list)
    for entry, candidates in pairs:
        for source in candidates:
            claims[source].append(entry)
    matches = {found[0]: entry for entry, found in pairs if len(found) == 1 and len(claims[found[0]]) == 1}

    ambiguous = [f"{entry.label} matches {_join(candidates)}" for entry, candidates in pairs if len(candidates) > 1]
    ambiguous += [
        f"{source} matches {_join([entry.label for entry in entries])}"
        for source, entries in claims.items()
        if len(entries) > 1
    ]
    notes = [f"reference boxes: {text}; ignored, name the photograph in each file" for text in ambiguous[:_MAX_NOTES]]
    if len(ambiguous) > _MAX_NOTES:
        notes.append(f"reference boxes: {len(ambiguous) - _MAX_NOTES} more ambiguous matches")
    unmatched = [entry for entry, candidates in pairs if not candidates]
    if unmatched:
        count = f"{len(unmatched)} of {len(pairs)} entries match no photograph of this run"
        notes.append(f"reference boxes: {count}, such as {unmatched[0].label}")
    return BoxMatches(matches, notes)


def _in_same_folder(name: str, sources: Sequence[str]) -> Sequence[str]:
    """Return the sources whose path ends with ``name``, or all."""
    parts = Path(name).parts
    return [source for source in sources if Path(source).parts[-len(parts) :] == parts] or sources


def _join(names: Sequence[str]) -> str:
    return " or ".join(names[:3]) + (" or others" if len(names) > 3 else "")


def _read_voc(path: Path) -> ReferenceBoxes:
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, UnicodeDecodeError, OSError) as error:
        raise LitVizError(f"{path} is not valid XML: {error}") from error
    if root.tag != "annotation":
        raise LitVizError(f"the root of a Pascal VOC file must be <annotation>, got <{root.tag}> in {path}")
    try:
        boxes = tuple(_voc_box(element) for element in root.iterfind("object"))
        height, width = (int(root.findtext(f"size/{side}", "0")) for side in ("height", "width"))
    except ValueError as error:
        raise LitVizError(f"malformed number in {path}: {error}") from error
    _check_order(boxes, path)
    name = (root.findtext("filename") or "").strip()
    return ReferenceBoxes(boxes, (height, width) if height > 0 and width > 0 else None, path, name, path.stem)


def _voc_box(element: ElementTree.Element) -> Box:
    # The boxes of an object's parts are nested deeper.
    left, top, right, bottom = (
        float(element.findtext(f"bndbox/{end}", "")) for end in ("xmin", "ymin", "xmax", "ymax")
    )
    return max(0.0, left - 1), max(0.0, top - 1), right, bottom  # some of ImageNet's boxes start at 0


def _read_coco(path: Path) -> Iterator[ReferenceBoxes]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # includes UnicodeDecodeError
        raise LitVizError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in ("images", "annotations")):
        raise LitVizError(f"a COCO file must have the lists 'images' and 'annotations': {path}")
    try:
        yield from _coco_images(content["images"], content["annotations"], path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LitVizError(
            f"malformed COCO file {path} ({type(error).__name__}: {error}): images need id and file_name, annotations "
            "image_id and bbox [left, top, width, height]"
        ) from error


def _coco_images(
    images: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]], path: Path
) -> Iterator[ReferenceBoxes]:
    boxes: dict[Any, list[Box]] = {image["id"]: [] for image in images}
    for annotation in annotations:
        left, top, width, height = map(float, annotation["bbox"])
        if not annotation.get("iscrowd"):
            boxes[annotation["image_id"]].append((left, top, left + width, top + height))
    for image in images:
        _check_order(boxes[image["id"]], path)
        size = (int(image["height"]), int(image["width"])) if {"height", "width"} <= image.keys() else None
        name = str(Path(image["file_name"]))
        yield ReferenceBoxes(tuple(boxes[image["id"]]), size, path, name, Path(name).stem)


def _check_order(boxes: Sequence[Box], path: Path) -> None:
    for left, top, right, bottom in boxes:
        if not (left <= right and top <= bottom):  # also rejects NaN
            box = f"{left:g} {top:g} {right:g} {bottom:g}"
            raise LitVizError(f"left and top of a box must not exceed right and bottom, got {box} in {path}")
