"""``lit-viz saliency`` and ``lit-viz check`` as users meet them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import lit_viz as lv
from lit_viz.attributions import SmoothGrad
from lit_viz.evidence import saliency_map
from lit_viz.networks import Network
from lit_viz.presentations.saliency_map import SaliencyMapPresentation
from lit_viz.runs.evidence import NOT_CHECKED
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.results import Outcome
from lit_viz.types import Record
from tests.support.networks import smooth_network
from tests.support.segments import change_text
from tests.support.verdicts import reasons, verdicts

GREY = np.full((30, 40), 120, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as users have it: pictures of all kinds, broken ones, and other files."""
    path = tmp_path / "photographs"
    path.mkdir()
    colour = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(colour).save(path / "a_colour.jpg", quality=95)
    Image.fromarray(GREY).save(path / "b_grey.png")
    Image.fromarray(GREY.astype(np.uint16) * 257).save(path / "c_16bit.png")
    Image.fromarray(colour).convert("CMYK").save(path / "d_cmyk.jpg")
    turned = Image.fromarray(colour)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(path / "e_turned.jpg", exif=exif, quality=95)
    Image.new("RGB", (6000, 4000), (40, 90, 160)).save(path / "f_huge.jpg")
    (path / "g_empty.jpg").touch()
    (path / "h_text.png").write_text("no picture")
    (path / "i_truncated.jpg").write_bytes((path / "a_colour.jpg").read_bytes()[:300])
    (path / "notes.txt").write_text("notes")
    return path


def test_each_photograph_of_a_folder_has_a_map_or_an_error(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, records: Any, small_options: Any
) -> None:
    run = tmp_path / "run"
    lit_viz("saliency", str(folder), *small_options, "--slots", "3", "--out", str(run), expect=1)
    out, err = capsys.readouterr()
    found = records(run)
    assert [r["status"] for r in found] == ["done"] * 6 + ["failed"] * 3
    assert "0 bytes" in found[6]["error"]
    assert "not an image" in found[7]["error"]
    assert "truncated" in found[8]["error"]
    assert "1 other file skipped (notes.txt)" in err
    for record in found[6:]:
        assert record["error"] in out
    assert "9 images: 6 done, 3 failed" in out
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert {"figure.png", "evidence.json", "evidence.png", "metrics.csv", "config.yaml"} <= names
    for record in found[:6]:
        assert record["file"] in names
        assert record["array"] in names
        assert f"sources/{Path(record['file']).name}" in names
        assert np.load(run / record["array"]).shape == (3, 16, 16)
    assert verdicts(run) == [True] * 6
    assert found[4]["original_size"] == [40, 30]  # after its rotation


def test_a_run_of_which_everything_failed_ends_with_the_first_reason(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any
) -> None:
    files = [str(folder / name) for name in ("h_text.png", "g_empty.jpg")]
    run = tmp_path / "run"
    lit_viz("saliency", *files, *small_options, "--out", str(run), expect=1)
    out, err = capsys.readouterr()
    assert "2 images: 2 failed" in out
    assert "g_empty: " in out
    assert err.splitlines()[-1].startswith("lit-viz: 2 failed of 2 images: h_text: ")
    assert err.splitlines()[-1].endswith(f"; see {run}")


def test_a_failed_photograph_is_printed_once_for_all_methods(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any
) -> None:
    words = ["--method", "gradient,rise", "--iterations", "2", "--captum", "none", "--out", str(tmp_path / "run")]
    lit_viz("saliency", str(folder), *small_options, *words, expect=1)
    message = [line for line in capsys.readouterr().out.splitlines() if ": the photograph " in line]
    assert message
    assert len(set(message)) == len(message)


def test_failed_maps_in_half_precision_have_a_reason(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any
) -> None:
    words = ["--method", "gradient", "--precision", "bf16-mixed", "--out", str(tmp_path / "run")]
    lit_viz("saliency", str(folder / "a_colour.jpg"), *small_options, *words)
    message = capsys.readouterr().err
    assert "evidence: 0 of 1 compared maps agree with Captum" in message
    assert "bf16-mixed is less accurate than the float32 gates: use the precision 32-true." in message
    assert json.loads((tmp_path / "run" / "evidence.json").read_text())["captum"]["precision"] == "bf16-mixed"


