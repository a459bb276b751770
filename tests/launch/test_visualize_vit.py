"""The recipe for vision transformers, on a small one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lit_viz.figures.sheet import channel_grid
from lit_viz.runs.folder import FolderStorage

VIT = [
    "--network", "tests.support.networks:vit_network",
    "--network.weights", "none",
    "--network.size", "32",
    "--network.mean", "[0.5,0.5,0.5]",
    "--network.std", "[0.5,0.5,0.5]",
    "--wandb", "disabled",
]  # fmt: skip


def test_vit(tmp_path: Path, lit_viz: Any, records: Any) -> None:
    run = tmp_path / "run"
    few = ["--iterations", "8", "--views", "2", "--log-at", "0,4"]
    lit_viz(
        "visualize",
        "--config",
        "vit",
        *VIT,
        "--layer",
        "blocks.1.mlp.act",
        "--channel",
        "0-3",
        "--axis",
        "feature",
        *few,
        "--out",
        str(run),
    )
    found = records(run)
    assert [record["channel"] for record in found] == [0, 1, 2, 3]
    assert all(record["status"] == "done" for record in found)
    lit_viz("check", str(run))


def test_tokens_are_called_so(tmp_path: Path, lit_viz: Any, records: Any) -> None:
    """Along the other axis are the features of the same layer."""
    run, few = tmp_path / "run", ["--iterations", "2", "--views", "2", "--channel", "0-1"]
    words = ["visualize", "--config", "vit", *VIT, "--layer", "blocks.1.mlp.act", *few, "--out", str(run)]
    for axis in ("token", "feature"):
        lit_viz(*words, "--axis", axis, "--overwrite")
        found = records(run)
        assert [record["name"] for record in found] == [f"blocks.1.mlp.act_{axis}{n}" for n in (0, 1)]
        assert {(record["layer"], record["axis"]) for record in found} == {("blocks.1.mlp.act", axis)}
        heading = channel_grid(FolderStorage.open(run).outcomes()).texts[0].get_text()
        assert heading == f"blocks.1.mlp.act · 2 {axis}s"


def test_vit_of_a_class(tmp_path: Path, lit_viz: Any, records: Any) -> None:
    run, none = tmp_path / "run", ["--layer", "null", "--channel", "null", "--axis", "null"]
    lit_viz("visualize", "3", "--config", "vit", *VIT, *none, "--iterations", "4", "--out", str(run))
    assert records(run)[0]["target"] == 3
