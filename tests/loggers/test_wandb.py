import base64
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import wandb
from PIL import Image
from pytorch_lightning.loggers import WandbLogger

import lit_viz as lv
from lit_viz.callbacks.logging import FolderLogger, LoggerThread
from lit_viz.callbacks.saving import Memory
from lit_viz.figures.layout import pixels
from lit_viz.loggers.base import LoggerSettings
from lit_viz.loggers.rows import FolderRows, caption
from lit_viz.loggers.wandb import open_adapter, open_run
from lit_viz.presentations.adversarial_example import AdversarialExamplePresentation
from lit_viz.presentations.class_visualization import ClassVisualizationPresentation
from lit_viz.presentations.saliency_map import SaliencyMapPresentation
from lit_viz.runs.folder import RunFolder
from lit_viz.types import Record, Result, Snapshot, Task

TOP5 = (("tarantula", 0.93), ("barn spider", 0.04))


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch, tmp_path_factory):
    """A user without an API key or settings of W&B."""
    home = tmp_path_factory.getbasetemp()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    for name in ("CONFIG", "CACHE", "DATA", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(home / "wandb"))


def new_folder(path, count=2):
    folder = RunFolder.create(path)
    folder.write_queue(tasks(count))
    folder.write_config("seed: 0\n")
    return folder


def tasks(count):
    return [Task(i, "tarantula", seed=i, target=76, target_name="tarantula") for i in range(count)]


