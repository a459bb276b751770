"""``lit-viz visualize --layer``: channels, neurons, whole layers and groups, from words to a run folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import lit_viz as lv
from lit_viz.errors import LitVizError
from lit_viz.images.reading import read_png
from lit_viz.launch.units import parse_place
from lit_viz.methods.tasks import parse_channels
from lit_viz.networks import Network
from tests.support.networks import smooth_network
from tests.support.pages import blocks, read

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def few_options(small_options: list[str]) -> list[str]:
    return [*small_options, "--iterations", "6", "--log-at", "0,3", "--size", "16"]


def test_channels_from_words_to_a_labelled_grid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], few_options: Any, lit_viz: Any, records: Any
) -> None:
    run = tmp_path / "run"
    lit_viz("visualize", "--layer", "features.3", "--channel", "3,7-8", *few_options, "--out", str(run))
    found = records(run)
    assert [record["name"] for record in found] == [f"features.3_ch{c}" for c in (3, 7, 8)]
    assert [(record["layer"], record["channel"]) for record in found] == [("features.3", c) for c in (3, 7, 8)]
    assert all(record.get("target") is None and "probability" not in record for record in found)
    assert (run / "images" / "0001_features.3_ch7.png").is_file()
    assert (run / "figure.png").is_file()
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["module"]["init_args"]["objective"]["class_path"].endswith("Channel")
    metrics = (run / "metrics.csv").read_text()
    assert "0000_features.3_ch3,3,objective," in metrics
    assert "probability" not in metrics
    message = capsys.readouterr()
    assert "objective" in message.out
    assert "probability" not in message.out + message.err


def test_the_objective_of_the_file_equals_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], few_options: Any, lit_viz: Any, records: Any, reseal: Any
) -> None:
    """The saved picture through the plain network, by hand."""
    run = tmp_path / "run"
    lit_viz("visualize", "--layer", "features.3", "--channel", "5", *few_options, "--out", str(run))
    (record,) = records(run)
    pixels = read_png(run / record["file"]).double()
    with torch.no_grad():
        maps = smooth_network().double().features[:4](((pixels - 0.5) / 0.25)[None])
    assert record["objective_file"] == pytest.approx(float(maps[0, 5].mean()), rel=1e-4)
    lit_viz("check", str(run))
    assert "evidence: 1 of 1 file classified as recorded" in capsys.readouterr().err
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(run / record["file"])
    reseal(run)
    lit_viz("check", str(run), expect=1)
    assert json.loads((run / "evidence.json").read_text())["pictures"]["same"] == 0


def test_a_neuron_a_layer_and_a_group(tmp_path: Path, few_options: Any, lit_viz: Any, records: Any) -> None:
    neuron, layer, group = (tmp_path / name for name in ("neuron", "layer", "group"))
    lit_viz(
        "visualize", "--layer", "features.3", "--channel", "1", "--neuron", "0,3", *few_options, "--out", str(neuron)
    )
    objective = yaml.safe_load((neuron / "config.yaml").read_text())["module"]["init_args"]["objective"]
    assert objective["init_args"]["place"] == [0, 3]
    lit_viz("visualize", "--layer", "features.3", *few_options, "--out", str(layer))
    assert [(r["name"], r.get("channel")) for r in records(layer)] == [("features.3", None)]
    lit_viz("visualize", "--layer", "features.3", "--channel", "1", "--group", "3", *few_options, "--out", str(group))
    for file in ("images/0000_features.3_ch1.png", "frames/0000_features.3_ch1/iter_000003.png"):
        assert read_png(group / file).shape == (3, 16, 3 * 16 + 2)
    lit_viz("check", str(group))


def test_a_composed_objective_takes_its_channels_from_the_words(
    tmp_path: Path, few_options: Any, lit_viz: Any, records: Any
) -> None:
    term = {"layer": "features.3"}
    parts = [{"class_path": f"lit_viz.objectives.{name}", "init_args": term} for name in ("Channel", "Diversity")]
    objective = {"class_path": "lit_viz.objectives.Sum", "init_args": {"terms": parts, "weights": [1.0, 2.0]}}
    config = tmp_path / "diverse.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "tasks": {"class_path": "lit_viz.LayerTasks", "init_args": {"channel": "2-3"}},
                "module": {
                    "init_args": {
                        "parameterization": {"class_path": "lit_viz.images.Pixels"},
                        "step_rule": {"class_path": "lit_viz.optim.Adam"},
                        "objective": objective,
                        "picture": {"group": 2},
                    }
                },
            }
        )
    )
    lit_viz("visualize", "--config", str(config), *few_options, "--out", str(tmp_path / "run"))
    assert [record["channel"] for record in records(tmp_path / "run")] == [2, 3]


def composed(config: Path, *names: str) -> Path:
    """Write a recipe whose objective is the sum of those of ``names``, of another layer."""
    parts = [{"class_path": f"lit_viz.objectives.{name}", "init_args": {"layer": "features.0"}} for name in names]
    module = {"parameterization": "Pixels", "step_rule": "Adam", "picture": {"group": 2}}
    objective = {"class_path": "lit_viz.objectives.Sum", "init_args": {"terms": parts}}
    sections = {"module": {"init_args": {**module, "objective": objective}}}
    config.write_text(yaml.safe_dump(sections))
    return config


@pytest.mark.parametrize(
    ("words", "terms"),
    [
        ([], [("Channel", None), ("Diversity", None)]),
        (["--neuron", "1,2"], [("Neuron", [1, 2]), ("Diversity", None)]),
    ],
)
def test_a_layer_is_passed_to_the_objective_of_a_configuration(
    words: list[str],
    terms: list[tuple[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    few_options: Any,
    lit_viz: Any,
) -> None:
    config = composed(tmp_path / "diverse.yaml", "Channel", "Diversity")
    line = ["visualize", "--layer", "features.3", "--channel", "2", *words, "--config", str(config), *few_options]
    lit_viz(*line, "--out", str(tmp_path / "run"))
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    of = written["module"]["init_args"]["objective"]["init_args"]["terms"]
    assert [(t["class_path"].rpartition(".")[2], t["init_args"].get("place")) for t in of] == terms
    assert {t["init_args"]["layer"] for t in of} == {"features.3"}
    capsys.readouterr()
    lit_viz(*line, "--print_config")
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["module"]["init_args"]["objective"] == written["module"]["init_args"]["objective"]
    assert printed["tasks"] == written["tasks"]
    assert (printed["tasks"]["init_args"]["layer"], printed["tasks"]["init_args"]["channel"]) == ("features.3", 2)


def test_a_layer_takes_the_place_of_the_classes_of_a_configuration(
    tmp_path: Path, few_options: Any, lit_viz: Any, records: Any
) -> None:
    lit_viz("visualize", "--layer", "features.3", "--config", "small", *few_options, "--out", str(tmp_path / "run"))
    assert [record["name"] for record in records(tmp_path / "run")] == ["features.3"]


def test_channels_and_places_are_read() -> None:
    assert parse_channels("3, 14-16", 20) == [3, 14, 15, 16]
    assert parse_channels(7, 20) == [7]
    assert parse_channels("all", 3) == [0, 1, 2]
    assert parse_place("3,14") == (3, 14)
    assert parse_place("center") == "center"
    for words in ("3-", "-3", "", "3,,4"):
        with pytest.raises(LitVizError, match=r"^channel must be numbers and ranges"):
            parse_channels(words, 20)


def test_a_run_is_named_by_its_layer_and_has_a_cost(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    few_options: Any,
    lit_viz: Any,
) -> None:
    words = ["--layer", "features.3", "--channel", "1-3", "--group", "2", *few_options]
    lit_viz("visualize", *words, "--count")
    assert "3 images, 6 steps, 72 evaluations" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    lit_viz("visualize", "--layer", "features.3", "--channel", "1", *few_options)
    (run,) = (tmp_path / "runs" / "visualize").iterdir()
    assert run.name.endswith("_features.3")


def test_the_same_from_python(smooth: Network) -> None:
    run = lv.visualize(smooth, layer="features.3", channel="2,4", iterations=2, size=16)
    assert [record["channel"] for record in run.records] == [2, 4]
    assert run.images.shape == (2, 3, 16, 16)
    with pytest.raises(LitVizError, match="target must name at least one class, got none"):
        lv.visualize(smooth)


def test_sums_of_objectives_in_the_documentation(
    smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks run, with a small network in place of that of the page."""
    python = blocks(read("visualize_layers.md").replace("blocks.3.2", "features.3"))
    in_python, part = (next(block for block in python if word in block) for word in ("8 * Diversity(", "class Diverse"))
    known: dict[str, Any] = {"lv": lv}
    few = 'smooth, iterations=2, channel=5, size=16, config="small"'
    in_python = re.sub(r'"efficientnet_lite0", config="channels", channel=15', few, in_python)
    exec(in_python, {**known, "smooth": smooth}, known)
    (tmp_path / "documented_parts.py").write_text(part)
    monkeypatch.syspath_prepend(tmp_path)
    from documented_parts import Diverse

    how: dict[str, Any] = {"layer": "features.0", "channel": 5, "group": 4, "size": 16}
    own = lv.visualize(smooth, iterations=2, config="small", objective=Diverse(), **how).records[0]
    assert known["run"].records[0]["name"] == "features.3_ch5"
    assert (own["name"], own["layer"], own["status"]) == ("features.0_ch5", "features.0", "done")


def test_layers_are_listed_with_their_outputs(capsys: pytest.CaptureFixture[str], lit_viz: Any) -> None:
    lit_viz("layers")
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in capsys.readouterr().out.splitlines()}
    assert lines["blocks.3.2"] == "InvertedResidual 80 x 14 x 14, 80 channels"
    assert lines["classifier"] == "Linear 1000, 1000 channels"
    assert lines["blocks.3.0.drop_path"] == "Identity not called, or no tensor"
