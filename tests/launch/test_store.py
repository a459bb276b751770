"""Runs with their results in tars have the results of runs in files."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lit_viz as lv
from lit_viz.attacks import PGD
from lit_viz.attributions import Gradient
from lit_viz.errors import Interrupted, LitVizError
from lit_viz.images.reading import encode_png
from lit_viz.methods.photographs import PhotographTraining
from lit_viz.networks import Network
from lit_viz.runs import stored as stored_lines
from lit_viz.runs import tar_store
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.records import read_record
from lit_viz.runs.tar_store import to_half
from lit_viz.runs.verification import Unverified
from lit_viz.types import Record
from tests.support.forgery import forge, loaded
from tests.support.marks import slow
from tests.support.shards import stop_at

pytestmark = pytest.mark.filterwarnings("ignore:1 failed of")

COUNT = 10
#: Fields of a record that depend on the store.
PLACE = dict.fromkeys(("file", "array", "offset", "scale", "source_sha256", "seconds"))


@pytest.fixture(scope="module")
def fashion() -> Network:
    return lv.load_network("zoo/fashion_cnn")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of pictures, and of a file that is none."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    levels = torch.rand(COUNT, 1, 28, 28, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    for number, picture in enumerate(levels):
        (folder / f"{number}.v2.png").write_bytes(encode_png(picture))
    (folder / "9.v2.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(autouse=True)
def few_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four tasks per tar, and a sample of five."""
    monkeypatch.setattr(tar_store, "MOST_TASKS", 4)
    for name, value in (("SAMPLE", 5), ("_FIRST", 2), ("_LEAST", 2)):
        monkeypatch.setattr(tar_store, name, value)


def saliency(network: Network, photographs: Path) -> tuple[lv.SaliencyMap, lv.ImageTasks]:
    return lv.SaliencyMap(network, method=[Gradient()], slots=2), lv.ImageTasks(network, str(photographs), label=2)


def attack(network: Network, photographs: Path) -> tuple[lv.AdversarialExample, lv.ImageTasks]:
    module = lv.AdversarialExample(network, attack=PGD(eps="16/255"), iterations=3)
    return module, lv.ImageTasks(network, str(photographs), label="predicted")


def plain(run: lv.Run) -> list[dict[str, Any]]:
    return [{**record.to_dict(), **PLACE} for record in run.records]


@pytest.mark.parametrize("exponent", [-140, -30, 0, 40, 120])
def test_a_map_in_float16_is_exact_to_its_rounding(exponent: int) -> None:
    values = torch.randn(5, 64, generator=torch.Generator().manual_seed(exponent)).double() * 2.0**exponent
    half, scale = to_half(values)
    assert np.log2(scale) == round(np.log2(scale))
    restored = half.double() * scale
    assert (restored - values).abs().max() <= values.abs().max() * 2.0**-11
    small = values[values.abs() > values.abs().max() * 2.0**-20]
    assert ((small / scale).half().double() * scale / small - 1).abs().max() <= 2.0**-11


@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf])
def test_a_map_without_a_largest_value_is_stored_as_it_is(value: float) -> None:
    half, scale = to_half(torch.full((1, 2, 2), value))
    assert scale == 1
    assert torch.equal(half.float().nan_to_num(7), torch.full((1, 2, 2), value).nan_to_num(7))


@pytest.mark.parametrize("arrays", [False, slow(True)])
def test_maps_in_tars_are_those_of_files(arrays: bool, fashion: Network, photographs: Path, tmp_path: Path) -> None:
    files = lv.run(*saliency(fashion, photographs), out=tmp_path / "files", logger="none")
    stored = lv.run(
        *saliency(fashion, photographs), out=tmp_path / "tar", logger="none", store="tar", store_arrays=arrays
    )
    assert plain(stored) == plain(files)
    assert [record.status for record in stored.records] == ["done"] * 9 + ["failed"]
    expected, maps = files.maps[:9], stored.maps[:9]
    allowed = expected.flatten(1).abs().amax(1)[:, None, None] * 2.0**-11
    assert ((maps - expected).abs() <= allowed).all()
    exact = 9 if arrays else 2  # the first two tasks
    assert torch.equal(maps[:exact], expected[:exact])
    assert arrays or not torch.equal(maps[exact:], expected[exact:])
    for number in range(9):
        photograph = files[number].source()
        assert photograph is not None
        assert torch.equal(stored[number].source(), photograph)
    assert len(list((tmp_path / "tar" / "tars").iterdir())) == 3
    assert not any((tmp_path / "tar" / name).exists() for name in ("sources", "images", "arrays", "frames"))
    assert (tmp_path / "tar" / "report.html").exists()
    assert "5 of 10 images" in (tmp_path / "tar" / "report.html").read_text()
    assert lv.check(tmp_path / "tar")


