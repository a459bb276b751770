"""Shards compute the tasks of a run without each other, with the results of the whole run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.attacks import PGD
from lit_viz.attributions import Gradient, SmoothGrad
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.shards import Shard
from lit_viz.engine.snapshots import Result
from lit_viz.errors import Interrupted, LitVizError
from lit_viz.images.reading import encode_png
from lit_viz.methods.photographs import PhotographTraining
from lit_viz.networks import Network
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.layout import MANIFEST, QUEUE
from lit_viz.runs.segments import Contents, segment_files
from lit_viz.types import Record, Task
from lit_viz.utils.files import sha256
from tests.support.marks import slow
from tests.support.shards import contents, stop_at

Pair = tuple[ImageTraining, lv.TaskQueue]

_LAUNCHERS = ("SLURM_", "TORCHELASTIC_", "RANK", "WORLD_SIZE", "LOCAL_")


def noise(count: int, *shape: int) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255


def slots(network: Network) -> int:
    """Return one slot for the small network, otherwise the default."""
    return 1 if network.size == (16, 16) else 16


def classes(network: Network) -> Pair:
    module = lv.ClassVisualization(network, iterations=2, views=2, picture=lv.PictureOptions(group=2), slots=2)
    return module, lv.ClassTasks(network, [1, 3, 0, 2])


def saliency(network: Network) -> Pair:
    methods = [Gradient(), SmoothGrad(sigma=0.2)]
    module = lv.SaliencyMap(network, method=methods, iterations=4, slots=slots(network))
    return module, lv.ImageTasks(network, noise(4, *module.image_shape), label=2)


def attack(network: Network) -> Pair:
    module = lv.AdversarialExample(network, attack=PGD(eps="4/255"), iterations=2, slots=slots(network))
    images = noise(3, *module.image_shape)
    return module, lv.ImageTasks(network, images, target=2, vary={"eps": ["2/255", "8/255"]}, seed=7)


@pytest.mark.filterwarnings("ignore:. skipped of")
@pytest.mark.parametrize("build", [classes, saliency, slow(attack)])
@pytest.mark.parametrize("fixture", ["smooth", slow("lite0")])
def test_shards_have_the_results_of_one_run(
    build: Any, fixture: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Bit for bit: the layers of one network round independently of the batch, and the other has one task a batch."""
    network = request.getfixturevalue(fixture)
    whole = lv.run(*build(network), out=tmp_path / "whole", logger="none")
    shards = []
    for index in range(3):
        run = lv.run(*build(network), out=tmp_path / "run", logger="none", shard=f"{index}/3")
        assert run.folder == tmp_path / "run" / f"shard-{index}-of-3"
        assert [record.index for record in run.records] == list(range(index, len(whole), 3))
        names = {entry.name for entry in run.folder.iterdir()}
        assert not names & {"figure.png", "report.html", "evidence.json", "evolution.gif"}
        shards.append(run.folder)
        part = FolderStorage.open(run.folder).part
        assert part is not None
        assert (part.total, part.sha256) == (len(whole), sha256(tmp_path / "whole" / QUEUE))
    assert whole.folder is not None
    assert contents(*shards) == contents(whole.folder)
    merged = lv.merge(tmp_path / "run", tmp_path / "merged", network)
    assert merged.folder is not None
    assert contents(merged.folder) == contents(whole.folder)
    assert (merged.folder / QUEUE).read_bytes() == (whole.folder / QUEUE).read_bytes()
    assert {entry.name for entry in merged.folder.iterdir()} == {entry.name for entry in whole.folder.iterdir()}
    torch.testing.assert_close(merged.images, whole.images, rtol=0, atol=0)
    assert FolderStorage.open(merged.folder).part is None


@pytest.fixture
def shard(smooth: Network, tmp_path: Path) -> Callable[..., lv.Run]:
    """Return a function that runs shard 1/2 of seven maps."""

    def run(**options: Any) -> lv.Run:
        given = {"out": tmp_path / "run", "shard": "1/2", "slots": 1, "logger": "none"}
        return lv.saliency(smooth, noise(7, 3, 16, 16), label=2, **{**given, **options})

    return run


