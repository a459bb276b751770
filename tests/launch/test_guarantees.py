"""What a run folder guarantees, in both stores: nothing is stated from what was changed, and a resume computes it."""

from __future__ import annotations

import errno
import json
import pkgutil
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import lit_viz as lv
from lit_viz.api import resume_run
from lit_viz.engine.lightning import AtomicCheckpointIO
from lit_viz.errors import Interrupted, LitVizError
from lit_viz.images.reading import encode_png
from lit_viz.launch.status import run_states
from lit_viz.methods.photographs import PhotographTraining
from lit_viz.networks import Network
from lit_viz.runs.layout import LAST_CHECKPOINT
from lit_viz.runs.segments import segment_files
from lit_viz.runs.tar_store import open_run
from lit_viz.runs.verification import verify
from lit_viz.types import Task
from lit_viz.utils.files import atomic_write, sync_filesystem
from tests.support.forgery import STORES
from tests.support.marks import slow
from tests.support.shards import stop_at

COUNT = 6
Lines = list[str]
Edit = Callable[[Path], None]


@pytest.fixture(scope="module", autouse=True)
def small_segments() -> Any:
    """Two tasks in a segment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lit_viz.runs.folder.MOST_TASKS", 2)
        patch.setattr("lit_viz.runs.tar_store.MOST_TASKS", 2)
        yield


class Runs:
    """Runs of six photographs, each of which is made once, and then copied.

    Args:
        network: the network.
        root: an empty folder.
    """

    def __init__(self, network: Network, root: Path) -> None:
        self._network, self._root = network, root
        self._photographs = [root / f"{index}.png" for index in range(COUNT)]
        for index, path in enumerate(self._photographs):
            image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(index))
            path.write_bytes(encode_png(image))

    def compute(self, out: Path, store: str, **options: Any) -> lv.Run:
        """Compute or continue a run, or a shard."""
        given = {"attack": "pgd", "iterations": 2, "slots": 1, "logger": "none", "target": 1}
        return lv.attack(self._network, self._photographs, out=out, store=store, **{**given, **options})

    def stop(self, out: Path, store: str, at: int, **options: Any) -> None:
        """Stop a run at the start of a task."""
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, at)
            with pytest.raises((Interrupted, KeyboardInterrupt)):
                self.compute(out, store, **options)

    def made(self, store: str, kind: str) -> Path:
        """Return a run of a kind: ``finished``, ``killed`` after four tasks, ``merged``, or ``shards``."""
        path = self._root / f"{store}-{kind}"
        if path.exists():
            return path
        if kind == "finished":
            self.compute(path, store)
        elif kind == "killed":
            self.stop(path, store, at=4)
        elif kind == "merged":
            lv.merge(self.made(store, "shards"), path, self._network)
        else:
            for index in range(2):
                self.compute(path, store, shard=f"{index}/2")
        return path


@pytest.fixture(scope="module")
def runs(smooth: Network, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(smooth, tmp_path_factory.mktemp("runs"))


def facts(run: Path) -> list[dict[str, Any]]:
    """Return the tasks of a run, without seconds and what follows from them."""
    tasks = []
    for values in open_run(run).segments.all():
        record = {**values["record"], "seconds": None}
        for name in ("file", "array", "offset"):
            record.pop(name, None)
        files = {name: signature for name, signature in values["files"].items() if not name.startswith("tars/")}
        rows = [row[1:] for row in values["rows"]]
        tasks.append({"record": record, "rows": rows, "files": files})
    return tasks


def images(run: Path) -> list[list[float]]:
    """Return the images of a run, in task order."""
    stored = open_run(run)
    found = [outcome.image() for outcome in stored.outcomes()]
    return [image.flatten().tolist() for image in found if image is not None]


def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which the index of each task is added when it starts."""
    started: list[int] = []
    start = PhotographTraining.start

    def counted(self: Any, task: Task) -> torch.Tensor:
        started.append(task.index)
        return start(self, task)

    monkeypatch.setattr(PhotographTraining, "start", counted)
    return started


