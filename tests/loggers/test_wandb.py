"""Runs in W&B: offline ones read by W&B's own reader, and openings with a server of this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import wandb
from PIL import Image
from pytorch_lightning.loggers import WandbLogger

import lit_viz as lv
from lit_viz.callbacks.logging import FolderLogger, LoggerThread
from lit_viz.engine.snapshots import Result, Snapshot
from lit_viz.figures.layout import pixels
from lit_viz.loggers.base import LoggerSettings
from lit_viz.loggers.rows import FolderRows
from lit_viz.loggers.wandb import _arguments as arguments_of
from lit_viz.loggers.wandb import open_adapter
from lit_viz.methods import ClassVisualization
from lit_viz.networks import Network
from lit_viz.runs.evidence import ImageEvidence, ImageNaturalness, NaturalnessEvidence, VisualizationEvidence
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.records import ClassImageRecord
from lit_viz.types import Task

TOP5 = (("tarantula", 0.93), ("barn spider", 0.04))
KEY = 40 * "a"
OFFLINE = LoggerSettings(wandb="offline")


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A user without an API key or settings of W&B."""
    home = tmp_path_factory.getbasetemp()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    for name in ("CONFIG", "CACHE", "DATA", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(home / "wandb"))
    wandb.teardown()  # W&B reads the environment at its next start
    yield
    wandb.teardown()


def new_folder(path: Path, tasks: Sequence[Task] = ()) -> FolderStorage:
    folder = FolderStorage.create(path)
    folder.write_start(
        "module:\n  init_args:\n    step_rule:\n      lr: 0.1\ntasks:\n  init_args:\n    seed: 0\n", {}, tasks
    )
    return folder


# -- an offline run


def tarantulas(count: int) -> list[Task]:
    return [Task(i, "tarantula", seed=i, target=76, target_name="tarantula") for i in range(count)]


