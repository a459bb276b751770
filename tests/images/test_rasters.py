"""Files of any number of bands and any depth, read without rounding."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from lit_viz.errors import LitVizError
from lit_viz.images import packaged_photograph, rasters, read_photograph
from lit_viz.images.formats import PICTURE, FileFormat
from lit_viz.images.png16 import decode_png16, encode_png16
from lit_viz.images.rasters import FileOptions, image_size, mask_of, read_image, runs_of
from lit_viz.networks.bands import Bands
from lit_viz.types import Tile

BANDS = Bands.of(13, value_range=(0, 10_000))


def _values(shape: tuple[int, ...] = (13, 8, 10), dtype: str = "uint16", high: int = 10_000) -> np.ndarray:
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def _write(folder: Path, kind: str, values: np.ndarray) -> Path:
    """Write bands ``(C, H, W)`` to a file."""
    file = folder / f"image.{kind.partition('-')[0]}"
    last = np.ascontiguousarray(values.transpose(1, 2, 0))
    if kind == "npy":
        np.save(file, values)
    elif kind == "npy-last":
        np.save(file, last)
    elif kind == "npy-fortran":
        np.save(file, np.asfortranarray(values))
    elif kind == "npz":
        np.savez_compressed(file, image=values)
    elif kind == "tif-pages":
        tifffile.imwrite(file, values, photometric="minisblack")
    elif kind == "tif-planar":
        tifffile.imwrite(file, values, photometric="minisblack", planarconfig="separate")
    elif kind == "tif-contiguous":
        tifffile.imwrite(file, last, photometric="minisblack", planarconfig="contig")
    elif kind == "tif-big":
        tifffile.imwrite(file, values.astype(values.dtype.newbyteorder(">")), photometric="minisblack", bigtiff=True)
    return file


KINDS = ["npy", "npy-last", "npy-fortran", "npz", "tif-pages", "tif-planar", "tif-contiguous", "tif-big"]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_values_are_mapped_linearly_without_rounding(tmp_path: Path, kind: str, dtype: str) -> None:
    values = _values(dtype=dtype, high=250 if dtype == "uint8" else 10_000)
    image = read_image(_write(tmp_path, kind, values), (8, 10), BANDS)
    assert torch.equal(image.pixels, (torch.from_numpy(values.astype(np.float64)) / 10_000).float())
    assert image.format.dtype == dtype
    restored = image.format.to_values(image.pixels)
    assert restored.dtype == values.dtype
    tolerance = 1e-6 * 10_000 if image.format.is_float else 0
    assert np.abs(restored.astype(np.float64) - values).max() <= tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_a_written_file_has_type_and_layout_of_its_source(tmp_path: Path, kind: str) -> None:
    source = _write(tmp_path, kind, _values())
    image = read_image(source, (8, 10), BANDS)
    written = tmp_path / f"written{image.format.suffix}"
    written.write_bytes(image.format.encode(image.pixels))
    if written.suffix == ".npy":
        expected = np.load(source)
        assert np.array_equal(np.load(written), expected["image"] if kind == "npz" else expected)
    else:
        assert np.array_equal(tifffile.imread(written), tifffile.imread(source))
    assert torch.equal(image.format.read(written), image.pixels)


def test_bands_have_their_own_ranges(tmp_path: Path) -> None:
    ranges = [(float(-i), 1000.0 * (i + 1)) for i in range(13)]
    values = _values(high=1000)
    pixels = read_image(_write(tmp_path, "npy", values), (8, 10), Bands.of(13, value_range=ranges)).pixels
    for index, (low, high) in enumerate(ranges):
        expected = (values[index].astype(np.float64) - low) / (high - low)
        assert np.array_equal(pixels[index].numpy(), expected.astype(np.float32))


@pytest.mark.parametrize(
    ("low", "high", "remedy"),
    [
        (0.04, 254.9, "divide them by 255, or pass uint8"),
        (-2.1, 2.6, r"with normalization=\(mean, std\)"),
        (
            3.0,
            9800.0,
            "divide them by their largest possible value, or load the network with value_range",
        ),
    ],
)
def test_the_extremes_of_one_image_are_no_proposed_range(low: float, high: float, remedy: str) -> None:
    """With them, mean and std would count in another unit, and the network receives other values without a word."""
    values = torch.linspace(low, high, 4 * 16).view(4, 4, 4)
    with pytest.raises(LitVizError, match=remedy) as caught:
        read_image(values, (4, 4), Bands.of(4))
    assert "value_range=(" not in str(caught.value)


@pytest.mark.parametrize("channels", [3, 4])
def test_16_bits_far_below_white_are_one_warning(
    channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rasters, "_warned", set())
    bands = Bands.of(channels)
    files: list[Path] = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        files.append(_write(tmp_path / name, "npy", _values(shape=(channels, 5, 6), high=10_000)))
    for file in files:
        read_image(file, (5, 6), bands)
    (message,) = caplog.messages
    assert re.search(r"a/image.npy is \d+ of 65535.*value_range=\(low, high\)", message)
    caplog.clear()
    monkeypatch.setattr(rasters, "_warned", set())
    read_image(files[0], (5, 6), Bands.of(channels, value_range=(0, 10_000)))
    white = _values(shape=(channels, 5, 6), high=65_536)
    white[0, 0, 0] = 65_535
    read_image(_write(tmp_path, "npy", white), (5, 6), bands)
    assert not caplog.messages


def test_values_outside_of_the_range_are_one_error(tmp_path: Path) -> None:
    values = _values(shape=(2, 4, 4), high=100)
    values[0, 0, 0], values[1, 1, 1] = 20, 300
    file = _write(tmp_path, "npy", values)
    bands = Bands.of(2, ["red", "nir"], value_range=(0, 100))
    with pytest.raises(LitVizError, match=r"nir: \d+ to 300\): give clip=True, or load the network with a value_range"):
        read_image(file, (4, 4), bands)
    clipped = read_image(file, (4, 4), bands, options=FileOptions(clip=True))
    assert clipped.clipped == 1
    assert float(clipped.pixels.max()) == 1.0


def test_no_data_is_filled_or_an_error(tmp_path: Path) -> None:
    values = _values(dtype="float32")
    values[3, 2, 1] = np.nan
    file = _write(tmp_path, "npy", values)
    with pytest.raises(LitVizError, match=r"has 1 values without data \(NaN\): give fill=VALUE"):
        read_image(file, (8, 10), BANDS)
    filled = read_image(file, (8, 10), BANDS, options=FileOptions(fill=5000.0))
    assert (filled.filled, float(filled.pixels[3, 2, 1])) == (1, 0.5)


@pytest.mark.parametrize(("dtype", "value"), [("int16", "-32768"), ("uint16", "0"), ("float32", "-3.4e+38")])
def test_the_value_of_a_geotiff_without_data_is_no_data(tmp_path: Path, dtype: str, value: str) -> None:
    values = (_values(dtype=dtype) // 2 + 1).astype(dtype)
    values[:, 2, 1] = np.array(value, dtype=np.float64).astype(dtype)
    tag = (42113, "s", 0, value, True)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", metadata=None, extratags=[tag])
    with pytest.raises(LitVizError, match=r"has 1 values without data \(NaN or .*\): give fill=VALUE"):
        read_image(tmp_path / "a.tif", (8, 10), BANDS)
    image = read_image(tmp_path / "a.tif", (8, 10), BANDS, options=FileOptions(fill=2000.0))
    assert image.filled == 13
    assert image.no_data is not None
    assert image.no_data.nonzero().tolist() == [[2, 1]]
    assert bool((image.pixels[:, 2, 1] == 0.2).all())


def test_pixels_without_data_are_those_of_any_band_but_of_empty_ones(tmp_path: Path) -> None:
    values = _values(dtype="float32")
    values[0], values[3, 2, 1], values[4, 7, 9] = np.nan, np.nan, np.nan
    image = read_image(_write(tmp_path, "npy", values), (8, 10), BANDS, options=FileOptions(fill=0.0))
    assert image.filled == 82
    assert image.no_data is not None
    assert image.no_data.nonzero().tolist() == [[2, 1], [7, 9]]
    assert runs_of(image.no_data) == [21, 22, 79, 80]
    assert torch.equal(mask_of(runs_of(image.no_data), (8, 10)), image.no_data)
    assert not mask_of(None, (8, 10)).any()


def test_resampled_pixels_have_no_data_if_any_of_their_pixels_has_none(tmp_path: Path) -> None:
    values = _values((13, 32, 32), dtype="float32")
    values[:, :8] = np.nan
    image = read_image(_write(tmp_path, "npy", values), (16, 16), BANDS, options=FileOptions(fill=0.0))
    assert image.no_data is not None
    rows = image.no_data.all(1)
    assert torch.equal(rows, image.no_data.any(1))
    assert rows[:4].all()
    assert not rows[7:].any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_fill_is_a_finite_number(value: float) -> None:
    with pytest.raises(LitVizError, match=r"fill must be a finite number, got (nan|inf)"):
        FileOptions(fill=value)


def test_infinite_values_are_clipped_or_an_error(tmp_path: Path) -> None:
    values = _values(dtype="float32")
    values[3, 2, 1] = np.inf
    file = _write(tmp_path, "npy", values)
    with pytest.raises(LitVizError, match="has infinite values in band 3: give clip=True"):
        read_image(file, (8, 10), BANDS)
    assert float(read_image(file, (8, 10), BANDS, options=FileOptions(clip=True)).pixels[3, 2, 1]) == 1.0


@pytest.mark.parametrize("axes", ["CHW", "HWC", "HCW", "WHC"])
def test_axes_name_any_order(tmp_path: Path, axes: str) -> None:
    values = _values()
    np.save(tmp_path / "a.npy", values.transpose(["CHW".index(axis) for axis in axes]))
    image = read_image(tmp_path / "a.npy", (8, 10), BANDS, options=FileOptions(axes=axes))
    assert np.array_equal((image.pixels.double() * 10_000).round().numpy(), values)
    (tmp_path / "b.npy").write_bytes(image.format.encode(image.pixels))
    assert np.array_equal(np.load(tmp_path / "b.npy"), np.load(tmp_path / "a.npy"))


@pytest.mark.parametrize(
    ("shape", "axes", "message"),
    [
        ((13, 8, 13), None, "may be first or last in 13 x 8 x 13: give axes=CHW or axes=HWC"),
        ((12, 8, 8), None, "must have 13 bands first or last, got 12 x 8 x 8: give axes for another order"),
        ((8, 13, 8), None, "must have 13 bands first or last, got 8 x 13 x 8"),
        ((8, 8), None, "must have 13 bands, got an array of 8 x 8"),
        ((1, 13, 8, 8), None, r"must have 2 or 3 axes, got 4 \(1 x 13 x 8 x 8\)"),
        ((13, 8, 8), "HWC", r"must have 13 bands along C of axes=HWC, got 8 in 13 x 8 x 8"),
        ((13, 8, 8), "CHX", "axes must be an order of C, H and W such as HWC"),
    ],
)
def test_shapes_are_never_guessed(tmp_path: Path, shape: tuple[int, ...], axes: str | None, message: str) -> None:
    np.save(tmp_path / "a.npy", _values(shape))
    with pytest.raises(LitVizError, match=message):
        read_image(tmp_path / "a.npy", (8, 8), BANDS, options=FileOptions(axes=axes))


def test_an_array_of_objects_is_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[[{}]]] * 13, dtype=object), allow_pickle=True)
    with pytest.raises(LitVizError, match="must contain real numbers, got object"):
        read_image(tmp_path / "a.npy", (1, 1), BANDS)


def test_sizes_are_read_before_anything_is_allocated(tmp_path: Path) -> None:
    """The header states a terabyte, which the file does not contain."""
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (13, 10**6, 10**6)}
        )
    with pytest.raises(LitVizError, match="must have at most 89478485 pixels, got 1000000000000: downsize it"):
        read_image(tmp_path / "a.npy", (8, 8), BANDS)


@pytest.mark.parametrize("kind", ["npy", "tif-pages", "npz"])
def test_damaged_files_are_one_error(tmp_path: Path, kind: str) -> None:
    file = _write(tmp_path, kind, _values((13, 64, 64)))
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(LitVizError, match=r"image\.(npy|npz|tif).*"):
        read_image(file, (64, 64), BANDS)


def test_a_compressed_tiff_without_a_decoder_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    file = _write(tmp_path, "tif-pages", _values())
    monkeypatch.setattr(tifffile, "imread", fail)
    with pytest.raises(LitVizError, match=r"pip install 'lit-viz\[science\]'"):
        read_image(file, (8, 10), BANDS)


def test_integers_require_a_range() -> None:
    with pytest.raises(LitVizError, match=r"values of int16: give load_network\(..., value_range=\(low, high\)\)"):
        read_image(torch.zeros(2, 8, 8, dtype=torch.int16), (8, 8), Bands.of(2))


def test_resampled_whole_numbers_stay_on_the_lattice_of_the_type(tmp_path: Path) -> None:
    file = _write(tmp_path, "tif-planar", _values((13, 30, 20)))
    image = read_image(file, (8, 8), BANDS)
    levels = image.pixels.double() * 10_000
    assert float((levels - levels.round()).abs().max()) < 1e-3
    assert image.box == (0.0, 5.0, 20.0, 25.0)
    as_float = read_image(torch.from_numpy(_values((13, 30, 20)).astype(np.float32)), (8, 8), BANDS)
    assert float((as_float.pixels - image.pixels).abs().max()) < 0.51 / 10_000


# -- pictures


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_8_bits_are_read_as_before(channels: int) -> None:
    file = packaged_photograph("chelsea")
    expected = read_photograph(file, (64, 64), channels)
    image = read_image(file, (64, 64), Bands.of(channels))
    assert torch.equal(image.pixels, expected.pixels)
    assert (image.box, image.format) == (expected.box, PICTURE)


@pytest.mark.parametrize("shape", [(1, 9, 7), (3, 9, 7)])
def test_a_png_of_16_bits_is_not_rounded_to_8(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    values = _values(shape, high=65536)
    (tmp_path / "a.png").write_bytes(encode_png16(values))
    image = read_image(tmp_path / "a.png", (9, 7), Bands.of(shape[0]))
    assert torch.equal(image.pixels, (torch.from_numpy(values.astype(np.float64)) / 65535).float())
    assert image.format == FileFormat("uint16")


def test_pngs_of_16_bits_agree_with_other_readers_and_writers(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    gray, color = _values((1, 33, 21), high=65536), _values((3, 33, 21), high=65536)
    smooth = np.arange(21, dtype=np.uint16)[None, None] * 3000 + np.arange(33, dtype=np.uint16)[None, :, None] * 9
    for name, values in {"gray": gray, "color": color, "smooth": smooth}.items():
        file = tmp_path / f"{name}.png"
        file.write_bytes(encode_png16(values))
        found = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        assert found.dtype == np.uint16
        as_rgb = found[None] if found.ndim == 2 else found[..., ::-1].transpose(2, 0, 1)
        assert np.array_equal(as_rgb, values)
        cv2.imwrite(str(file), found)  # with filters of rows
        assert np.array_equal(decode_png16(file.read_bytes()), values)
        Image.open(file).verify()


def test_a_gray_tiff_of_16_bits_is_repeated_for_rgb(tmp_path: Path) -> None:
    values = _values((8, 8), high=65536)
    tifffile.imwrite(tmp_path / "a.tif", values)
    image = read_image(tmp_path / "a.tif", (8, 8), Bands.of(3))
    assert torch.equal(image.pixels, (torch.from_numpy(values.astype(np.float64)) / 65535).float().expand(3, -1, -1))


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_a_gray_file_of_an_rgb_network_is_written_with_its_colors(tmp_path: Path, suffix: str) -> None:
    values = _values((8, 8), high=65536)
    file = tmp_path / f"a{suffix}"
    np.save(file, values) if suffix == ".npy" else tifffile.imwrite(file, values)
    image = read_image(file, (8, 8), Bands.of(3))
    changed = image.pixels.clone()
    changed[1] = 0.0
    assert torch.equal(image.format.decode(image.format.encode(changed)), changed)


# -- GeoTIFF


def test_the_tags_of_a_geotiff_follow_the_crop(tmp_path: Path) -> None:
    tags = [
        (33550, "d", 3, (10.0, 10.0, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, 500_000.0, 4_000_000.0, 0.0), True),
        (34735, "H", 4, (1, 1, 0, 0), True),
    ]
    file = tmp_path / "a.tif"
    tifffile.imwrite(
        file, _values((13, 16, 32)), photometric="minisblack", planarconfig="separate", extratags=tags, metadata=None
    )
    image = read_image(file, (8, 8), BANDS)  # the central 16 x 16 pixels, at half the resolution
    (tmp_path / "b.tif").write_bytes(image.format.encode(image.pixels))
    with tifffile.TiffFile(tmp_path / "b.tif") as written:
        found = written.pages[0].tags
        assert found[33550].value == (20.0, 20.0, 0.0)
        assert found[33922].value == (0.0, 0.0, 0.0, 500_080.0, 4_000_000.0, 0.0)
        assert found[34735].value == (1, 1, 0, 0)


@pytest.mark.parametrize("compression", ["lzw", "packbits", "deflate"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_compressed_tiff_has_the_values_of_an_uncompressed_one(tmp_path: Path, compression: str, dtype: str) -> None:
    pytest.importorskip("imagecodecs")
    values = _values(dtype=dtype, high=250)
    options = {"photometric": "minisblack", "planarconfig": "separate"}
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    tifffile.imwrite(tmp_path / "b.tif", values, compression=compression, **options)
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.pages[0].compression != 1
    plain, compressed = (read_image(tmp_path / name, (8, 10), BANDS) for name in ("a.tif", "b.tif"))
    assert torch.equal(compressed.pixels, plain.pixels)
    assert np.allclose(compressed.pixels.double() * 10_000, values, atol=1e-3)


def test_a_tiff_with_jpeg_is_read_as_pillow_reads_it(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    smooth = np.linspace(20, 230, 32 * 32).reshape(32, 32).round().astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", smooth, photometric="minisblack", compression="jpeg")
    image = read_image(tmp_path / "a.tif", (32, 32), Bands.of(1, value_range=(0, 255)))
    with Image.open(tmp_path / "a.tif") as file:
        expected = np.asarray(file).astype(np.float64)
    assert float((image.pixels[0].double() * 255 - torch.from_numpy(expected)).abs().max()) <= 1


# -- windows

#: (row, column, height, width) in images of 75 x 91: at corners and edges, and inside.
WINDOWS = [(0, 0, 32, 24), (43, 67, 32, 24), (17, 40, 32, 24), (0, 91 - 24, 32, 24)]


def _write_large(folder: Path, kind: str, values: np.ndarray) -> Path:
    """Write bands ``(C, H, W)`` to a file of which windows are read."""
    file = folder / "image.tif"
    last = np.ascontiguousarray(values.transpose(1, 2, 0))
    options: dict[str, Any] = {"photometric": "minisblack", "metadata": None}
    if kind == "tif-tiles":
        tifffile.imwrite(file, last, tile=(16, 32), planarconfig="contig", **options)
    elif kind == "tif-tiles-deflate":
        tifffile.imwrite(file, last, tile=(32, 16), compression="zlib", planarconfig="contig", **options)
    elif kind == "tif-tiles-planar":
        tifffile.imwrite(file, values, tile=(16, 16), planarconfig="separate", **options)
    elif kind == "tif-strips-deflate":
        tifffile.imwrite(file, last, rowsperstrip=7, compression="zlib", planarconfig="contig", **options)
    elif kind == "tif-strips-planar":
        tifffile.imwrite(file, values, rowsperstrip=8, compression="zlib", planarconfig="separate", **options)
    elif kind == "tif-one-strip":
        tifffile.imwrite(file, last, rowsperstrip=75, compression="zlib", planarconfig="contig", **options)
    elif kind == "tif-pages-tiles":
        tifffile.imwrite(file, values, tile=(16, 16), compression="zlib", predictor=True, **options)
    else:
        return _write(folder, kind, values)
    return file


LARGE = [
    "tif-tiles", "tif-tiles-deflate", "tif-tiles-planar", "tif-strips-deflate", "tif-strips-planar", "tif-one-strip",
    "tif-pages-tiles",
]  # fmt: skip


def _assert_windows_are_slices(source: Any, bands: Bands) -> None:
    """Compare windows of an image of 75 x 91 pixels with slices of the whole image."""
    whole = read_image(source, (75, 91), bands)
    assert image_size(source, bands) == (75, 91)
    for row, column, height, width in WINDOWS:
        window = Tile(image=0, row=row, column=column, height=height, width=width)
        image = read_image(source, (height, width), bands, window=window)
        assert torch.equal(image.pixels, whole.pixels[:, window.rows, window.columns])
        assert image.original_size == (75, 91)
        assert image.box == (column, row, column + width, row + height)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("kind", [*KINDS, *LARGE])
def test_a_window_is_a_slice_of_the_whole(tmp_path: Path, kind: str, dtype: str) -> None:
    if kind == "tif-pages-tiles" and dtype == "float32":
        pytest.skip("the predictor of floats requires imagecodecs")
    file = _write_large(tmp_path, kind, _values((13, 75, 91), dtype=dtype))
    _assert_windows_are_slices(file, BANDS)
    window = Tile(image=0, row=0, column=0, height=8, width=8)
    assert read_image(file, (8, 8), BANDS, window=window).format == read_image(file, (75, 91), BANDS).format


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["jpg", "png", "png-rotated", "png-16", "png-alpha", "tif-rgb", "tif-gray", "array"])
def test_a_window_of_a_picture_is_a_slice_of_the_whole(tmp_path: Path, kind: str, channels: int) -> None:
    colors = _values((3, 75, 91), dtype="uint8", high=256)
    last = np.ascontiguousarray(colors.transpose(1, 2, 0))
    file = tmp_path / f"image.{kind.partition('-')[0]}"
    source: Any = file
    if kind == "tif-rgb":
        tifffile.imwrite(file, last, tile=(16, 16), compression="zlib")
    elif kind == "tif-gray":
        tifffile.imwrite(file, last[..., 0], rowsperstrip=8)
    elif kind == "png-16":
        file.write_bytes(encode_png16(_values((3, 75, 91), high=65535)))
    elif kind == "png-alpha":
        Image.fromarray(np.concatenate([last, last[..., :1]], 2)).save(file)
    elif kind == "png-rotated":
        exif = Image.Exif()
        exif[274] = 6
        Image.fromarray(np.ascontiguousarray(np.rot90(last))).save(file, exif=exif)
    elif kind == "array":
        source = torch.from_numpy(colors)
    else:
        Image.fromarray(last).save(file)
    _assert_windows_are_slices(source, Bands.of(channels))


@pytest.mark.parametrize("kind", ["npy", "tif-tiles", "jpg"])
def test_a_window_beyond_a_small_image_is_gray(tmp_path: Path, kind: str) -> None:
    values, bands = _values((3, 20, 30), dtype="uint8", high=256), Bands.of(3)
    file = tmp_path / "image.jpg"
    if kind == "tif-tiles":  # three samples that are no RGB
        bands = Bands.of(3, value_range=(0, 255))
    if kind == "jpg":
        Image.fromarray(np.ascontiguousarray(values.transpose(1, 2, 0))).save(file)
    else:
        file = _write_large(tmp_path, kind, values)
    whole = read_image(file, (20, 30), bands)
    image = read_image(file, (32, 32), bands, window=Tile(image=0, row=0, column=0, height=20, width=30))
    assert torch.equal(image.pixels[:, :20, :30], whole.pixels)
    assert bool((image.pixels[:, 20:] == 128 / 255).all())
    assert bool((image.pixels[:, :, 30:] == 128 / 255).all())
    assert image.box == (0, 0, 32, 32)


def test_windows_of_a_file_of_any_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit on pixels is for files that are read as a whole."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # which the variable sets
    monkeypatch.setenv("LIT_VIZ_MAX_PIXELS", "1000")
    window = Tile(image=0, row=5, column=6, height=8, width=8)
    for kind in ("npy", "tif-tiles"):
        file = _write_large(tmp_path, kind, _values((13, 75, 91)))
        assert read_image(file, (8, 8), BANDS, window=window).pixels.shape == (13, 8, 8)
        with pytest.raises(LitVizError, match="must have at most 1000 pixels, got 6825: downsize it, give tile"):
            read_image(file, (8, 8), BANDS)
    file = _write_large(tmp_path, "npz", _values((13, 75, 91)))
    with pytest.raises(LitVizError, match="must have at most 1000 pixels"):
        read_image(file, (8, 8), BANDS, window=window)


def test_a_window_of_a_terabyte_is_read_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.npy"
    with file.open("wb") as opened:
        np.lib.format.write_array_header_1_0(
            opened, {"descr": "<f4", "fortran_order": False, "shape": (13, 10**6, 10**5)}
        )
        opened.truncate(opened.tell() + 13 * 10**11 * 4)  # sparse
    window = Tile(image=0, row=999_000, column=500, height=8, width=8)
    assert not read_image(file, (8, 8), BANDS, window=window).pixels.any()


@pytest.mark.parametrize("kind", ["inverted", "rotated"])
def test_tiles_of_unusual_pictures_in_tiff_are_one_error(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "image.tif"
    options: dict[str, Any] = {"photometric": "miniswhite"}
    if kind == "rotated":
        options = {"extratags": [(274, 3, 1, 6, True)]}
    tifffile.imwrite(file, _values((75, 91), dtype="uint8"), **options)
    with pytest.raises(LitVizError, match="require gray or RGB, upright"):
        image_size(file, Bands.of(1))


def test_a_geotiff_window_has_tags_of_its_place(tmp_path: Path) -> None:
    file = tmp_path / "geo.tif"
    tags = [(33550, 12, 3, (10.0, 10.0, 0.0), True), (33922, 12, 6, (0.0, 0.0, 0.0, 5000.0, 9000.0, 0.0), True)]
    tifffile.imwrite(file, _values((75, 91)), extratags=tags)
    window = Tile(image=0, row=20, column=30, height=16, width=16)
    image = read_image(file, (16, 16), Bands.of(1, value_range=(0, 10_000)), window=window)
    written = {code: list(value) for code, _, _, value in image.format.tags}
    assert written[33550][:2] == [10.0, 10.0]
    assert written[33922][3:5] == [5000.0 + 30 * 10, 9000.0 - 20 * 10]