def resumed(run: Path, network: Network) -> list[str]:
    """Resume a run; return the lines about tasks that are computed again."""
    lines: list[str] = []
    resume_run(run, network, {}, lines.append)
    return [line for line in lines if "computed again" in line]


# -- edits of records


def on_lines(change: Callable[[Lines], Sequence[str]]) -> Edit:
    """Return an edit of the lines of the first segment."""

    def edit(run: Path) -> None:
        path = segment_files(run)[0]
        before = path.read_text()
        path.unlink()  # a merged run links the files of its shards
        path.write_text("".join(change(before.splitlines(keepends=True))))
        assert path.read_text() != before

    return edit


def seed(line: str, value: str) -> str:
    """Return a line with another seed in its record."""
    found = json.loads(line)["record"]["seed"]
    return line.replace(f'"seed": {found}', f'"seed": {value}')


def exchanged(lines: Lines) -> Lines:
    """Return two lines with the record of the other."""
    (one, other) = (line.partition('"record": ')[2].partition(', "rows"')[0] for line in lines[:2])
    return [lines[0].replace(one, other), lines[1].replace(other, one), *lines[2:]]


def renamed(run: Path) -> None:
    path = segment_files(run)[0]
    path.rename(path.with_name(path.name.replace("00.jsonl", "90.jsonl")))


def copied(run: Path) -> None:
    """Copy a segment to one with a later name."""
    path = segment_files(run)[0]
    shutil.copyfile(path, path.with_name(path.name.replace("00.jsonl", "90.jsonl")))


def gathered(run: Path) -> None:
    """Append the lines of the first segment to those of the second."""
    first, second = segment_files(run)[:2]
    text = second.read_text() + first.read_text()
    second.unlink()
    second.write_text(text)
    first.unlink()


#: Edits of the first of the segments, and the number of tasks that they lose.
EDITS: dict[str, tuple[Edit, int]] = {
    "same length": (on_lines(lambda lines: [seed(lines[0], "7"), *lines[1:]]), 1),
    "longer": (on_lines(lambda lines: [seed(lines[0], "777"), *lines[1:]]), 1),
    "shorter": (on_lines(lambda lines: [lines[0].replace('"status": "done", ', "", 1), *lines[1:]]), 1),
    "last": (on_lines(lambda lines: [*lines[:-1], seed(lines[-1], "777")]), 1),
    "first deleted": (on_lines(lambda lines: lines[1:]), 1),
    "last deleted": (on_lines(lambda lines: lines[:-1]), 1),
    "joined": (on_lines(lambda lines: ["".join(lines).replace("\n", "", 1)]), 2),
    "exchanged": (on_lines(exchanged), 2),
    "doubled": (on_lines(lambda lines: [*lines, lines[0]]), 0),
    "renamed": (renamed, 2),
    "renamed to no number": (lambda run: segment_files(run)[0].rename(run / "records" / "x.jsonl"), 2),
    "copied": (copied, 0),
    "gathered": (gathered, 0),
    "emptied": (on_lines(lambda _: []), 2),
    "deleted": (lambda run: segment_files(run)[0].unlink(), 2),
}


#: Edits of runs that have the segments of any other.
SOME_EDITS = ("longer", "last deleted", "exchanged")
CASES = [("finished", name) for name in EDITS]
CASES += [("killed", name) for name in (*SOME_EDITS, "joined", "deleted", "doubled", "gathered")]
CASES += [("merged", name) for name in (*SOME_EDITS, "doubled", "renamed")]
#: Edits that are fast tests, by store and kind of run.
FAST = {
    "files finished": ("same length", *SOME_EDITS, "joined", "doubled", "renamed", "gathered", "deleted"),
    "files killed": ("longer", "gathered"),
    "files merged": ("exchanged", "doubled"),
    "tar finished": SOME_EDITS,
}
OF_STORES: list[Any] = []
for store in ("files", "tar"):
    for kind, name in CASES:
        is_fast = name in FAST.get(f"{store} {kind}", ())
        OF_STORES.append(pytest.param(store, kind, name, marks=() if is_fast else pytest.mark.slow))