def snapshot(task: Task, iteration: int) -> Snapshot:
    pixels = torch.full((3, 8, 8), 0.2 + 0.1 * task.index)
    pixels[:, : 2 + iteration // 50] = 0.9
    metrics = {"probability": iteration / 100, "rank": 1.0, "logit": 3.0}
    return Snapshot(task, iteration, metrics, pixels, TOP5)


def offline_log(folder: FolderStorage, notify: Callable[[str], object]) -> FolderLogger:
    adapter = open_adapter(folder, OFFLINE, notify)
    assert adapter is not None
    thread = LoggerThread("wandb", adapter, folder, notify)
    return FolderLogger(FolderRows(folder, ClassVisualization), [thread])


def log_snapshots(
    callback: FolderLogger, folder: FolderStorage, tasks: Sequence[Task], iterations: Sequence[int]
) -> None:
    """Write and log snapshots."""
    for k in iterations:
        for task in tasks:
            folder.add_snapshot(snapshot(task, k))
    folder.commit()
    callback.log_rows(())


def segments(folder: FolderStorage) -> list[Path]:
    return sorted((folder.path / "wandb").glob("offline-run-*"))


def inspect(segment: Path) -> list[dict[str, Any]]:
    """Return the records of an offline run, read by W&B's own reader."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(segment)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    return [json.loads(line) for line in output.splitlines()]


def history(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record["history"]["item"] for record in records if record["type"] == "history"]


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two tasks logged at iterations 0 and 50, stopped, and resumed for 100: lines printed and W&B's records."""
    tasks = tarantulas(2)
    folder = new_folder(tmp_path_factory.mktemp("wandb") / "run", tasks)
    lines: list[str] = []
    first = offline_log(folder, lines.append)
    log_snapshots(first, folder, tasks, (0, 50))
    first.close(success=False)
    before = inspect(segments(folder)[0])
    second = offline_log(folder, lines.append)
    second.log_rows(())
    log_snapshots(second, folder, tasks, (100,))
    for task in tasks:
        others = {"top5": TOP5, "box": "none" if task.index else 3}
        record = ClassImageRecord.of(task, iterations=100, metrics={"probability": 1.0}, settings=others)
        folder.add_result(Result(task, record, snapshot(task, 100).image))
    folder.commit()
    folder.merge_evidence(VisualizationEvidence(pictures=ImageEvidence(read=2, same=2, wrong=[])))
    entry = ImageNaturalness(index=0, name="tarantula", target_name="tarantula", photographs=3, layers=[])
    folder.merge_evidence(VisualizationEvidence(naturalness=NaturalnessEvidence(photographs=3, images=[entry])))
    folder.seal()
    second.finish()
    second.finish()
    (part,) = segments(folder)
    return SimpleNamespace(folder=folder, lines=lines, before=before, records=inspect(part), files=part / "files")


def test_a_resume_logs_every_row_once(offline: SimpleNamespace) -> None:
    """Offline files are rewritten."""
    assert [row["iteration"] for row in history(offline.before)] == [0, 0, 50, 50]
    rows = history(offline.records)
    assert [row["iteration"] for row in rows] == [0, 0, 50, 50, 100, 100, 100]
    keys = [[key for key in row if key.startswith("probability/")] for row in rows[:4]]
    assert keys == 2 * [["probability/0000_tarantula"], ["probability/0001_tarantula"]]
    assert [row["probability/0001_tarantula"] for row in rows[1:4:2]] == [0.0, 0.5]
    assert rows[0]["logit/0000_tarantula"] == 3.0


def test_the_configuration_of_the_run_is_logged(offline: SimpleNamespace) -> None:
    (config,) = [record["config"]["update"] for record in offline.records if record["type"] == "config"]
    assert (config["seed"], config["step_rule"]) == (0, {"lr": 0.1})


def test_iteration_is_the_step_metric(offline: SimpleNamespace) -> None:
    metrics = [record["metric"] for record in offline.records if record["type"] == "metric"]
    assert {(metric.get("glob_name"), metric.get("step_metric")) for metric in metrics} >= {("*", "iteration")}


def test_images_and_captions_of_the_iterations(offline: SimpleNamespace) -> None:
    shown = [row for row in history(offline.before) if "image/0000_tarantula.path" in row]
    assert [row["image/0000_tarantula.caption"].splitlines() for row in shown] == [
        ["tarantula - iteration 0 - p < 0.01 (rank 1)", "tarantula 0.93, barn spider 0.04"],
        ["tarantula - iteration 50 - p = 0.50 (rank 1)", "tarantula 0.93, barn spider 0.04"],
    ]
    again = [row for row in history(offline.records) if "image/0000_tarantula.path" in row]
    assert [row["image/0000_tarantula.caption"] for row in again[:2]] == [
        row["image/0000_tarantula.caption"] for row in shown
    ]
    start, later = (np.asarray(Image.open(offline.files / row["image/0000_tarantula.path"])) for row in again[:2])
    expected = np.full((8, 8, 3), 51, np.uint8)
    expected[:2] = 230
    assert np.array_equal(start, expected)
    expected[2] = 230
    assert np.array_equal(later, expected)


def test_a_resume_continues_the_same_run(offline: SimpleNamespace) -> None:
    both = [*offline.before, *offline.records]
    (run_id,) = {record["run"]["run_id"] for record in both if record["type"] == "run"}
    assert (offline.folder.path / "wandb" / "run_id.txt").read_text() == run_id + "\n"
    assert [record["exit"].get("exit_code", 0) for record in both if record["type"] == "exit"] == [1, 0]
    assert (offline.folder.path / "wandb" / "complete").exists()


def test_a_finished_run_has_a_table_and_an_artifact(offline: SimpleNamespace) -> None:
    (row,) = [row for row in history(offline.records) if "results._type" in row]
    table = json.loads((offline.files / row["results.path"]).read_text())
    assert table["columns"][:4] == ["image", "kind", "index", "name"]
    assert len(table["data"]) == 2
    last = dict(zip(table["columns"], table["data"][1], strict=True))
    assert (last["probability"], last["box"], json.loads(last["top5"])[0][0]) == (1.0, "none", "tarantula")
    artifacts = [record["artifact"] for record in offline.records if record["type"] == "artifact"]
    paths = [(a["type"], {entry["path"] for entry in a["manifest"]["contents"]}) for a in artifacts]
    images_of_tables = [sum(path.endswith(".png") for path in files) for kind, files in paths if kind == "run_table"]
    assert sorted(images_of_tables) == [0, 0, 2, 6]
    assert dict(paths)["results"] == {
        "config.yaml",
        "evidence.json",
        "metrics.csv",
        "results.jsonl",
        "images/0000_tarantula.png",
        "images/0001_tarantula.png",
    }


def test_a_finished_run_has_tables_of_its_evidence(offline: SimpleNamespace) -> None:
    (row,) = [row for row in history(offline.records) if "evidence/verdicts._type" in row]
    verdicts = json.loads((offline.files / row["evidence/verdicts.path"]).read_text())
    assert [line[:2] for line in verdicts["data"]] == [["pictures", "passed"], ["naturalness", "no verdict"]]
    assert verdicts["data"][0][2].startswith("2 of 2 files classified as recorded")
    table = json.loads((offline.files / row["evidence/naturalness.path"]).read_text())
    assert (table["columns"][:2], table["data"][0][:2]) == (["image", "photographs"], ["0 tarantula", "3"])


def test_a_finished_run_has_a_table_of_its_iterations(offline: SimpleNamespace) -> None:
    (row,) = [row for row in history(offline.records) if "iterations._type" in row]
    table = json.loads((offline.files / row["iterations.path"]).read_text())
    assert table["columns"] == ["task", "iteration", "image", "probability", "prediction"]
    assert [[*row[:2], *row[3:]] for row in table["data"]] == [
        ["tarantula", k, k / 100, "tarantula"] for _ in range(2) for k in (0, 50, 100)
    ]


def test_explicit_offline_mode_prints_nothing_and_sets_no_variable(offline: SimpleNamespace) -> None:
    assert offline.lines == []
    assert "WANDB_MODE" not in os.environ


# -- opening


def opened(
    path: Path, settings: LoggerSettings | None = None, folder: FolderStorage | None = None
) -> tuple[Any, list[str]]:
    """Open the W&B run of a new folder, and return it with the printed lines."""
    lines: list[str] = []
    adapter = open_adapter(folder or new_folder(path / "run"), settings or LoggerSettings(), lines.append)
    if adapter is None:
        return None, lines
    return adapter.logger.experiment, lines


@pytest.fixture
def use_server(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """A function that makes W&B use a server, with a key."""

    def use(server: Any) -> None:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "300")
        for limit in ("_LOGIN_SECONDS", "_INIT_SECONDS"):  # of a busy machine
            monkeypatch.setattr(f"lit_viz.loggers.wandb.{limit}", 300.0)
        wandb.teardown()

    return use


def test_an_online_run_sends_its_rows_and_continues(
    tmp_path: Path, use_server: Callable[[Any], None], wandb_server: Any
) -> None:
    folder = new_folder(tmp_path / "run")
    with wandb_server() as server:
        use_server(server)
        for k in (0, 50):
            adapter = open_adapter(folder, LoggerSettings(), pytest.fail)
            assert adapter is not None
            assert adapter.rows_logged == k // 50
            assert adapter.place.startswith(server.url)
            adapter.log({"probability": k / 100}, {}, k)
            adapter.close(success=k == 50)
        wandb.teardown()
    ((run_id, rows),) = server.history.items()
    assert [(row["iteration"], row["probability"]) for row in rows] == [(0, 0.0), (50, 0.5)]
    assert server.exits[run_id] == [1, 0]
    assert (folder.path / "wandb" / "run_id.txt").read_text() == run_id + "\n"


def test_offline_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wandb_server: Any) -> None:
    """No server is called."""
    with wandb_server("silent") as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        wandb.teardown()
        run, (line,) = opened(tmp_path)
        run.finish()
        wandb.teardown()
    assert run.offline
    assert line.startswith("W&B is offline (no API key: wandb login); later: lit-viz log ")
    assert server.requests == 0