def test_the_same_call_starts_continues_or_does_nothing(
    shard: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        stop_at(patched, index=3)
        with pytest.raises(Interrupted, match="stopped after 2 of 3 images"):
            shard()
    folder = tmp_path / "run" / "shard-1-of-2"
    before = segment_files(folder)[0].read_text()
    assert [record.index for record in shard().records] == [1, 3, 5]
    assert segment_files(folder)[0].read_text() == before
    monkeypatch.setattr(PhotographTraining, "start", lambda *_: pytest.fail("a task was computed"))
    content = (folder / MANIFEST).read_bytes()
    assert len(shard(progress=True)) == 3
    assert f"{folder} is complete: nothing is computed" in capsys.readouterr().err
    assert (folder / MANIFEST).read_bytes() == content


def test_the_same_objects_run_all_shards(smooth: Network, tmp_path: Path) -> None:
    module, tasks = saliency(smooth)
    found = []
    for index in range(3):
        run = lv.run(module, tasks, tmp_path / "run", logger="none", shard=f"{index}/3")
        found += [record.index for record in run.records]
        shutil.rmtree(tmp_path / "run")
    assert sorted(found) == list(range(8))
    assert isinstance(tasks.tasks, tuple)


def test_a_shard_is_not_continued_with_other_options(shard: Any) -> None:
    shard()
    with pytest.raises(LitVizError, match="reducer can't be changed"):
        shard(reducer="l2")
    assert len(shard(reducer="l2", overwrite=True)) == 3


def test_a_missing_file_of_a_shard_is_computed_again(shard: Any, tmp_path: Path) -> None:
    shard()
    folder = tmp_path / "run" / "shard-1-of-2"
    before = contents(folder)
    next((folder / "arrays").iterdir()).unlink()
    shard()
    assert contents(folder) == before


def test_a_shard_is_resumed_checked_and_logged_by_itself(smooth: Network, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "shard-1-of-2"
    images = []
    for index, pixels in enumerate(noise(3, 3, 16, 16)):
        images.append(tmp_path / f"{index}.png")
        images[-1].write_bytes(encode_png(pixels))
    options = {"label": 2, "out": tmp_path / "run", "shard": "1/2", "slots": 1, "logger": "none"}
    lv.saliency(smooth, images, **options)
    assert [record.index for record in lv.resume(folder, smooth).records] == [1]
    with pytest.raises(LitVizError, match="shard only applies to a new run"):
        lv.resume(folder, smooth, shard="0/2")
    assert lv.check(folder, smooth)
    assert (folder / "report.html").exists()
    assert lv.log(folder, "csv") == [str(folder / "csv" / "metrics.csv")]
    assert [record.index for record in lv.resume(folder, smooth).records] == [1]


def test_a_damaged_queue_of_a_shard_is_named(shard: Any, tmp_path: Path) -> None:
    shard()
    folder = tmp_path / "run" / "shard-1-of-2"
    (folder / MANIFEST).unlink()
    first, *lines = (folder / QUEUE).read_text().splitlines(keepends=True)
    for content in ([first, *lines[1:]], [*lines], [first.replace('"total"', '"totals"'), *lines]):
        (folder / QUEUE).write_text("".join(content))
        with pytest.raises(LitVizError, match=r"queue\.jsonl is damaged"):
            FolderStorage(folder).queue()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": "3/3"}, r"^shard must be i/n with i from 0 to n - 1, such as 0/3, or auto, got '3/3'$"),
        ({"shard": "1"}, r"^shard must be i/n .*, got '1'$"),
        ({"shard": "0/9"}, None),
        ({"shard": "8/9"}, r"^shard 8/9 of 7 tasks has none: give fewer shards$"),
        ({"out": None}, r"^shard requires out, got none: give the folder of the whole run$"),
        ({"devices_mode": "views"}, r"^shard does not apply to devices_mode=views, "),
        ({"trainer": {"devices": 2}}, r"^a shard must have one device, got devices=2: give more shards$"),
        ({"shard": "auto"}, r"^shard auto requires an array of SLURM or torchrun, got a single process: give i/n$"),
    ],
)
def test_invalid_shards_are_rejected(options: dict[str, Any], message: str | None, shard: Any, tmp_path: Path) -> None:
    if message is None:
        assert len(shard(**options)) == 1
        return
    with pytest.raises(LitVizError, match=message):
        shard(**options)
    assert not (tmp_path / "run").exists()


