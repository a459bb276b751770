import copy
import csv
import ctypes
import dataclasses
import json
import math
import shutil
import threading
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from lit_viz.engine.snapshots import Result, Snapshot
from lit_viz.errors import LitVizError
from lit_viz.loggers.rows import snapshots_of
from lit_viz.runs import segments as segments_module
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.results import curves_of
from lit_viz.runs.segments import MOST_TASKS, Contents, segment_files, signed, task_line
from lit_viz.runs.verification import LastCheckpoint
from lit_viz.types import Record, Task, index_of
from lit_viz.utils.files import FORMAT
from tests.support.calls import calls_of


def task(index, name="tarantula"):
    return Task(index=index, name=name, seed=7 + index, target=76, target_name=name)


def image(value=0.5, size=6):
    return torch.full((3, size, size), value)


def result(index, array, **named):
    return Result(task(index, **named), Record.of(task(index, **named)), image(), array=array)


def observe(folder, index, iteration, probability=0.5, frame=True):
    shown = image(iteration / 255) if frame else None
    folder.add_snapshot(Snapshot(task(index), iteration, {"probability": probability}, shown))


def finish(folder, index, **record):
    return folder.add_result(
        Result(task(index), Record.of(task(index), iterations=3, metrics=record), image(index / 255))
    )


@pytest.fixture
def folder(tmp_path):
    made = FolderStorage.create(tmp_path / "run")
    made.write_config("seed: 7\n")
    return made


def tree(path):
    return sorted(str(entry.relative_to(path)) for entry in path.rglob("*") if entry.is_file())


# -- an existing folder


def test_a_run_is_not_overwritten_by_default(folder):
    finish(folder, 0)
    with pytest.raises(
        LitVizError, match=r"run already holds a run: give resume to continue it, overwrite to replace it"
    ):
        FolderStorage.create(folder.path)
    before = tree(folder.path)
    replaced = FolderStorage.create(folder.path, overwrite=True)
    assert tree(folder.path) == before  # until the new run is known to be possible
    replaced.clear()
    assert tree(folder.path) == []
    replaced.clear()


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "run").mkdir()
    FolderStorage.create(tmp_path / "run")