def test_an_offline_run_of_a_busy_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of a server don't apply to it."""
    start = wandb.init

    def late(**arguments: Any) -> Any:
        time.sleep(0.1)
        return start(**arguments)

    for limit in ("_LOGIN_SECONDS", "_INIT_SECONDS"):
        monkeypatch.setattr(f"lit_viz.loggers.wandb.{limit}", 0.01)
    monkeypatch.setattr("lit_viz.loggers.wandb._OFFLINE_SECONDS", 300.0)
    monkeypatch.setattr(wandb, "init", late)
    run, lines = opened(tmp_path, OFFLINE)
    assert run.offline
    assert lines == []


def test_offline_with_a_malformed_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    run, (line,) = opened(tmp_path)
    assert run.offline
    assert "WANDB_API_KEY invalid: API key must have 40+ characters, has 3: wandb login --relogin" in line


def test_offline_with_a_rejected_key(tmp_path: Path, use_server: Callable[[Any], None], wandb_server: Any) -> None:
    with wandb_server(401) as server:
        use_server(server)
        run, (line,) = opened(tmp_path)
    assert run.offline
    assert line.startswith(f"W&B is offline (Failed to authenticate with {server.url}: wandb login --relogin); later: ")


def test_offline_without_access_to_the_project(
    tmp_path: Path, use_server: Callable[[Any], None], wandb_server: Any
) -> None:
    folder = new_folder(tmp_path / "my run")
    (folder.path / "wandb").mkdir()
    (folder.path / "wandb" / "run_id.txt").write_text("cafe0123\n")
    with wandb_server(errors={"UpsertBucket": "permission denied"}) as server:
        use_server(server)
        run, (line,) = opened(tmp_path, folder=folder)
    assert run.offline
    assert run.id != "cafe0123"  # wandb rejects the id of a run that it failed to open
    assert "permission denied" in line
    assert line.endswith(f"; later: lit-viz log '{folder.path}' --to wandb")


