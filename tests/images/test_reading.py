from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import numpy as np
import PIL
import pytest
import tifffile
import torch
from PIL import Image

from lit_viz.errors import LitVizError
from lit_viz.images import packaged_photograph, read_photograph, to_uint8
from lit_viz.images.reading import _planes as planes
from lit_viz.images.reading import from_pil
from lit_viz.utils.files import PACKAGED

FITS = ["crop", "squash", "pad"]


def _levels(height: int = 20, width: int = 30, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def _save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def _read(path: Path, size: tuple[int, int] = (20, 30), channels: int = 3, fit: str = "crop") -> np.ndarray:
    return read_photograph(path, size, channels, fit).pixels.permute(1, 2, 0).mul(255).numpy()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(8, 8), (40, 7), (224, 224)])
def test_pixels_lie_on_the_8_bit_lattice(tmp_path: Path, fit: str, size: tuple[int, int]) -> None:
    photograph = read_photograph(_save(tmp_path / "a.png", Image.fromarray(_levels())), size, fit=fit)
    levels = photograph.pixels.double() * 255
    assert photograph.pixels.shape == (3, *size)
    assert photograph.pixels.dtype == torch.float32
    assert (levels - levels.round()).abs().max() < 1e-5
    assert np.array_equal(to_uint8(photograph.pixels), levels.round().byte().permute(1, 2, 0).numpy())


@pytest.mark.parametrize("fit", FITS)
def test_an_image_of_the_size_is_read_as_it_was_written(tmp_path: Path, fit: str) -> None:
    levels = _levels()
    path = _save(tmp_path / "a.png", Image.fromarray(levels))
    photograph = read_photograph(path, (20, 30), fit=fit)
    assert torch.equal(photograph.pixels, torch.from_numpy(levels).permute(2, 0, 1).float() / 255)
    again = _save(tmp_path / "b.png", Image.fromarray(to_uint8(photograph.pixels)))
    assert torch.equal(read_photograph(again, (20, 30), fit=fit).pixels, photograph.pixels)


def test_the_resize_is_bicubic_antialiased_and_rounded_once(tmp_path: Path) -> None:
    levels = _levels(33, 33)
    found = _read(_save(tmp_path / "a.png", Image.fromarray(levels)), (8, 8))
    image = torch.from_numpy(levels).permute(2, 0, 1)[None].double()
    expected = torch.nn.functional.interpolate(image, (8, 8), mode="bicubic", antialias=True, align_corners=False)
    # torch's kernel has a = -0.5 here as Pillow's has; the rounding of ties and of float32 is all that may differ.
    difference = np.abs(found - expected[0].permute(1, 2, 0).clamp(0, 255).numpy())
    assert difference.max() <= 0.5 + 1e-3


def test_the_crop_is_the_centre(tmp_path: Path) -> None:
    levels = _levels(20, 30)
    path = _save(tmp_path / "a.png", Image.fromarray(levels))
    photograph = read_photograph(path, (20, 20))
    assert photograph.box == (5, 0, 25, 20)
    assert np.array_equal(to_uint8(photograph.pixels), levels[:, 5:25])


def test_padding_is_grey_and_keeps_the_shape(tmp_path: Path) -> None:
    levels = _levels(20, 30)
    path = _save(tmp_path / "a.png", Image.fromarray(levels))
    below, at_the_sides = (
        read_photograph(path, (40, 30), fit="pad"),
        read_photograph(path, (20, 51), fit="pad"),
    )
    assert below.box == (0, -10, 30, 30)
    assert at_the_sides.box == (-10, 0, 41, 20)
    assert at_the_sides.to_original([10, 0]).tolist() == [0, 0]
    for photograph, inside in ((below, np.s_[10:30]), (at_the_sides, np.s_[:, 10:40])):
        found = to_uint8(photograph.pixels)
        assert np.array_equal(found[inside], levels)
        found[inside] = 128
        assert (found == 128).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_exif_rotation_and_the_way_back(tmp_path: Path, orientation: int, fit: str, suffix: str) -> None:
    upright = np.zeros((60, 90, 3), np.uint8)
    upright[12:16, 24:28] = 255  # a marker whose centre is (x, y) = (26, 14)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that the camera's position asks to undo
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    photograph = read_photograph(_save(tmp_path / f"a.{suffix}", stored, exif=exif), (48, 64), fit=fit)
    assert photograph.original_size == (60, 90)
    mass = photograph.pixels[0].double()
    if fit == "pad":
        mass = torch.where((mass - 128 / 255).abs() < 1e-6, 0.0, mass)
    rows, columns = (torch.arange(n, dtype=torch.float64) + 0.5 for n in (48, 64))
    centre = torch.stack([(mass.sum(0) * columns).sum(), (mass.sum(1) * rows).sum()]) / mass.sum()
    torch.testing.assert_close(photograph.to_original(centre), torch.tensor([26.0, 14.0]).double(), rtol=0, atol=0.15)
    there = photograph.from_original([24, 12, 28, 16])
    torch.testing.assert_close(photograph.to_original(there), torch.tensor([24.0, 12, 28, 16]).double())
    assert (there[0] + there[2]) / 2 == pytest.approx(float(centre[0]), abs=0.15)


