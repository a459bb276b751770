"""Merged shards are one run; what does not belong together is refused in one sentence."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.errors import Interrupted, LitVizError
from lit_viz.images.reading import encode_png
from lit_viz.networks import Network
from lit_viz.outputs import load_network
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.layout import MANIFEST
from lit_viz.runs.segments import segment_files
from tests.support.networks import NAMES, smooth_network
from tests.support.segments import change_text
from tests.support.shards import contents, stop_at

COUNT = 7


def images(count: int = COUNT) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255


def run_shard(network: Network, out: Path, shard: str, **options: Any) -> Path:
    given = {"attack": "pgd", "iterations": 2, "target": 2, "slots": 1, "logger": "none", "out": out, "shard": shard}
    run = lv.attack(network, options.pop("images", images()), **{**given, **options})
    assert run.folder is not None
    return run.folder


@pytest.fixture(scope="module")
def finished(smooth: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with three shards of a run of seven attacks."""
    out = tmp_path_factory.mktemp("finished") / "run"
    for index in range(3):
        run_shard(smooth, out, f"{index}/3")
    return out


@pytest.fixture
def shards(finished: Path, tmp_path: Path) -> list[Path]:
    copy = shutil.copytree(finished, tmp_path / "run")
    return [copy / f"shard-{index}-of-3" for index in range(3)]


def test_a_merged_run_is_an_ordinary_run(shards: list[Path], smooth: Network, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    before = contents(*shards)
    merged = lv.merge(list(reversed(shards)), out, smooth)
    assert contents(*shards) == contents(out) == before
    assert [record.index for record in merged.records] == list(range(COUNT))
    assert all((out / name).exists() for name in ("figure.png", "report.html", "evidence.json"))
    assert next((out / "images").iterdir()).stat().st_nlink == 2
    assert lv.check(out, smooth)
    assert len(lv.resume(out, smooth)) == COUNT
    assert contents(*shards) == before
    recorded = FolderStorage.open(out).recorded
    assert [shard["folder"] for shard in recorded["shards"]] == [str(path) for path in reversed(shards)]


def test_files_are_copied_where_links_are_not_possible(
    shards: list[Path], smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise OSError("another file system")

    monkeypatch.setattr("lit_viz.runs.merging.os.link", refused)
    lv.merge(shards, tmp_path / "merged", smooth)
    assert contents(tmp_path / "merged") == contents(*shards)


def flip(folder: Path, pattern: str) -> None:
    """Change a byte of a file."""
    file = sorted(folder.glob(pattern))[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def change_record(folder: Path) -> None:
    change_text(folder, '"status": "done"', '"status": "skipped"')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: flip(path, "images/*"), r"images/.* was changed after it was written.*: lit-viz resume "),
        (lambda path: flip(path, "queue.jsonl"), "queue.jsonl was changed after the start of the run"),
        (lambda path: next((path / "images").iterdir()).unlink(), "images/.* is missing"),
        (change_record, "records/.* was changed"),
        (lambda path: (path / MANIFEST).unlink(), "is unfinished: lit-viz resume "),
    ],
)
def test_damaged_shards_are_refused(
    damage: Callable[[Path], None], message: str, shards: list[Path], smooth: Network, tmp_path: Path
) -> None:
    damage(shards[1])
    with pytest.raises(LitVizError, match=message):
        lv.merge(shards, tmp_path / "merged", smooth)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([0, 2], "^shard 1/3 is missing: name all shards, or give partial$"),
        ([2], "^shard 0/3, shard 1/3 are missing: "),
        ([0, 1, 2, 1], r"shard-1-of-3 and .*shard-1-of-3 are both shard 1/3: leave one out$"),
        ([], "^shards to merge must be at least one, got none$"),
    ],
)
def test_lost_and_doubled_shards_are_refused(
    chosen: Sequence[int], message: str, shards: list[Path], smooth: Network, tmp_path: Path
) -> None:
    with pytest.raises(LitVizError, match=message):
        lv.merge([shards[index] for index in chosen], tmp_path / "merged", smooth)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 3}, "shard-1-of-3 have other options: iterations is 2, and 3$"),
        ({"eps": "1/255"}, "shard-1-of-3 have other options: attack.eps is "),
        ({"seed": 5}, "have other options: seed is 0, and 5$"),
        ({"images": images(6)}, r"have other options: images is \['array:0'.*"),
        ({"shard": "1/4"}, "overlap: they are shards 0/3 and 1/4$"),
    ],
)
def test_shards_of_other_runs_are_refused(
    options: dict[str, Any], message: str, shards: list[Path], smooth: Network, tmp_path: Path
) -> None:
    given = {"shard": "1/3", **options}
    other = run_shard(smooth, tmp_path / "other", **given)
    with pytest.raises(LitVizError, match=message):
        lv.merge([shards[0], other, shards[2]], tmp_path / "merged", smooth)


def test_a_shard_of_another_network_is_refused(shards: list[Path], smooth: Network, tmp_path: Path) -> None:
    module = smooth_network()
    with torch.no_grad():
        next(module.parameters()).mul_(1.5)
    network = load_network(module, labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16)
    other = run_shard(network, tmp_path / "other", "1/3")
    with pytest.raises(LitVizError, match="are of networks with other weights: merge shards of one network"):
        lv.merge([shards[0], other, shards[2]], tmp_path / "merged", smooth)


