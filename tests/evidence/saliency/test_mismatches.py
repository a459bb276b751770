"""What check states of saliency maps is computed from them: each forged value of a record is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.errors import LitVizError
from lit_viz.evidence.saliency_map import SaliencyMapVerifier
from lit_viz.evidence.verifier import EvidencePart
from lit_viz.images.reading import encode_png
from lit_viz.networks import Network
from lit_viz.runs import tar_store
from lit_viz.runs.evidence import SaliencyEvidence
from tests.support.forgery import STORES, Copied, ForgedRun, another, loaded, rewrite, values_of
from tests.support.networks import NAMES, load_network, smooth_network

#: Values that can't be computed from the map: what the run cost. The place in a tar is that of its member, and the
#: digest of a photograph is compared when it is read.
OF_THE_RUN = {"forwards", "backwards", "seconds", "offset", "source_sha256", "kind"}
#: Values that contradict the queue, or the place of the files.
OF_THE_QUEUE = ["name", "source", "seed", "label", "method", "tile", "index", "file", "array", "status", "error"]
FIELDS = [
    "label_source", "label_name", "target", "target_name", "predicted", "predicted_name", "correct",
    "top5", "probability", "logit", "rank", "maximum", "signed", "bands", "reducer", "box", "iou", "output_box",
    "output_outline", "output_note", "place", "against", "gamma", "setting", "baseline", "sigma", "backprop",
    "iterations", "original_size", "original_box", "format", "clipped", "filled", "no_data", "completeness",
    "relative_error",
]  # fmt: skip
#: Values that no other network has, and those of files alone.
OF_OTHERS, OF_FILES = {"text", "text_agrees", "scale"}, {"file"}
OTHERS: dict[str, object] = {
    "status": "failed", "error": "x", "box": [1, 2, 3, 4], "iou": 0.5, "output_box": [1, 2, 3, 4], "source": "x.png",
    "output_outline": [[[1, 2]]], "output_note": "x", "place": 1, "against": 1, "gamma": 2.0, "bands": {"a": 1.0},
    "index": 1, "tile": {"image": 0, "row": 0, "column": 0, "height": 1, "width": 1}, "file": "images/0001_p1.png",
    "array": "arrays/0001_p1.npy", "original_size": [32, 32], "original_box": [0.0, 0.0, 8.0, 8.0],
    "format": {"ranges": [[0, 255]] * 3}, "clipped": 3, "filled": 3, "no_data": [0, 4],
}  # fmt: skip
OPTIONS: dict[str, Any] = {
    "method": "integrated_gradients", "iterations": 4, "target": "predicted", "captum": "none", "logger": "none",
}  # fmt: skip


def noise(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(4)).mul(255).round() / 255


@pytest.fixture(scope="module", params=STORES)
def finished(request: pytest.FixtureRequest, smooth: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps of photographs in files; in a tar the last one is stored reduced."""
    folder = tmp_path_factory.mktemp("photographs")
    for number, image in enumerate(noise()):
        (folder / f"p{number}.png").write_bytes(encode_png(image))
    run: Path = tmp_path_factory.mktemp("runs") / "run"
    labels = smooth.scores(noise()).argmax(1).tolist()
    labels[2] = (labels[2] + 1) % 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tar_store, "_FIRST", 2)
        lv.saliency(smooth, sorted(folder.glob("*.png")), label=labels, store=request.param, out=run, **OPTIONS)
    assert lv.check(run, smooth)
    return run


