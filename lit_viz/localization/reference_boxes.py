"""Reference boxes of objects from Pascal VOC or COCO files.

A box is (x0, y0, x1, y1) in pixels from the upper left corner; pixel k spans k to k + 1.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from lit_viz.errors import LitVizError, require
from lit_viz.images.reading import PACKAGED_PREFIX, Box
from lit_viz.utils.limits import MOST_NOTES


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
        if self.path.suffix.casefold() == ".json":
            return self.name
        return self.path.name


class BoxMatches(NamedTuple):
    """Reference boxes by the ``source`` of their photograph, and notes on boxes without a unique photograph."""

    by_source: Mapping[str, ReferenceBoxes]
    notes: Sequence[str]


def iou(a: Box, b: Box) -> float:
    """Return the intersection over union of two boxes; 0 for boxes without area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(0.0, width) * max(0.0, height)
    union = _area(a) + _area(b) - intersection
    if union <= 0:
        return 0.0
    return intersection / union


def _area(box: Box) -> float:
    x0, y0, x1, y1 = box
    return (x1 - x0) * (y1 - y0)


def read_boxes(path: str | Path) -> list[ReferenceBoxes]:
    """Read the reference boxes of photographs from a Pascal VOC file (.xml), a folder of such files at any depth, or a
    COCO instances file (.json).

    VOC counts pixels from 1 and ``xmax`` is the last pixel inside (Everingham et al. 2010, development kit); COCO's
    ``bbox`` is [x, y, width, height]. Crowds (``iscrowd``) are excluded.
    """
    path = Path(path)
    files: list[Path] = []
    if path.is_dir():
        files = sorted(path.rglob("*.xml"))
    elif path.is_file():
        files = [path]
    require(files, "boxes must be an existing COCO file, Pascal VOC file (.xml) or folder of such files", path)
    by_name: dict[tuple[str, str], ReferenceBoxes] = {}
    for file in files:
        try:
            entries = _read_coco(file) if file.suffix.casefold() == ".json" else [_read_voc(file)]
        except (OSError, ElementTree.ParseError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise LitVizError(f"malformed reference boxes {file} ({type(error).__name__}: {error})") from error
        for entry in entries:
            first = by_name.setdefault((entry.name, entry.stem), entry)
            if first is not entry:
                pair = " and ".join(dict.fromkeys((str(first.path), str(file))))
                raise LitVizError(f"{pair}: two entries for the photograph {entry.name or entry.stem}")
            for x0, y0, x1, y1 in entry.boxes:
                if not (x0 <= x1 and y0 <= y1):  # also rejects NaN
                    box = f"{x0:g} {y0:g} {x1:g} {y1:g}"
                    raise LitVizError(f"a box must have x0 <= x1 and y0 <= y1, got {box} in {file}")
    return list(by_name.values())


def _read_voc(path: Path) -> ReferenceBoxes:
    root = ElementTree.parse(path).getroot()
    if root.tag != "annotation":
        raise ValueError(f"the root of a Pascal VOC file must be <annotation>, got <{root.tag}>")
    boxes = []
    for element in root.iterfind("object"):  # the boxes of an object's parts are nested deeper
        x0, y0, x1, y1 = (float(element.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax"))
        boxes.append((max(0.0, x0 - 1), max(0.0, y0 - 1), x1, y1))  # some of ImageNet's boxes start at 0
    height, width = int(root.findtext("size/height", "0")), int(root.findtext("size/width", "0"))
    size = (height, width) if height > 0 and width > 0 else None
    name = (root.findtext("filename") or "").strip()
    return ReferenceBoxes(tuple(boxes), size, path, name, path.stem)


def _read_coco(path: Path) -> list[ReferenceBoxes]:
    content: dict[str, list[dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8"))
    boxes: dict[Any, list[Box]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        x, y, width, height = map(float, annotation["bbox"])
        if not annotation.get("iscrowd"):
            boxes[annotation["image_id"]].append((x, y, x + width, y + height))
    references = []
    for image in content["images"]:
        size = None
        if "height" in image and "width" in image:
            size = (int(image["height"]), int(image["width"]))
        file = Path(image["file_name"])
        references.append(ReferenceBoxes(tuple(boxes[image["id"]]), size, path, str(file), file.stem))
    return references


def match_boxes(references: Sequence[ReferenceBoxes], sources: Iterable[str]) -> BoxMatches:
    """Assign reference boxes to photographs (``source``) by file name (``val/000007.jpg``), else by a unique stem."""
    by_name, by_stem = defaultdict(list), defaultdict(list)
    for source in dict.fromkeys(sources):
        file = Path(source.removeprefix(PACKAGED_PREFIX))
        by_name[file.name].append(source)
        by_stem[file.stem].append(source)
    named = [_in_same_folder(entry.name, by_name[Path(entry.name).name]) for entry in references]
    assigned: set[str] = set()
    for candidates in named:
        assigned.update(candidates)
    sources_of: list[tuple[ReferenceBoxes, Sequence[str]]] = []
    entries_of: dict[str, list[ReferenceBoxes]] = defaultdict(list)
    for entry, candidates in zip(references, named, strict=True):
        candidates = candidates or [source for source in by_stem[entry.stem] if source not in assigned]
        sources_of.append((entry, candidates))
        for source in candidates:
            entries_of[source].append(entry)
    matches, ambiguous, unmatched = {}, [], []
    for entry, candidates in sources_of:
        if not candidates:
            unmatched.append(entry)
        elif len(candidates) > 1:
            ambiguous.append(f"{entry.label} matches {_join(candidates)}")
        elif len(entries_of[candidates[0]]) == 1:
            matches[candidates[0]] = entry
    for source, entries in entries_of.items():
        if len(entries) > 1:
            ambiguous.append(f"{source} matches {_join([entry.label for entry in entries])}")
    notes = [f"reference boxes: {text}; ignored, name the photograph in each file" for text in ambiguous[:MOST_NOTES]]
    if len(ambiguous) > MOST_NOTES:
        notes.append(f"reference boxes: {len(ambiguous) - MOST_NOTES} more ambiguous matches")
    if unmatched:
        count = f"{len(unmatched)} of {len(references)} entries match no photograph of this run"
        notes.append(f"reference boxes: {count}, such as {unmatched[0].label}")
    return BoxMatches(matches, notes)


def _in_same_folder(name: str, sources: Sequence[str]) -> Sequence[str]:
    """Return the sources with paths that end with ``name``, or all."""
    parts = Path(name).parts
    return [source for source in sources if Path(source).parts[-len(parts) :] == parts] or sources


def _join(names: Sequence[str]) -> str:
    listed = list(names[:3])
    if len(names) > 3:
        listed.append("others")
    return " or ".join(listed)
