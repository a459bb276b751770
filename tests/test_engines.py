"""The recipes of docs/scale.md, with a worker that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

import lit_viz as lv
from lit_viz.images.reading import encode_png, read_photograph
from lit_viz.runs.segments import segment_files
from lit_viz.runs.tar_store import open_run
from tests.support.peers import require_package

ROOT = Path(__file__).parents[1]
COUNT = 48
NEEDS_PROC = pytest.mark.skipif(sys.platform != "linux", reason="workers are found in /proc")
#: Arguments of a run whose shards take some seconds, with several segments each.
WORDS = [
    "saliency", "photographs", "--network", "zoo/fashion_cnn", "--method", "smoothgrad", "--iterations", "400",
    "--slots", "4", "--checkpoint-every", "20", "--wandb", "disabled", "--out", "maps", "--shard", "auto",
]  # fmt: skip


def write_photographs(folder: Path, channels: int, size: int, count: int = COUNT) -> None:
    folder.mkdir()
    for index in range(count):
        image = torch.rand(channels, size, size, generator=torch.Generator().manual_seed(index))
        (folder / f"{index:02d}.png").write_bytes(encode_png(image))


def environment(programs: Path | None = None) -> dict[str, str]:
    """Return variables of processes that import this package, with a folder of programs before the others."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    if programs is not None:
        variables["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return variables


def write_program(folder: Path, name: str, command: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{command}\n")
    (folder / name).chmod(0o755)


def has_results(shard: Path) -> bool:
    return bool(segment_files(shard))


def check_merged(maps: Path, merged: Path, shape: tuple[int, int]) -> None:
    """Merge the shards in a folder, and check that the run has a map of each photograph."""
    run = lv.merge(maps, merged)
    assert [record.status for record in run.records] == ["done"] * COUNT
    assert run.maps.shape == (COUNT, *shape)


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


def kill_worker(started: subprocess.Popen[bytes], title: str, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to the first worker of a program that has this title, the start of its command line."""
    while started.poll() is None:
        for process, command in descendants(started.pid).items():
            if command.startswith(title):
                os.kill(process, number)
                return
        time.sleep(0.05)
    pytest.fail("the program ended before a worker could be killed")


@pytest.mark.parametrize("name", ["ray_maps.py", "slurm.sh", "submitit_maps.py"])
def test_the_page_prints_the_recipe(name: str) -> None:
    text = (ROOT / "scripts" / name).read_text(encoding="utf-8")
    code = text.partition('"""\n\n')[2] or text  # a shell script has no docstring
    language = "python" if name.endswith(".py") else "bash"
    assert f"```{language}\n{code}```" in (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert len(code.splitlines()) <= 30


@pytest.mark.slow
@NEEDS_PROC
def test_ray_repeats_the_batches_of_an_actor_that_is_killed(tmp_path: Path) -> None:
    require_package("ray")
    import pyarrow.parquet as pq

    photographs = tmp_path / "photographs"
    write_photographs(photographs, channels=3, size=224)
    variables = {**environment(), "RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "300"}
    command = [sys.executable, ROOT / "scripts" / "ray_maps.py", photographs, tmp_path / "maps"]
    log = (tmp_path / "log.txt").open("wb")
    with log, subprocess.Popen(command, env=variables, cwd=tmp_path, stdout=log, stderr=log) as started:
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


#: The actors of the recipe, each of which waits for the other one and adds its process to the rows.
TWO_ACTORS = """
import os
import sys
import time
from pathlib import Path

import ray
from ray_maps import Maps


class Counted(Maps):
    def __init__(self):
        super().__init__()
        Path({folder!r}, str(os.getpid())).touch()

    def __call__(self, batch):
        while len(os.listdir({folder!r})) < 2:
            time.sleep(0.05)
        rows = super().__call__(batch)
        return {{"path": rows["path"], "class": rows["class"], "process": [os.getpid()] * len(rows["path"])}}


ray.init(num_cpus=4)
images = ray.data.read_images(sys.argv[1], size=(224, 224), mode="RGB", include_paths=True)
images.map_batches(Counted, batch_size=4, concurrency=2).write_parquet(sys.argv[2])
"""


@pytest.mark.slow
@NEEDS_PROC
def test_two_actors_of_ray_share_the_photographs(tmp_path: Path) -> None:
    require_package("ray")
    import pyarrow.parquet as pq

    photographs, actors = tmp_path / "photographs", tmp_path / "actors"
    write_photographs(photographs, channels=3, size=224)
    actors.mkdir()
    program = tmp_path / "two_actors.py"
    program.write_text(TWO_ACTORS.format(folder=str(actors)))
    variables = {**environment(), "RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "300"}
    variables["PYTHONPATH"] += f"{os.pathsep}{ROOT / 'scripts'}"
    words = [sys.executable, program, photographs, tmp_path / "maps"]
    ran = subprocess.run(words, env=variables, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    table = pq.read_table(tmp_path / "maps").to_pydict()
    assert sorted(Path(path).name for path in table["path"]) == [f"{index:02d}.png" for index in range(COUNT)]
    assert {str(process) for process in table["process"]} == {actor.name for actor in actors.iterdir()}


@pytest.mark.slow
@NEEDS_PROC
def test_torchrun_continues_the_shards_of_a_worker_that_is_killed(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photographs", channels=1, size=28)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--max-restarts", "3"]
    command = [*launcher, "-m", "lit_viz", *WORDS]
    log = (tmp_path / "log.txt").open("wb")
    with log, subprocess.Popen(command, env=environment(), cwd=tmp_path, stdout=log, stderr=log) as started:
        while started.poll() is None and not has_results(tmp_path / "maps" / "shard-0-of-2"):
            time.sleep(0.05)
        kill_worker(started, f"{sys.executable} -u -m lit_viz")
    assert started.returncode == 0, (tmp_path / "log.txt").read_text()[-3000:]
    check_merged(tmp_path / "maps", tmp_path / "merged", (28, 28))


@pytest.mark.slow
@NEEDS_PROC
def test_a_task_of_an_array_that_is_killed_continues(tmp_path: Path) -> None:
    """The script runs with the variables of SLURM, without it."""
    write_photographs(tmp_path / "photographs", channels=1, size=28)
    write_program(tmp_path / "bin", "lit-viz", f'exec {sys.executable} -m lit_viz "$@"')
    write_program(tmp_path / "bin", "srun", 'shift\nexec "$@"')  # without its option

    def start(task: int) -> subprocess.Popen[bytes]:
        numbers = {"JOB_ID": 7 + task, "ARRAY_JOB_ID": 8}
        array = {"ARRAY_TASK_ID": 1 + task, "ARRAY_TASK_COUNT": 2, "ARRAY_TASK_MIN": 1}
        variables = environment(tmp_path / "bin")
        for name, value in {**numbers, **array}.items():
            variables[f"SLURM_{name}"] = str(value)
        with (tmp_path / "log.txt").open("ab") as log:
            command = ["bash", ROOT / "scripts" / "slurm.sh", *WORDS]
            return subprocess.Popen(command, env=variables, cwd=tmp_path, stdout=log, stderr=log)

    with start(0) as killed, start(1) as other:
        while killed.poll() is None and not has_results(tmp_path / "maps" / "shard-0-of-2"):
            time.sleep(0.05)
        kill_worker(killed, f"{sys.executable} -m lit_viz")
    assert (killed.returncode, other.returncode) == (137, 0), (tmp_path / "log.txt").read_text()[-3000:]
    with start(0) as repeated:
        pass
    assert repeated.returncode == 0, (tmp_path / "log.txt").read_text()[-3000:]
    check_merged(tmp_path / "maps", tmp_path / "merged", (28, 28))


@pytest.mark.slow
def test_slurm_requeues_a_task_of_an_array_alone(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    slurm: Callable[[Path, dict[str, str]], AbstractContextManager[Any]],
) -> None:
    """That with the number of the array is stopped as before its time limit; the other one is killed."""
    folder = tmp_path_factory.mktemp("slurm")  # a short name: sockets lie in it
    write_photographs(tmp_path / "photographs", channels=1, size=28)
    write_program(tmp_path / "bin", "lit-viz", f'exec {sys.executable} -m lit_viz "$@"')
    where = ["--parsable", "--array", "0-1", "--chdir", str(tmp_path), "--output", str(tmp_path / "log.txt")]
    with slurm(folder, environment(tmp_path / "bin")) as cluster:
        array = cluster("sbatch", *where, str(ROOT / "scripts" / "slurm.sh"), *WORDS).strip()
        shards = [tmp_path / "maps" / f"shard-{index}-of-2" for index in range(2)]
        cluster.wait(lambda: all(has_results(shard) for shard in shards))
        tasks = [f"{array}_{index}" for index in range(2)]
        (last,) = [task for task in tasks if cluster.job(task)["JobId"] == array]
        (other,) = set(tasks) - {last}
        cluster("scancel", "--signal", "KILL", f"{other}.0")
        cluster("scancel", "--signal", "TERM", last)
        cluster.wait(lambda: cluster.job(other)["JobState"] == "FAILED")
        cluster.wait(lambda: cluster.job(last)["JobState"] == "PENDING")
        assert cluster.job(other)["Restarts"] == "0"
        cluster("scontrol", "requeue", other)
        for task in tasks:
            cluster("scontrol", "update", f"JobId={task}", "StartTime=now+5")  # SLURM requeues after two minutes
        cluster.wait(lambda: {cluster.job(task)["JobState"] for task in tasks} == {"COMPLETED"})
        assert [cluster.job(task)["Restarts"] for task in tasks] == ["1", "1"]
    check_merged(tmp_path / "maps", tmp_path / "merged", (28, 28))


@pytest.mark.slow
@NEEDS_PROC
@pytest.mark.parametrize("end", ["killed", "time limit"])
def test_submitit_submits_the_shard_of_a_stopped_worker_again(end: str, tmp_path: Path) -> None:
    """A job receives SIGUSR2 before its time limit. Of one with a limit of some minutes, submitit takes it for that."""
    require_package("submitit")
    count = 4 * COUNT  # so that a worker is stopped before its last batch
    write_photographs(tmp_path / "photographs", channels=3, size=224, count=count)
    text = (ROOT / "scripts" / "submitit_maps.py").read_text(encoding="utf-8")
    assert "shard=shard)" in text
    text = text.replace("shard=shard)", "shard=shard, checkpoint_every=1)")  # by default the first one is at the end
    number = signal.SIGKILL
    if end == "time limit":
        assert "timeout_min=600" in text
        text, number = text.replace("timeout_min=600", "timeout_min=9"), signal.SIGUSR2
    (tmp_path / "maps.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "maps.py", "photographs", "maps", "local"]
    variables = {**environment(), "WANDB_MODE": "disabled"}
    log = (tmp_path / "log.txt").open("wb")
    with log, subprocess.Popen(command, env=variables, cwd=tmp_path, stdout=log, stderr=log) as started:
        while started.poll() is None and not has_results(tmp_path / "maps" / "shard-0-of-2"):
            time.sleep(0.05)
        kill_worker(started, f"{sys.executable} -u -m submitit.core._submit", number)
    assert started.returncode == 0, (tmp_path / "log.txt").read_text()[-3000:]
    assert len(list((tmp_path / "maps" / "jobs").glob("*_submitted.pkl"))) == 3
    merged = open_run(tmp_path / "maps" / "merged")
    assert [record.status for record in merged.records()] == ["done"] * count
    assert [result.array().shape for result in merged.outcomes()] == [(3, 224, 224)] * count
