"""What is handed in becomes a list of photographs; nothing here is a real picture, for nothing is opened."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from lit_viz.errors import LitVizError
from lit_viz.images.listing import Entry, column_values, photographs, read_table
from tests.support.calls import calls_of


def make(folder: Path, *names: str) -> Path:
    """Make empty files below a folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def below(folder: Path, *given: str) -> list[str]:
    """Return the paths that are listed, from the folder on."""
    listing = photographs(given or [str(folder)])
    return [Path(entry.path).relative_to(folder).as_posix() for entry in listing.entries]


# -- folders and files


def test_a_folder_is_listed_at_any_depth_in_natural_order(tmp_path: Path) -> None:
    make(tmp_path, "img10.jpg", "img2.PNG", "Img1.jpeg", "b/x.webp", "a/deep/er/y.tif", "img02.jpg")
    assert below(tmp_path) == ["a/deep/er/y.tif", "b/x.webp", "Img1.jpeg", "img02.jpg", "img2.PNG", "img10.jpg"]


def test_hidden_and_other_files_are_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", ".b.jpg", ".cache/c.jpg", "notes.txt", "d/more.md", "d/e.csv", "z", "d/.DS_Store")
    listing = photographs([str(tmp_path)])
    assert listing.names() == ["a"]
    assert listing.notes == ("4 other files skipped (e.csv, more.md, notes.txt, ...)",)
    assert photographs([str(make(tmp_path / "d", "p.gif"))]).notes == ("2 other files skipped (e.csv, more.md)",)
    assert photographs([str(make(tmp_path / "one", "p.gif", "t"))]).notes == ("1 other file skipped (t)",)


def test_arguments_keep_their_order_and_files_may_have_any_suffix(tmp_path: Path) -> None:
    make(tmp_path, "z.dat", "f/1.png", "f/0.png", "a b.jpg", "größe 漢字.JPG", ".hidden.png")
    given = ["z.dat", "größe 漢字.JPG", "packaged:chelsea", "f", "a b.jpg", "z.dat", ".hidden.png"]
    listing = photographs([word if ":" in word else str(tmp_path / word) for word in given])
    assert listing.names() == ["z", "größe 漢字", "chelsea", "0", "1", "a b", "z", ".hidden"]
    assert listing.entries[2].path == "packaged:chelsea"
    assert listing.notes == ()


def test_paths_are_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "photos/a/x.jpg", "photos/b/x.jpg")
    monkeypatch.chdir(tmp_path)
    entries = photographs(["photos"]).entries
    assert [entry.path for entry in entries] == [str(Path("photos") / folder / "x.jpg") for folder in "ab"]
    assert [entry.names[0] for entry in entries] == ["x", "x"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    make(tmp_path / "root", "a/x.jpg")
    (tmp_path / "root" / "a" / "up").symlink_to("..")
    (tmp_path / "root" / "a" / "here").symlink_to(".")
    (tmp_path / "root" / "self").symlink_to("self")
    make(tmp_path / "elsewhere", "y.jpg")
    (tmp_path / "root" / "b.png").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "z.jpg").symlink_to(tmp_path / "elsewhere" / "y.jpg")
    listing = photographs([str(tmp_path / "root")])
    assert listing.names() == ["x", "z"]
    assert listing.notes == ("4 other files skipped (here, up, b.png, ...)",)
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere")
    assert photographs([str(tmp_path / "linked")]).names() == ["y"]  # the folder that is given may be a link


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_only_the_photograph_with_an_invalid_name_fails(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).touch()
    good, broken = photographs([str(tmp_path)]).entries
    assert good.error is None
    assert broken.error is not None
    assert "not UTF-8" in broken.error
    (broken.path + broken.error).encode()  # a record can hold both


