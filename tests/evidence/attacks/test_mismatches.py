"""What check states of adversarial files is computed from them: each forged value of a record is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.errors import LitVizError
from lit_viz.images.reading import encode_png
from lit_viz.networks import Network
from lit_viz.runs.evidence import UniversalEvidence
from tests.support.forgery import STORES, Copied, another, forge, forge_line, loaded, rewrite, values_of

#: Values that can't be computed from the file: what the run cost, and what is of the image before it was rounded. The
#: place in a tar is that of its member, and the digest of a photograph is compared when it is read.
OF_THE_RUN = {
    "forwards", "backwards", "seconds", "success_float", "repaired", "offset", "source_sha256", "array", "file", "kind",
}  # fmt: skip
#: Values that are those of the task in the queue, which is compared first.
OF_THE_QUEUE = {"index", "name", "source", "seed", "tile", "error"}
FIELDS = [
    "status", "label", "label_source", "label_name", "target", "target_name", "predicted", "predicted_name", "top5",
    "predicted_before", "predicted_before_name", "probability_before", "probability", "margin", "l2", "linf", "l0",
    "correct", "ssim", "psnr", "success_file", "success_jpeg95", "success_jpeg75", "attack", "norm", "eps", "momentum",
    "nesterov", "random_start", "restarts", "early_stop", "iterations", "original_size", "original_box", "format",
    "clipped", "filled", "no_data", "output_box", "output_outline", "output_note",
]  # fmt: skip
OPTIONS: dict[str, Any] = {"attack": "pgd", "eps": "12/255", "iterations": 8, "early_stop": False, "logger": "none"}


def noise(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(4)).mul(255).round() / 255


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photographs")
    paths = [folder / f"p{n}.png" for n in range(6)]
    for path, image in zip(paths, noise(), strict=True):
        path.write_bytes(encode_png(image))
    return paths


@pytest.fixture(scope="module", params=STORES)
def finished(
    request: pytest.FixtureRequest, smooth: Network, photographs: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    run: Path = tmp_path_factory.mktemp("runs") / "run"
    lv.attack(smooth, photographs, store=request.param, out=run, **OPTIONS)
    assert lv.check(run, smooth)
    return run


def test_every_value_of_a_record_is_verified_or_of_the_run(finished: Path) -> None:
    names = set(values_of(loaded(finished).records().of_index(0)))
    others = {
        "text",
        "text_before",
        "text_agrees",
        "score_before",
        "against",
        "boxes",
        "boxes_before",
    }  # of other networks
    ensemble = {"by", "tried", "fewest"}
    assert names - OF_THE_RUN - OF_THE_QUEUE - others - ensemble == set(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_a_forged_value_is_named(name: str, finished: Path, copied: Copied) -> None:
    if name == "status" and "tar" in str(loaded(finished).records().of_index(2).file):
        pytest.skip("the sample of a store of tars has finished tasks only")
    run = copied(finished)
    record = run.record(2)
    values: dict[str, object] = {"status": "skipped", "target": 1, "target_name": "x", "norm": "l2", "correct": True}
    values |= {"original_size": [32, 32], "original_box": [0.0, 0.0, 8.0, 8.0], "clipped": 3, "filled": 3}
    values |= {"no_data": [0, 4], "format": {"ranges": [[0, 255]] * 3}}
    values |= {"output_box": [1, 2, 3, 4], "output_outline": [[[1, 2]]], "output_note": "x"}
    run.forge(2, name, values.get(name, another(values_of(record)[name])))
    if name == "status":
        run.forge(2, "error", "predicted as apple before the attack")
    stated = run.stated()
    word = {"l2": "L2 distance", "linf": "L∞ distance"}.get(name, name)
    if name.startswith("predicted"):
        word = name.removesuffix("_name")
    assert f"{word} " in stated.partition("is not as recorded")[2]
    assert "not as recorded: p2" in stated


@pytest.mark.filterwarnings("ignore:1 skipped of 6")
@pytest.mark.parametrize("attack", ["pgd", "universal"])
def test_records_state_whether_the_prediction_is_the_given_label(
    attack: str, smooth: Network, photographs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = smooth.scores(noise()).argmax(1).tolist()
    labels[2] = (labels[2] + 1) % 5
    run = tmp_path / "run"
    options = OPTIONS
    if attack == "universal":
        options = {"attack": "universal", "eps": 0.2, "norm": "linf", "iterations": 8, "logger": "none"}
    result = lv.attack(smooth, photographs, label=labels, out=run, **options)
    expected = [True, True, False, True, True, True]
    if attack == "universal":
        of_photographs = [image.record for image in loaded(run).outcomes()[0].perturbed_images()]
    else:
        of_photographs = list(result.records)
        assert of_photographs[2].status == "skipped"
    assert [record.correct for record in of_photographs] == expected
    assert lv.check(run, smooth)
    for index in (1, 2):
        if attack == "universal":
            forge_line(run, LINES, index, correct=not expected[index])
        else:
            forge(run, index, "correct", not expected[index])
    capsys.readouterr()
    assert not lv.check(run, smooth, progress=True)
    stated = " ".join(capsys.readouterr().err.split())
    assert "correct True, recorded False" in stated
    assert "correct False, recorded True" in stated


@pytest.mark.parametrize("name", ["success_file", "success_jpeg95", "success_jpeg75"])
def test_a_success_that_is_not_there_is_not_counted(
    name: str, smooth: Network, photographs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = OPTIONS | {"eps": "1/255", "iterations": 1}
    result = lv.attack(smooth, photographs, out=run, **options)
    records = [record for record in result.records if record.status == "done"]
    fooled = sum(bool(record["success_file"]) for record in records)
    failed = [record for record in records if not record["success_file"]]
    assert failed
    for record in failed:
        forge(run, record.index, name, True)
    assert not lv.check(run, smooth, progress=True)
    assert f"{fooled} of {len(records)} files fool the original network" in capsys.readouterr().err
    kept = loaded(run).records()
    assert not any(kept.of_index(record.index).success_file for record in failed)


def test_a_photograph_that_is_said_to_be_misclassified_is_evaluated(
    smooth: Network, photographs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    labels = smooth.scores(noise()).argmax(1).tolist()
    labels[0] = (labels[0] + 1) % 5
    with pytest.warns(UserWarning, match="1 skipped"):
        lv.attack(smooth, photographs, label=labels, out=run, **OPTIONS)
    assert lv.check(run, smooth)
    forge(run, 0, "status", "done")
    forge(run, 0, "error", None)
    assert not lv.check(run, smooth, progress=True)
    assert "status skipped, recorded done" in capsys.readouterr().err


def test_rounding_on_another_machine_is_no_mismatch(finished: Path, copied: Copied) -> None:
    run = copied(finished)
    record = run.record(1)
    for name in ("probability", "probability_before", "margin", "ssim", "psnr"):
        run.forge(1, name, values_of(record)[name] * (1 + 1e-6))
    assert run.check()


def test_without_its_photograph_a_file_does_not_count(
    smooth: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    result = lv.attack(smooth, noise(), out=run, **OPTIONS)
    record = next(record for record in result.records if record["success_file"])
    fooled = sum(bool(other["success_file"]) for other in result.records)
    (run / "sources" / f"{record.key}.png").unlink()
    rewrite(run, lambda _: None)
    lv.check(run, smooth, progress=True)
    stated = capsys.readouterr().err
    assert f"{fooled - 1} of 6 files fool" in stated
    assert "1 photograph missing, so their files can't be verified and do not count" in stated


def test_a_changed_file_is_not_as_recorded(finished: Path, copied: Copied) -> None:
    run = copied(finished)
    record = run.record(1)
    if record.file is None or ".tar" in record.file:
        pytest.skip("a file in a tar")
    (run.folder / record.file).write_bytes(encode_png(noise()[1]))
    rewrite(run.folder, lambda _: None)
    assert not run.check()


def test_a_photograph_of_another_size_is_named(smooth: Network, tmp_path: Path) -> None:
    run = tmp_path / "run"
    lv.attack(smooth, noise(2), out=run, **OPTIONS)
    next((run / "sources").glob("0001*.png")).write_bytes(encode_png(torch.zeros(3, 40, 40)))
    rewrite(run, lambda _: None)
    with pytest.raises(LitVizError, match=r"the photograph of .* must have the shape \(3, 16, 16\) of .*, got \(3, 40"):
        lv.check(run, smooth)


# -- universal perturbations

OF_PHOTOGRAPHS = [
    "status", "label", "label_source", "label_name", "predicted_before_name", "probability_before", "predicted",
    "predicted_name", "probability", "success_file", "success_jpeg95", "success_jpeg75", "l2", "linf", "held_out",
    "target", "target_name", "file", "correct",
]  # fmt: skip
OF_PERTURBATIONS = [
    "fooling_rate", "held_out_fooling_rate", "trained_on", "held_out", "photographs", "magnified", "l2", "linf", "eps",
    "norm", "attack",
]  # fmt: skip
LINES = "photographs/0000_universal.jsonl"


@pytest.fixture(scope="module")
def universal(smooth: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run: Path = tmp_path_factory.mktemp("runs") / "run"
    x = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(4))  # off the 8-bit lattice
    lv.attack(smooth, x, attack="universal", eps=0.2, norm="linf", iterations=8, held_out=0.34, logger="none", out=run)
    assert lv.check(run, smooth)
    return run


@pytest.mark.parametrize("name", OF_PHOTOGRAPHS)
def test_a_forged_value_of_a_photograph_is_named(name: str, universal: Path, copied: Copied) -> None:
    run = copied(universal)
    record = run.loaded().outcomes()[0].perturbed_images()[2].record
    values: dict[str, object] = {"status": "skipped", "target": 1, "file": None, "target_name": "x", "correct": True}
    value = values.get(name, another(values_of(record)[name]))
    forge_line(run.folder, LINES, 2, **{name: value})
    assert "not as recorded: image 2" in run.stated()


@pytest.mark.parametrize("name", OF_PERTURBATIONS)
def test_a_forged_value_of_a_perturbation_is_named(name: str, universal: Path, copied: Copied) -> None:
    run = copied(universal)
    value = values_of(run.record(0))[name]
    run.forge(0, name, "l2" if name == "norm" else another(value))
    rates = loaded(universal).evidence(UniversalEvidence).universal
    assert f"{name} " in run.stated().partition("is not as recorded")[2]
    assert run.loaded().evidence(UniversalEvidence).universal == rates
    assert run.record(0)["fooling_rate"] is None