# Pillow below 13 can't read the YCbCr files that it writes.
YCBCR = pytest.param("YCbCr", marks=pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="Pillow < 13"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", YCBCR, "LAB"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_is_read(tmp_path: Path, mode: str, channels: int) -> None:
    levels = Image.fromarray(_levels())
    image = Image.merge("LAB", levels.split()) if mode == "LAB" else levels.convert(mode)
    suffix = ".png" if mode in ("1", "L", "LA", "P", "RGB", "RGBA") else ".tif"
    assert _read(_save(tmp_path / f"a{suffix}", image), channels=channels).shape == (20, 30, channels)


def test_grey_is_repeated_and_one_channel_is_luma(tmp_path: Path) -> None:
    levels = _levels()
    grey = _save(tmp_path / "grey.png", Image.fromarray(levels[..., 0]))
    assert np.array_equal(_read(grey), np.repeat(levels[..., :1], 3, 2))
    assert np.array_equal(_read(grey, channels=1), levels[..., :1])
    colour = _save(tmp_path / "colour.png", Image.fromarray(levels))
    luma = levels @ np.array([0.299, 0.587, 0.114])
    assert np.abs(_read(colour, channels=1)[..., 0] - luma).max() <= 0.5 + 1e-4


def test_transparency_is_put_on_white(tmp_path: Path) -> None:
    levels = _levels(channels=4)
    alpha = levels[..., 3:] / 255
    expected = levels[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(_read(_save(tmp_path / "a.png", Image.fromarray(levels))) - expected).max() <= 0.5 + 1e-4
    grey = Image.merge("LA", [Image.fromarray(levels[..., 0]), Image.fromarray(levels[..., 3])])
    expected = levels[..., :1] * alpha + 255 * (1 - alpha)
    assert np.abs(_read(_save(tmp_path / "b.png", grey)) - expected).max() <= 0.5 + 1e-4


def test_a_transparent_palette_colour_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (30, 20), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.paste(0, (0, 0, 15, 20))
    found = _read(_save(tmp_path / "a.gif", image, transparency=0))
    assert (found[:, :15] == 255).all()
    assert (found[:, 15:] == [10, 20, 30]).all()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_values_are_divided_by_257(tmp_path: Path, suffix: str) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30)).astype(np.uint16)
    deep[0, :2] = 0, 65535
    found = _read(_save(tmp_path / f"a{suffix}", Image.fromarray(deep)), channels=1)[..., 0]
    assert found[0, 0] == 0
    assert found[0, 1] == 255
    assert np.abs(found - deep / 257).max() <= 0.5 + 1e-4


def test_integer_and_float_grey(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30)).astype(np.int32)
    found = _read(_save(tmp_path / "a.tif", Image.fromarray(deep)), channels=1)[..., 0]
    assert np.abs(found - deep / 257).max() <= 0.5 + 1e-4
    unit = np.random.default_rng(0).random((20, 30), np.float32)
    found = _read(_save(tmp_path / "b.tif", Image.fromarray(unit)), channels=1)[..., 0]
    assert np.abs(found - unit * 255).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("dtype", [np.int32, np.int16])
def test_wide_integers_that_hold_8_bit_values_are_read_as_8_bits(tmp_path: Path, dtype: type) -> None:
    levels = _levels()[..., 0]
    levels[0, 0] = 255
    wide = Image.fromarray(levels.astype(np.int32))
    assert torch.equal(from_pil(wide)[0], torch.from_numpy(levels))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, levels.astype(dtype), photometric="minisblack")
    assert np.array_equal(_read(path, channels=1)[..., 0], levels)