@pytest.mark.parametrize("build", [saliency, slow(attack)])
def test_tasks_that_are_not_evaluated_are_counted_everywhere(
    build: Any, fashion: Network, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "tar"
    ended = lv.run(*build(fashion, photographs), out=run, logger="none", store="tar")
    done = sum(record.status == "done" for record in ended.records)
    text = f"{done - 5} finished tasks outside of the sample not evaluated."
    assert json.loads((run / "evidence.json").read_text())["unchecked"] == done - 5
    assert text in (run / "report.html").read_text()
    capsys.readouterr()
    assert lv.check(run, progress=True)
    assert text in " ".join(capsys.readouterr().err.split())
    assert json.loads((run / "evidence.json").read_text())["unchecked"] == done - 5
    whole = tmp_path / "files"
    lv.run(*build(fashion, photographs), out=whole, logger="none")
    assert "unchecked" not in json.loads((whole / "evidence.json").read_text())


def test_only_records_of_the_sample_and_of_failures_are_made_at_the_end(
    fashion: Network, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: Counter[str] = Counter()

    def counted(values: Any) -> Record:
        counts[values["name"]] += 1
        return read_record(values)

    monkeypatch.setattr(stored_lines, "read_record", counted)
    monkeypatch.setattr(tar_store, "SAMPLE", 4)
    run = lv.run(*saliency(fashion, photographs), out=tmp_path / "tar", logger="none", store="tar", captum="none")
    names = set(counts)
    failed = {record.name for record in run.records if record.status == "failed"}
    assert len(failed) == 1
    assert len(names - failed) == 4


def test_outcomes_are_read_when_they_are_accessed(
    fashion: Network, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = lv.run(*saliency(fashion, photographs), out=tmp_path / "tar", logger="none", store="tar", captum="none")
    read: list[int] = []

    def counted(values: Any) -> Record:
        read.append(values["index"])
        return read_record(values)

    monkeypatch.setattr(stored_lines, "read_record", counted)
    assert len(run) == COUNT
    assert run[3].record.index == 3
    assert [outcome.record.index for outcome in run[-2:]] == [8, 9]
    assert set(read) <= {3, 8, 9}
    assert [record.index for record in run.records] == list(range(COUNT))


def test_a_tar_is_a_shard_of_webdataset(fashion: Network, photographs: Path, tmp_path: Path) -> None:
    lv.run(*saliency(fashion, photographs), out=tmp_path / "tar", logger="none", store="tar")
    records = {record.index: record for record in FolderStorage.open(tmp_path / "tar").records()}
    with tarfile.open(tmp_path / "tar" / "tars" / "000001.tar") as tar:
        names = tar.getnames()
        assert names[:2] == ["0004_4_v2.map.npy", "0004_4_v2.json"]
        content = tar.extractfile(names[0])
        text = tar.extractfile(names[1])
        assert content is not None
        assert text is not None
        (tmp_path / "map.npy").write_bytes(content.read())
        record = json.loads(text.read())
    values = np.load(tmp_path / "map.npy")
    assert values.dtype == np.float16
    assert values.shape == (1, 28, 28)
    assert record == records[4].to_dict()
    assert abs(float(values.astype(float).max()) * record["scale"] / record["metrics"]["maximum"] - 1) < 2.0**-10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:1 failed, . skipped")
def test_adversarial_examples_in_tars_are_those_of_files(fashion: Network, photographs: Path, tmp_path: Path) -> None:
    files = lv.run(*attack(fashion, photographs), out=tmp_path / "files", logger="none")
    stored = lv.run(*attack(fashion, photographs), out=tmp_path / "tar", logger="none", store="tar")
    assert plain(stored) == plain(files)
    assert torch.equal(stored.images.nan_to_num(7), files.images.nan_to_num(7))
    assert lv.check(tmp_path / "tar") == lv.check(tmp_path / "files")


@pytest.mark.parametrize("at", [slow(3), 4, slow(7)])
def test_a_resumed_run_cuts_what_is_later_than_its_checkpoint(
    at: int, fashion: Network, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(out: Path, **options: Any) -> lv.Run:
        module, tasks = saliency(fashion, photographs)
        return lv.run(module, tasks, out=out, logger="none", store="tar", **options)

    whole = run(tmp_path / "whole")
    out = tmp_path / "resumed"
    with monkeypatch.context() as patch:
        stop_at(patch, at)
        with pytest.raises((Interrupted, KeyboardInterrupt)):
            run(out)
    (out / "tars" / "000009.tar").write_bytes(b"later")
    (out / "records" / "000009.jsonl").write_bytes(b"later")
    resumed = run(out, resume=True)
    assert plain(resumed) == plain(whole)
    assert torch.equal(resumed.maps.nan_to_num(7), whole.maps.nan_to_num(7))
    assert not {"000009.tar", "000009.jsonl"} & {path.name for path in out.rglob("*")}
    assert lv.check(out)


@pytest.fixture
def stored(fashion: Network, photographs: Path, tmp_path: Path) -> Path:
    out = tmp_path / "tar"
    lv.run(*saliency(fashion, photographs), out=out, logger="none", store="tar")
    return out


@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_check_names_a_damaged_tar(damage: str, stored: Path) -> None:
    path = stored / "tars" / "000001.tar"
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        path.write_bytes(content[:600] + b"x" + content[601:])
    with pytest.raises(Unverified, match=r"000001\.tar"):
        lv.check(stored)


def test_a_task_that_is_not_at_its_place_in_a_tar_has_a_remedy_that_works(stored: Path) -> None:
    place = loaded(stored).records().of_index(1).offset
    for offset in (place, -512):
        forge(stored, 0, "offset", offset)
        with pytest.raises(LitVizError, match=r"000000\.tar.*: its record was edited, so start another run"):
            lv.check(stored)
    forge(stored, 0, "offset", 0)
    path = stored / "tars" / "000000.tar"
    path.write_bytes(bytes(512) + path.read_bytes()[512:])
    with pytest.raises(Unverified, match=r"lit-viz resume .* computes its tasks again"):
        lv.check(stored)
    lv.resume(stored)
    assert lv.check(stored)


def test_a_check_changes_records_of_a_run_that_is_its_own_sample(fashion: Network, tmp_path: Path) -> None:
    run = tmp_path / "run"
    lv.attack(fashion, torch.rand(2, 1, 28, 28), attack="fgsm", store="tar", out=run, logger="none")
    forge(run, 0, "success_file", None)
    assert not lv.check(run, fashion)
    forge(run, 0, "probability", 0.5)
    assert not lv.check(run, fashion)


def test_check_names_missing_photographs(stored: Path, photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photographs / "3.v2.png").unlink()
    lv.check(stored, progress=True)
    assert f"missing photographs: 1, such as {photographs / '3.v2.png'}" in capsys.readouterr().err


def test_a_changed_photograph_is_named(stored: Path, photographs: Path) -> None:
    run = lv.resume(stored)
    (photographs / "3.v2.png").write_bytes((photographs / "4.v2.png").read_bytes())
    with pytest.raises(LitVizError, match=r"3\.v2\.png is another picture"):
        run[3].source()


def test_a_finished_run_is_not_computed_again(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PhotographTraining, "start", None)
    before = {path: path.stat().st_mtime_ns for path in stored.rglob("*") if path.is_file()}
    assert len(lv.resume(stored)) == COUNT
    assert {path: path.stat().st_mtime_ns for path in stored.rglob("*") if path.is_file()} == before


def test_a_store_requires_a_folder_and_applies_to_images(fashion: Network, photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(LitVizError, match="store requires out"):
        lv.run(*saliency(fashion, photographs), store="tar")
    module = lv.UniversalPerturbation(fashion, iterations=1)
    tasks = lv.ImageTasks(fashion, str(photographs), label="predicted")
    with pytest.raises(LitVizError, match="store does not apply to UniversalPerturbation"):
        lv.run(module, tasks, out=tmp_path / "universal", logger="none", store="tar")


def test_merged_shards_have_the_results_of_one_run(fashion: Network, photographs: Path, tmp_path: Path) -> None:
    whole = lv.run(*saliency(fashion, photographs), out=tmp_path / "whole", logger="none", store="tar")
    for index in range(2):
        pair = saliency(fashion, photographs)
        lv.run(*pair, out=tmp_path / "run", logger="none", store="tar", shard=f"{index}/2")
    merged = lv.merge(tmp_path / "run", tmp_path / "merged")
    assert plain(merged) == plain(whole)
    assert torch.equal(merged.maps[:9], whole.maps[:9])
    assert len(list((tmp_path / "merged" / "tars").iterdir())) == 4
    (tmp_path / "merged" / "tars" / "0of2-000000.tar").unlink()
    assert torch.equal(lv.resume(tmp_path / "merged").maps[:9], whole.maps[:9])  # also the channels of the first maps
    (tmp_path / "merged" / "figure.png").unlink()
    assert torch.equal(lv.resume(tmp_path / "merged").maps[:9], whole.maps[:9])
    assert (tmp_path / "merged" / "figure.png").exists()
    assert lv.check(tmp_path / "merged")


def test_shards_of_different_stores_are_not_merged(fashion: Network, photographs: Path, tmp_path: Path) -> None:
    for index, store in enumerate(("tar", "files")):
        pair = saliency(fashion, photographs)
        lv.run(*pair, out=tmp_path / "run", logger="none", store=store, shard=f"{index}/2")
    with pytest.raises(LitVizError, match="have other options: store is tar, and files"):
        lv.merge(tmp_path / "run", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_partial_merge_has_the_tasks_of_tars_that_are_as_written(
    fashion: Network, photographs: Path, tmp_path: Path
) -> None:
    for index in range(2):
        pair = saliency(fashion, photographs)
        lv.run(*pair, out=tmp_path / "run", logger="none", store="tar", shard=f"{index}/2")
    tar = tmp_path / "run" / "shard-1-of-2" / "tars" / "1of2-000000.tar"
    tar.write_bytes(tar.read_bytes()[:1000])
    with pytest.raises(Unverified, match=r"000000\.tar"):
        lv.merge(tmp_path / "run", tmp_path / "merged")
    merged = lv.merge(tmp_path / "run", tmp_path / "merged", partial=True)
    assert {record.index for record in merged.records} == {0, 2, 4, 6, 8, 9}