@pytest.fixture(autouse=True)
def no_captum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the comparison with Captum, which finds some of the forgeries too."""
    monkeypatch.setattr(SaliencyMapVerifier, "_compare_with_captum", lambda _: EvidencePart())


def test_every_value_of_a_record_is_verified_or_of_the_run(finished: Path) -> None:
    names = set(values_of(loaded(finished).records().of_index(0)))
    assert names - OF_THE_RUN - OF_OTHERS - set(OF_THE_QUEUE) == set(FIELDS) - {"setting"}


@pytest.mark.parametrize("name", FIELDS)
def test_a_forged_value_is_named(name: str, finished: Path, copied: Copied) -> None:
    run = copied(finished)
    record = run.record(0)
    values = values_of(record)
    value = OTHERS.get(name, another(values.get(name)) if name != "setting" else 1)
    if name == "signed":
        value = None if values["signed"] else True
    run.forge(0, "settings" if name == "setting" else name, {"layer": "x"} if name == "setting" else value)
    text = run.stated()
    word = {"setting": "layer", "predicted_name": "predicted"}.get(name, name)
    assert f"{word} " in text.partition("is not as recorded")[2]
    assert "not as recorded: p0" in text
    wrong = run.loaded().evidence(SaliencyEvidence).records
    assert wrong is not None
    assert wrong.wrong == ["p0"]


@pytest.mark.parametrize("name", OF_THE_QUEUE)
def test_a_record_of_another_task_is_refused(name: str, finished: Path, smooth: Network, copied: Copied) -> None:
    run = copied(finished)
    record = run.record(0)
    value = OTHERS.get(name, another(values_of(record)[name]))
    if ".tar" in str(record.array) and name in OF_FILES:
        pytest.skip("maps in a tar have no picture")
    if ".tar" in str(record.array) and name == "array":
        value = str(run.record(1).array)
    run.forge(0, name, value)
    text = run.stated()
    word = {"index": "its record is of task 1", "array": "the file of task 0 is", "error": "and has an error"}
    assert word.get(name, f"the {name} of task 0 is") in text
    with pytest.raises(LitVizError, match="start another run"):
        lv.resume(run.folder, smooth)


@pytest.mark.parametrize("name", ["maximum", "predicted", "signed"])
def test_a_reduced_map_is_compared_too(name: str, finished: Path, copied: Copied) -> None:
    run = copied(finished)
    record = run.record(2)
    if name == "signed":
        run.forge(2, name, None if record["signed"] else True)
    else:
        run.forge(2, name, another(record[name]))
    assert f"{name} " in run.stated().partition("is not as recorded")[2]


@pytest.mark.parametrize(
    ("method", "options", "names"),
    [
        ("smoothgrad", {"iterations": 8}, ["standard_error", "relative_error", "iterations"]),
        ("kernel_shap", {"iterations": 120, "segments": 20}, ["standard_error", "relative_error"]),
        ("extremal_perturbation", {"iterations": 8}, ["area_error", "iterations"]),
        ("feature_ablation", {"segments": 4}, ["iterations"]),
    ],
)
def test_the_error_of_a_map_is_verified(
    method: str,
    options: Mapping[str, Any],
    names: Sequence[str],
    smooth: Network,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = ForgedRun(tmp_path / "run", smooth, capsys)
    lv.saliency(smooth, noise(1), method=method, captum="none", logger="none", out=run.folder, **options)
    assert run.check()
    record = run.record(0)
    for name in names:
        value = values_of(record)[name]
        run.forge(0, name, value * 2)
        assert f"{name} " in run.stated().partition("is not as recorded")[2]
        run.forge(0, name, value)


def test_a_picture_of_another_map_is_named(finished: Path, copied: Copied) -> None:
    run = copied(finished)
    name = run.record(0).file
    if name is None:
        pytest.skip("the picture of a map in a tar is drawn from it")
    other = run.folder / str(run.record(1).file)
    (run.folder / name).write_bytes(other.read_bytes())
    rewrite(run.folder, lambda _: None)
    assert "is not that of the map" in run.stated()


def test_rounding_on_another_machine_is_no_mismatch(finished: Path, copied: Copied) -> None:
    run = copied(finished)
    record = run.record(1)
    for name in ("probability", "logit", "maximum"):
        run.forge(1, name, values_of(record)[name] * (1 + 1e-7))
    assert run.check()


def test_without_its_photograph_a_prediction_is_not_verified(
    smooth: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    lv.saliency(smooth, noise(), out=run, **OPTIONS)
    sorted((run / "sources").iterdir())[0].unlink()
    sorted((run / "arrays").glob("0001_*[0-9].npy"))[0].unlink()
    rewrite(run, lambda _: None)
    text = ForgedRun(run, smooth, capsys).stated()
    assert "1 photograph missing, so their predictions can't be verified" in text
    assert "not as recorded: image 1" in text


def test_values_of_bands_are_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = load_network(smooth_network(4), labels=NAMES, mean=[0.5] * 4, std=[0.25] * 4, size=16, bands=list("abcd"))
    run = ForgedRun(tmp_path / "run", network, capsys)
    x = torch.rand(1, 4, 16, 16, generator=torch.Generator().manual_seed(4))
    lv.saliency(network, x, method="integrated_gradients", iterations=4, captum="none", logger="none", out=run.folder)
    bands = dict(run.record(0)["bands"])
    assert run.check()
    run.forge(0, "bands", bands | {"b": bands["b"] + 0.01})
    assert "bands " in run.stated()