def snapshot(task, iteration):
    pixels = torch.full((3, 8, 8), 0.2 + 0.1 * task.index)
    pixels[:, : 2 + iteration // 50] = 0.9
    metrics = {"probability": iteration / 100, "rank": 1.0, "logit": 3.0}
    return Snapshot(task, iteration, metrics, pixels, TOP5)


OFFLINE = LoggerSettings(wandb="offline")


def opened_log(monkeypatch, run, folder, separate=32, notify=print):
    """Return the callback of a run folder with a given W&B run."""
    with monkeypatch.context() as patched:
        patched.setattr("lit_viz.loggers.wandb.open_run", lambda *_: run)
        return offline_log(folder, separate, notify)


def offline_log(folder, separate=32, notify=print):
    thread = LoggerThread("wandb", open_adapter(folder, OFFLINE, notify), folder, notify)
    return FolderLogger(FolderRows(folder, ClassVisualizationPresentation(), separate), [thread])


def wait(callback):
    """Wait until W&B has been called."""
    (thread,) = callback.threads
    while thread._calls.unfinished_tasks and thread._thread.is_alive():
        time.sleep(0.01)


def fake_run(**methods):
    """A W&B run that keeps rows and summary."""
    rows, summary = [], {}
    run = SimpleNamespace(project="p", id="x", rows=rows, summary=summary, log=rows.append, dir="d", url="u")
    run.settings, run.starting_step = SimpleNamespace(mode="online"), 0
    run.log_artifact = run.finish = run.define_metric = lambda *_, **__: None
    vars(run).update(methods)
    return run


def log_snapshots(callback, folder, queue, iterations):
    """Write and log snapshots, with a checkpoint at the end."""
    module = SimpleNamespace(tasks=queue, finished={})
    for k in iterations:
        for task in queue:
            folder.add_snapshot(snapshot(task, k))
    folder.flush()
    callback.on_save_checkpoint(None, module, {})


def segments(folder):
    return sorted((folder.path / "wandb").glob("offline-run-*"))


def inspect(segment):
    """Return the records of an offline run, read by W&B's own reader."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(segment)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return [json.loads(line) for line in output.splitlines()]


def history(records):
    return [record["history"]["item"] for record in records if record["type"] == "history"]


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """Two tasks logged at iterations 0 and 50, stopped, and resumed for 100: lines printed and W&B's records."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        folder, lines, queue = new_folder(tmp_path_factory.mktemp("wandb") / "run"), [], tasks(2)
        first = offline_log(folder, notify=lines.append)
        log_snapshots(first, folder, queue, (0, 50))
        first.close(success=False)
        before = inspect(segments(folder)[0])
        second = offline_log(folder, notify=lines.append)
        second.on_train_start(None, SimpleNamespace(finished={}))
        log_snapshots(second, folder, queue, (100,))
        for task in queue:
            others = {"top5": TOP5, "box": "none" if task.index else 3}
            record = Record.of(task, iterations=100, metrics={"probability": 1.0}, extra=others)
            folder.add_result(Result(task, record, snapshot(task, 100).image))
        folder.finish()
        second.finish()
        second.finish()
    (part,) = segments(folder)
    return SimpleNamespace(folder=folder, lines=lines, before=before, records=inspect(part), files=part / "files")


def test_a_resume_logs_every_row_once(offline):
    """Offline files are written anew."""
    assert [row["iteration"] for row in history(offline.before)] == [0, 0, 50, 50]
    rows = history(offline.records)
    assert [row["iteration"] for row in rows] == [0, 0, 50, 50, 100, 100, 100]
    keys = [[key for key in row if key.startswith("probability/")] for row in rows[:4]]
    assert keys == 2 * [["probability/0000_tarantula"], ["probability/0001_tarantula"]]
    assert [row["probability/0001_tarantula"] for row in rows[1:4:2]] == [0.0, 0.5]
    assert rows[0]["logit/0000_tarantula"] == 3.0


def test_iteration_is_the_step_metric(offline):
    metrics = [record["metric"] for record in offline.records if record["type"] == "metric"]
    assert {(metric.get("glob_name"), metric.get("step_metric")) for metric in metrics} >= {("*", "iteration")}


def test_images_and_captions_of_the_iterations(offline):
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


def test_a_resume_continues_the_same_run(offline):
    both = [*offline.before, *offline.records]
    (run_id,) = {record["run"]["run_id"] for record in both if record["type"] == "run"}
    assert (offline.folder.path / "wandb" / "run_id.txt").read_text() == run_id + "\n"
    assert [record["exit"].get("exit_code", 0) for record in both if record["type"] == "exit"] == [1, 0]
    assert (offline.folder.path / "wandb" / "complete").exists()


def test_a_finished_run_has_a_table_and_an_artifact(offline):
    (row,) = [row for row in history(offline.records) if "results._type" in row]
    table = json.loads((offline.files / row["results.path"]).read_text())
    assert table["columns"][:4] == ["image", "index", "name", "source"]
    assert len(table["data"]) == 2
    last = dict(zip(table["columns"], table["data"][1], strict=True))
    assert (last["probability"], last["box"], json.loads(last["top5"])[0][0]) == (1.0, "none", "tarantula")
    artifacts = [record["artifact"] for record in offline.records if record["type"] == "artifact"]
    paths = [(a["type"], {entry["path"] for entry in a["manifest"]["contents"]}) for a in artifacts]
    assert sorted(sum(p.endswith(".png") for p in files) for kind, files in paths if kind == "run_table") == [2, 6]
    assert dict(paths)["results"] == {
        "config.yaml",
        "metrics.csv",
        "results.jsonl",
        "images/0000_tarantula.png",
        "images/0001_tarantula.png",
    }


def test_a_finished_run_has_a_table_of_its_iterations(offline):
    (row,) = [row for row in history(offline.records) if "iterations._type" in row]
    table = json.loads((offline.files / row["iterations.path"]).read_text())
    assert table["columns"] == ["task", "iteration", "image", "probability", "prediction"]
    assert [[*row[:2], *row[3:]] for row in table["data"]] == [
        ["tarantula", k, k / 100, "tarantula"] for _ in range(2) for k in (0, 50, 100)
    ]


def test_explicit_offline_mode_prints_nothing_and_sets_no_variable(offline):
    assert offline.lines == []
    assert "WANDB_MODE" not in os.environ


@pytest.fixture
def many(tmp_path, monkeypatch):
    """Callback, folder, logged rows and a module of 18 tasks, none finished."""
    count = 18
    folder, run = new_folder(tmp_path / "run", count), fake_run()
    callback = opened_log(monkeypatch, run, folder, separate=3)
    module = SimpleNamespace(tasks=tasks(count), finished={})
    callback.on_train_start(None, module)
    return callback, folder, run, module


def write_snapshots(folder, task, iterations):
    for k in iterations:
        folder.add_snapshot(snapshot(task, k))
    folder.flush()


def test_many_tasks_share_grids(many):
    callback, folder, run, module = many
    logged = run.rows
    for task in module.tasks[:8]:  # the first wave
        write_snapshots(folder, task, (0, 50))
        module.finished[task.index] = "done"
    callback.on_save_checkpoint(None, module, {})
    wait(callback)
    assert logged == []
    for task in module.tasks[8:16]:
        write_snapshots(folder, task, (0, 50, 60) if task.index == 8 else (0, 50))
        module.finished[task.index] = "done"
    of_file = Record.of(module.tasks[9], metrics={"probability": 0.25})  # of another picture than the last iteration's
    folder.add_result(Result(module.tasks[9], of_file, snapshot(module.tasks[9], 50).image))
    callback.on_save_checkpoint(None, module, {})
    wait(callback)
    assert [row["iteration"] for row in logged] == [0, 50, 60]
    assert {"image/grid/0000-0015", "probability/0000-0015"} < set(logged[0])
    assert [row["probability/0000-0015"] for row in logged] == pytest.approx([0, 0.5, (15 * 0.5 + 0.6) / 16])
    grid = np.asarray(logged[2]["image/grid/0000-0015"].image)
    assert grid.shape == (4 * 12 - 4, 4 * 12 - 4, 3)
    assert [grid[7, x, 0] for x in (7, 19, 31)] == [51, 76, 102]  # in their order
    lines = logged[2]["image/grid/0000-0015"]._caption.splitlines()
    assert lines[:2] == ["iteration 60", "tarantula - p = 0.50 (rank 1)"]
    assert lines[9:11] == ["tarantula - p = 0.60 (rank 1)", "tarantula - p = 0.25 (rank 1)"]
    callback.on_save_checkpoint(None, module, {})
    wait(callback)
    assert len(logged) == 3
    for task in module.tasks[16:]:
        write_snapshots(folder, task, (0,))
        module.finished[task.index] = "done"
    callback.on_train_end(None, module)
    wait(callback)
    assert [set(row) >= {"image/grid/0016-0017"} for row in logged[3:]] == [True]


def test_a_resume_does_not_log_finished_grids_again(many, monkeypatch):
    _, folder, run, module = many
    for task in module.tasks[:17]:
        write_snapshots(folder, task, (0,))
        module.finished[task.index] = "done"
    run.starting_step = 1
    resumed = opened_log(monkeypatch, run, folder, separate=3)
    resumed.on_train_start(None, module)
    module.finished[17] = "failed"  # before it had a picture
    resumed.on_train_end(None, module)
    wait(resumed)
    assert [[key for key in row if key.startswith("image")] for row in run.rows] == [["image/grid/0016-0017"]]


def test_means_and_summary(tmp_path, monkeypatch):
    run, folder, queue = fake_run(), new_folder(tmp_path / "run", 4), tasks(4)
    for task in queue:
        write_snapshots(folder, task, (0, 50) if task.index else (0,))
        metrics, extra = {"probability": 0.1 * task.index}, {"success_file": task.index > 0}
        record = Record.of(task, iterations=50, metrics=metrics, extra=extra)
        folder.add_result(Result(task, record, snapshot(task, 50).image))
    folder.finish()
    opened_log(monkeypatch, run, folder, separate=3).finish()
    means = {row["iteration"]: row["probability/mean"] for row in run.rows if "probability/mean" in row}
    assert means == {0: 0, 50: 3 * 0.5 / 4}
    assert run.rows[-1]["iteration"] == 50
    assert run.summary == pytest.approx(
        {
            "count/done": 4,
            "share/success_file": 0.75,
            "median/probability": 0.15,
            "cost/forwards": 0,
            "cost/backwards": 0,
            "cost/seconds": 0,
        }
    )


def test_means_skip_values_that_are_not_finite(tmp_path, monkeypatch):
    run, folder, queue = fake_run(), new_folder(tmp_path / "run", 4), tasks(4)
    for task, value in zip(queue, (np.inf, -np.inf, 1.0, 2.0), strict=True):
        folder.add_snapshot(Snapshot(task, 0, {"logit": value, "margin": np.nan}))
        folder.add_result(Result(task, Record.of(task), None))
    folder.finish()
    opened_log(monkeypatch, run, folder, separate=3).finish()
    assert run.rows[0] == {"iteration": 0, "logit/mean": 1.5}


def test_captions_name_target_and_options():
    attack, saliency = AdversarialExamplePresentation(), SaliencyMapPresentation()
    attacked = Task(0, "quail", seed=0, target=6, target_name="stingray", options={"eps": 0.25})
    assert caption(Snapshot(attacked, 7, {"probability": 0.126}), attack) == (
        "quail -> stingray, eps 0.25 - iteration 7 - p = 0.13"
    )
    assert caption(Snapshot(Task(0, "quail", seed=0), 7, {}), attack) == "quail - iteration 7"
    mapped = Task(0, "quail", seed=0, options={"method": "smoothgrad"})
    assert caption(Snapshot(mapped, 7, {}), saliency) == "quail, smoothgrad - iteration 7"


def test_the_final_image_of_an_attack_has_the_metrics_of_its_file():
    last = Snapshot(Task(0, "cat", 0), 9, {"probability": 0.9, "margin": -3.0}, file_metrics={"margin": 2.0})
    assert caption(last, AdversarialExamplePresentation()) == "cat - iteration 9 - fooled"


def test_file_metrics_of_an_attack_equal_its_record(smooth):
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        add = Memory.on_train_batch_end

        def watching(self, trainer, module, outputs, *args):
            seen.update({o.task.index: o for o in outputs["snapshots"]})
            return add(self, trainer, module, outputs, *args)

        patch.setattr(Memory, "on_train_batch_end", watching)
        run = lv.attack(smooth, torch.rand(3, 3, 16, 16).mul(255).round() / 255, attack="carlini_wagner", iterations=20)
    for record in run.results:
        assert seen[record["index"]].file_metrics["margin"] == record["margin"]
        assert seen[record["index"]].file_metrics["probability"] == record["probability"]


def test_an_error_of_wandb_is_reported_once(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ValueError("the service died")

    lines = []
    run, folder = fake_run(log=broken, log_artifact=broken, finish=broken), new_folder(tmp_path / "run")
    callback = opened_log(monkeypatch, run, folder, notify=lines.append)
    log_snapshots(callback, folder, tasks(2), (0, 50))
    callback.finish()
    later = f"lit-viz log {folder.path} --to wandb"
    assert lines == [f"W&B failed (the service died), nothing more is logged; later: {later}"]


def test_a_call_that_does_not_return_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("lit_viz.callbacks.logging._CALL_SECONDS", 0.3)
    monkeypatch.setattr("lit_viz.loggers.wandb.stop_service", lambda: None)
    lines, forever = [], threading.Event()
    folder = new_folder(tmp_path / "run")
    callback = opened_log(monkeypatch, fake_run(log=lambda row: forever.wait()), folder, notify=lines.append)
    start = time.monotonic()
    log_snapshots(callback, folder, tasks(2), (0, 50))
    assert time.monotonic() - start < 0.3  # the run does not wait
    callback.close(success=False)
    assert time.monotonic() - start < 2
    assert [line.split(";")[0] for line in lines] == ["W&B timed out, nothing more is logged"]
    assert not (folder.path / "wandb" / "complete").exists()
    forever.set()


def test_names_are_keys_if_they_are_unique(tmp_path, monkeypatch):
    run, folder, queue = fake_run(), new_folder(tmp_path / "run"), [Task(0, "goldfish", 0), Task(1, "hay", 1)]
    folder.write_queue(queue)
    callback = opened_log(monkeypatch, run, folder)
    log_snapshots(callback, folder, queue, (0,))
    wait(callback)
    assert [key for row in run.rows for key in row if key.startswith("image/")] == ["image/goldfish", "image/hay"]


# -- opening


@pytest.fixture
def opened(monkeypatch):
    """Modes of the opened runs; nothing is opened."""
    modes = []
    monkeypatch.setattr("lit_viz.loggers.wandb._init", lambda folder, mode, arguments: modes.append(mode))
    return modes


def test_offline_without_a_key(tmp_path, opened):
    lines = []
    open_run(new_folder(tmp_path / "run"), LoggerSettings(), lines.append)
    assert opened == ["offline"]
    (line,) = lines
    assert line.startswith("W&B is offline (no API key: wandb login); later: lit-viz log ")


def test_offline_with_a_malformed_key(tmp_path, opened, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    lines = []
    open_run(new_folder(tmp_path / "run"), LoggerSettings(), lines.append)
    assert opened == ["offline"]
    assert "40" in lines[0]


@pytest.mark.parametrize(
    ("variable", "mode", "expected"),
    [("offline", "auto", ["offline"]), ("disabled", "auto", []), ("", "disabled", []), ("", "offline", ["offline"])],
)
def test_modes(tmp_path, opened, monkeypatch, variable, mode, expected):
    monkeypatch.setenv("WANDB_MODE", variable)
    lines = []
    open_run(new_folder(tmp_path / "run"), LoggerSettings(wandb=mode), lines.append)
    assert (opened, lines) == (expected, [])


calls = []


def server(answer):
    """A server on a free port that answers every request with a status, never, or a byte at a time.

    ``trickle`` does so from the second request on, the first being the probe.
    """
    if answer == "trickle":
        return trickling_server()
    if answer is None:
        listening = socket.create_server(("127.0.0.1", 0))
        closers.append(listening.close)
        return listening.getsockname()[1]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            calls.append(
                (self.path, self.headers["Authorization"], self.rfile.read(int(self.headers["Content-Length"])))
            )
            self.send_error(answer)

        def log_message(self, *_):
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    closers.extend([http.server_close, http.shutdown])  # in reverse: a closed socket would keep the thread spinning
    return http.server_port


def trickling_server():
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            calls.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            if calls[first + 1 :]:
                with suppress(OSError):
                    for byte in itertools.repeat(32):
                        self.wfile.write(bytes([byte]))
                        time.sleep(0.5)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    first = len(calls)
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, daemon=True).start()
    closers.extend([http.server_close, http.shutdown])
    return http.server_port


closers = []


@pytest.fixture(autouse=True)
def _close_servers():
    yield
    while closers:
        closers.pop()()


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", 40 * "a")


def point_to(monkeypatch, port):
    # wandb reads its environment only once per process.
    url = f"http://127.0.0.1:{port}"
    settings = wandb.Settings(base_url=url)
    monkeypatch.setattr("lit_viz.loggers.wandb.wandb.setup", lambda *_: SimpleNamespace(settings=settings))
    return url


@pytest.mark.usefixtures("key")
def test_offline_with_a_closed_port(tmp_path, opened, monkeypatch):
    port = server(None)
    closers.pop()()
    url = point_to(monkeypatch, port)
    lines, start = [], time.monotonic()
    open_run(new_folder(tmp_path / "run"), LoggerSettings(), lines.append)
    assert time.monotonic() - start < 2
    assert opened == ["offline"]
    assert f"W&B is offline ({url} does not respond)" in lines[0]


@pytest.mark.usefixtures("key")
def test_offline_with_a_silent_server(tmp_path, opened, monkeypatch):
    port = server(None)
    point_to(monkeypatch, port)
    monkeypatch.setattr("lit_viz.loggers.wandb._PROBE_SECONDS", 0.2)
    lines = []
    open_run(new_folder(tmp_path / "run"), LoggerSettings(), lines.append)
    assert opened == ["offline"]
    assert "does not respond" in lines[0]


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize(
    ("status", "mode", "why"),
    [
        (200, "online", None),
        (403, "online", None),
        (401, "offline", "rejects the API key: wandb login --relogin"),
        (503, "offline", "returns error 503"),
    ],
)
def test_the_server_is_probed_first(tmp_path, opened, monkeypatch, status, mode, why):
    port = server(status)
    url = point_to(monkeypatch, port)
    lines = []
    open_run(new_folder(tmp_path / "run"), LoggerSettings(), lines.append)
    assert opened == [mode]
    assert [line.split(";")[0] for line in lines] == ([f"W&B is offline ({url} {why})"] if why else [])
    path, authorization, query = calls[-1]
    assert (path, base64.b64decode(authorization.removeprefix("Basic "))) == ("/graphql", b"api:" + 40 * b"a")
    assert "viewer" in json.loads(query)["query"]


@pytest.mark.usefixtures("key")
def test_an_opening_that_does_not_return_is_given_up_in_time(tmp_path, monkeypatch):
    """The service is killed, since it would delay the exit of Python."""
    point_to(monkeypatch, server(200))
    started, stopped, forever = [], [], threading.Event()

    def start(folder, mode, arguments):
        started.append(mode)
        forever.wait()

    monkeypatch.setattr("lit_viz.loggers.wandb._init", start)
    monkeypatch.setattr("lit_viz.loggers.wandb.stop_service", lambda: stopped.append(started[-1]))
    monkeypatch.setattr("lit_viz.loggers.wandb._START_SECONDS", 1.0)
    monkeypatch.setattr("lit_viz.loggers.wandb._INIT_SECONDS", 0.5)
    lines, begin = [], time.monotonic()
    assert open_run(new_folder(tmp_path / "run"), LoggerSettings(), lines.append) is None
    assert time.monotonic() - begin < 1.5
    assert started == stopped == ["online", "offline"]
    assert [line.split(" (")[0] for line in lines] == ["W&B is offline", lines[1]]
    assert lines[1].startswith("W&B is off: no response within")
    forever.set()


@pytest.mark.usefixtures("key")
def test_offline_when_opening_fails_after_the_probe(tmp_path, monkeypatch):
    port = server(200)
    point_to(monkeypatch, port)
    lines, started = [], []

    def start(folder, mode, arguments):
        started.append((mode, arguments["id"]))
        if mode == "online":
            raise PermissionError("you may not write to this project\nat all")

    monkeypatch.setattr("lit_viz.loggers.wandb._init", start)
    folder = new_folder(tmp_path / "my run")
    (folder.path / "wandb").mkdir()
    (folder.path / "wandb" / "run_id.txt").write_text("cafe0123\n")
    open_run(folder, LoggerSettings(), lines.append)
    (online, first), (offline, second) = started
    assert (online, first, offline) == ("online", "cafe0123", "offline")
    assert second != first  # wandb rejects the id of a run that it failed to open
    later = f"lit-viz log '{folder.path}' --to wandb"
    assert lines == [f"W&B is offline (you may not write to this project); later: {later}"]


@pytest.mark.slow
@pytest.mark.parametrize("status", [None, 404, 500, "trickle"])
def test_a_process_with_a_bad_server_ends_in_time(tmp_path, status):
    """Servers without an answer, without the API, with internal errors, and with endless answers."""
    port = server(status)
    script = (
        "import sys, time\n"
        "from lit_viz.launch.logs import *\n"
        "from lit_viz.utils.formatting import notify\n"
        "import lit_viz.loggers.wandb\n"
        "print(time.time())\n"  # after the imports
        "folder = RunFolder.create(sys.argv[1])\n"
        "folder.write_queue([]); folder.write_config('seed: 0\\n')\n"
        "log = open_loggers(folder, ['wandb'], LoggerSettings(), presentation_of('ClassVisualization'), notify)\n"
        "assert log.threads[0].adapter._run.settings.mode == 'offline'\n"
        "log.finish()"
    )
    environment = os.environ | {"WANDB_API_KEY": 40 * "a", "WANDB_BASE_URL": f"http://127.0.0.1:{port}"}
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    assert time.time() - float(done.stdout) < 25  # 15 s to open the run; the rest to exit
    (line,) = done.stderr.splitlines()
    assert line.startswith("W&B is offline (")


def test_settings_of_the_run(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("lit_viz.loggers.wandb._init", lambda folder, mode, arguments: opened.append(arguments))
    open_run(new_folder(tmp_path / "a"), OFFLINE)
    monkeypatch.setenv("WANDB_PROJECT", "spiders")
    open_run(new_folder(tmp_path / "b"), OFFLINE)
    open_run(new_folder(tmp_path / "c"), LoggerSettings("mine", ["x", "y"], "group", "job", "offline"))
    assert [arguments["project"] for arguments in opened] == ["lit_viz", "spiders", "mine"]
    assert [opened[2][name] for name in ("tags", "group", "job_type")] == [["x", "y"], "group", "job"]
    assert (opened[0]["tags"], opened[0]["config"]["seed"], opened[0]["name"]) == (None, 0, "a")


def test_an_invalid_setting_is_reported(tmp_path):
    new_folder(tmp_path / "run")
    code = "from lit_viz.loggers.wandb import *; from lit_viz.runs.folder import RunFolder\n"
    code += f"print(open_run(RunFolder({str(tmp_path / 'run')!r}), LoggerSettings(wandb='offline'), print))"
    wrong = {**os.environ, "WANDB_CONSOLE": "bogus"}  # wandb reads it once per process
    output = subprocess.run([sys.executable, "-c", code], env=wrong, capture_output=True, text=True, check=True).stdout
    assert output.startswith("W&B is off: 1 validation error for Settings console ")
    assert output.endswith("None\n")


def test_the_silent_setting_is_restored(tmp_path):
    before = wandb.setup().settings.silent
    folder = new_folder(tmp_path / "run")
    log = offline_log(folder)
    assert wandb.setup().settings.silent == before
    log.close(success=True)
    assert wandb.setup().settings.silent == before


SIGNAL_SERVICE = """
import os, signal, sys, time
from pathlib import Path
from lit_viz.callbacks import logging as module
from lit_viz.loggers.base import LoggerSettings
from lit_viz.callbacks.logging import LoggerThread
from lit_viz.loggers.wandb import open_adapter
from lit_viz.runs.folder import RunFolder

module._EXIT_SECONDS = 2.0
folder = RunFolder.create(sys.argv[1])
folder.write_config("seed: 0\\n")
logger = LoggerThread("wandb", open_adapter(folder, LoggerSettings(wandb="offline"), print), folder, print)
lists = [(thread / "children").read_text() for thread in Path("/proc/self/task").iterdir()]
commands = {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in " ".join(lists).split()}
(service,) = [child for child, command in commands.items() if "wandb-core" in command]
os.kill(service, int(sys.argv[2]))
time.sleep(1)
logger.log_rows([lambda adapter: adapter.log({"loss": 1.0}, {}, 7)])
start = time.monotonic()
logger.close(success=False)
assert time.monotonic() - start < 5
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(
    ("number", "event"),
    [
        pytest.param(signal.SIGTERM, "failed (", marks=pytest.mark.slow),
        pytest.param(signal.SIGSTOP, "timed out, nothing more is logged", marks=pytest.mark.slow),
    ],
)
def test_a_run_continues_when_the_service_of_wandb_is_killed_or_frozen(tmp_path, number, event):
    """SLURM signals every process of a job, including W&B's service."""
    command = [sys.executable, "-c", SIGNAL_SERVICE, str(tmp_path / "run"), str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"W&B {event}")


@pytest.mark.slow
def test_the_images_of_a_plain_trainer(smooth, tmp_path):
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
