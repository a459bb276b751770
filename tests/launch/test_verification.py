"""``check``, ``log``, ``epochs`` and ``resume`` believe a run folder only as far as its manifest confirms it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import lit_viz as lv
from lit_viz.engine.step import Step
from lit_viz.errors import LitVizError
from lit_viz.images.reading import encode_png
from lit_viz.networks import Network
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.layout import LAST_CHECKPOINT
from lit_viz.runs.verification import verify
from tests.support.forgery import forge
from tests.support.marks import slow

Edit = Callable[[Path], None]
SEGMENT = "records/000000.jsonl"


def saliency(smooth: Network, run: Path, **options: Any) -> Any:
    """Explain three photographs, which are files beside the run."""
    photographs = [run.with_name(f"{index}.png") for index in range(3)]
    for index, path in enumerate(photographs):
        image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(index))
        path.write_bytes(encode_png(image))
    options = {"slots": 1, "captum": "none", "logger": "none", **options}
    return lv.saliency(smooth, photographs, target=[1, 2, 3], iterations=8, method="smoothgrad", out=run, **options)


@pytest.fixture(scope="module")
def finished(smooth: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that has been checked: with evidence and its figure."""
    run: Path = tmp_path_factory.mktemp("finished") / "run"
    saliency(smooth, run)
    assert lv.check(run, smooth)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def contents(run: Path) -> dict[str, Any]:
    """Return the facts of a run; of the records all but their seconds."""
    kept: dict[str, Any] = {}
    for pattern in ("images/*", "arrays/*", "sources/*", "frames/*/*"):
        for path in run.glob(pattern):
            kept[path.relative_to(run).as_posix()] = path.read_bytes()
    for task in FolderStorage(run).segments.all():
        record = task["record"]
        kept[f"rows {record['index']}"] = [row[1:] for row in task["rows"]]
        kept[f"record {record['index']}"] = {key: record[key] for key in record if key != "seconds"}
    return kept


def replace(name: str, old: str, new: str) -> Edit:
    def edit(run: Path) -> None:
        text = (run / name).read_text()
        assert old in text
        (run / name).write_text(text.replace(old, new, 1))

    return edit


def append(name: str, text: str) -> Edit:
    def edit(run: Path) -> None:
        with (run / name).open("a") as file:
            file.write(text)

    return edit


def cut(pattern: str) -> Edit:
    def edit(run: Path) -> None:
        path = sorted(run.glob(pattern))[0]
        path.write_bytes(path.read_bytes()[:-1])

    return edit


def flip(pattern: str) -> Edit:
    def edit(run: Path) -> None:
        path = sorted(run.glob(pattern))[0]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    return edit


def unlink(pattern: str) -> Edit:
    return lambda run: sorted(run.glob(pattern))[0].unlink()


def reverse(name: str) -> Edit:
    def edit(run: Path) -> None:
        lines = (run / name).read_text().splitlines(keepends=True)
        (run / name).write_text("".join(reversed(lines)))

    return edit


def drop_lines(name: str, place: slice) -> Edit:
    def edit(run: Path) -> None:
        lines = (run / name).read_text().splitlines(keepends=True)
        del lines[place]
        (run / name).write_text("".join(lines))

    return edit


def add_mask(run: Path) -> None:
    (run / "masks").mkdir()
    (run / "masks" / "0000_a.png").write_bytes(b"x")


def exchange(run: Path) -> None:
    """Exchange the records of two lines."""
    path = run / SEGMENT
    first, second, *others = path.read_text().splitlines(keepends=True)
    (one, other) = (line.partition('"record": ')[2].partition(', "rows"')[0] for line in (first, second))
    path.write_text("".join([first.replace(one, other), second.replace(other, one), *others]))


#: Edits of facts by the file that is named, and of them those that a resume mends.
FACTS: dict[str, tuple[str, Edit]] = {
    "verdict": ("records/000000", replace(SEGMENT, '"status": "done"', '"status": "failed"')),
    "number": ("records/000000", replace(SEGMENT, '"iterations": 8', '"iterations": 9')),
    "name": ("records/000000", replace(SEGMENT, '"target_name": "', '"target_name": "x')),
    "first record": ("records/000000", drop_lines(SEGMENT, slice(0, 1))),
    "last record": ("records/000000", drop_lines(SEGMENT, slice(-1, None))),
    "further record": ("records/000000", append(SEGMENT, '{"index": 7, "name": "x"}\n')),
    "torn record": ("records/000000", append(SEGMENT, '{"index": 7')),
    "order of records": ("records/000000", reverse(SEGMENT)),
    "no records": ("records/000000", unlink(SEGMENT)),
    "torn line": ("records/000000", cut(SEGMENT)),
    "joined lines": ("records/000000", replace(SEGMENT, "\n", "")),
    "row": ("records/000000", replace(SEGMENT, '"probability": 0.', '"probability": 1.')),
    "exchanged records": ("records/000000", exchange),
    "image": ("images/", flip("images/*")),
    "cut array": ("arrays/", cut("arrays/*")),
    "no source": ("sources/", unlink("sources/*")),
    "no frame": ("frames/", unlink("frames/*/*")),
    "empty image": ("images/", lambda run: sorted(run.glob("images/*"))[0].write_bytes(b"")),
    "mask": ("masks/", add_mask),
    "manifest": ("run is unfinished", unlink("manifest.json")),
    "incomplete manifest": ("run is unfinished", replace("manifest.json", '"complete": true', '"complete": false')),
    "word in the manifest": ("manifest.json is damaged", append("manifest.json", "word\n")),
    "size": ("records/000000", replace(SEGMENT, '0000_0.npy": {"size": 3', '0000_0.npy": {"size": 4')),
}


