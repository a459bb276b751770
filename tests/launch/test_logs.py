"""Loggers of a run folder: during the run, after a resume, and replayed."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pytorch_lightning.loggers import CSVLogger

import lit_viz as lv
from lit_viz.cli import main
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import Interrupted, LitVizError
from lit_viz.loggers.csv import CSVAdapter
from lit_viz.networks import Network

OPTIONS = {"config": "small", "iterations": 4, "log_at": "0,2,4", "curve_at": "every:1", "slots": 1}
ITERATIONS = [(name, k) for name in ("apple", "date") for k in range(5)]


def visualize(smooth: Network, out: Path, **options: Any) -> Any:
    return lv.visualize(smooth, ["apple", "date"], out=out, **{**OPTIONS, **options})


def csv_rows(run: Path) -> list[tuple[str, int]]:
    with (run / "csv" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [
        (name, int(row["iteration"])) for row in rows for name in ("apple", "date") if row.get(f"probability/{name}")
    ]


@pytest.mark.parametrize("names", ["csv,tensorboard"])
def test_several_loggers_get_every_row_once_over_a_resume(
    names: str, smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = tmp_path / "run"
    step = ImageTraining.training_step

    def interrupted(self: Any, batch: int, batch_idx: int) -> Any:
        if batch_idx == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(ImageTraining, "training_step", interrupted)
        with pytest.raises(Interrupted):
            visualize(smooth, run, logger=names)
    assert csv_rows(run) == ITERATIONS[: len(csv_rows(run))]
    lv.resume(run, smooth)
    assert csv_rows(run) == ITERATIONS
    events = reader.EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("probability/date")] == [0, 1, 2, 3, 4]
    assert [image.step for image in events.Images("image/date")] == [0, 2, 4]
    assert {"figure"} <= set(events.Tags()["images"])
    assert {"cost/forwards", "judges/agreement"} & set(events.Tags()["scalars"]) == {"cost/forwards"}
    assert all((run / name / "complete").exists() for name in names.split(","))


@pytest.fixture(scope="module")
def stored(smooth: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run: Path = tmp_path_factory.mktemp("stored") / "run"
    visualize(smooth, run, logger="none")
    return run


def test_a_replay_equals_the_log_of_the_run(stored: Path, smooth: Network, tmp_path: Path) -> None:
    visualize(smooth, tmp_path / "run", logger="csv")
    lv.log(stored, "csv")
    for name in ("images.csv", "image/date/000002.png"):
        assert (stored / "csv" / name).read_bytes() == (tmp_path / "run" / "csv" / name).read_bytes()
    assert csv_rows(stored) == csv_rows(tmp_path / "run") == ITERATIONS


def test_a_replay_into_a_logger_of_the_user(stored: Path, tmp_path: Path) -> None:
    own, named = lv.log(stored, [CSVLogger(tmp_path, name="own", version=""), "csv"])
    assert Path(named).parent == stored / "csv"
    with Path(own).open() as file:
        assert sum(bool(row["probability/date"]) for row in csv.DictReader(file)) == 5


def test_a_run_that_was_not_logged_is_logged_again(
    stored: Path, smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = Path(shutil.copytree(stored, tmp_path / "run"))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(CSVAdapter, "log", full)
        with pytest.raises(LitVizError, match="run was not logged to CSV: see the lines above, and log it again"):
            lv.log(run, "csv")
    assert "No space left on device" in caplog.text
    lv.log(run, "csv")
    assert csv_rows(run) == ITERATIONS


def test_an_unknown_name_logs_nothing(stored: Path, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="own", version="")
    with pytest.raises(LitVizError, match="wandbb"):
        lv.log(stored, [logger, "wandbb"])
    assert not (tmp_path / "own").exists()


def test_captions_of_a_replay_name_the_most_probable_classes(stored: Path) -> None:
    lv.log(stored, "csv")
    with (stored / "csv" / "images.csv").open() as file:
        first, second = next(iter(csv.DictReader(file)))["caption"].splitlines()
    assert first.startswith("apple - iteration 0 - p ")
    assert len(second.split(", ")) == 5


@pytest.mark.slow
def test_w_and_b_gets_an_offline_run_once(
    stored: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wandb_server: Any
) -> None:
    """The same run, with images at their iterations, evidence and artifact."""
    with wandb_server() as server:
        import wandb

        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("WANDB_API_KEY", 40 * "a")
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "300")
        for limit in ("_LOGIN_SECONDS", "_INIT_SECONDS"):  # of a busy machine
            monkeypatch.setattr(f"lit_viz.loggers.wandb.{limit}", 300.0)
        wandb.teardown()  # W&B reads the environment at its next start
        try:
            main(["log", str(stored), "--to", "wandb", "--wandb", "offline"])
            run_id = (stored / "wandb" / "run_id.txt").read_text().strip()
            for _ in range(2):
                main(["log", str(stored), "--to", "wandb", "--tags", "a,b", "--wandb", "online"])
        finally:
            wandb.teardown()
    (rows,) = server.history.values()
    assert list(server.history) == [run_id]
    points = [(key.split("/")[1], row["iteration"]) for row in rows for key in row if key.startswith("probability/")]
    assert points == ITERATIONS
    shown = {(key, row["iteration"]): row[key] for row in rows for key in row if key.startswith("image/")}
    assert shown.keys() == {(f"image/{name}", k) for name in ("apple", "date") for k in (0, 2, 4)}
    frame = np.asarray(Image.open(stored / "frames" / "0001_date" / "iter_000002.png").convert("RGB"))
    path = shown["image/date", 2]["path"]
    (stored / "uploaded.png").write_bytes(server.files[path])
    assert np.array_equal(np.asarray(Image.open(stored / "uploaded.png").convert("RGB")), frame)
    assert [sorted({"results", "iterations", "figure"} & row.keys()) for row in rows][-1] == [
        "figure",
        "iterations",
        "results",
    ]
    assert {"artifact/results.jsonl", "artifact/images/0001_date.png"} <= server.files.keys()
    assert f"logged   {server.url}" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::FutureWarning:mlflow", "ignore::DeprecationWarning:mlflow")
def test_mlflow_gets_what_it_lacks(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"file:{tmp_path}")
    try:
        for _ in range(2):
            (place,) = lv.log(stored, "mlflow", logging=lv.LoggerSettings(tags=["a"]))
        client, run_id = mlflow.MlflowClient(), (stored / "mlflow" / "run_id.txt").read_text().strip()
        (run,) = client.search_runs([client.get_experiment_by_name("lit_viz").experiment_id])
        history = client.get_metric_history(run_id, "probability/date")
        captions = client.list_artifacts(run_id, "captions/image/date")
        pictures = [file.path for file in client.list_artifacts(run_id, "images")]
        files = [file.path for file in client.list_artifacts(run_id)]
    finally:
        mlflow.set_tracking_uri(before)
    assert run_id in place
    assert (run.info.run_id, run.info.status, "a" in run.data.tags) == (run_id, "FINISHED", True)
    assert run.data.params["seed"] == "0"
    assert [metric.step for metric in history] == [0, 1, 2, 3, 4]
    assert len(captions) == 3
    assert len([name for name in pictures if re.search(r"image.date.step.2.timestamp.*png$", name)]) == 1
    assert {"results.jsonl", "config.yaml", "figure.png"} <= set(files)


def test_a_logger_that_is_not_installed_ends_before_the_run(smooth: Network, tmp_path: Path) -> None:
    with pytest.raises(LitVizError, match=r"there is no logger 'tensorbord'; did you mean 'tensorboard'\?"):
        visualize(smooth, tmp_path / "run", logger=["wandb", "tensorbord"])
    assert not (tmp_path / "run").exists()


def test_an_unfinished_run_is_not_logged(stored: Path, tmp_path: Path) -> None:
    """Its last rows are computed again."""
    run = shutil.copytree(stored, tmp_path / "run", ignore=shutil.ignore_patterns("csv"))
    (run / "manifest.json").unlink()
    with pytest.raises(LitVizError, match=f"run is unfinished: lit-viz resume {run}"):
        lv.log(run, "csv")
    assert not (run / "csv").exists()
