from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lit_viz.errors import LitVizError
from lit_viz.localization.reference_boxes import ReferenceBoxes, iou, match, read_boxes

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
        ((0, 0, 4, 4), (4, 0, 8, 4), 0),  # they touch
        ((0, 0, 4, 4), (5, 5, 8, 8), 0),  # beyond in both directions: two negative lengths make no area
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
        a, b = np.sort(rng.integers(0, 13, (2, 2, 2)), axis=1).reshape(2, 4)  # left, top, right, bottom
        one, other = np.zeros((2, 13, 13), bool)
        one[a[1] : a[3], a[0] : a[2]], other[b[1] : b[3], b[0] : b[2]] = True, True
        assert iou(tuple(a), tuple(b)) == pytest.approx((one & other).sum() / max(1, (one | other).sum()))


def test_voc_counts_from_one_and_its_last_pixel_is_inside(tmp_path):
    (tmp_path / "x.xml").write_text(VOC)
    (found,) = read_boxes(tmp_path / "x.xml")
    assert (found.name, found.stem) == ("x.jpg", "x")
    assert found.boxes == ((0, 10, 100, 50), (44.7, 0, 500, 375))  # 100 x 40 pixels; a head is no object
    assert found.size == (375, 500)


def test_a_folder_is_read_at_any_depth_and_says_what_it_can_not_tell_apart(tmp_path):
    for place in ("n01/x.xml", "n02/y.xml"):
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).write_text(VOC)
    assert [one.stem for one in read_boxes(tmp_path)] == ["x", "y"]
    (tmp_path / "n02" / "x.xml").write_text(VOC)
    with pytest.raises(LitVizError, match=r"n01/x\.xml and .*n02/x\.xml: boxes of two photographs called x\.jpg"):
        read_boxes(tmp_path)
    (tmp_path / "n02" / "x.xml").write_text(VOC.replace("x.jpg", "x.png"))
    assert [one.name for one in read_boxes(tmp_path)] == ["x.jpg", "x.png", "x.jpg"]


def test_voc_without_sizes_and_objects_knows_of_none(tmp_path):
    (tmp_path / "x.xml").write_text("<annotation><size><width>0</width><height>0</height></size></annotation>")
    (found,) = read_boxes(tmp_path)
    assert (found.boxes, found.size, found.name) == ((), None, "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<annotation>", "can't be read as XML"),
        ("", "can't be read as XML"),
        ("<svg/>", "begins with <svg>"),
        (f"<annotation>{ONE.format('two', 3)}</annotation>", "a number that is none"),
        ("<annotation><object><name>dog</name></object></annotation>", "a number that is none"),
        ("<annotation><size><width>wide</width></size></annotation>", "a number that is none"),
        (f"<annotation>{ONE.format(9, 3)}</annotation>", "ends before it begins: 8 0 3 9"),
        (f"<annotation>{ONE.format(1, 'nan')}</annotation>", "ends before it begins"),
    ],
)
def test_broken_voc_files_are_said_in_one_sentence(text, said, tmp_path):
    (tmp_path / "x.xml").write_text(text)
    with pytest.raises(LitVizError, match=said) as error:
        read_boxes(tmp_path)
    assert str(tmp_path / "x.xml") in str(error.value)


def test_coco_gives_each_picture_its_boxes_but_crowds(tmp_path):
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
    ("images", "annotations", "said"),
    [
        ([PICTURE, {**PICTURE, "id": 8}], [], "two photographs called val/000007.jpg"),
        ([PICTURE], [{"image_id": 9, "bbox": [0, 0, 1, 1]}], "KeyError: 9"),
        ([PICTURE], [{"image_id": 7}], "KeyError: 'bbox'"),
        ([PICTURE], [{"image_id": 7, "bbox": [0, 0, 1]}], "no whole COCO file"),
        ([PICTURE], [{"image_id": 7, "bbox": None}], "no whole COCO file"),
        ([PICTURE], ["x"], "no whole COCO file"),
        ([{"id": 7}], [], "KeyError: 'file_name'"),
        ([PICTURE], [{"image_id": 7, "bbox": [5, 5, -2, 2]}], "ends before it begins: 5 5 3 7"),
    ],
)
def test_broken_coco_files_are_said_in_one_sentence(images, annotations, said, tmp_path):
    with pytest.raises(LitVizError, match=said):
        read_boxes(coco(tmp_path / "x.json", images, annotations))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{", "can't be read as JSON"),
        (b"[]", "no COCO file"),
        (b"\xff\xfe", "JSON"),
        (b'{"images": []}', "no COCO file"),
    ],
)
def test_what_is_no_coco_file(data, said, tmp_path):
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(LitVizError, match=said):
        read_boxes(tmp_path / "x.json")


def test_nothing_there(tmp_path):
    with pytest.raises(LitVizError, match="no file or folder"):
        read_boxes(tmp_path / "boxes")
    with pytest.raises(LitVizError, match="has no Pascal VOC file"):
        read_boxes(tmp_path)


def true(name: str, stem: str = "", path: str = "") -> ReferenceBoxes:
    return ReferenceBoxes(((0, 0, 1, 1),), None, Path(path or f"{stem}.xml"), name, stem)


def test_a_name_tells_photographs_of_one_stem_apart():
    """Both got the same true box."""
    found = match([true("same.jpg", "same")], ["photos/same.jpg", "photos/same.png"])
    assert (list(found.by_source), found.notes) == (["photos/same.jpg"], [])
    both = [true("same.jpg", "a"), true("same.png", "b")]
    assert list(match(both, ["photos/same.jpg", "photos/same.png"]).by_source.values()) == both


def test_a_stem_is_enough_where_it_is_one_photographs_alone():
    one = true("%s", "x")  # as some of ImageNet's files have it
    assert match([one], ["photos/x.JPEG", "photos/y.JPEG"]) == ({"photos/x.JPEG": one}, [])
    assert match([true("old.jpg", "x")], ["packaged:x"]).by_source
    found = match([one], ["photos/x.jpg", "photos/x.png"])
    assert found.by_source == {}
    (said,) = found.notes
    assert said.startswith("true boxes: x.xml may be of photos/x.jpg or photos/x.png, so it is left out")
    both = [true("x.jpg", "a"), one]  # what is named isn't looked for by its stem
    assert match(both, ["photos/x.jpg", "photos/x.png"]) == ({"photos/x.jpg": both[0], "photos/x.png": both[1]}, [])


def test_folders_tell_photographs_of_one_name_apart():
    val, train = (true(f"{folder}/7.jpg", "7", "all.json") for folder in ("val", "train"))
    assert match([val, train], ["c/train/7.jpg", "c/val/7.jpg"]).by_source == {
        "c/val/7.jpg": val,
        "c/train/7.jpg": train,
    }
    found = match([val, train], ["7.jpg"])
    assert found.by_source == {}
    assert "7.jpg may have val/7.jpg or train/7.jpg, so it is left out" in found.notes[0]


def test_boxes_of_no_photograph_are_counted():
    found = match([true("a.jpg", "a"), true("b.jpg", "b"), true("c.jpg", "c")], ["b.jpg"])
    assert list(found.by_source) == ["b.jpg"]
    assert found.notes == ["true boxes: those of 2 of 3 photographs are of none in this run, such as a.xml"]