@pytest.mark.parametrize("name", FACTS)
def test_nothing_is_stated_from_a_changed_fact(
    name: str, run: Path, smooth: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    words, edit = FACTS[name]
    edit(run)
    evidence = (run / "evidence.json").read_bytes()
    with pytest.raises(LitVizError, match=words) as error:
        lv.check(run, smooth, progress=True)
    assert "\n" not in str(error.value)
    with pytest.raises(LitVizError, match=words):
        lv.log(run, "csv")
    assert "evidence:" not in capsys.readouterr().err
    assert (run / "evidence.json").read_bytes() == evidence
    assert not (run / "csv").exists()


#: Edits that are like others.
LIKE_OTHERS = (
    "number", "name", "last record", "torn record", "order of records", "torn line", "joined lines", "row",
    "empty image", "cut array", "no source", "size", "exchanged records", "incomplete manifest",
)  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LIKE_OTHERS else ()) for name in FACTS]
)
def test_a_resume_computes_again_what_the_manifest_does_not_confirm(
    name: str, run: Path, finished: Path, smooth: Network
) -> None:
    FACTS[name][1](run)
    lv.resume(run, smooth)
    assert contents(run) == contents(finished)
    assert not (run / "masks" / "0000_a.png").exists()
    assert verify(FolderStorage.open(run)) == []
    assert lv.check(run, smooth)


