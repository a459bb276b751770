"""Adapters, read back by the readers of the loggers."""

from __future__ import annotations

import csv
import io
import os
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger
from pytorch_lightning.loggers.logger import DummyLogger

from lit_viz.errors import LitVizError
from lit_viz.loggers import adapter
from lit_viz.loggers.base import RunResults, stored_run_id
from lit_viz.presentations import EvidenceItem

PIXELS = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)


ITEM = EvidenceItem("1 of 2 files fool the network.", False, [{"file": "a|b", "seen as": "hay"}], ["a note"], "files")
MARKDOWN = "1 of 2 files fool the network. **failed**\n\n| file | seen as |\n| --- | --- |\n| a\\|b | hay |\n\na note\n"


def log(logger: Any, axis: str | None) -> None:
    """Log two iterations, and an item of the evidence."""
    logs = adapter(logger, axis)
    for k in (0, 50):
        logs.log({"probability/goldfish": k / 100}, {}, k)
        logs.log({}, {"image/goldfish": (PIXELS + np.uint8(k), f"goldfish - iteration {k}\nhay 0.10")}, k)
    logs.log_evidence([ITEM], 50)
    logger.finalize("success")


def test_csv(tmp_path: Path) -> None:
    log(CSVLogger(tmp_path, name=None, version=""), "iteration")
    with (tmp_path / "metrics.csv").open() as file:
        rows = [(row["iteration"], row["probability/goldfish"]) for row in csv.DictReader(file)]
    assert rows == [("0", "0.0"), ("50", "0.5")]
    with (tmp_path / "images.csv").open() as file:
        images = list(csv.DictReader(file))
    assert [row["caption"].splitlines()[0] for row in images] == ["goldfish - iteration 0", "goldfish - iteration 50"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / images[1]["file"])), PIXELS + np.uint8(50))
    assert (tmp_path / "evidence" / "files.md").read_text() == MARKDOWN


def test_tensorboard(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log(TensorBoardLogger(tmp_path, name=None, version=""), "iteration")
    events = reader.EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("probability/goldfish")] == [(0, 0.0), (50, 0.5)]
    images = events.Images("image/goldfish")
    assert [image.step for image in images] == [0, 50]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(images[1].encoded_image_string))), PIXELS + np.uint8(50))
    captions = events.Tensors("image/goldfish/caption/text_summary")
    assert captions[1].tensor_proto.string_val == [b"goldfish - iteration 50  \nhay 0.10"]
    (evidence,) = events.Tensors("evidence/files/text_summary")
    assert (evidence.step, evidence.tensor_proto.string_val) == (50, [MARKDOWN.encode()])


def test_tensorboard_takes_files_as_they_are(tmp_path: Path) -> None:
    """The conversion of a figure by TensorBoard's writer takes 14 bytes per value, gigabytes for thousands of maps."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    size = (4000, 3000)
    Image.new("RGB", size, "white").save(tmp_path / "figure.png")
    folder = SimpleNamespace(path=tmp_path)
    results = RunResults(folder, {}, [ITEM], {}, 50)  # type: ignore[arg-type]
    logger = TensorBoardLogger(tmp_path, name=None, version="")
    logs = adapter(logger, "iteration")
    logs.open()
    _ = logger.experiment
    tracemalloc.start()
    try:
        logs.log_results(results)
        logs.log({}, {"image/large": (np.zeros((1500, 2000, 3), np.uint8), "large")}, 50)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    logger.finalize("success")
    assert peak < 3 * 1500 * 2000 * 2
    events = reader.EventAccumulator(str(tmp_path)).Reload()
    (figure,) = events.Images("figure")
    assert (figure.step, figure.width, figure.height) == (50, *size)
    assert figure.encoded_image_string == (tmp_path / "figure.png").read_bytes()
    assert events.Tensors("evidence/files/text_summary")


@pytest.mark.filterwarnings("ignore::FutureWarning:mlflow", "ignore::DeprecationWarning:mlflow")
def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLFlowLogger(tracking_uri=f"file:{tmp_path}")
    log(logger, "iteration")
    client, run_id = logger.experiment, logger.run_id
    history = client.get_metric_history(run_id, "probability/goldfish")
    assert [(metric.step, metric.value) for metric in history] == [(0, 0.0), (50, 0.5)]
    assert [file.path for file in client.list_artifacts(run_id, "captions/image/goldfish")] == [
        "captions/image/goldfish/000000.txt",
        "captions/image/goldfish/000050.txt",
    ]
    assert [file.path for file in client.list_artifacts(run_id, "evidence")] == ["evidence/files.md"]


def test_an_unknown_logger_gets_the_metrics() -> None:
    rows = []

    class Unknown(DummyLogger):
        def log_metrics(self, metrics: Any, step: int) -> None:
            rows.append((step, metrics))

    log(Unknown(), "iteration")
    assert rows == [(0, {"probability/goldfish": 0.0}), (50, {"probability/goldfish": 0.5})]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_the_id_of_a_run_is_read_from_a_regular_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name / "run_id.txt"
    path.parent.mkdir()
    assert stored_run_id(path) is None
    path.write_text("ab12-c_d\n")
    assert stored_run_id(path) == "ab12-c_d"
    (tmp_path / "secret").write_text("secret")
    for content in ("a b", "../x", "x" * 300):
        path.write_text(content)
        with pytest.raises(LitVizError):
            stored_run_id(path)
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(LitVizError, match="got a link"):
        stored_run_id(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(LitVizError, match="got a FIFO"):
        stored_run_id(path)