def test_a_run_is_offline_while_the_user_has_an_offline_run(
    tmp_path: Path, use_server: Callable[[Any], None], wandb_server: Any
) -> None:
    with wandb_server() as server:
        use_server(server)
        with wandb.init(mode="offline", dir=tmp_path, settings=wandb.Settings(silent=True)) as own:
            run, (line,) = opened(tmp_path)
            assert wandb.run is own
    assert run.offline
    assert line.startswith("W&B is offline (the open W&B run is offline); later: ")
    assert server.runs == {}


@pytest.mark.parametrize(
    ("variable", "mode", "is_offline"),
    [("offline", "auto", True), ("disabled", "auto", None), ("online", "disabled", None), ("online", "offline", True)],
)
def test_modes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, mode: Any, is_offline: bool | None
) -> None:
    monkeypatch.setenv("WANDB_MODE", variable)
    run, lines = opened(tmp_path, LoggerSettings(wandb=mode))
    assert lines == []
    assert (None if run is None else run.offline) == is_offline


def test_the_online_mode_ignores_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use_server: Callable[[Any], None], wandb_server: Any
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with wandb_server() as server:
        use_server(server)
        run, lines = opened(tmp_path, LoggerSettings(wandb="online"))
        run.finish()
    assert (run.offline, lines) == (False, [])


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


OPEN_AND_FINISH = """
import sys, time
from lit_viz.launch.logs import *
from lit_viz.methods import ClassVisualization
from lit_viz.utils.formatting import notify
import lit_viz.loggers.wandb

print(time.time())  # after the imports
folder = FolderStorage.create(sys.argv[1])
folder.write_queue([])
folder.write_config("seed: 0\\n")
log = open_loggers(folder, ["wandb"], RunOptions(), ClassVisualization, notify)
assert log.threads[0].adapter.logger.experiment.offline
log.finish()
"""


def check_fallback(url: str, run: Path) -> str:
    """Check that a process with a bad server logs offline and ends in time; return the line that it prints."""
    environment = os.environ | {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": url}
    command = [sys.executable, "-c", OPEN_AND_FINISH, str(run)]
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    assert time.time() - float(done.stdout) < 120  # a hang
    (line,) = done.stderr.splitlines()
    assert line.startswith("W&B is offline (")
    return line


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["silent", "trickle", 404, 500])
def test_a_process_with_a_bad_server_ends_in_time(tmp_path: Path, fault: Any, wandb_server: Any) -> None:
    """Servers that do not respond, that respond endlessly, without the API, and with internal errors."""
    with wandb_server(fault) as server:
        line = check_fallback(server.url, tmp_path / "run")
    assert server.url in line


@pytest.mark.slow
def test_a_process_without_a_server_ends_in_time(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    line = check_fallback(url, tmp_path / "run")
    assert line.startswith(f"W&B is offline ({url} does not respond)")


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["silent", "trickle"])
def test_a_process_ends_in_time_if_the_server_stops_after_the_login(
    tmp_path: Path, fault: Any, wandb_server: Any
) -> None:
    with wandb_server(fault, healthy=1) as server:
        check_fallback(server.url, tmp_path / "run")


def test_settings_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = opened(tmp_path, OFFLINE)
    assert (run.project, run.name, run.tags) == ("lit_viz", "run", ())
    run, _ = opened(tmp_path / "b", LoggerSettings("mine", ["x", "y"], "group", "job", "offline"))
    assert (run.project, run.tags, run.group, run.job_type) == ("mine", ("x", "y"), "group", "job")
    monkeypatch.setenv("WANDB_PROJECT", "spiders")
    run, _ = opened(tmp_path / "c", OFFLINE)
    assert run.project == "spiders"


def test_an_invalid_setting_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_CONSOLE", "bogus")
    run, (line,) = opened(tmp_path, OFFLINE)
    assert run is None
    assert line.startswith("W&B is off: 1 validation error for Settings console ")


def test_the_silent_setting_is_restored(tmp_path: Path) -> None:
    before = wandb.setup().settings.silent
    adapter = open_adapter(new_folder(tmp_path / "run"), OFFLINE, print)
    assert adapter is not None
    assert wandb.setup().settings.silent == before
    with adapter.calls():
        assert wandb.setup().settings.silent
    assert wandb.setup().settings.silent == before