def test_an_unreadable_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.jpg")

    def refused(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(LitVizError, match=r"the folder .* can't be read \(Permission denied\)"):
        photographs([str(tmp_path)])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("phtos", "there is no photograph or folder .*phtos'; did you mean 'photos'"),
        ("photos/image.jpg", "did you mean 'image.jpeg'"),
        ("nowhere/x.jpg", "there is no photograph or folder"),
        ("empty", "there is no picture in the folder .*empty$"),
        ("others", "there is no picture in the folder .*others, only a.txt, b.txt"),
        ("packaged:chelse", "no packaged photograph is called 'chelse'"),
        ("", "there is no photograph or folder ''"),
        ("photos/*.jpeg", "there is no photograph"),
        ("photos/link.jpg", "photos/link.jpg is a broken link$"),
    ],
)
def test_an_unknown_photograph_gives_a_one_line_error(
    word: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "photos/image.jpeg", "others/a.txt", "others/b.txt", "empty/.hidden.jpg")
    (tmp_path / "photos" / "link.jpg").symlink_to("gone.jpg")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LitVizError, match=message):
        photographs([word])


def test_an_empty_list_is_reported() -> None:
    with pytest.raises(LitVizError, match="no photograph was given"):
        photographs([])


def test_the_work_of_a_listing_grows_linearly(tmp_path: Path) -> None:
    calls = []
    for count in (250, 2500):
        root = tmp_path / str(count)
        make(root, *(f"{i % 50}/{i}.jpg" for i in range(count)))
        listing, work = calls_of(partial(photographs, [str(root)]))
        calls.append(work)
    assert calls[1] < 11 * calls[0]
    assert len(listing.entries) == 2500
    assert [entry.names[0] for entry in listing.entries[:3]] == ["0", "50", "100"]


# -- tables that list photographs


def write(file: Path, text: str, encoding: str = "utf-8") -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode(encoding))
    return str(file)


def test_a_table_lists_photographs_from_its_own_folder(tmp_path: Path) -> None:
    table = write(tmp_path / "t" / "all.CSV", "file,label,target\nx/a.jpg,hay,\npackaged:coffee,,6\n/abs/b.png,,\n")
    first, second, third = photographs([table]).entries
    assert (first.path, first.label, first.target) == (str(tmp_path / "t" / "x" / "a.jpg"), "hay", None)
    assert (second.path, second.names[0], second.label, second.target) == ("packaged:coffee", "coffee", None, "6")
    assert (third.path, third.listed_in) == ("/abs/b.png", table)


@pytest.mark.parametrize(
    "text",
    [
        "file,label\na.jpg,\"tench, Tinca tinca\"\nb.jpg,'hay'\n",
        "\ufefffile,label\r\na.jpg,\"tench, Tinca tinca\"\r\n\r\nb.jpg,'hay',,\r\n,\r\n",
        " File , LABEL \n a.jpg ,\"tench, Tinca tinca\"\nb.jpg, 'hay' ",
        "label,file\n\"tench, Tinca tinca\",a.jpg\n'hay',b.jpg",
    ],
    ids=["plain", "byte-order mark and Windows line ends", "spaces", "other order"],
)
def test_tables_are_read_as_programs_write_them(text: str, tmp_path: Path) -> None:
    rows = read_table(write(tmp_path / "x.csv", text), ("file", "label"))
    assert rows == [{"file": "a.jpg", "label": "tench, Tinca tinca"}, {"file": "b.jpg", "label": "'hay'"}]


