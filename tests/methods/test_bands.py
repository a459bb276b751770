"""Runs of networks of several bands: maps, adversarial files and class images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import tifffile
import torch
from PIL import Image

import lit_viz as lv
from lit_viz.errors import LitVizError
from lit_viz.images.canvas import make_canvas
from lit_viz.images.png16 import decode_png16, encode_png16
from lit_viz.runs.records import radius_text
from tests.support.bands import band_network
from tests.support.marks import slow
from tests.support.networks import Around

SIZE = 16
NAMES = [f"B{i:02}" for i in range(1, 14)]


def _network(channels: int = 13, **options: Any) -> lv.Network:
    options = {"mean": 1000.0, "std": 500.0, "value_range": (0, 10_000), **options}
    return lv.load_network(band_network(channels), size=SIZE, **options)


def _values(channels: int = 13, dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(0).integers(100, 4000, (channels, SIZE, SIZE)).astype(dtype)


def _logits(values: np.ndarray, mean: float = 1000.0, std: float = 500.0) -> torch.Tensor:
    """Return the logits of the network for values of a file, by plain PyTorch in float64."""
    inputs = (torch.from_numpy(values.astype(np.float64)) - mean) / std
    with torch.no_grad():
        return band_network(len(values)).double()(inputs[None])[0]


def _write(folder: Path, suffix: str, values: np.ndarray) -> Path:
    file = folder / f"image{suffix}"
    if suffix == ".npy":
        np.save(file, values)
    elif suffix == ".tif":
        tifffile.imwrite(file, values, photometric="minisblack", planarconfig="separate")
    else:
        file.write_bytes(encode_png16(values))
    return file


def _read(file: Path) -> np.ndarray:
    if file.suffix == ".npy":
        return np.load(file)
    return tifffile.imread(file) if file.suffix == ".tif" else decode_png16(file.read_bytes())


@pytest.mark.parametrize("norm", ["linf", slow("l2")])
@pytest.mark.parametrize(
    ("suffix", "dtype", "channels"),
    [
        slow(".npy", "uint16", 13), (".npy", "int16", 4), slow(".npy", "float32", 13), (".tif", "uint16", 13),
        slow(".tif", "float32", 2), (".png", "uint16", 3),
    ],
)  # fmt: skip
def test_an_adversarial_file_has_the_type_of_its_source_and_fools_a_plain_reader(
    tmp_path: Path, suffix: str, dtype: str, channels: int, norm: str
) -> None:
    values = _values(channels, dtype)
    source = _write(tmp_path, suffix, values)
    label = int(_logits(values).argmax())
    eps, radius = ("1500 file", 1500.0) if norm == "linf" else ("60000 file", 60_000.0)
    network, attack = _network(channels), lv.attacks.PGD(norm, eps)
    run = lv.attack(network, str(source), label=label, attack=attack, out=tmp_path / "run", iterations=30)
    (record,) = run.records
    assert (record.status, record.success_file) == ("done", True)
    assert record.file is not None
    found = _read(tmp_path / "run" / record.file)
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    assert int(_logits(found).argmax()) == record.predicted != label
    change = found.astype(np.float64) - values
    length = np.abs(change).max() if norm == "linf" else np.linalg.norm(change)
    assert length <= radius + 1e-6 * 10_000 * (1 if norm == "linf" else change.size**0.5)
    assert record.settings["eps_file"] == pytest.approx(radius)
    assert record[norm] == pytest.approx(length / 10_000, rel=1e-4)
    assert torch.allclose(run.images[0].double() * 10_000, torch.from_numpy(found.astype(np.float64)), atol=2e-3)
    assert lv.check(tmp_path / "run", band_network(channels))


def test_a_changed_file_is_not_as_recorded(tmp_path: Path) -> None:
    values = _values()
    run = lv.attack(
        _network(), str(_write(tmp_path, ".npy", values)), attack="pgd", eps="400 file", out=tmp_path / "run"
    )
    file = tmp_path / "run" / str(run.records[0].file)
    np.save(file, values)
    with pytest.raises(LitVizError, match=r"images/0000_image.npy"):
        lv.check(tmp_path / "run", band_network())


def test_a_run_is_read_again_as_it_was(tmp_path: Path) -> None:
    """With the drawn bands as pictures, and the values of all bands in [0, 1]."""
    values = _values()
    network = _network(bands=NAMES, display=["B04", "B03", "B02"])
    source = str(_write(tmp_path, ".tif", values))
    run = lv.attack(network, source, attack="pgd", eps="400 file", out=tmp_path / "run")
    again = lv.resume(tmp_path / "run", band_network())
    assert torch.equal(again.images, run.images)
    assert torch.equal(again.outcomes[0].source(), torch.from_numpy(values.astype(np.float64) / 10_000).float())
    with Image.open(tmp_path / "run" / "images" / "0000_image.drawn.png") as file:
        drawn = np.asarray(file)
    expected = (run.images[0][[3, 2, 1]] * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(drawn, expected)
    with Image.open(tmp_path / "run" / "sources" / "0000_image.png") as file:
        assert np.asarray(file).shape == (SIZE, SIZE, 3)
    assert "data:image" in (tmp_path / "run" / "report.html").read_text()


def test_a_radius_in_the_unit_of_files_at_every_door(tmp_path: Path) -> None:
    source = str(_write(tmp_path, ".npy", _values()))
    network = _network()
    single = lv.attack(network, source, attack="pgd", eps="20 file", iterations=1)
    several = lv.attack(network, source, attack="pgd", eps=["20 file", 0.01], iterations=1)
    instance = lv.attack(network, source, attack=lv.attacks.PGD(eps="20 file", alpha="5 file"), iterations=1)
    varied = lv.ImageTasks(network, source, vary={"eps": ["20 file"]})
    assert single.records[0].eps == several.records[0].eps == instance.records[0].eps == 0.002
    assert several.records[1].eps == 0.01
    assert varied.tasks[0].eps == 0.002
    assert single.records[0].settings["eps_file"] == pytest.approx(20)
    assert radius_text(single.records[0]) == "0.51/255 (20 file)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value_range": [(0, 100.0 * (i + 1)) for i in range(13)]}, "requires one range for all bands, got ranges of"),
        ({"value_range": None, "mean": 0.5, "std": 0.5}, r"requires load_network\(..., value_range=\(low, high\)\)"),
    ],
)
def test_a_radius_in_the_unit_of_files_requires_one_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LitVizError, match=message):
        lv.attack(_network(**options), torch.rand(13, SIZE, SIZE), attack="pgd", eps="20 file")


def test_values_of_arrays_and_datasets_are_in_the_unit_of_files(tmp_path: Path) -> None:
    values = _values()
    network = _network()
    of_file = lv.saliency(network, str(_write(tmp_path, ".npy", values)), target=1, captum="none").arrays
    last = np.ascontiguousarray(values.transpose(1, 2, 0))
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(values.astype(np.float32))[None])
    normalized = (values.astype(np.float64) - 1000) / 500
    for images, options in (
        (values, {}), (last, {}), (torch.from_numpy(values.astype(np.int32)), {}), (dataset, {}),
        (values.transpose(1, 0, 2), {"axes": "HCW"}), (normalized, {"normalization": (1000.0, 500.0)}),
    ):  # fmt: skip
        arrays = lv.saliency(network, images, target=1, captum="none", **options).arrays
        assert torch.allclose(arrays, of_file, rtol=1e-4, atol=1e-7)


def test_clipped_and_filled_values_are_counted(tmp_path: Path) -> None:
    values = _values(dtype="float32")
    values[0, 0, :3], values[1, 0, 0] = 20_000, np.nan
    file = str(_write(tmp_path, ".npy", values))
    with pytest.raises(LitVizError, match="1 values without data"):
        lv.saliency(_network(), file)
    run = lv.saliency(_network(), file, clip=True, fill=0.0, captum="none")
    assert (run.records[0].clipped, run.records[0].filled) == (3, 1)


def test_class_images_of_bands_are_files_in_their_unit(tmp_path: Path) -> None:
    run = lv.visualize(_network(), [1], iterations=8, views=1, out=tmp_path / "run")
    (record,) = run.records
    values = np.load(tmp_path / "run" / str(record.file))
    assert (values.dtype, values.shape) == (np.float32, (13, SIZE, SIZE))
    assert float(_logits(values).softmax(0)[1]) == pytest.approx(record.probability, abs=1e-4)
    assert torch.allclose(run.images[0], torch.from_numpy(values) / 10_000, atol=1e-6)
    assert lv.check(tmp_path / "run", band_network()) in (True, False)


@pytest.mark.parametrize("parameterization", ["pixels", "fourier"])
@pytest.mark.parametrize("channels", [2, 4])
def test_class_images_rise(channels: int, parameterization: str) -> None:
    net = lv.load_network(band_network(channels), size=SIZE, mean=0.5, std=0.25)
    run = lv.visualize(net, [2], parameterization=parameterization, iterations=20, views=1)
    curve = [value for _, value in run.outcomes[0].curve("logit")]
    assert run.images.shape == (1, channels, SIZE, SIZE)
    assert curve[-1] > curve[0]


def test_bars_of_bands_are_drawn_and_recorded() -> None:
    network = _network(bands=NAMES)
    ablation = lv.attributions.FeatureAblation(features="bands")
    run = lv.saliency(network, _values(), target=1, method=[ablation, "gradient"], captum="none")
    of_features, of_gradient = (record.bands for record in run.records)
    assert list(of_features) == NAMES
    assert of_features == pytest.approx(dict(zip(NAMES, run.outcomes[0].array()[:, 0, 0].tolist(), strict=True)))
    sums = run.outcomes[1].array().double().sum((1, 2)).tolist()
    assert of_gradient == pytest.approx(dict(zip(NAMES, sums, strict=True)))
    assert len(run.figure().axes) > 2


def test_records_of_bands_are_json(tmp_path: Path) -> None:
    lv.saliency(_network(), str(_write(tmp_path, ".tif", _values())), out=tmp_path / "run", captum="none")
    (line,) = (tmp_path / "run" / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["format"]["dtype"] == "uint16"


def test_a_universal_perturbation_requires_pictures() -> None:
    with pytest.raises(LitVizError, match="requires pictures in gray or RGB"):
        lv.attack(_network(), torch.rand(2, 13, SIZE, SIZE), attack="universal")


def test_the_map_of_a_geotiff_has_its_tags(tmp_path: Path) -> None:
    values, file = _values(), tmp_path / "scene.tif"
    tags = [
        (33550, "d", 3, (10.0, 10.0, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, 500_000.0, 4_000_000.0, 0.0), True),
    ]
    tifffile.imwrite(file, values, photometric="minisblack", planarconfig="separate", extratags=tags, metadata=None)
    run = lv.saliency(_network(), str(file), target=1, captum="none", out=tmp_path / "run")
    with tifffile.TiffFile(tmp_path / "run" / "arrays" / "0000_scene.tif") as written:
        assert np.array_equal(written.asarray(), run.arrays[0].numpy())
        assert written.pages[0].tags[33922].value == (0.0, 0.0, 0.0, 500_000.0, 4_000_000.0, 0.0)


def test_the_map_of_a_geotiff_has_no_data_where_its_source_has_none(tmp_path: Path) -> None:
    values, file = _values(), tmp_path / "scene.tif"
    values[4, 2:5, :3] = 0
    tag = (42113, "s", 0, "0", True)
    tifffile.imwrite(file, values, photometric="minisblack", planarconfig="separate", extratags=[tag], metadata=None)
    run = lv.saliency(_network(bands=NAMES), str(file), fill=900, target=1, captum="none", out=tmp_path / "run")
    with tifffile.TiffFile(tmp_path / "run" / "arrays" / "0000_scene.tif") as written:
        assert written.pages[0].tags[42113].value == "nan"
        found = written.asarray()
    missing = np.isnan(found)
    assert np.array_equal(missing, np.broadcast_to((values[4] == 0)[None], missing.shape))
    assert np.array_equal(found[~missing], run.arrays[0].numpy()[~missing])
    sums = np.nansum(found.astype(np.float64), (1, 2))
    assert run.records[0].bands == pytest.approx(dict(zip(NAMES, sums, strict=True)))


def test_a_range_of_8_bits_gives_the_pixels_of_pictures(tmp_path: Path) -> None:
    """With mean and std in 0 to 255, as networks state them that were trained on levels."""
    picture = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    module = band_network(3)
    in_levels = lv.load_network(module, size=SIZE, mean=127.5, std=63.75, value_range=(0, 255))
    in_units = lv.load_network(module, size=SIZE, mean=0.5, std=0.25)
    runs = [lv.saliency(net, str(tmp_path / "a.png"), target=1, captum="none") for net in (in_levels, in_units)]
    assert torch.equal(runs[0].outcomes[0].source(), runs[1].outcomes[0].source())
    assert torch.allclose(runs[0].arrays, runs[1].arrays, rtol=1e-5, atol=1e-7)
    attacked = lv.attack(in_levels, str(tmp_path / "a.png"), attack="pgd", eps="8 file", out=tmp_path / "run")
    with Image.open(tmp_path / "run" / str(attacked.records[0].file)) as file:
        levels = np.asarray(file).astype(int)
    assert np.abs(levels - picture).max() <= 8


def test_only_red_green_and_blue_are_correlated() -> None:
    image = torch.rand(1, 3, SIZE, SIZE)
    by_name = {}
    for names in (None, ["Red", "Green", "Blue"], ["nir", "red", "green"]):
        net = lv.load_network(band_network(3), size=SIZE, mean=0.5, std=0.25, bands=names)
        canvas = make_canvas(net, None, 1.0)[1]
        by_name[str(names)] = lv.images.Fourier().encode(image, canvas)
    rgb, named, others = by_name.values()
    assert torch.equal(rgb, named)
    assert not torch.allclose(rgb, others)


def test_probes_draw_some_bands() -> None:
    """Images of a training of 13 bands, in [0, 1]."""
    network = lv.load_network(band_network(), size=SIZE, mean=0.5, std=0.25)
    tasks = lv.ImageTasks(network, torch.rand(2, 13, SIZE, SIZE), target=1)
    module = lv.SaliencyMap(network)
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    trainer.fit(module, tasks)
    for result in module.results:
        assert result.source_picture.shape == (3, SIZE, SIZE)
        assert result.source.shape == (13, SIZE, SIZE)


def _without_corner(network: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the scores without reading the upper left corner."""
    reads = torch.ones_like(x)
    reads[..., :8, :8] = 0
    scores: torch.Tensor = network(x * reads)
    return scores