# -- W&B's service


SIGNAL_SERVICE = """
import os, sys, time
from pathlib import Path
from lit_viz.loggers.base import LoggerSettings
from lit_viz.callbacks.logging import LoggerThread
from lit_viz.loggers.wandb import open_adapter
from lit_viz.runs.folder import FolderStorage

folder = FolderStorage.create(sys.argv[1])
folder.write_config("seed: 0\\n")
logger = LoggerThread("wandb", open_adapter(folder, LoggerSettings(wandb="offline"), print), folder, print)
lists = [(thread / "children").read_text() for thread in Path("/proc/self/task").iterdir()]
commands = {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in " ".join(lists).split()}
(service,) = [child for child, command in commands.items() if "wandb-core" in command]
Path(sys.argv[2]).write_text(str(service))
os.kill(service, int(sys.argv[3]))
time.sleep(1)
rows = int(sys.argv[4])
logger.log_rows(rows * [lambda adapter: adapter.log({"loss": 1.0}, {}, 7)])
logger.close(success=False, seconds=2.0)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("rows", [1, 3000])  # 3000 do not fit into the buffer of the connection
@pytest.mark.parametrize(
    ("number", "event"),
    [
        (signal.SIGTERM, "failed ("),
        (signal.SIGKILL, "failed ("),
        (signal.SIGSTOP, "timed out, nothing more is logged"),
    ],
)
def test_a_process_ends_if_the_service_of_wandb_was_killed_or_stopped(
    tmp_path: Path, number: signal.Signals, event: str, rows: int
) -> None:
    """SLURM signals every process of a job, including W&B's service. One line is printed."""
    service, printed = tmp_path / "service", tmp_path / "printed"
    command = [sys.executable, "-c", SIGNAL_SERVICE, tmp_path / "run", service, str(int(number)), str(rows)]
    try:
        with printed.open("w") as output:  # a pipe stays open as long as a stopped service
            status = subprocess.run(command, stdout=output, stderr=output, timeout=300, check=False).returncode
    finally:
        with suppress(OSError):
            os.kill(int(service.read_text()), signal.SIGKILL)
    assert status == 0
    (line,) = printed.read_text().splitlines()
    assert line.startswith(f"W&B {event}")


@pytest.mark.slow
def test_the_images_of_a_plain_trainer(smooth: Network, tmp_path: Path) -> None:
    """With the metrics of the Trainer over its global step, in the same run."""
    logger = WandbLogger(project="p", save_dir=tmp_path, offline=True)
    module = lv.ClassVisualization(smooth, iterations=4, views=1, log_at="0,2,4", curve_at="last", slots=1)
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=logger,
        callbacks=[lv.callbacks.ImageLogger()],
        log_every_n_steps=2,
        **quiet,
    )
    trainer.fit(module, lv.ClassTasks(smooth, ["apple", "date"]))
    logger.experiment.finish()
    (segment,) = tmp_path.glob("wandb/offline-run-*")
    records = inspect(segment)
    rows = [row for row in history(records) if "iteration" in row]
    shown = [(key.partition(".")[0], row["iteration"]) for row in rows for key in row if key.endswith(".path")]
    assert shown == [(f"image/{name}", k) for name in ("apple", "date") for k in (0, 2, 4)]
    assert rows[-1]["image/date.caption"].startswith("date - iteration 4 - p")
    assert rows[-1]["probability/date"] == pytest.approx(module.results[1].record.probability)
    last = np.asarray(Image.open(segment / "files" / rows[-1]["image/date.path"]))
    assert np.array_equal(last, pixels(module.results[1].image))
    metrics = [record["metric"] for record in records if record["type"] == "metric"]
    axes = {metric.get("name") or metric.get("glob_name"): metric.get("step_metric") for metric in metrics}
    assert axes["*"] == "trainer/global_step"
    assert axes["image/date"] == axes["probability/date"] == "iteration"
    assert any("objective" in row and "trainer/global_step" in row for row in history(records))


def test_a_fifo_in_place_of_offline_files_is_deleted(tmp_path: Path) -> None:
    """To open it would block for good."""
    folder = new_folder(tmp_path / "run")
    (tmp_path / "outside").mkdir()
    (folder.path / "wandb").mkdir()
    os.mkfifo(folder.path / "wandb" / "offline-run-1")
    (folder.path / "wandb" / "offline-run-2").symlink_to(tmp_path / "outside")
    arguments_of(folder, LoggerSettings())
    assert [path.name for path in (folder.path / "wandb").iterdir()] == ["run_id.txt"]
    assert (tmp_path / "outside").exists()
