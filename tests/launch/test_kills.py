"""Shards that are killed again and again have the results of shards that are not."""

from __future__ import annotations

import multiprocessing
import random
import signal
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import lit_viz as lv
from lit_viz.images.reading import encode_png
from lit_viz.runs.folder import FolderStorage
from tests.support.shards import run_shard

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="starts processes by fork")]

PHOTOGRAPHS, SHARDS = 240, 4
KILLS, CUTS = 20, 5


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index in range(PHOTOGRAPHS):
        picture = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(index))
        (folder / f"{index:03d}.png").write_bytes(encode_png(picture))
    return folder


class Shards:
    """Processes of shards, which import the package once."""

    def __init__(self, photographs: Path, out: Path) -> None:
        self._given = photographs, out
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.support.shards"])

    def run(self, shard: int, delay: float | None = None, is_cut: bool = False) -> int | None:
        """Run a shard to its end, or kill it some seconds after its first result; return the exit code."""
        has_record = self._context.Event()
        arguments = (*self._given, f"{shard}/{SHARDS}", has_record, is_cut)
        process = self._context.Process(target=run_shard, args=arguments)
        process.start()
        if delay is not None:
            while process.is_alive() and not has_record.wait(0.01):
                pass
            time.sleep(delay)
            process.kill()
        process.join()
        return process.exitcode


def members(run: Path) -> dict[str, bytes]:
    """Return the files of all tasks, without their records, by name."""
    found: dict[str, bytes] = {}
    for path in sorted((run / "tars").iterdir()):
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                if not member.name.endswith(".json"):
                    found[f"{path.name}/{member.name}"] = content.read()
    return found


def records(run: Path) -> list[dict[str, Any]]:
    return [{**record.to_dict(), "seconds": None} for record in FolderStorage.open(run).records()]


def test_twenty_kills_change_no_result(photographs: Path, tmp_path: Path) -> None:
    undisturbed = Shards(photographs, tmp_path / "undisturbed")
    assert [undisturbed.run(shard) for shard in range(SHARDS)] == [0] * SHARDS
    lv.merge(tmp_path / "undisturbed", tmp_path / "expected")

    draws = random.Random(0)
    cuts = set(draws.sample(range(KILLS), CUTS))
    killed = Shards(photographs, tmp_path / "killed")
    unfinished = list(range(SHARDS))
    kills = 0
    while kills < KILLS and unfinished:
        shard = unfinished[kills % len(unfinished)]
        is_cut = kills in cuts
        code = killed.run(shard, delay=None if is_cut else draws.uniform(0, 0.3), is_cut=is_cut)
        if code == 0:  # it has ended before
            unfinished.remove(shard)
            continue
        assert code == -signal.SIGKILL
        kills += 1
    assert kills == KILLS
    assert [killed.run(shard) for shard in range(SHARDS)] == [0] * SHARDS
    lv.merge(tmp_path / "killed", tmp_path / "merged")
    assert records(tmp_path / "merged") == records(tmp_path / "expected")
    assert members(tmp_path / "merged") == members(tmp_path / "expected")
    assert len(records(tmp_path / "merged")) == PHOTOGRAPHS