@pytest.mark.parametrize("large", [False, True])
def test_tiff_files_in_which_0_is_white_are_inverted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    deep = np.zeros((300, 300), np.uint16)
    deep[:, 150:] = 65535
    deep[0, :2] = 257, 200 * 257
    for values in (deep, (deep / 65535).astype(np.float32), (deep // 257).astype(np.uint8)):
        path = tmp_path / f"{values.dtype}.tif"
        tifffile.imwrite(path, values, photometric="miniswhite")
        with monkeypatch.context() as patch:
            if large:
                patch.setattr("lit_viz.images.reading._LARGE", 500)
                found = _read(path, (10, 10))
                assert (found[:, :4] == 255).all()
                assert (found[:, 6:] == 0).all()
            else:
                assert np.array_equal(_read(path, (300, 300), 1)[..., 0], 255 - deep // 257)


@pytest.mark.parametrize("worst", [-1.0, 300.0, np.nan])
def test_float_gray_images_of_unknown_range_are_rejected(tmp_path: Path, worst: float) -> None:
    values = np.full((4, 4), 0.5, np.float32)
    values[1, 1] = worst
    with pytest.raises(LitVizError, match=r"deep\.tif can't be read \(values of Pillow mode F must be in \[0, 1\]"):
        read_photograph(_save(tmp_path / "deep.tif", Image.fromarray(values)), (4, 4))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    ink = Image.new("CMYK", (30, 20), (0, 255, 255, 0))  # magenta and yellow make red
    found = _read(_save(tmp_path / "a.jpg", ink, quality=95))
    assert np.abs(found - [255, 0, 0]).max() <= 4


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    found = _read(_save(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:]))
    assert (found == [255, 0, 0]).all()


def test_a_thin_picture_is_read(tmp_path: Path) -> None:
    path = _save(tmp_path / "thin.png", Image.fromarray(_levels(1, 500)))
    for fit in FITS:
        assert read_photograph(path, (16, 16), fit=fit).pixels.shape == (3, 16, 16)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16"])
def test_large_files_are_downsampled_when_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, mode: str
) -> None:
    image = Image.open(packaged_photograph("chelsea")).convert("RGB").resize((901, 600))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif mode == "RGBA":
        image.putalpha(128)
    image = image if mode in (image.mode, "RGB") else image.convert(mode)
    if (suffix in ("jpg", "webp") and mode not in ("RGB", "L")) or (suffix == "tif" and mode == "RGBA"):
        pytest.skip("the format has no such mode")
    exif = Image.Exif()
    exif[0x0112] = 6
    path = _save(tmp_path / f"large.{suffix}", image, exif=exif, quality=95)
    whole = read_photograph(path, (64, 64))
    monkeypatch.setattr("lit_viz.images.reading._LARGE", 500)
    monkeypatch.setattr("lit_viz.images.reading._planes", lambda image: sizes.append(image.size) or planes(image))
    sizes: list[tuple[int, int]] = []
    reduced = read_photograph(path, (64, 64))
    assert 128 <= min(sizes[0]) <= max(sizes[0]) < 500
    assert reduced.original_size == whole.original_size == (901, 600)
    assert reduced.box == whole.box
    assert (reduced.pixels - whole.pixels).abs().mean() < (3 if suffix == "jpg" else 1.5) / 255


def test_large_files_with_sharp_edges_and_thin_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = np.zeros((300, 300), np.uint16)
    deep[:, 151:] = 65535
    path = _save(tmp_path / "deep.png", Image.fromarray(deep))
    thin = _save(tmp_path / "thin.png", Image.new("L", (9000, 2), 70))
    monkeypatch.setattr("lit_viz.images.reading._LARGE", 500)
    assert _read(path, (16, 16)).min() == 0
    assert (_read(thin, (16, 16)) == 70).all()


def test_read_photograph_limits_pixels_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _save(tmp_path / "a.png", Image.new("L", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    for limit, message in (("9999", "at most 0 million pixels"), ("1e9", "LIT_VIZ_MAX_PIXELS must be .* got '1e9'")):
        monkeypatch.setenv("LIT_VIZ_MAX_PIXELS", limit)
        with pytest.raises(LitVizError, match=message):
            read_photograph(path, (8, 8))
    monkeypatch.setenv("LIT_VIZ_MAX_PIXELS", "10000")
    assert read_photograph(path, (8, 8)).box == (0, 0, 100, 100)


@pytest.mark.skipif(sys.platform == "win32", reason="requires FIFOs and devices")
def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "link.png").symlink_to("fifo.png")
    for path in (tmp_path / "fifo.png", tmp_path / "link.png", "/dev/zero"):
        with pytest.raises(LitVizError, match=f"{path} must be a regular file"):
            read_photograph(path, (8, 8))


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_fitted_as_files_are(tmp_path: Path, fit: str, channels: int) -> None:
    levels = _levels(33, 47)
    expected = read_photograph(_save(tmp_path / "a.png", Image.fromarray(levels)), (20, 30), channels, fit)
    picture = torch.from_numpy(levels).permute(2, 0, 1)
    for source in (picture, picture.float() / 255, picture.double() / 255, from_pil(Image.fromarray(levels))):
        photograph = read_photograph(source, (20, 30), channels, fit)
        assert torch.equal(photograph.pixels, expected.pixels)
        assert (photograph.original_size, photograph.box) == ((33, 47), expected.box)


def test_floating_point_pictures_of_the_requested_shape_are_unchanged() -> None:
    picture = torch.rand(3, 20, 30, dtype=torch.float64)
    photograph = read_photograph(picture, (20, 30))
    assert photograph.pixels is picture
    assert photograph.box == (0, 0, 30, 20)


def _broken(path: Path, kind: str) -> Path:
    whole = path.with_name("whole" + path.suffix)
    Image.fromarray(_levels(100, 100)).save(whole)
    content = whole.read_bytes()
    path.write_bytes({"empty": b"", "text": b"not an image at all", "truncated": content[: len(content) // 2]}[kind])
    return path


@pytest.mark.parametrize(
    ("name", "kind", "sentence"),
    [
        ("a.png", "empty", r"a\.png is empty \(0 bytes\)"),
        ("a.png", "text", r"a\.png is not an image"),
        ("a.jpg", "truncated", r"a\.jpg is truncated"),
        ("a.png", "truncated", r"a\.png is truncated"),
        ("a.tif", "truncated", r"a\.tif (is truncated|can't be read|is not an image)"),
        ("a.bmp", "truncated", r"a\.bmp is truncated"),
    ],
)
def test_broken_files_are_reported(tmp_path: Path, name: str, kind: str, sentence: str) -> None:
    with pytest.raises(LitVizError, match=sentence) as caught:
        read_photograph(_broken(tmp_path / name, kind), (8, 8))
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_reported(tmp_path: Path) -> None:
    _save(tmp_path / "tarantula.png", Image.new("RGB", (2, 2)))
    with pytest.raises(LitVizError, match=r"there is no photograph .*; did you mean 'tarantula\.png'\?"):
        read_photograph(tmp_path / "tarantulla.png", (8, 8))
    with pytest.raises(LitVizError, match="there is no photograph"):
        read_photograph(tmp_path / "nowhere" / "a.png", (8, 8))
    with pytest.raises(LitVizError, match="must be a regular file, got a folder"):
        read_photograph(tmp_path, (8, 8))


@pytest.mark.parametrize("limit", [1000, 6000])
def test_a_decompression_bomb_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    path = _save(tmp_path / "bomb.png", Image.new("L", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # Pillow warns above it and raises above twice of it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(
            LitVizError, match=r"bomb\.png must have at most 0 million pixels: downsize it, or set LIT_VIZ_MAX_PIXELS"
        ):
            read_photograph(path, (8, 8))


def test_an_unknown_fit_is_rejected() -> None:
    with pytest.raises(LitVizError, match="must be crop, squash or pad, got 'cropp'; did you mean 'crop'"):
        read_photograph("packaged:chelsea", (8, 8), fit="cropp")


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_photographs_are_here(name: str) -> None:
    photograph = read_photograph(f"packaged:{name}", (16, 16))
    assert photograph.path == f"packaged:{name}"
    assert photograph.pixels.std() > 0.05


def test_an_unknown_packaged_photograph_lists_the_others() -> None:
    with pytest.raises(LitVizError, match="'chelsey'; did you mean 'chelsea'"):
        read_photograph("packaged:chelsey", (8, 8))
    with pytest.raises(LitVizError, match="'dog': there are astronaut, chelsea"):
        read_photograph("packaged:dog", (8, 8))


def test_to_uint8_rounds_clips_and_repeats_grey() -> None:
    image = torch.tensor([-0.1, 0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.2, torch.nan]).view(1, 1, 7)
    assert to_uint8(image).tolist() == [[[v] * 3 for v in (0, 0, 0, 1, 255, 255, 0)]]
    levels = torch.arange(256).view(1, 16, 16).repeat(3, 1, 1)
    assert np.array_equal(to_uint8(levels.float() / 255), levels.permute(1, 2, 0).numpy())