def test_shards_of_a_folder_that_has_changed_are_refused(smooth: Network, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    folders = []
    for index in range(2):
        for number, pixels in enumerate(images(3 + index)):
            (tmp_path / "images" / f"{number}.png").write_bytes(encode_png(pixels))
        folders.append(run_shard(smooth, tmp_path / "run", f"{index}/2", images=str(tmp_path / "images")))
    with pytest.raises(LitVizError, match=r"have other tasks: their photographs or classes were not the same$"):
        lv.merge(folders, tmp_path / "merged", smooth)


def test_a_whole_run_is_not_merged(shards: list[Path], smooth: Network, tmp_path: Path) -> None:
    merged = lv.merge(shards, tmp_path / "merged", smooth).folder
    assert merged is not None
    with pytest.raises(LitVizError, match="merged is not a shard: give the folders of runs with shard=i/n"):
        lv.merge([merged], tmp_path / "again", smooth)
    with pytest.raises(LitVizError, match="already holds a run"):
        lv.merge(shards, merged, smooth)


def test_a_partial_merge_has_what_is_there(
    shards: list[Path], smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Of a shard that was stopped, and without one that is lost."""
    shutil.rmtree(shards[0])
    with monkeypatch.context() as patched:
        stop_at(patched, index=3)
        with pytest.raises(Interrupted):
            run_shard(smooth, tmp_path / "run", "0/3")
    shutil.rmtree(shards[2])
    merged = lv.merge([shards[0], shards[1]], tmp_path / "merged", smooth, partial=True)
    done = [record.index for record in merged.records]
    assert set(done) >= {1, 4}
    assert set(done) < {0, 1, 3, 4, 6}
    assert "shard 2/3, " in caplog.text
    assert "of shard 0/3 are missing" in caplog.text
    assert contents(tmp_path / "merged")["records"] == [
        record for record in contents(*shards[:2])["records"] if record["index"] in done
    ]
    recorded = FolderStorage.open(tmp_path / "merged").recorded
    assert recorded["missing"][0] == "shard 2/3"
    assert lv.check(tmp_path / "merged", smooth)
    run_shard(smooth, tmp_path / "run", "0/3")
    run_shard(smooth, tmp_path / "run", "2/3")
    whole = lv.merge(tmp_path / "run", tmp_path / "whole", smooth)
    assert [record.index for record in whole.records] == list(range(COUNT))


def test_other_devices_are_noted(shards: list[Path], smooth: Network, tmp_path: Path, caplog: Any, reseal: Any) -> None:
    config = shards[1] / "config.yaml"
    device = FolderStorage.open(shards[1]).recorded["device"]
    config.write_text(config.read_text().replace(device, "NVIDIA H100"))
    reseal(shards[1])
    lv.merge(shards, tmp_path / "merged", smooth)
    assert f"the shards are of different devices: NVIDIA H100, {device}" in caplog.text
    recorded = FolderStorage.open(tmp_path / "merged").recorded
    assert [shard["device"] for shard in recorded["shards"]] == [device, "NVIDIA H100", device]


def test_the_command_merges_a_folder_of_shards(
    tmp_path: Path, lit_viz: Any, small_options: Any, records: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["attack", "packaged:chelsea", "packaged:coffee", *small_options, "--target", "2", "--iterations", "2"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index in range(2):
            lit_viz(*words, "--out", str(tmp_path / "run"), "--shard", f"{index}/2")
    output = capsys.readouterr().out
    assert f"next     lit-viz merge {tmp_path / 'run'} --out RUN" in output
    lit_viz("merge", str(tmp_path / "run"), "--out", str(tmp_path / "merged"))
    assert [record["name"] for record in records(tmp_path / "merged")] == ["chelsea", "coffee"]
    assert (tmp_path / "merged" / "report.html").exists()
    lit_viz("merge", str(tmp_path / "run"), expect=1)
    assert "lit-viz merge requires --out" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_shard_continues_and_nothing_is_lost(tmp_path: Path, lit_viz: Any, small_options: Any) -> None:
    """Its process ends after its first record, without a signal handler."""
    (tmp_path / "images").mkdir()
    for number, pixels in enumerate(images(6)):
        (tmp_path / "images" / f"{number}.png").write_bytes(encode_png(pixels))
    words = ["attack", str(tmp_path / "images"), *small_options, "--target", "2", "--attack", "pgd", "--iterations"]
    words += ["40", "--slots", "1", "--checkpoint-every", "1", "--precision", "64-true"]
    lit_viz(*words, "--out", str(tmp_path / "whole"))
    sharded = [*words, "--out", str(tmp_path / "run"), "--shard"]
    lit_viz(*sharded, "1/2")
    shard = tmp_path / "run" / "shard-0-of-2"
    process = subprocess.Popen([sys.executable, "-m", "lit_viz", *sharded, "0/2"], stderr=subprocess.DEVNULL)
    while not segment_files(shard) and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    lit_viz(*sharded, "0/2")
    lit_viz("merge", str(tmp_path / "run"), "--out", str(tmp_path / "merged"))
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")