@pytest.mark.parametrize("config", [None, "# Lightning's own\nseed_everything: 1\n"])
def test_overwrite_never_deletes_a_folder_that_is_no_run(tmp_path, config):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "checkpoints").mkdir()
    if config is not None:
        (tmp_path / "config.yaml").write_text(config)
    before = tree(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(LitVizError):
            FolderStorage.create(tmp_path, overwrite=overwrite)
    assert tree(tmp_path) == before


def test_overwrite_rejects_a_folder_of_lightning(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("config.yaml", "metrics.csv", "checkpoints/last.ckpt"):  # as LightningCLI and CSVLogger leave it
        (tmp_path / name).write_text("seed_everything: 1\n")
    before = tree(tmp_path)
    with pytest.raises(LitVizError, match="is not a lit_viz run, so overwrite=True doesn't delete it"):
        FolderStorage.create(tmp_path, overwrite=True)
    assert tree(tmp_path) == before


def test_overwrite_stops_at_files_that_were_put_into_a_run(folder):
    finish(folder, 0)
    (folder.path / "notes.md").write_text("observations")
    before = tree(folder.path)
    with pytest.raises(LitVizError, match=r"also holds notes\.md"):
        FolderStorage.create(folder.path, overwrite=True)
    assert tree(folder.path) == before


def test_overwrite_does_not_follow_links(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept.png").touch()
    (folder.path / "images").symlink_to(tmp_path / "elsewhere")
    FolderStorage.create(folder.path, overwrite=True).clear()
    assert (tmp_path / "elsewhere" / "kept.png").exists()
    assert not (folder.path / "images").exists()


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(LitVizError, match="is a file"):
        FolderStorage.create(tmp_path / "run", overwrite=True)
    with pytest.raises(LitVizError, match="can't be made"):
        FolderStorage.create(tmp_path / "run" / "below")


def test_open_rejects_other_folders(folder, tmp_path):
    assert FolderStorage.open(folder.path).path == folder.path
    with pytest.raises(LitVizError, match=r"not a lit_viz run: give the folder"):
        FolderStorage.open(tmp_path)
    with pytest.raises(LitVizError, match=r"not a lit_viz run: give the folder"):
        FolderStorage.open(tmp_path / "runn")


def test_the_configuration_holds_the_options_as_given(folder):
    first, rest = (folder.path / "config.yaml").read_text().split("\n", 1)
    assert first.startswith("#")
    assert rest.startswith("seed: 7\nrecorded:\n")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("config.yaml", lambda text: text.replace("seed: 7", "seed: 8")),
        ("queue.jsonl", lambda text: text[: text.rindex("{")]),
        ("queue.jsonl", lambda text: text.replace("tarantula", "goldfish")),
        ("queue.jsonl", None),
    ],
)
def test_a_changed_configuration_or_queue_is_rejected(folder, name, damage):
    folder.write_start("seed: 7\n", {"method": "visualize"}, [task(0), task(1)])
    FolderStorage.open(folder.path)
    file = folder.path / name
    file.unlink() if damage is None else file.write_text(damage(file.read_text()))
    with pytest.raises(LitVizError, match=rf"{name} (was changed after the start of the run|can't be read)"):
        FolderStorage.open(folder.path)


def test_a_deleted_folder_is_not_created_again(folder):
    shutil.rmtree(folder.path)
    for write in (lambda: observe(folder, 0, 0), lambda: finish(folder, 0), folder.commit):
        with pytest.raises(LitVizError, match="was deleted or moved during the run"):
            write()
    assert not folder.path.exists()


# -- writing


def test_layout(folder):
    observe(folder, 0, 0)
    observe(folder, 0, 50)
    done = result(0, array=torch.zeros(3, 2, 2), name="cat/tabby, big")
    folder.add_result(dataclasses.replace(done, source=image(100 / 255)))
    folder.commit()
    assert tree(folder.path) == [
        "arrays/0000_cat_tabby_big.npy",
        "config.yaml",
        "frames/0000_tarantula/iter_000000.png",
        "frames/0000_tarantula/iter_000050.png",
        "images/0000_cat_tabby_big.png",
        "records/000000.jsonl",
        "sources/0000_cat_tabby_big.png",
    ]


def test_the_png_holds_the_rounded_bytes_and_the_array_the_floats(folder):
    pixels = torch.rand(3, 8, 5)
    record = folder.add_result(Result(task(0), Record.of(task(0)), pixels, array=pixels.double()))
    read = np.asarray(Image.open(folder.path / record.file))
    assert np.array_equal(read, np.round(pixels.numpy() * 255).astype(np.uint8).transpose(1, 2, 0))
    array = np.load(folder.path / record.array)
    assert array.dtype == np.float32
    assert np.array_equal(array, pixels.numpy())


def test_a_record_has_the_common_keys_first_and_then_the_methods(folder):
    finish(folder, 0, probability=0.93, rank=1, loss=math.nan)
    folder.commit()
    (line,) = (folder.path / "records" / "000000.jsonl").read_text().splitlines()
    record = json.loads(line, parse_constant=pytest.fail)["record"]
    assert list(record) == [
        "kind", "index", "name", "status", "target", "target_name", "seed", "iterations", "file", "metrics", "settings"
    ]  # fmt: skip
    assert (record["kind"], record["file"]) == ("record", "images/0000_tarantula.png")
    assert (record["index"], record["seed"], record["target"]) == (0, 7, 76)
    assert record["metrics"] == {"probability": 0.93, "rank": 1, "loss": None}


def test_a_failed_task_has_a_record_without_files(folder):
    record = folder.add_result(Result(task(3), Record.of(task(3), status="failed", error="the file is no picture")))
    folder.commit()
    assert (record.status, record.file, record.array) == ("failed", None, None)
    assert [read.to_dict() for read in folder.records()] == [record.to_dict()]


def test_files_are_on_the_disk_before_their_segment(folder, monkeypatch):
    seen = []
    monkeypatch.setattr("lit_viz.runs.folder.write_lines", lambda *_, **__: seen.extend(tree(folder.path)))
    monkeypatch.setattr("lit_viz.runs.folder.sync_filesystem", lambda path: seen.append("sync"))
    folder.add_result(result(0, array=image()))
    folder.commit()
    assert seen[0] == "sync"
    assert {"images/0000_tarantula.png", "arrays/0000_tarantula.npy"} <= set(seen)


def test_metrics_are_read_back_and_exported_in_long_form(folder):
    folder.add_snapshot(Snapshot(task(0), 0, {"probability": 0.1, "total, variation": math.inf}))
    folder.add_snapshot(Snapshot(task(10), 50, {"probability": float(np.float32(0.7))}))
    folder.add_snapshot(Snapshot(task(2), 50, {"probability": 1e-30}))
    keys = ["0000_tarantula", "0002_tarantula", "0010_tarantula"]
    assert curves_of(folder.contents(index_of(keys[0])).rows)["probability"] == [(0, 0.1)]
    observe(folder, 0, 1, 0.2, frame=False)
    for index in (2, 0, 10):
        finish(folder, index)
    folder.commit()
    opened = FolderStorage.open(folder.path)
    assert {key: curves_of(opened.contents(index_of(key)).rows)["probability"] for key in keys} == {
        "0000_tarantula": [(0, 0.1), (1, 0.2)],
        "0002_tarantula": [(50, 1e-30)],
        "0010_tarantula": [(50, pytest.approx(0.7))],
    }
    assert not (folder.path / "metrics.csv").exists()
    folder.write_queue([])
    folder.seal()
    with (folder.path / "metrics.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["task", "iteration", "metric", "value"]
    assert rows[2] == ["0000_tarantula", "0", "total, variation", "inf"]
    assert np.float32(rows[5][3]) == np.float32(0.7)


def test_results_remain_after_a_full_disk(folder, monkeypatch):
    observe(folder, 0, 0, frame=False)
    finish(folder, 0)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lit_viz.utils.files.os.fsync", full)
        with pytest.raises(LitVizError, match="disk full"):
            folder.commit()
    assert not (folder.path / "records" / "000000.jsonl").exists()
    folder.commit()
    assert [record.index for record in folder.records()] == [0]


def test_a_segment_is_written_only_after_its_files(folder, monkeypatch):
    def full(descriptor):
        ctypes.set_errno(28)
        return -1

    finish(folder, 0)
    monkeypatch.setattr("lit_viz.utils.files._SYNCFS", full)
    with pytest.raises(LitVizError, match="disk full"):
        folder.commit()
    assert not (folder.path / "records").exists()


def test_where_a_file_system_can_not_be_flushed_every_file_is(folder, monkeypatch):
    flushed = []
    monkeypatch.setattr("lit_viz.utils.files._SYNCFS", None)
    monkeypatch.setattr("lit_viz.utils.files.os.fsync", flushed.append)
    finish(folder, 0)
    folder.commit()
    assert len(flushed) >= 4  # the picture and the segment, and their names


def test_records_are_in_task_order(folder):
    for index in (2, 0, 10):
        finish(folder, index)
    folder.commit()
    finish(folder, 1)
    folder.commit()
    assert [record.index for record in folder.records()] == [0, 1, 2, 10]
    assert tree(folder.path / "records") == ["000000.jsonl", "000001.jsonl"]


def test_a_segment_has_at_most_a_thousand_tasks(folder, monkeypatch):
    monkeypatch.setattr("lit_viz.runs.folder.MOST_TASKS", 3)
    assert MOST_TASKS == 1000
    for index in range(7):
        finish(folder, index)
    stated = folder.commit()["store"]
    assert stated["segments"] == {"000000.jsonl": 3, "000001.jsonl": 3, "000002.jsonl": 1}
    assert [record.index for record in folder.records()] == list(range(7))


def test_a_task_that_finished_after_the_last_commit_keeps_frames_and_metrics(folder):
    """Loggers read them in a thread of their own, while tasks finish."""
    folder.write_queue([task(0), task(1)])
    for index in (0, 1):
        observe(folder, index, 0)
    before = snapshots_of(folder.metrics())
    finish(folder, 0)
    assert snapshots_of(folder.metrics()) == before
    frame = folder.path / "frames/0000_tarantula/iter_000000.png"
    assert folder.frames("0000_tarantula") == {"image": [(0, frame)]}
    folder.commit()
    assert snapshots_of(folder.metrics()) == before


def test_a_commit_waits_for_a_thread_that_reads_the_segments(folder, monkeypatch):
    """Otherwise the checkpoint would not name the segment of the commit."""
    reads, has_listed, may_go_on = [], threading.Event(), threading.Event()
    listed = segments_module.segment_files

    def slowly(root):
        found = listed(root)
        if threading.current_thread() is not threading.main_thread():
            has_listed.set()
            may_go_on.wait(5)
        return found

    monkeypatch.setattr(segments_module, "segment_files", slowly)
    finish(folder, 0)
    reader = threading.Thread(target=lambda: reads.append(folder.segments))
    reader.start()
    has_listed.wait(5)
    threading.Timer(0.1, may_go_on.set).start()
    assert folder.commit()["store"]["segments"] == {"000000.jsonl": 1}
    reader.join()
    assert folder.commit()["store"]["segments"] == {"000000.jsonl": 1}
    assert list(folder.segments.lines) == [0]


def test_frames_are_ordered_by_iteration(folder):
    for iteration in (1_000_000, 0, 999_999, 50):
        observe(folder, 0, iteration)
    assert [iteration for iteration, _ in folder.frames("0000_tarantula")["image"]] == [0, 50, 999_999, 1_000_000]
    assert folder.frames("0001_nothing") == {}


# -- resuming


def interrupted(folder):
    """Task 0 is done, 1 and 2 continue, and 3 has finished after the checkpoint, whose entries are returned."""
    for index, last in ((0, 5), (1, 1)):
        for iteration in range(last + 1):
            observe(folder, index, iteration)
    folder.add_result(result(0, array=image()))
    stated = copy.deepcopy(folder.commit()["store"])
    for index, first, last in ((1, 2, 3), (2, 0, 1), (3, 0, 1)):
        for iteration in range(first, last + 1):
            observe(folder, index, iteration)
    folder.add_result(result(3, array=image()))
    folder.commit()
    (folder.path / "images" / "my own.png").touch()
    return stated


def restored(path, stated, damaged=()):
    folder = FolderStorage(path)
    folder.load(stated["segments"])
    contents = {index: Contents(**values) for index, values in stated["in_progress"].items()}
    folder.restore(contents, stated["snapshots"], damaged)
    return folder


def test_what_is_later_than_the_checkpoint_is_removed(folder):
    folder.write_queue([task(index) for index in range(4)])
    stated = interrupted(folder)
    folder = restored(folder.path, stated)
    keys = [f"{index:04d}_tarantula" for index in range(4)]
    logged = [curves_of(folder.contents(index_of(key)).rows).get("probability", ()) for key in keys]
    assert [[k for k, _ in curve] for curve in logged] == [[*range(6)], [0, 1], [], []]
    assert [[k for k, _ in folder.frames(key).get("image", ())] for key in keys] == [[*range(6)], [0, 1], [], []]
    assert [record.index for record in folder.records()] == [0]
    assert tree(folder.path / "images") == ["0000_tarantula.png", "my own.png"]
    assert tree(folder.path / "arrays") == ["0000_tarantula.npy"]
    assert tree(folder.path / "frames" / "0001_tarantula") == ["iter_000000.png", "iter_000001.png"]
    assert tree(folder.path / "records") == ["000000.jsonl"]


def test_a_resumed_run_has_the_files_of_one_that_was_never_stopped(tmp_path):
    whole, broken = (FolderStorage.create(tmp_path / name) for name in ("whole", "broken"))
    for folder in (whole, broken):
        folder.write_start("", {}, [task(index) for index in range(4)])
    broken = restored(broken.path, interrupted(broken))
    (broken.path / "images" / "my own.png").unlink()
    last = {0: 5, 1: 4, 2: 4, 3: 1}
    for index, iterations in last.items():
        for iteration in range(iterations + 1):
            observe(whole, index, iteration)
            if index > 1 or (index == 1 and iteration >= 2):
                observe(broken, index, iteration)
        whole.add_result(result(index, array=image()))
        if index > 0:
            broken.add_result(result(index, array=image()))
    for folder in (whole, broken):
        folder.commit()
        folder.seal()
    names = {name for name in tree(whole.path) if not name.startswith(("records/", "manifest"))}
    assert names == {name for name in tree(broken.path) if not name.startswith(("records/", "manifest"))}
    for name in names:
        assert (whole.path / name).read_bytes() == (broken.path / name).read_bytes(), name
    assert list(broken.segments.all()) == list(whole.segments.all())


def test_the_work_of_a_result_does_not_grow_with_the_queue(folder):
    def results(first, count):
        for index in range(first, first + count):
            observe(folder, index, 0, frame=False)
            finish(folder, index)
        folder.commit()

    _, early = calls_of(lambda: results(0, 20))
    results(20, 480)
    finish(folder, 1000, filler="x" * 20_000_000)
    folder.commit()
    _, late = calls_of(lambda: results(500, 20))
    assert late < 1.2 * early
    tracemalloc.start()
    results(520, 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000  # the large record is not read


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"record": {', '"record": {"deep": ' + "[" * 100_000),
        ('"rows": [', '"rows": "x", "r": ['),
        ('"rows": [', '"rows": [[0, 1]], "r": ['),
        ('"files": {', '"files": ["x"], "f": {'),
        ('"files": {', '"files": {"x": 1}, "f": {'),
    ],
)
def test_a_signed_line_that_is_of_no_task_is_one_sentence(folder, old, new):
    finish(folder, 0)
    folder.commit()
    (path,) = segment_files(folder.path)
    line = path.read_text()
    text = line.rpartition(', "sha256": "')[0].replace(old, new, 1)
    path.write_text(signed(text))
    forged = FolderStorage(folder.path)
    for read in (lambda: list(forged.segments.all()), lambda: forged.segments.values(0)):
        with pytest.raises(LitVizError, match=r"records is damaged \(a line is of no task\): start another run"):
            read()


@pytest.mark.parametrize(
    "store",
    ["x", {"segments": "x"}, {"segments": {"a": "x"}}, {"snapshots": [1]}, {"in_progress": [1]},
     {"in_progress": {0: {"files": {}, "rows": [[1]]}}}],
)  # fmt: skip
def test_a_store_of_other_types_in_a_checkpoint_is_one_sentence(folder, store):
    finish(folder, 0)
    state = {"format": FORMAT, "slots": [], "finished": {}}
    with pytest.raises(LitVizError, match="the checkpoint is damaged"):
        LastCheckpoint(folder, {"lit_viz": state, "store": store})


def test_statuses_of_many_tasks_take_little_memory(folder):
    count = 3000
    for index in range(count):
        text = '{"kind": "record"}'
        folder._pending[index] = task_line(Record.of(task(index)), folder.digest, text, Contents().text())
    folder.commit()
    folder.segments.values(0)
    tracemalloc.start()
    folder.load()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert dict(folder.segments.statuses()) == dict.fromkeys(range(count), "done")
    assert size < 50 * count


def test_a_commit_reads_only_its_own_segment(folder, monkeypatch):
    for index in (5, 1):
        finish(folder, index)
    folder.commit()
    assert list(folder.segments.lines) == [1, 5]
    read = []
    lines_of = segments_module.lines_with_offsets
    monkeypatch.setattr(segments_module, "lines_with_offsets", lambda path: read.append(path.name) or lines_of(path))
    for index, status in ((3, "failed"), (0, "done")):
        folder.add_result(Result(task(index), Record.of(task(index), status=status), image()))
        folder.commit()
    assert [record.index for record in folder.records()] == [0, 1, 3, 5]
    assert read == ["000001.jsonl", "000002.jsonl"]
    again = FolderStorage(folder.path).segments
    assert list(folder.segments.all()) == list(again.all())
    assert dict(folder.segments.statuses()) == dict(again.statuses()) == {0: "done", 1: "done", 3: "failed", 5: "done"}
    assert folder.segments.values(3) == again.values(3)
    assert (folder.segments.counts, folder.segments.damaged) == (again.counts, {})


def test_a_segment_that_another_process_replaces_is_read_again(folder):
    for index in range(3):
        finish(folder, index)
    folder.commit()
    opened = FolderStorage(folder.path)
    records, segments = opened.records(), opened.segments
    assert [record.iterations for record in records] == [3, 3, 3]
    folder.amend([records[0].amend(error="a longer line"), records[2].amend(iterations=4)])
    sentence = r"records/000000.jsonl was replaced after the run was opened: open the run again$"
    for read in (lambda: records[1], lambda: list(records), lambda: segments.values(2)):
        with pytest.raises(LitVizError, match=sentence):
            read()
    assert [record.iterations for record in opened.records()] == [3, 3, 4]
    assert opened.records()[0].error == "a longer line"
