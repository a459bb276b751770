from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lit_viz.errors import LitVizError
from lit_viz.localization.reference_boxes import ReferenceBoxes, iou, match_boxes, read_boxes

VOC = """<annotation><filename>x.jpg</filename><size><width>500</width><height>375</height><depth>3</depth></size>
<object><name>dog</name><bndbox><xmin>1</xmin><ymin>11</ymin><xmax>100</xmax><ymax>50</ymax></bndbox>
<part><name>head</name><bndbox><xmin>5</xmin><ymin>6</ymin><xmax>7</xmax><ymax>8</ymax></bndbox></part></object>
<object><bndbox><ymax>375</ymax><xmax>500</xmax><ymin>0</ymin><xmin>45.7</xmin></bndbox></object></annotation>"""
ONE = "<object><bndbox><xmin>{}</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>9</ymax></bndbox></object>"
PICTURE = {"id": 7, "file_name": "val/000007.jpg", "height": 480, "width": 640}


def coco(path: Path, images=(PICTURE,), annotations=()) -> Path:
    path.write_text(json.dumps({"images": list(images), "annotations": list(annotations)}))
    return path


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 4, 4), (0, 0, 4, 4), 1),
        ((0, 0, 4, 4), (4, 0, 8, 4), 0),  # touching
        ((0, 0, 4, 4), (5, 5, 8, 8), 0),  # disjoint in both directions
        ((0, 0, 4, 4), (2, 0, 6, 4), 1 / 3),
        ((0, 0, 4, 4), (1, 1, 3, 3), 1 / 4),
        ((0, 0, 0, 4), (0, 0, 0, 4), 0),
        ((0.5, 0, 1.5, 1), (0, 0, 1, 1), 1 / 3),
    ],
)
def test_iou_in_closed_form(a, b, expected):
    assert iou(a, b) == pytest.approx(expected)
    assert iou(b, a) == pytest.approx(expected)


def test_iou_is_the_share_of_counted_pixels():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = np.sort(rng.integers(0, 13, (2, 2, 2)), axis=1).reshape(2, 4)  # x0, y0, x1, y1
        one, other = np.zeros((2, 13, 13), bool)
        one[a[1] : a[3], a[0] : a[2]], other[b[1] : b[3], b[0] : b[2]] = True, True
        assert iou(tuple(a), tuple(b)) == pytest.approx((one & other).sum() / max(1, (one | other).sum()))


def test_voc_counts_from_one_and_its_last_pixel_is_inside(tmp_path):
    (tmp_path / "x.xml").write_text(VOC)
    (entry,) = read_boxes(tmp_path / "x.xml")
    assert (entry.name, entry.stem) == ("x.jpg", "x")
    assert entry.boxes == ((0, 10, 100, 50), (44.7, 0, 500, 375))  # 100 x 40 pixels; parts are no objects
    assert entry.size == (375, 500)


def test_a_folder_is_read_at_any_depth_and_duplicates_are_rejected(tmp_path):
    for place in ("n01/x.xml", "n02/y.xml"):
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).write_text(VOC)
    assert [entry.stem for entry in read_boxes(tmp_path)] == ["x", "y"]
    (tmp_path / "n02" / "x.xml").write_text(VOC)
    with pytest.raises(LitVizError, match=r"n01/x\.xml and .*n02/x\.xml: two entries for the photograph x\.jpg"):
        read_boxes(tmp_path)
    (tmp_path / "n02" / "x.xml").write_text(VOC.replace("x.jpg", "x.png"))
    assert [entry.name for entry in read_boxes(tmp_path)] == ["x.jpg", "x.png", "x.jpg"]


def test_voc_without_sizes_and_objects_has_no_boxes(tmp_path):
    (tmp_path / "x.xml").write_text("<annotation><size><width>0</width><height>0</height></size></annotation>")
    (entry,) = read_boxes(tmp_path)
    assert (entry.boxes, entry.size, entry.name) == ((), None, "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "ParseError"),
        ("", "ParseError"),
        ("<svg/>", "got <svg>"),
        (f"<annotation>{ONE.format('two', 3)}</annotation>", "malformed reference boxes"),
        ("<annotation><object><name>dog</name></object></annotation>", "malformed reference boxes"),
        ("<annotation><size><width>wide</width></size></annotation>", "malformed reference boxes"),
        (f"<annotation>{ONE.format(9, 3)}</annotation>", "got 8 0 3 9"),
        (f"<annotation>{ONE.format(1, 'nan')}</annotation>", "x0 <= x1"),
    ],
)
def test_malformed_voc_files_are_rejected(text, message, tmp_path):
    (tmp_path / "x.xml").write_text(text)
    with pytest.raises(LitVizError, match=message) as error:
        read_boxes(tmp_path)
    assert str(tmp_path / "x.xml") in str(error.value)