def states(run: Path) -> Callable[[], object]:
    return lambda: run_states([run])


@pytest.mark.parametrize(("store", "kind", "name"), OF_STORES)
def test_an_edited_record_is_refused_and_computed_again(
    store: str, kind: str, name: str, runs: Runs, smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(runs.made(store, kind), tmp_path / "run")
    edit, lost = EDITS[name]
    edit(run)
    for refused in (lambda: lv.check(run, smooth), lambda: lv.log(run, "csv"), states(run)):
        with pytest.raises(LitVizError, match=r"lit-viz resume") as error:
            refused()
        assert "\n" not in str(error.value)
    assert not (run / "csv").exists()
    started = computed(monkeypatch)
    stated = resumed(run, smooth)
    if lost:
        assert stated[0].startswith(f"{lost} task{'s are' if lost > 1 else ' is'} computed again: records/")
    assert len(started) == lost + (1 if kind == "killed" else 0)  # another one is in progress
    expected = runs.made(store, "finished" if kind == "killed" else kind)
    assert facts(run) == facts(expected)
    assert images(run) == images(expected)
    assert verify(open_run(run)) == []


@pytest.mark.parametrize("name", ["exchanged", slow("longer"), slow("last deleted")])
@pytest.mark.parametrize("store", STORES)
def test_an_edited_record_of_a_shard_is_not_merged(
    store: str, name: str, runs: Runs, smooth: Network, tmp_path: Path
) -> None:
    shards = shutil.copytree(runs.made(store, "shards"), tmp_path / "shards")
    edit, lost = EDITS[name]
    edit(shards / "shard-0-of-2")
    with pytest.raises(LitVizError, match=r"shard-0-of-2/records/\S+ was changed .*: lit-viz resume"):
        lv.merge(shards, tmp_path / "merged", smooth)
    with pytest.raises(LitVizError, match=r"shard-0-of-2/records/\S+ was changed .*: lit-viz resume"):
        run_states([shards])
    merged = lv.merge(shards, tmp_path / "partial", smooth, partial=True)
    expected = facts(runs.made(store, "merged"))
    kept = {record.index for record in merged.records}
    assert len(kept) == COUNT - lost
    assert facts(tmp_path / "partial") == [task for task in expected if task["record"]["index"] in kept]
    assert lv.check(tmp_path / "partial", smooth)
    resumed(shards / "shard-0-of-2", smooth)
    lv.merge(shards, tmp_path / "merged", smooth)
    assert facts(tmp_path / "merged") == expected


@pytest.mark.parametrize(
    "names",
    [
        ["manifest.json"],
        ["checkpoints/last.ckpt"],
        ["manifest.json", "checkpoints/last.ckpt"],
        ["results.jsonl", "metrics.csv", "evidence.json", "figure.png", "report.html"],
    ],
)
@pytest.mark.parametrize("store", STORES)
def test_an_edited_record_is_not_sealed_without_other_files(
    store: str, names: list[str], runs: Runs, smooth: Network, tmp_path: Path
) -> None:
    run = shutil.copytree(runs.made(store, "finished"), tmp_path / "run")
    EDITS["same length"][0](run)
    for name in names:
        (run / name).unlink(missing_ok=True)  # a run in tars has no metrics
    for refused in (lambda: lv.check(run, smooth), lambda: lv.log(run, "csv")):
        with pytest.raises(LitVizError, match=r"lit-viz resume"):
            refused()
    lost = COUNT if len(names) == 2 else 1
    reason = "last.ckpt is missing" if len(names) == 2 else "records/"
    (stated,) = resumed(run, smooth)
    assert re.match(f"{lost} tasks? (is|are) computed again: {reason}", stated)
    assert facts(run) == facts(runs.made(store, "finished"))
    assert verify(open_run(run)) == []


@pytest.mark.parametrize("store", STORES)
def test_a_task_of_another_run_is_found_before_the_seal(
    store: str, runs: Runs, smooth: Network, tmp_path: Path
) -> None:
    """Its line has a right digest."""
    other, run = tmp_path / "other", shutil.copytree(runs.made(store, "killed"), tmp_path / "run")
    runs.compute(other, store, iterations=3)
    (first,) = segment_files(other)[0].read_text().splitlines(keepends=True)[:1]
    on_lines(lambda lines: [first, *lines[1:]])(run)
    with pytest.raises(LitVizError, match=r"records/000000\.jsonl has tasks of another run: lit-viz resume"):
        run_states([run])
    assert resumed(run, smooth) == ["1 task is computed again: records/000000.jsonl has tasks of another run"]
    assert facts(run) == facts(runs.made(store, "finished"))


# -- damaged files


@pytest.mark.parametrize("kind", ["finished", "killed", "merged"])
def test_a_damaged_tar_loses_its_tasks_only(
    kind: str, runs: Runs, smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(runs.made("tar", kind), tmp_path / "run")
    tar = sorted((run / "tars").iterdir())[0]
    content = bytearray(tar.read_bytes())
    content[700] ^= 1
    tar.unlink()
    tar.write_bytes(content)
    with pytest.raises(LitVizError, match=r"lit-viz resume"):
        lv.check(run, smooth)
    started = computed(monkeypatch)
    assert resumed(run, smooth)[0] == f"2 tasks are computed again: tars/{tar.name} was changed after it was written"
    assert len(started) == 2 + (1 if kind == "killed" else 0)
    expected = runs.made("tar", "finished" if kind == "killed" else kind)
    assert facts(run) == facts(expected)
    assert images(run) == images(expected)
    assert verify(open_run(run)) == []


def test_tasks_after_the_checkpoint_are_stated(runs: Runs, smooth: Network, tmp_path: Path) -> None:
    run = shutil.copytree(runs.made("files", "killed"), tmp_path / "run")
    checkpoint = (run / LAST_CHECKPOINT).read_bytes()
    runs.stop(run, "files", at=5, resume=True)
    (run / LAST_CHECKPOINT).write_bytes(checkpoint)
    assert resumed(run, smooth) == ["1 task is computed again: no checkpoint has it"]
    assert facts(run) == facts(runs.made("files", "finished"))


# -- partial merges


@pytest.mark.parametrize("store", STORES)
def test_a_partial_merge_stays_valid_while_its_shards_continue(
    store: str, runs: Runs, smooth: Network, tmp_path: Path
) -> None:
    shards, merged = tmp_path / "shards", tmp_path / "merged"
    runs.stop(shards, store, at=4, shard="0/2")
    runs.compute(shards, store, shard="1/2")
    lv.merge(shards, merged, smooth, partial=True)
    linked = [path for path in merged.rglob("*") if path.is_file() and path.stat().st_nlink > 1]
    assert linked
    before = {path: path.read_bytes() for path in merged.rglob("*") if path.is_file()}
    runs.compute(shards, store, shard="0/2")
    assert {path: path.read_bytes() for path in merged.rglob("*") if path.is_file()} == before
    assert lv.check(merged, smooth)
    lv.merge(shards, tmp_path / "whole", smooth)
    assert facts(tmp_path / "whole") == facts(runs.made(store, "merged"))


# -- exports


def tree(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("store", STORES)
def test_exports_of_a_run_that_is_unfinished(store: str, runs: Runs, tmp_path: Path) -> None:
    run, out = runs.made(store, "killed"), tmp_path / "exports" / "new"
    before = tree(run)
    (state,) = run_states([run], export=out)
    assert tree(run) == before
    lines = (out / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(4))
    assert state.done == 4
    finished = runs.made(store, "finished")
    run_states([finished], export=out)
    for name in ("results.jsonl", "metrics.csv"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()
    shards = runs.made(store, "shards")
    run_states([shards], export=out)
    lines = (out / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == [0, 2, 4, 1, 3, 5]
    rows = (out / "metrics.csv").read_text().splitlines()
    merged = (runs.made(store, "merged") / "metrics.csv").read_text().splitlines()
    assert rows[:1] == merged[:1]
    assert sorted(rows) == sorted(merged)


@pytest.mark.parametrize("place", [".", "exports", "images/new"])
def test_exports_are_not_written_to_a_run(place: str, runs: Runs, tmp_path: Path) -> None:
    run = runs.made("files", "finished")
    before = tree(run)
    for given in (run, runs.made("tar", "finished")):
        with pytest.raises(LitVizError, match=r"^export must be a folder outside of run folders, got .*: choose"):
            run_states([given], export=run / place)
    assert tree(run) == before


@pytest.mark.parametrize("store", STORES)
def test_exports_in_a_run_are_never_read(store: str, runs: Runs, smooth: Network, tmp_path: Path) -> None:
    run = shutil.copytree(runs.made(store, "finished"), tmp_path / "run")
    for name in ("results.jsonl", "metrics.csv"):
        (run / name).write_text("no export\n")
    assert run_states([run])[0].done == COUNT
    assert len(open_run(run).records()) == COUNT
    assert lv.check(run, smooth)
    for name in ("results.jsonl", "metrics.csv"):
        assert (run / name).read_bytes() == (runs.made(store, "finished") / name).read_bytes()
        (run / name).unlink()
    resumed(run, smooth)
    assert (run / "results.jsonl").exists()


# -- two processes, and killed ones


@pytest.mark.parametrize("place", ["lit_viz.runs.merging.link", "lit_viz.launch.run.verify_outcomes"])
@pytest.mark.parametrize("store", STORES)
def test_of_two_merges_at_once_one_runs(
    store: str, place: str, runs: Runs, smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one starts while the first links files, or computes its evidence."""
    shards, out = runs.made(store, "shards"), tmp_path / "merged"
    errors: list[str] = []
    original = pkgutil.resolve_name(place)

    def disturbed(*arguments: Any) -> Any:
        if not errors:
            with pytest.raises(LitVizError) as error:
                lv.merge(shards, out, smooth)
            errors.append(str(error.value))
        return original(*arguments)

    monkeypatch.setattr(place, disturbed)
    lv.merge(shards, out, smooth)
    (stated,) = errors
    assert stated.startswith(f"{out} is in use, another process is writing this run: wait until it ends")
    assert facts(out) == facts(runs.made(store, "merged"))
    assert {path.name for path in tmp_path.iterdir()} == {"merged"}
    with pytest.raises(LitVizError, match="already holds a run"):
        lv.merge(shards, out, smooth)


@pytest.mark.parametrize("store", STORES)
def test_a_merge_that_was_killed_is_continued_by_the_same_command(
    store: str, runs: Runs, smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it links files, and in its evidence."""
    shards, out = runs.made(store, "shards"), tmp_path / "merged"
    for place in ("lit_viz.runs.merging.write_checkpoint", "lit_viz.evidence.verifier.OutcomeVerifier.verify"):
        with monkeypatch.context() as patch:
            patch.setattr(place, lambda *_: pytest.fail("killed"))
            with pytest.raises(pytest.fail.Exception):
                lv.merge(shards, out, smooth)
    with pytest.raises(LitVizError, match="already holds a run"):
        lv.merge(shards / "shard-0-of-2", out, smooth)
    started = computed(monkeypatch)
    lv.merge(shards, out, smooth)
    assert not started
    assert facts(out) == facts(runs.made(store, "merged"))
    assert verify(open_run(out)) == []


def test_a_run_that_was_opened_before_its_records_were_replaced(runs: Runs, smooth: Network, tmp_path: Path) -> None:
    """Its records are read when they are accessed, at other places now."""
    run = shutil.copytree(runs.made("tar", "finished"), tmp_path / "run")
    opened = lv.resume(run, smooth)
    assert [record.iterations for record in opened.records] == [2] * COUNT
    folder = open_run(run)
    folder.amend([record.amend(iterations=1234) for record in folder.records()])
    for read in (lambda: opened.records, lambda: opened.outcomes[1], lambda: list(opened.outcomes)):
        with pytest.raises(LitVizError, match=r"records/00000\d.jsonl was replaced after the run was opened: open the"):
            read()
    assert [record.iterations for record in lv.resume(run, smooth).records] == [1234] * COUNT


@pytest.mark.parametrize("place", ["write", "fsync"])
@pytest.mark.parametrize("store", STORES)
def test_a_disk_that_is_full_while_evidence_replaces_a_segment(
    store: str, place: str, runs: Runs, smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def end(run: Path, last: bool = False) -> None:
        """Amend the records as evidence does."""
        folder = open_run(run)
        folder.amend([record.amend(iterations=7) for record in list(folder.records())[-1 if last else 0 :]])

    run = shutil.copytree(runs.made(store, "finished"), tmp_path / "run")
    before = tree(run)
    with monkeypatch.context() as patch:
        if place == "fsync":
            patch.setattr("lit_viz.runs.segments.os.fsync", full)
        else:
            patch.setattr("lit_viz.runs.segments.atomic_write", full_after(1))
        with pytest.raises(LitVizError, match=r"^disk full while writing \S+records/00000\d.jsonl") as error:
            end(run)
    assert "\n" not in str(error.value)
    assert tree(run) == before
    assert verify(open_run(run)) == []
    end(run)
    assert [task["record"]["iterations"] for task in facts(run)] == [7] * COUNT
    lv.resume(run, smooth)
    assert verify(open_run(run)) == []


def full_after(count: int) -> Any:
    """Return an ``atomic_write`` of a disk that has place for some files."""
    left = count

    @contextmanager
    def write(path: Path, *, sync: bool = True) -> Iterator[Path]:
        nonlocal left
        with atomic_write(path, sync=sync) as temporary:
            if not left:
                raise OSError(errno.ENOSPC, "No space left on device")
            left -= 1
            yield temporary

    return write


@pytest.mark.parametrize("kept", ["segment", "no segment", slow("empty files")])
@pytest.mark.parametrize("store", STORES)
def test_a_loss_of_power_between_segment_and_checkpoint(
    store: str, kept: str, runs: Runs, smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are those that were flushed to the disk, and of the rest none, or empty ones."""
    run, flushed, lost = tmp_path / "run", tmp_path / "flushed", tmp_path / "lost"
    saves = 0
    flush, save = sync_filesystem, AtomicCheckpointIO.save_checkpoint

    def flushing(folder: Path) -> None:
        flush(folder)
        shutil.rmtree(flushed, ignore_errors=True)
        shutil.copytree(run, flushed)

    def saving(self: Any, checkpoint: dict[str, Any], path: Path, storage_options: Any = None) -> None:
        nonlocal saves
        saves += 1
        if saves == 5:  # its segment is written
            shutil.copytree(flushed if kept == "no segment" else run, lost)
        if saves == 6 and kept == "empty files":
            for file in run.rglob("*"):
                name = file.relative_to(run)
                if file.is_file() and not (lost / name).exists():
                    (lost / name).parent.mkdir(parents=True, exist_ok=True)
                    (lost / name).touch()
        save(self, checkpoint, path, storage_options)

    with monkeypatch.context() as patch:
        patch.setattr("lit_viz.runs.folder.sync_filesystem", flushing)
        patch.setattr(AtomicCheckpointIO, "save_checkpoint", saving)
        runs.compute(run, store, checkpoint_every=2)
    assert facts(run) == facts(runs.made(store, "finished"))
    assert saves > 5
    assert 0 < len(open_run(lost).segments.lines) < COUNT
    resumed(lost, smooth)
    assert facts(lost) == facts(run)
    assert images(lost) == images(run)
    assert verify(open_run(lost)) == []