def test_pixels_without_data_take_no_part_in_the_scores_of_a_map(tmp_path: Path) -> None:
    """Of a network that does not read them, no score depends on the value that fills them."""
    values = _values(dtype="float32")
    values[3:, :6, :6] = np.nan
    np.save(tmp_path / "a.npy", values)
    module = Around(band_network(13), _without_corner).eval()
    network = lv.load_network(module, size=SIZE, mean=1000.0, std=500.0, value_range=(0, 10_000))
    found = []
    for fill in (0.0, 9000.0):
        run = lv.saliency(network, str(tmp_path / "a.npy"), fill=fill, target=1, captum="none")
        run.check(faithfulness=True)
        assert run.evidence.faithfulness is not None
        assert run.records[0].filled == 360
        assert run.records[0].no_data[:4] == [0, 6, 16, 22]
        found.append([entry.to_dict() for entry in run.evidence.faithfulness.maps])
    for first, second in zip(*found, strict=True):
        for name in ("deletion", "insertion"):
            assert first[name].pop("curve") == pytest.approx(second[name].pop("curve"), abs=1e-5)
            assert first[name] == pytest.approx(second[name], abs=1e-5)
        assert first["max_sensitivity"] == pytest.approx(second["max_sensitivity"], abs=1e-5)
        stages = [[stage["spearman"] for stage in metrics["randomization"]] for metrics in (first, second)]
        assert stages[0] == pytest.approx(stages[1], abs=1e-5)