def test_short_rows_are_filled_and_unused_columns_noted(tmp_path: Path) -> None:
    listing = photographs([write(tmp_path / "x.csv", "file,labels,width\na.jpg\nb.jpg,hay,3\n")])
    assert [entry.label for entry in listing.entries] == [None, None]
    assert listing.notes == (f"columns of {tmp_path / 'x.csv'} that are not used: labels, width",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column file: it is empty"),
        ("\n", "has no column file: it is empty"),
        ("file,label\n", "has no row"),
        ("file,label\n\n\n", "has no row"),
        ("path,label\na.jpg,hay\n", "has no column file: its first line has path, label"),
        ("file;label\na.jpg;hay\n", "its first line has file;label"),
        ("a.jpg,hay\n", "has no column file: its first line has a.jpg, hay"),
        ("file\na.jpg\n", "has no column label"),
        ("file,label\na.jpg,tench, Tinca tinca\n", "line 2 of .* has too many cells"),
        ("file,label\n\na.jpg,hay\n,hay\n", "line 4 of .* has no file"),
        ('file,label\n"a.jpg,hay\n', r"can't be read \(the row at line 2: unexpected end of data\)"),
        ('file,label\na.jpg,hay\n\n"b.jpg,hay\nc.jpg,hay\n', "the row at line 4"),
    ],
)
def test_a_malformed_table_gives_a_one_line_error(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(LitVizError, match=message) as raised:
        read_table(write(tmp_path / "x.csv", text), ("file", "label"))
    assert len(str(raised.value).splitlines()) == 1


def test_a_table_of_another_encoding_or_place_gives_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(LitVizError, match=r"can't be read .* give a CSV file in UTF-8"):
        read_table(write(tmp_path / "x.csv", "file\ncafé.jpg\n", "latin-1"), ("file",))
    with pytest.raises(LitVizError, match="No such file"):
        read_table(tmp_path / "y.csv", ("file",))


# -- the row of a photograph in a table


def test_a_row_holds_for_its_path_or_for_the_only_one_that_ends_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "name.jpg,0\nb/deep.jpg,1\n../up.jpg,2\n./a//dot.jpg,3\npackaged:coffee,4\nunknown.jpg,5\n"
    table = write(tmp_path / "t" / "x.csv", "file,label\n" + rows)
    paths = ["any/where/name.jpg", "a/b/deep.jpg", "up.jpg", "t/a/dot.jpg", "packaged:coffee"]
    assert list(column_values(paths, table, "label").values()) == ["0", "1", "2", "3", "4"]
    absolute = [str(tmp_path / path) for path in paths[:4]]
    assert list(column_values(absolute, "t/x.csv", "label").values()) == ["0", "1", "2", "3"]


def test_unlisted_photographs_have_their_own_error(tmp_path: Path) -> None:
    table = write(tmp_path / "x.csv", "file,label\na.jpg,hay\nc.jpg,\n")
    message = column_values(["a.jpg", "xa.jpg", "c.jpg", "a.jpg/b"], table, "label")
    assert message["a.jpg"] == "hay"
    for path in ("xa.jpg", "c.jpg", "a.jpg/b"):
        assert str(message[path]) == f"{path} has no label in {table}"


def test_a_bare_name_never_labels_two_photographs(tmp_path: Path) -> None:
    """The longest ending counts, and a photograph at the row's own place is sure of it."""
    table = write(tmp_path / "x.csv", "file,label\nc.jpg,bare\nb/c.jpg,longer\n")
    here, other, longer = str(tmp_path / "c.jpg"), str(tmp_path / "a" / "c.jpg"), str(tmp_path / "z" / "b" / "c.jpg")
    message = column_values([here, other, longer], table, "label")
    assert message[here] == "bare"
    assert message[longer] == "longer"
    assert "c.jpg in" in str(message[other])
    assert column_values([other, other.replace("/a/", "/a/./"), longer], table, "label")[other] == "bare"


def test_a_file_with_two_values_is_rejected(tmp_path: Path) -> None:
    column_values([], write(tmp_path / "x.csv", "file,label\na.jpg,1\n./a.jpg,1\n"), "label")
    with pytest.raises(LitVizError, match=r"gives a\.jpg two values in the column label"):
        column_values([], write(tmp_path / "x.csv", "file,label\na.jpg,1\n./a.jpg,2\n"), "label")


def test_a_name_is_one_line() -> None:
    """The animation's font refuses line breaks."""
    assert Entry("photos/grün\n neu .png").names[0] == "grün neu"


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (("a/x.jpg", "b/y.jpg"), ["x", "y"]),
        (("a/x.jpg", "a/x.png", "a/y.jpg"), ["x.jpg", "x.png", "y"]),
        (("a/x.jpg", "b/x.jpg"), ["a/x", "b/x"]),
        (("x.jpg", "b/x.jpg"), ["x", "b/x"]),
        (("a/x.jpg", "a/x.png", "b/x.jpg"), ["a/x.jpg", "a/x.png", "b/x.jpg"]),
        (("c/a/x.jpg", "d/a/x.jpg"), ["x", "x"]),
        (("a/x.jpg", "./a/x.jpg", "b/x.jpg"), ["a/x", "a/x", "b/x"]),
    ],
)
def test_photographs_of_equal_names_get_distinct_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: Sequence[str], names: Sequence[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in files:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    assert photographs(files).names() == list(names)
    assert photographs([*files, files[0]]).names() == [*names, names[0]]  # one that is listed twice is one
