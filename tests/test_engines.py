"""The recipes of docs/scale.md, with a worker that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import lit_viz as lv
from lit_viz.images.reading import encode_png, read_photograph
from tests.support.peers import require_package

ROOT = Path(__file__).parents[1]
COUNT = 48


def descendants(parent: int) -> dict[int, str]:
    """Return the command lines of the processes that a process has started, by process id."""
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:  # it has ended
            continue
    found: dict[int, str] = {}
    pending = [parent]
    while pending:
        current = pending.pop()
        for process, its_parent in parents.items():
            if its_parent == current:
                found[process] = commands.get(process, "")
                pending.append(process)
    return found


def kill_worker(started: subprocess.Popen[bytes], title: str) -> None:
    """Kill the first worker of a program that has this title, the start of its command line."""
    while started.poll() is None:
        for process, command in descendants(started.pid).items():
            if command.startswith(title):
                os.kill(process, signal.SIGKILL)
                return
        time.sleep(0.05)
    pytest.fail("the program ended before a worker could be killed")


def test_the_page_prints_the_recipe() -> None:
    code = (ROOT / "scripts" / "ray_maps.py").read_text(encoding="utf-8").partition('"""\n\n')[2]
    assert f"```python\n{code}```" in (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert len(code.splitlines()) <= 30


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="workers are found in /proc")
def test_ray_repeats_the_batches_of_an_actor_that_is_killed(tmp_path: Path) -> None:
    require_package("ray")
    import pyarrow.parquet as pq

    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for index in range(COUNT):
        image = torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(index))
        (photographs / f"{index:02d}.png").write_bytes(encode_png(image))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    environment["RAY_raylet_start_wait_time_s"] = "300"
    command = [sys.executable, ROOT / "scripts" / "ray_maps.py", photographs, tmp_path / "maps"]
    log = (tmp_path / "log.txt").open("wb")
    with log, subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log) as started:
        kill_worker(started, "ray::MapWorker(MapBatches(Maps)).submit")
    assert started.returncode == 0, (tmp_path / "log.txt").read_text()[-3000:]
    table = pq.read_table(tmp_path / "maps").to_pydict()
    assert sorted(Path(path).name for path in table["path"]) == [f"{index:02d}.png" for index in range(COUNT)]
    network = lv.load_network("efficientnet_lite0")
    image = read_photograph(table["path"][0], network.size).pixels
    maps, records = lv.functional.saliency(network, image[None], target="predicted", method="gradient")
    assert records[0].target_name == table["class"][0]
    stored = torch.tensor(table["map"][0]).view(224, 224)  # Parquet has the values of a tensor as a list
    torch.testing.assert_close(stored, maps[0].half().float(), rtol=0.01, atol=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="workers are found in /proc")
def test_torchrun_continues_the_shards_of_a_worker_that_is_killed(tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for index in range(COUNT):
        image = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(index))
        (photographs / f"{index:02d}.png").write_bytes(encode_png(image))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--max-restarts", "3"]
    words = ["saliency", str(photographs), "--network", "zoo/fashion_cnn", "--method", "smoothgrad", "--out", "maps"]
    settings = ["--iterations", "400", "--slots", "4", "--wandb", "disabled", "--shard", "auto"]
    command = [*launcher, "-m", "lit_viz", *words, *settings]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    log = (tmp_path / "log.txt").open("wb")
    with log, subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log) as started:
        records = tmp_path / "maps" / "shard-0-of-2" / "results.jsonl"
        while started.poll() is None and not (records.exists() and records.stat().st_size):
            time.sleep(0.05)
        kill_worker(started, f"{sys.executable} -u -m lit_viz")
    assert started.returncode == 0, (tmp_path / "log.txt").read_text()[-3000:]
    run = lv.merge(tmp_path / "maps", tmp_path / "merged")
    assert [record.status for record in run.records] == ["done"] * COUNT
    assert run.maps.shape == (COUNT, 28, 28)