def test_labels_targets_and_methods(tmp_path: Path, lit_viz: Any, records: Any, small_options: Any) -> None:
    for name in ("banana", "date"):
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.fromarray(GREY).save(tmp_path / "in" / name / "x.png")
    run = tmp_path / "run"
    words = ["--label", "folders", "--vary.target", "label,0", "--method", "gradient,smoothgrad"]
    (tmp_path / "names.txt").write_text("apple\nbanana\ncherry\ndate\nelder\n")
    labels = ["--network.labels", str(tmp_path / "names.txt")]
    lit_viz("saliency", str(tmp_path / "in"), *small_options, *labels, *words, "--out", str(run))
    found = records(run)
    assert [(r["method"], r["label"], r["target"]) for r in found] == [
        (method, label, target) for method in ("gradient", "smoothgrad") for label, target in
        ((1, 1), (1, 0), (3, 3), (3, 0))
    ]  # fmt: skip
    assert {r["label_source"] for r in found} == {"folders"}
    assert [r["iterations"] for r in found] == [1] * 4 + [128] * 4


def test_an_option_of_the_method_and_a_tolerance(
    tmp_path: Path, lit_viz: Any, records: Any, small_options: Any
) -> None:
    Image.fromarray(GREY).save(tmp_path / "x.png")
    words = ["--method", "smoothgrad", "--method.sigma", "0.01", "--tolerance", "0.2", "--captum", "none"]
    lit_viz("saliency", str(tmp_path / "x.png"), *small_options, *words, "--out", str(tmp_path / "run"))
    (record,) = records(tmp_path / "run")
    assert record["iterations"] == 8
    assert record["relative_error"] <= 0.2
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["module"]["init_args"]["method"]["init_args"]["sigma"] == 0.01
    assert not (tmp_path / "run" / "evidence.json").exists()


def test_check_compares_with_captum_and_detects_a_changed_map(
    tmp_path: Path, lit_viz: Any, records: Any, reseal: Any, small_options: Any
) -> None:
    Image.fromarray(GREY).save(tmp_path / "x.png")
    run = tmp_path / "run"
    lit_viz("saliency", str(tmp_path / "x.png"), *small_options, "--captum", "none", "--out", str(run))
    lit_viz("check", str(run))
    assert verdicts(run) == [True]
    array = next((run / "arrays").iterdir())
    np.save(array, np.load(array) * np.float32(1.01))
    reseal(run)
    lit_viz("check", str(run), expect=1)
    assert verdicts(run) == [False]
    assert "captum" not in records(run)[0]