def test_a_universal_perturbation_has_no_shards(smooth: Network, tmp_path: Path) -> None:
    with pytest.raises(LitVizError, match=r"^shard does not apply to UniversalPerturbation, whose tasks share"):
        lv.attack(smooth, noise(2, 3, 16, 16), attack="universal", out=tmp_path / "run", shard="0/2", logger="none")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SLURM_ARRAY_TASK_ID": 3, "SLURM_ARRAY_TASK_COUNT": 8}, "3/8"),
        ({"SLURM_ARRAY_TASK_ID": 3, "SLURM_ARRAY_TASK_COUNT": 8, "SLURM_ARRAY_TASK_MIN": 1}, "2/8"),
        (
            {"SLURM_ARRAY_TASK_ID": 6, "SLURM_ARRAY_TASK_COUNT": 4, "SLURM_ARRAY_TASK_STEP": 2},
            "3/4",
        ),
        ({"TORCHELASTIC_RUN_ID": "x", "RANK": 1, "WORLD_SIZE": 2}, "1/2"),
        (
            {
                "TORCHELASTIC_RUN_ID": "x", "RANK": 1, "WORLD_SIZE": 4,
                "SLURM_ARRAY_TASK_ID": 2, "SLURM_ARRAY_TASK_COUNT": 3,
            },
            "9/12",
        ),
    ],
)  # fmt: skip
def test_the_shard_of_a_process(variables: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_launchers(monkeypatch)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    assert str(Shard.parse("auto")) == expected


def test_an_array_with_gaps_has_no_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_launchers(monkeypatch)
    for name, value in {"ID": "7", "COUNT": "3", "MIN": "1"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    with pytest.raises(LitVizError, match="an array such as 0-7, got one with gaps"):
        Shard.parse("auto")


def hide_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(_LAUNCHERS):
            monkeypatch.delenv(name)


def test_processes_of_torchrun_are_shards(
    smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lit_viz: Any, small_options: Any
) -> None:
    """They wait for no other, and every process has its results."""
    hide_launchers(monkeypatch)
    names = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    module, tasks = saliency(smooth)
    run = lv.run(module, tasks, tmp_path / "objects", logger="none", shard="auto")
    assert [record.index for record in run.records] == [1, 3, 5, 7]
    photos = ["packaged:chelsea", "packaged:coffee"]
    lit_viz("saliency", *photos, *small_options, "--shard", "auto", "--out", str(tmp_path / "command"))
    (record,) = FolderStorage.open(tmp_path / "command" / "shard-1-of-2").records()
    assert record.name == "coffee"


def write_large_run(folder: FolderStorage, count: int) -> None:
    """Write queue and segments of a run with many tasks."""
    folder.write_config("")
    tasks = []
    for index in range(count):
        source = f"photographs/train/n01443537/{index}.jpeg"
        tasks.append(Task(index, f"image {index}", index, source=source, label=3))
    folder.write_queue(tasks)
    for task in reversed(tasks):
        record = Record.of(task, metrics={"probability": 0.5, "logit": 1.0})
        folder.in_progress[task.index] = Contents({f"images/{task.key}.png": {"size": 9, "sha256": "0" * 64}})
        folder.add_result(Result(task, record))
    folder.commit()


_MEASURE = """
import sys, tracemalloc
from lit_viz.runs.folder import FolderStorage
folder = FolderStorage(sys.argv[1])
assert folder.records()[0].index == folder.queue()[0].index == 0
tracemalloc.start()
folder.load()
queue, records = folder.queue(), folder.records()
count = len(queue)
assert sum(task.seed for task in queue) == count * (count - 1) // 2
assert (len(records), records[-1].index, len(folder.segments.lines)) == (count, count - 1, count)
folder.seal()
assert sum(record.index for record in folder.records()[::50]) == sum(range(0, count, 50))
print(tracemalloc.get_traced_memory()[1])
"""


@pytest.mark.slow
def test_queue_and_records_take_little_memory(tmp_path: Path) -> None:
    count = 20_000
    write_large_run(FolderStorage(tmp_path), count)
    command = [sys.executable, "-c", _MEASURE, str(tmp_path)]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert peak / count < 300
