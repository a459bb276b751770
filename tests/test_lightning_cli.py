"""LightningCLI of a user makes the modules and tasks of the package from their signatures."""

from __future__ import annotations

from pathlib import Path

import pytest

import lit_viz as lv

jsonargparse = pytest.importorskip("jsonargparse")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jsonargparse, by Lightning
def test_a_lightning_cli_trains_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorch_lightning.cli import LightningCLI

    monkeypatch.setattr("sys.argv", ["train.py"])
    arguments = {
        "model": {
            "network": "zoo/fashion_cnn",
            "iterations": 2,
            "objective": {"class_path": "lit_viz.objectives.Logit", "init_args": {"gamma": 1.0}},
        },
        "data": {"network": "zoo/fashion_cnn", "target": ["bag"]},
        "trainer": {"max_epochs": 1, "logger": False, "enable_progress_bar": False, "default_root_dir": str(tmp_path)},
    }
    cli = LightningCLI(
        lv.ClassVisualization,
        lv.ClassTasks,
        run=False,
        save_config_callback=None,
        seed_everything_default=7,
        args=arguments,
    )
    cli.trainer.fit(cli.model, cli.datamodule)
    record = cli.model.results[0].record
    assert (record.status, record.iterations, record.target_name) == ("done", 2, "bag")