@pytest.mark.parametrize("name", ["images/0000_x.png", slow("frames/0000_0/iter_000099.png"), slow("tars/000009.tar")])
@pytest.mark.parametrize("store", ["files", "tar", slow("merged")])
def test_a_file_that_was_added_is_named_by_all_commands_with_a_remedy_that_works(
    store: str, name: str, smooth: Network, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    if store == "merged":
        for shard in range(2):
            saliency(smooth, tmp_path / "shards", shard=f"{shard}/2")
        lv.merge(tmp_path / "shards", run, smooth)
    else:
        saliency(smooth, run, store=store)
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    words = f"{path} is not of the run: move it away"
    for command in (lambda: lv.check(run, smooth), lambda: lv.log(run, "csv")):
        with pytest.raises(LitVizError, match=re.escape(words)):
            command()
    caplog.clear()
    lv.resume(run, smooth)
    assert words in caplog.text
    path.rename(tmp_path / "moved")
    caplog.clear()
    lv.resume(run, smooth)
    assert "is not of the run" not in caplog.text
    assert lv.check(run, smooth)


@pytest.mark.parametrize("name", ["records/000009.jsonl", "masks/x.png"])
def test_a_segment_or_mask_that_was_added_is_deleted_by_a_resume(name: str, run: Path, smooth: Network) -> None:
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_bytes(b"x")
    with pytest.raises(LitVizError, match="is not of the run"):
        lv.check(run, smooth)
    lv.resume(run, smooth)
    assert not (run / name).exists()
    assert lv.check(run, smooth)


@pytest.mark.parametrize("pattern", ["figure.png", "evidence.json", "report.html", "evidence.png"])
@pytest.mark.parametrize("change", [slow(flip), slow(cut), unlink])
def test_derived_files_are_made_again(
    change: Callable[[str], Edit], pattern: str, run: Path, smooth: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without computing an image."""
    before = (run / pattern).read_bytes()
    change(pattern)(run)
    with pytest.raises(LitVizError, match=rf"{pattern} is missing or was changed: lit-viz resume \S+ draws it again"):
        lv.log(run, "csv")
    monkeypatch.setattr(Step, "__init__", lambda *_: pytest.fail("a step was made"))
    for make in (lv.resume, lv.check):
        again = shutil.copytree(run, run.with_name(make.__name__))
        make(again, smooth)  # type: ignore[operator]
        assert verify(FolderStorage.open(again)) == []
        if pattern == "figure.png":
            assert (again / pattern).read_bytes() == before
        if make is lv.check or pattern not in ("evidence.json", "evidence.png"):  # a run with captum="none" has none
            assert (again / pattern).exists()


def test_an_animation_is_drawn_again(smooth: Network, tmp_path: Path) -> None:
    run = tmp_path / "run"
    lv.visualize(smooth, [1], config="small", iterations=4, log_at="every:1", out=run, logger="none")
    before = (run / "evolution.gif").read_bytes()
    (run / "evolution.gif").write_bytes(b"")
    lv.resume(run, smooth)
    assert (run / "evolution.gif").read_bytes() == before


def test_a_resume_of_a_verified_run_changes_nothing(run: Path, smooth: Network) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    lv.resume(run, smooth)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_changed_configuration_is_named(run: Path, smooth: Network) -> None:
    """Also its part that is not of the options."""
    replace("config.yaml", "python: ", "python: x")(run)
    for command in (lv.check, lv.resume):
        with pytest.raises(LitVizError, match=r"config\.yaml was changed after the start of the run: restore it"):
            command(run, smooth)  # type: ignore[operator]


def test_a_run_without_its_checkpoint_is_that_of_its_manifest(
    run: Path, finished: Path, smooth: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / LAST_CHECKPOINT).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Step, "__init__", lambda *_: pytest.fail("a step was made"))
        lv.resume(run, smooth)
    unlink("images/*")(run)
    intact = sorted(run.glob("images/*"))[0].stat().st_mtime_ns
    lv.resume(run, smooth)
    assert contents(run) == contents(finished)
    assert intact in {path.stat().st_mtime_ns for path in run.glob("images/*")}


@pytest.mark.parametrize("place", ["verify", slow("draw"), slow("write_report"), "seal"])
def test_a_run_that_was_killed_after_its_images_computes_none_again(
    place: str, smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    owners = {
        "verify": "lit_viz.evidence.verifier.OutcomeVerifier.verify",
        "draw": "lit_viz.launch.run.Run.draw",
        "write_report": "lit_viz.launch.run.write_report",
        "seal": "lit_viz.runs.folder.FolderStorage.seal",
    }
    with monkeypatch.context() as patch:
        patch.setattr(owners[place], lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            saliency(smooth, run, captum="captum")
    with pytest.raises(LitVizError, match="run is unfinished: lit-viz resume"):
        lv.check(run, smooth)
    before = contents(run)
    monkeypatch.setattr(Step, "__init__", lambda *_: pytest.fail("a step was made"))
    lv.resume(run, smooth)
    assert contents(run) == before
    assert lv.check(run, smooth)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("target", -1, "the target of task 0 is -1, and there are 5 classes"),
        ("target", 5, "the target of task 0 is 5, and there are 5 classes"),
        ("target", 2, "the target of task 0 is 2, and 0 in the queue"),
        ("target", None, "the target of task 0 is None, and 0 in the queue"),
        ("file", None, "task 0 is done, and has no image"),
        ("file", "", "task 0 is done, and has no image"),
    ],
)
def test_a_record_that_contradicts_its_task_is_damage(
    key: str, value: object, problem: str, smooth: Network, tmp_path: Path, reseal: Any
) -> None:
    """The manifest of a received folder may confirm contradictory files."""
    run = tmp_path / "run"
    lv.visualize(smooth, [0, 1], iterations=2, native=False, logger="none", out=run)
    rewrite_first_record(run, reseal, key, value)
    for command in (lv.check, lv.resume):
        with pytest.raises(LitVizError, match=f"run is damaged .{problem}.: start another run"):
            command(run, smooth)


@pytest.mark.filterwarnings("ignore:. skipped of 2 images")
@pytest.mark.parametrize(
    ("key", "stated"),
    [
        ("label", "the label of task 0 is None, and 0 in the queue.: start another run"),
        ("predicted", "predicted [a-z]+, recorded None"),
        ("l2", "L2 distance .*, recorded none"),
    ],
)
def test_an_adversarial_example_without_a_value_is_not_as_recorded(
    key: str, stated: str, smooth: Network, tmp_path: Path, reseal: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    lv.attack(smooth, torch.rand(2, 3, 16, 16), label=[0, 1], iterations=2, logger="none", out=run)
    rewrite_first_record(run, reseal, key, None)
    if key == "label":
        with pytest.raises(LitVizError, match=stated):
            lv.check(run, smooth)
    else:
        assert not lv.check(run, smooth, progress=True)
        assert re.search(stated, "".join(capsys.readouterr()))


def test_a_map_of_another_method_is_damage(smooth: Network, tmp_path: Path, reseal: Any) -> None:
    run = tmp_path / "run"
    saliency(smooth, run)
    rewrite_first_record(run, reseal, "method", "mine")
    with pytest.raises(LitVizError, match="the method of task 0 is 'mine', and 'smoothgrad' in the queue"):
        lv.check(run, smooth)


def rewrite_first_record(run: Path, reseal: Any, key: str, value: object) -> None:
    forge(run, 0, key, value)


@pytest.mark.parametrize("name", ["config.yaml", "queue.jsonl"])
def test_a_sparse_file_of_a_terabyte_is_not_read(name: str, run: Path, smooth: Network) -> None:
    os.truncate(run / name, 1 << 40)
    for command in (lv.check, lv.resume):
        with pytest.raises(LitVizError, match=f"{name} must have at most [0-9,]* bytes"):
            command(run, smooth)


def test_a_configuration_without_a_network_is_damage(run: Path, reseal: Any) -> None:
    stored = yaml.safe_load((run / "config.yaml").read_text()) | {"network": None}
    (run / "config.yaml").write_text(yaml.safe_dump(stored, sort_keys=False))
    reseal(run)
    with pytest.raises(LitVizError, match="its configuration names no network"):
        lv.check(run)
