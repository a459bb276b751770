"""Where objects truly are: boxes drawn by people, in Pascal VOC or COCO files, and how far a found box agrees.

A box is (left, top, right, bottom) in pixels from the upper left corner, where pixel k covers the stretch from k to
k + 1.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from xml.etree import ElementTree

from lit_viz.errors import LitVizError
from lit_viz.images.fitting import Box
from lit_viz.images.reading import PACKAGED_PREFIX

_Pairs: TypeAlias = Sequence[tuple["ReferenceBoxes", Sequence[str]]]  # with the photographs that they may be of
_SAID = 3  # doubts that are told one by one


@dataclass(frozen=True)
class ReferenceBoxes:
    """The objects of one photograph.

    Attributes:
        boxes: in its pixels; may be empty.
        size: (height, width) of the photograph that they were drawn in, or None where the file doesn't say.
        path: of the file that says so.
        name: of the photograph's file, as that file says it; empty where it doesn't.
        stem: by which the photograph is known where that is no name of one.
    """

    boxes: tuple[Box, ...]
    size: tuple[int, int] | None
    path: Path
    name: str = ""
    stem: str = ""

    @property
    def called(self) -> str:
        """What people call them by."""
        return self.name if self.path.suffix.casefold() == ".json" else self.path.name


class Matched(NamedTuple):
    """True boxes by the ``source`` of their photograph, and sentences on those that are of none, or of which."""

    by_source: Mapping[str, ReferenceBoxes]
    notes: Sequence[str]


def iou(a: Box, b: Box) -> float:
    """Return the area that two boxes share, as a part of the area that they cover together; 0 for boxes of no area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    together = _area(a) + _area(b) - shared
    return shared / together if together > 0 else 0.0


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def read_boxes(path: str | Path) -> list[ReferenceBoxes]:
    """Return the true boxes of photographs, one entry a photograph.

    Args:
        path: a Pascal VOC file (.xml; ImageNet's boxes come in them too), a folder with such files at any depth, or
            COCO's instances (.json). VOC counts pixels from 1 and its ``xmax`` is the last pixel inside (Everingham et
            al. 2010, the development kit); COCO's ``bbox`` is [left, top, width, height]. Crowds (``iscrowd``) are no
            objects, and are left out.

    Raises:
        LitVizError: nothing is there, a file is broken or no such file, or two speak of one photograph.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.rglob("*.xml"))
        if not files:
            raise LitVizError(f"{path} has no Pascal VOC file (.xml): give the folder that true boxes lie in")
        return _told_apart(map(_read_voc, files))
    if not path.is_file():
        raise LitVizError(f"there is no file or folder {path} with true boxes")
    return _told_apart(_read_coco(path) if path.suffix.casefold() == ".json" else [_read_voc(path)])


def _told_apart(found: Iterable[ReferenceBoxes]) -> list[ReferenceBoxes]:
    known: dict[tuple[str, str], ReferenceBoxes] = {}
    for one in found:
        before = known.setdefault((one.name, one.stem), one)
        if before is not one:
            where = " and ".join(dict.fromkeys((str(before.path), str(one.path))))
            called = one.name or one.stem
            raise LitVizError(
                f"{where}: boxes of two photographs called {called} can't be told apart, keep one of them"
            )
    return list(known.values())


def match(truth: Sequence[ReferenceBoxes], sources: Iterable[str]) -> Matched:
    """Find the photographs that true boxes are of: by the name of the file (``val/000007.jpg``) where there is one of
    that name, else by its stem where that is one photograph's alone.

    Args:
        truth: see :func:`read_boxes`.
        sources: of the photographs.
    """
    by_name, by_stem = defaultdict(list), defaultdict(list)
    for source in dict.fromkeys(sources):
        file = Path(source.removeprefix(PACKAGED_PREFIX))
        by_name[file.name].append(source)
        by_stem[file.stem].append(source)
    named = [(one, _nearest(one.name, by_name[Path(one.name).name])) for one in truth]
    taken = {source for _, several in named for source in several}
    pairs = [(one, several or [s for s in by_stem[one.stem] if s not in taken]) for one, several in named]
    claims: dict[str, list[ReferenceBoxes]] = defaultdict(list)
    for one, several in pairs:
        for source in several:
            claims[source].append(one)
    sure = {several[0]: one for one, several in pairs if len(several) == 1 and len(claims[several[0]]) == 1}
    return Matched(sure, [*_doubts(pairs, claims), *_foreign(pairs)])


def _doubts(pairs: _Pairs, claims: Mapping[str, Sequence[ReferenceBoxes]]) -> list[str]:
    """Say which true boxes may be of several photographs, and which photographs may have several."""
    found = [f"{one.called} may be of {_either(several)}" for one, several in pairs if len(several) > 1]
    for source, several in claims.items():
        if len(several) > 1:
            found.append(f"{source} may have {_either([one.called for one in several])}")
    notes = [f"true boxes: {doubt}, so it is left out: let each file name its photograph" for doubt in found[:_SAID]]
    return notes + ([f"true boxes: {len(found) - _SAID} more are as unclear"] if len(found) > _SAID else [])


def _foreign(pairs: _Pairs) -> list[str]:
    """Say how many true boxes are of no photograph."""
    found = [one for one, several in pairs if not several]
    count = f"those of {len(found)} of {len(pairs)} photographs are of none in this run"
    return [f"true boxes: {count}, such as {found[0].called}"] if found else []


def _nearest(name: str, sources: Sequence[str]) -> Sequence[str]:
    """Return which of the files of one name lie in the folders that a longer name says, or all of them."""
    parts = Path(name).parts
    return [source for source in sources if Path(source).parts[-len(parts) :] == parts] or sources


def _either(names: Sequence[str]) -> str:
    return " or ".join(names[:3]) + (" or others" if len(names) > 3 else "")


# -- Pascal VOC


def _read_voc(path: Path) -> ReferenceBoxes:
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
    name = (root.findtext("filename") or "").strip()
    return ReferenceBoxes(boxes, (height, width) if height > 0 and width > 0 else None, path, name, path.stem)


def _voc_box(thing: ElementTree.Element) -> Box:
    # Only the object's own box: those of its <part>s, a head or a hand, are no objects.
    left, top, right, bottom = (float(thing.findtext(f"bndbox/{end}", "")) for end in ("xmin", "ymin", "xmax", "ymax"))
    return max(0.0, left - 1), max(0.0, top - 1), right, bottom  # some of ImageNet's begin at 0


# -- COCO


def _read_coco(path: Path) -> Iterator[ReferenceBoxes]:
    """Yield the boxes of each picture."""
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
) -> Iterator[ReferenceBoxes]:
    boxes: dict[Any, list[Box]] = {image["id"]: [] for image in images}
    for annotation in annotations:
        left, top, width, height = map(float, annotation["bbox"])
        if not annotation.get("iscrowd"):
            boxes[annotation["image_id"]].append((left, top, left + width, top + height))
    for image in images:
        _refuse_reversed(boxes[image["id"]], path)
        size = (int(image["height"]), int(image["width"])) if {"height", "width"} <= image.keys() else None
        name = str(Path(image["file_name"]))
        yield ReferenceBoxes(tuple(boxes[image["id"]]), size, path, name, Path(name).stem)


def _refuse_reversed(boxes: Sequence[Box], path: Path) -> None:
    for left, top, right, bottom in boxes:
        if not (left <= right and top <= bottom):  # NaN is refused too
            raise LitVizError(f"a true box in {path} ends before it begins: {left:g} {top:g} {right:g} {bottom:g}")