def test_coco_boxes_exclude_crowds(tmp_path):
    second = {"id": "b", "file_name": "b.png"}
    things = [
        {"image_id": 7, "bbox": [10, 20.5, 30, 40]},
        {"image_id": 7, "bbox": [0, 0, 640, 480], "iscrowd": 1},
        {"image_id": 7, "bbox": [1, 2, 3, 4], "iscrowd": 0},
    ]
    first, other = read_boxes(coco(tmp_path / "instances.json", [PICTURE, second], things))
    assert first.boxes == ((10, 20.5, 40, 60.5), (1, 2, 4, 6))
    assert (first.size, first.name, first.stem) == ((480, 640), "val/000007.jpg", "000007")
    assert (other.boxes, other.size, other.name) == ((), None, "b.png")


@pytest.mark.parametrize(
    ("images", "annotations", "message"),
    [
        ([PICTURE, {**PICTURE, "id": 8}], [], "two entries for the photograph val/000007.jpg"),
        ([PICTURE], [{"image_id": 9, "bbox": [0, 0, 1, 1]}], "KeyError: 9"),
        ([PICTURE], [{"image_id": 7}], "KeyError: 'bbox'"),
        ([PICTURE], [{"image_id": 7, "bbox": [0, 0, 1]}], "malformed reference boxes"),
        ([PICTURE], [{"image_id": 7, "bbox": None}], "malformed reference boxes"),
        ([PICTURE], ["x"], "malformed reference boxes"),
        ([{"id": 7}], [], "KeyError: 'file_name'"),
        ([PICTURE], [{"image_id": 7, "bbox": [5, 5, -2, 2]}], "got 5 5 3 7"),
    ],
)
def test_malformed_coco_files_are_rejected(images, annotations, message, tmp_path):
    with pytest.raises(LitVizError, match=message):
        read_boxes(coco(tmp_path / "x.json", images, annotations))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "JSONDecodeError"),
        (b"[]", "TypeError"),
        (b"\xff\xfe", "UnicodeDecodeError"),
        (b'{"images": []}', "KeyError: 'annotations'"),
    ],
)
def test_other_json_files_are_rejected(data, message, tmp_path):
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(LitVizError, match=message):
        read_boxes(tmp_path / "x.json")


def test_missing_files_are_rejected(tmp_path):
    with pytest.raises(LitVizError, match=r"must be an existing COCO file, Pascal VOC file .* got .*boxes"):
        read_boxes(tmp_path / "boxes")
    with pytest.raises(LitVizError, match="must be an existing COCO file, Pascal VOC file"):
        read_boxes(tmp_path)


def reference(name: str, stem: str = "", path: str = "") -> ReferenceBoxes:
    return ReferenceBoxes(((0, 0, 1, 1),), None, Path(path or f"{stem}.xml"), name, stem)


def test_a_file_name_distinguishes_photographs_of_equal_stem():
    found = match_boxes([reference("same.jpg", "same")], ["photos/same.jpg", "photos/same.png"])
    assert (list(found.by_source), found.notes) == (["photos/same.jpg"], [])
    both = [reference("same.jpg", "a"), reference("same.png", "b")]
    assert list(match_boxes(both, ["photos/same.jpg", "photos/same.png"]).by_source.values()) == both


def test_a_unique_stem_is_sufficient():
    one = reference("%s", "x")  # as some of ImageNet's files have it
    assert match_boxes([one], ["photos/x.JPEG", "photos/y.JPEG"]) == ({"photos/x.JPEG": one}, [])
    assert match_boxes([reference("old.jpg", "x")], ["packaged:x"]).by_source
    found = match_boxes([one], ["photos/x.jpg", "photos/x.png"])
    assert found.by_source == {}
    (note,) = found.notes
    assert note.startswith("reference boxes: x.xml matches photos/x.jpg or photos/x.png; ignored")
    both = [reference("x.jpg", "a"), one]  # a photograph matched by name is not matched by stem
    assert match_boxes(both, ["photos/x.jpg", "photos/x.png"]) == (
        {"photos/x.jpg": both[0], "photos/x.png": both[1]},
        [],
    )


def test_folders_distinguish_photographs_of_equal_name():
    val, train = (reference(f"{folder}/7.jpg", "7", "all.json") for folder in ("val", "train"))
    assert match_boxes([val, train], ["c/train/7.jpg", "c/val/7.jpg"]).by_source == {
        "c/val/7.jpg": val,
        "c/train/7.jpg": train,
    }
    found = match_boxes([val, train], ["7.jpg"])
    assert found.by_source == {}
    assert "7.jpg matches val/7.jpg or train/7.jpg; ignored" in found.notes[0]


def test_unmatched_entries_are_counted():
    found = match_boxes([reference("a.jpg", "a"), reference("b.jpg", "b"), reference("c.jpg", "c")], ["b.jpg"])
    assert list(found.by_source) == ["b.jpg"]
    assert found.notes == ["reference boxes: 2 of 3 entries match no photograph of this run, such as a.xml"]
