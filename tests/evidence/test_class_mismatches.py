"""What check states of class images is computed from them: each forged value of a record is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from torch import Tensor

import lit_viz as lv
from lit_viz.errors import LitVizError
from lit_viz.networks import Network
from lit_viz.runs.evidence import VisualizationEvidence
from tests.support.forgery import STORES, Copied, ForgedRun, another, loaded, values_of

#: Values that can't be computed from the file: what the run cost, and the objective of the last transformed views. The
#: place in a tar is that of its member; an image has no array and no photograph.
OF_THE_RUN = {"forwards", "backwards", "seconds", "offset", "source_sha256", "kind", "objective", "array"}
OF_THE_QUEUE = ["name", "source", "seed", "target", "tile", "index", "file", "status", "error"]
OF_ALL = [
    "label", "label_source", "target_name", "lr", "against", "gamma", "format", "top5", "layer", "channel", "axis",
    "judges", "iterations", "clipped", "filled", "no_data", "restarts",
]  # fmt: skip
OF_CLASSES = [*OF_ALL, "probability", "logit", "rank"]
OF_LAYERS = [*OF_ALL, "objective_file", "target"]
OTHERS: dict[str, object] = {
    "status": "failed", "error": "x", "source": "x.png", "index": 1, "file": "images/0001_x.png", "lr": 0.5,
    "tile": {"image": 0, "row": 0, "column": 0, "height": 1, "width": 1}, "label": 1, "label_source": "x",
    "against": 1, "gamma": 2.0, "format": {"ranges": [[0, 255]] * 3}, "axis": "token", "target_name": "x",
    "judges": {"judge": {"probability": 0.9, "rank": 1}}, "layer": "features.0",
    "clipped": 3, "filled": 3, "no_data": [0, 4], "restarts": 3,
}  # fmt: skip


def judge(_: Tensor, target: int) -> Mapping[str, dict[str, float]]:
    return {"judge": {"probability": 0.25, "rank": 2}}


@pytest.fixture(autouse=True)
def judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_viz.evidence.class_visualization.held_out_judge", lambda _: judge)


@pytest.fixture(scope="module", params=STORES)
def classes(request: pytest.FixtureRequest, smooth: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run: Path = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lit_viz.evidence.class_visualization.held_out_judge", lambda _: judge)
        lv.visualize(smooth, [0, 2], iterations=4, store=request.param, out=run, logger="none")
        assert lv.check(run, smooth)
    return run


@pytest.fixture(scope="module", params=STORES)
def channels(request: pytest.FixtureRequest, smooth: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run: Path = tmp_path_factory.mktemp("runs") / "run"
    lv.visualize(smooth, layer="features.3", channel=[1, 2], iterations=4, store=request.param, out=run, logger="none")
    assert lv.check(run, smooth)
    return run


def forged(run: ForgedRun, name: str) -> None:
    """Forge a value of the first record."""
    value = OTHERS.get(name, another(values_of(run.record(0)).get(name)))
    run.forge(0, name, 1 if value is None else value)


def test_every_value_of_a_record_is_verified_or_of_the_run(classes: Path, channels: Path) -> None:
    for run, names in ((classes, OF_CLASSES), (channels, OF_LAYERS)):
        stored = set(values_of(loaded(run).records().of_index(0)))
        assert stored - OF_THE_RUN - set(OF_THE_QUEUE) == set(names) - set(OF_THE_QUEUE)


@pytest.mark.parametrize("name", OF_CLASSES)
def test_a_forged_value_of_a_class_is_named(name: str, classes: Path, copied: Copied) -> None:
    run = copied(classes)
    forged(run, name)
    text = run.stated()
    assert f"{name}" in text.partition("is not as recorded")[2]
    assert "not as recorded: apple" in text
    evidence = run.loaded().evidence(VisualizationEvidence).pictures
    assert evidence is not None
    assert (evidence.same, evidence.wrong) == (1, ["apple"])
    assert "not as recorded: apple" in (run.folder / "report.html").read_text()


@pytest.mark.parametrize("name", OF_LAYERS)
def test_a_forged_value_of_a_channel_is_named(name: str, channels: Path, copied: Copied) -> None:
    run = copied(channels)
    forged(run, name)
    text = run.stated()
    if name in ("layer", "channel"):
        assert f"the {name} of task 0 is" in text
    else:
        assert f"{name} " in text.partition("is not as recorded")[2]


def test_a_format_that_is_none_is_one_sentence(classes: Path, copied: Copied) -> None:
    run = copied(classes)
    run.forge(0, "format", {"kind": "x"})
    assert "a recorded format of a file must be one, got {'kind': 'x'}: start another run" in run.stated()


@pytest.mark.parametrize("name", OF_THE_QUEUE)
def test_a_record_of_another_task_is_refused(name: str, classes: Path, smooth: Network, copied: Copied) -> None:
    run = copied(classes)
    forged(run, name)
    text = run.stated()
    word = {"index": "its record is of task 1", "error": "and has an error"}
    assert word.get(name, f"the {name} of task 0 is") in text
    with pytest.raises(LitVizError, match="start another run"):
        lv.resume(run.folder, smooth)


def test_rounding_on_another_machine_is_no_mismatch(classes: Path, copied: Copied) -> None:
    run = copied(classes)
    record = run.record(1)
    for name in ("probability", "logit"):
        run.forge(1, name, values_of(record)[name] * (1 + 1e-6))
    assert run.check()


def test_a_judge_that_is_not_installed_is_not_stated(
    classes: Path, copied: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_viz.evidence.class_visualization.held_out_judge", lambda _: lambda *_: {})
    run = copied(classes)
    assert run.check()
    assert not run.record(0)["judges"]