def test_python_compares_with_captum_for_as_long_as_the_run_took(
    smooth: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever that is, the records are equal."""
    images = torch.rand(2, 3, 16, 16)
    compared = lv.saliency(smooth, images, target=0, captum="captum")
    assert verdicts(compared) == [True, True]
    monkeypatch.setattr(saliency_map, "run_seconds", lambda outcomes: 60.0)
    assert verdicts(lv.saliency(smooth, images, target=0)) == [True, True]
    monkeypatch.setattr(saliency_map, "run_seconds", lambda outcomes: 0.0)
    for out in (None, tmp_path / "run"):
        run = lv.saliency(smooth, images, target=0, out=out, logger="none")
        assert reasons(run) == [NOT_CHECKED]
        assert verdicts(run) == [True, None]
        assert run.records[0].to_dict().keys() - {"file", "array"} == compared.records[0].to_dict().keys()


def test_the_time_limit_is_the_duration_of_the_run_between_1_and_15_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saliency_map, "CAPTUM_SECONDS", 15.0)  # longer in other tests

    def outcomes(*seconds: float | None) -> list[Outcome]:
        return [Outcome(Record(index=0, name="x", seconds=value)) for value in seconds]

    assert saliency_map.run_seconds(outcomes(0.1, None)) == 1.0
    assert saliency_map.run_seconds(outcomes(2.0, 3.0)) == 5.0
    assert saliency_map.run_seconds(outcomes(20.0, 3.0)) == 15.0


def test_target_against_another_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, records: Any, small_options: Any
) -> None:
    for name in ("x", "y"):
        Image.fromarray(GREY).save(tmp_path / f"{name}.png")
    (tmp_path / "list.csv").write_text("file,target,against\nx.png,0,3\ny.png,0,\n")
    run = tmp_path / "run"
    lit_viz(
        "saliency", str(tmp_path / "list.csv"), *small_options, "--against", "1", "--gamma", "0.5", "--out", str(run)
    )
    assert [(r["target_name"], r["against"], r["gamma"]) for r in records(run)] == [
        ("class 0 vs. class 3", 3, 0.5),
        ("class 0 vs. class 1", 1, 0.5),
    ]
    assert all(verdicts(run))
    assert "class 0 vs. class 3" in capsys.readouterr().out
    names = [SaliencyMapPresentation().task_name(task) for task in FolderStorage(run).queue()]
    assert names == ["x -> class 0 vs. class 3, gamma 0.5, gradient", "y -> class 0 vs. class 1, gamma 0.5, gradient"]
    lit_viz("check", str(run))
    change_text(run, '"against": 3', '"against": 2')
    lit_viz("check", str(run), expect=1)
    words = ["--against", "2", "--gamma", "0.5", "--out", str(run), "--resume"]
    lit_viz("saliency", str(tmp_path / "list.csv"), *small_options, *words, expect=1)
    assert "--against can't be changed" in capsys.readouterr().err


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}
ARRAY_DAMAGES: dict[str, Callable[[Path], object]] = {
    "pickled": lambda path: np.save(path, np.array([{}], dtype=object), allow_pickle=True),
    "zeros": lambda path: np.save(path, 0 * np.load(path)),
    "small": lambda path: np.save(path, np.load(path)[:, :4]),
}
PICTURE_DAMAGES: dict[str, Callable[[Path], object]] = {
    "another picture": lambda path: Image.new("RGB", (16, 16)).save(path)
}


@pytest.mark.parametrize(
    ("folder_name", "damage"),
    [
        *[("arrays", kind) for kind in DAMAGES],
        *[(name, kind) for name in ("images", "sources") for kind in ("missing", "truncated")],
        *[("arrays", kind) for kind in ARRAY_DAMAGES],
        *[("images", kind) for kind in PICTURE_DAMAGES],
    ],
)
def test_check_reports_a_damaged_file(
    damaged_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    folder_name: str,
    damage: str,
    lit_viz: Any,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(damaged_run, run)
    path = sorted((run / folder_name).iterdir())[1]
    (DAMAGES | ARRAY_DAMAGES | PICTURE_DAMAGES)[damage](path)
    lit_viz("check", str(run), expect=1)
    assert re.search(rf"/{folder_name}/{path.name} (is missing|was changed)", capsys.readouterr().err)


@pytest.mark.parametrize("folder_name", ["arrays", "sources"])
def test_a_map_without_its_files_is_not_compared(
    damaged_run: Path, tmp_path: Path, folder_name: str, lit_viz: Any, reseal: Any
) -> None:
    """If the manifest confirms that there are none; a record of a map that is missing is not as computed."""
    run = tmp_path / "run"
    shutil.copytree(damaged_run, run)
    sorted((run / folder_name).iterdir())[1].unlink()
    reseal(run)
    lit_viz("check", str(run), expect=1 if folder_name == "arrays" else 0)
    assert verdicts(run) == [True, None]
    (reason,) = reasons(run)
    assert reason is not None
    assert re.search("can't be read|is missing", reason)


def test_check_names_an_array_of_which_one_byte_has_changed(
    damaged_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any
) -> None:
    """The lowest bits of a value that is not the maximum: neither the picture nor Captum shows it."""
    run = tmp_path / "run"
    shutil.copytree(damaged_run, run)
    path = sorted((run / "arrays").iterdir())[1]
    content = bytearray(path.read_bytes())
    content[-4 * (1 + int(abs(np.load(path)).ravel()[-1] == abs(np.load(path)).max()))] ^= 1
    path.write_bytes(content)
    lit_viz("check", str(run), expect=1)
    assert f"arrays/{path.name} was changed after it was written" in capsys.readouterr().err


@pytest.fixture(scope="module")
def damaged_run(tmp_path_factory: pytest.TempPathFactory, lit_viz: Any, small_options: Any) -> Path:
    """Return a run of two maps, to be copied and damaged."""
    folder = tmp_path_factory.mktemp("run")
    for name in "xy":
        Image.fromarray(GREY).save(folder / f"{name}.png")
    words = ["--captum", "none", "--out", str(folder / "run")]
    lit_viz("saliency", str(folder / "x.png"), str(folder / "y.png"), *small_options, *words)
    return folder / "run"


def test_a_finished_run_is_printed_again_and_a_figure_that_is_missing_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any
) -> None:
    Image.fromarray(GREY).save(tmp_path / "x.png")
    run = tmp_path / "run"
    lit_viz("saliency", str(tmp_path / "x.png"), *small_options, "--captum", "none", "--out", str(run))
    before = capsys.readouterr().out
    (run / "figure.png").unlink()
    lit_viz("resume", str(run))
    assert capsys.readouterr().out == before
    assert (run / "figure.png").exists()


def test_from_python(smooth: Network) -> None:
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    method = SmoothGrad(sigma=0.2)
    run = lv.saliency(smooth, images, target=["apple", 1, "date"], method=method, iterations=5, captum="captum")
    assert run.arrays.shape == (3, 3, 16, 16)
    assert torch.equal(run.maps, run.arrays.abs().amax(1))
    assert [r["target"] for r in run.records] == [0, 1, 3]
    assert verdicts(run) == [True] * 3
    assert run.folder is None
    assert run.figure().axes


@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        (torch.full((2, 3, 16, 16), -0.1), None, r"images must be in \[0, 1\], got -0.1 to -0.1"),
        (torch.full((2, 3, 16, 16), 255.0), None, r"images must be in \[0, 1\], got 255 to 255"),
        (torch.zeros(2, 3, 16, 16), [1], "target must be one class, or one per image: got 1 for 2 images"),
        (torch.zeros(2, 3, 16, 16), "appel", "did you mean 'apple'"),
    ],
)
def test_invalid_images_are_rejected(smooth: Network, images: torch.Tensor, targets: object, message: str) -> None:
    with pytest.raises(lv.LitVizError, match=message):
        lv.saliency(smooth, images, target=targets)  # type: ignore[arg-type]


def test_images_off_the_8_bit_lattice_are_stored_exactly(smooth: Network, tmp_path: Path) -> None:
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    lv.saliency(smooth, images, target=1, out=tmp_path / "run", wandb="disabled")
    assert np.array_equal(np.load(tmp_path / "run" / "sources" / "0000_image_0.npy"), images[0].numpy())
    assert lv.check(tmp_path / "run", smooth)


def test_a_resume_ignores_photographs_added_later(
    tmp_path: Path, lit_viz: Any, records: Any, small_options: Any
) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(GREY).save(tmp_path / "in" / "m.png")
    Image.fromarray(GREY).save(tmp_path / "in" / "n.png")
    run = tmp_path / "run"
    lit_viz("saliency", str(tmp_path / "in"), *small_options, "--captum", "none", "--out", str(run))
    (run / "checkpoints" / "last.ckpt").unlink()  # as if it had been killed at the start
    shutil.rmtree(run / "records")
    Image.fromarray(GREY).save(tmp_path / "in" / "a.png")
    lit_viz("resume", str(run))
    assert [r["name"] for r in records(run)] == ["m", "n"]


@pytest.mark.filterwarnings("ignore:. skipped of 2 images")
def test_maps_and_attacks_in_inference_mode(smooth: Network) -> None:
    """Which run under inference mode, where nothing can be differentiated."""
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = lv.saliency(smooth, images, target=1, captum="none").arrays
    with torch.inference_mode():
        run = lv.saliency(smooth, images * 1, target=1, method="gradient", captum="captum")
        assert torch.equal(run.arrays, expected)
        assert verdicts(run) == [True] * 2
        assert lv.attack(smooth, images, label=[0, 1], attack="pgd", eps=0.1).images.shape == images.shape
    assert not expected.is_inference()


def test_the_selected_layer_is_printed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, records: Any, small_options: Any
) -> None:
    run, words = tmp_path / "run", ["--method", "grad_cam,gradient", "--captum", "none"]
    lit_viz("saliency", str(folder / "a_colour.jpg"), *small_options, *words, "--out", str(run))
    assert [record.get("layer") for record in records(run)] == ["features", None]
    assert "grad_cam reads the layer features\n" in capsys.readouterr().err
    assert "grad_cam of features" in (run / "report.html").read_text().replace("<wbr>", "")


def test_guided_grad_cam_records_its_layer() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(5))
    network(torch.zeros(1, 3, 16, 16))
    net = lv.load_network(network, size=16)
    (record,) = lv.saliency(net, torch.rand(1, 3, 16, 16), target=0, method="guided_grad_cam", captum="none").records
    assert record["layer"] == "1"


def test_the_error_of_a_single_sample_is_not_resolved(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any
) -> None:
    run, words = tmp_path / "run", ["--method", "smoothgrad,gradient", "--iterations", "1", "--captum", "none"]
    lit_viz("saliency", str(folder / "a_colour.jpg"), *small_options, *words, "--out", str(run))
    assert "smoothgrad: 1 map with an error above 100% or not resolved: give more iterations" in (
        capsys.readouterr().err
    )
    errors = [[row["error"] for row in SaliencyMapPresentation().table(FolderStorage(run).records())]]
    outcome = lv.saliency(
        lv.load_network("tests.support.networks:smooth_network", weights="none", size=16, mean=0.5, std=0.25),
        torch.rand(1, 3, 16, 16), target=0, method=["smoothgrad", "gradient"], iterations=1, captum="none",
    )  # fmt: skip
    errors.append([row["error"] for row in SaliencyMapPresentation().table([one.record for one in outcome.outcomes])])
    assert errors == [["not resolved", "-"]] * 2
    assert any(text.get_text() == "not resolved" for text in outcome.figure().texts)


class Gated(torch.nn.Module):
    """A network with a product of activations, for which DeepLIFT has no rule."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.conv, self.head = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(4 * x).relu()
        return self.head((y * y.mean((2, 3), keepdim=True).sigmoid()).mean((2, 3)))


def test_an_incomplete_map_is_noted() -> None:
    """In table, figure and report."""
    options = {"target": 0, "method": ["deep_lift", "gradient"], "captum": "none"}
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    run = lv.saliency(lv.load_network(Gated(), size=16), x, **options)
    note = "DeepLIFT: the sum of 1 of 1 map misses the difference of the scores of image and baseline by more than 1%"
    assert run.records[0].relative_error > 0.01
    assert note in run._repr_html_()
    rows = SaliencyMapPresentation().table(run.records)
    assert rows[0]["error"].startswith("gap ")
    assert any(text.get_text().startswith("gap ") for text in run.figure().texts)
    exact = lv.saliency(lv.load_network(smooth_network(), size=16), x, **options)
    assert "misses the difference" not in exact._repr_html_()


def test_an_unreached_tolerance_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any
) -> None:
    words = [
        "saliency",
        "packaged:chelsea",
        *small_options,
        "--method",
        "smoothgrad",
        "--iterations",
        "8",
        "--tolerance",
    ]
    lit_viz(*words, "1e-9", "--out", str(tmp_path / "missed"))
    assert "tolerance: 1 of 1 maps ended above 1e-09: give more iterations" in capsys.readouterr().err
    lit_viz(*words, "0.9", "--out", str(tmp_path / "reached"))
    assert "tolerance" not in capsys.readouterr().err


def test_a_configuration_in_python_gives_seed_and_options_of_the_run(smooth: Network, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "tasks: {init_args: {seed: 5}}\nrun: {captum: none}\nmodule: {init_args: {method: Gradient}}\n"
    )
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    run = lv.saliency(smooth, x, target=0, config=tmp_path / "own.yaml")
    assert (run.records[0]["seed"], run.evidence.captum) == (5, None)
    run = lv.saliency(smooth, x, target=0, config=tmp_path / "own.yaml", seed=0, captum="captum")
    assert run.records[0]["seed"] == 0
    assert verdicts(run) == [True]
