"""Preprocessing of the image processors of transformers, read from their attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lit_viz.errors import LitVizError, first_line
from lit_viz.networks.resizing import Resizing, resizing_of_timm

PROCESSOR_FILE = "preprocessor_config.json"
#: Image processors whose attributes define what they do; the names of their classes without ``ImageProcessor``.
KINDS = (
    "Beit", "Bit", "CLIP", "ConvNext", "DeiT", "EfficientNet", "MobileNetV1", "MobileNetV2", "PoolFormer", "Pvt",
    "Segformer", "Siglip", "ViT",
)  # fmt: skip
_UNREAD = ("do_pad", "rescale_offset")  # options of these processors that have to be off
_WARPED = 384  # pixels; from this size on, ConvNext's stretches pictures instead of cropping them
_INSTEAD = "give mean, std and size instead"


@dataclass(frozen=True)
class ImagesAndText:
    """Image processor and tokenizer of a folder that has no processor of both."""

    image_processor: Any
    tokenizer: Any


def stored_processor(config: Any) -> Any:
    """Return the image processor in the folder or in the cache of a Hugging Face configuration, or None."""
    name = str(getattr(config, "_name_or_path", ""))
    if not name:
        return None
    try:
        from transformers import AutoImageProcessor

        with messages_hidden():
            return AutoImageProcessor.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # there is none, it requires code, or it is damaged
        if Path(name, PROCESSOR_FILE).is_file():
            raise LitVizError(f"{PROCESSOR_FILE} in {name} can't be used ({first_line(error)}): {_INSTEAD}") from error
        return None


def network_processor(network: Any, name: str | None = None) -> Any:
    """Return the processor of a network of transformers: of its folder, or of a folder or name that is given.

    Raises:
        LitVizError: there is none.
    """
    origin = name or str(getattr(getattr(network, "config", None), "_name_or_path", ""))
    kind = type(network).__name__
    if not origin:
        raise LitVizError(f"the processor of {kind} is not known: give processor, an object, a folder or a name")
    try:
        from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

        with messages_hidden():
            processor = AutoProcessor.from_pretrained(origin, local_files_only=True, trust_remote_code=False)
            if hasattr(processor, "tokenizer"):
                return processor
            images = AutoImageProcessor.from_pretrained(origin, local_files_only=True, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(origin, local_files_only=True, trust_remote_code=False)
            return ImagesAndText(images, tokenizer)
    except Exception as error:  # there is none, it requires code or packages, or it is damaged
        reason = first_line(error)
        raise LitVizError(f"the processor of {kind} can't be read from {origin} ({reason}): give processor") from error


def processor_options(processor: Any, channels: int) -> dict[str, Any]:
    """Return mean, std, origin, resizing and, where it is fixed, size of an image processor.

    Read are ``size``, ``crop_size``, ``do_resize``, ``do_center_crop``, ``crop_pct``, ``resample``, ``do_rescale``,
    ``rescale_factor``, ``do_normalize``, ``image_mean``, ``image_std`` and ``include_top``; of timm, ``data_config``.
    ``resizing`` is None if the processor does not resize to a fixed size, or adds borders.

    Raises:
        LitVizError: it is of another kind, or its attributes are invalid.
    """
    name = type(processor).__name__
    timm_config = getattr(processor, "data_config", None)
    try:
        if isinstance(timm_config, Mapping):
            options = _options_of_timm(timm_config)
        else:
            _check_kind(processor, name)
            options = _options(processor, name)
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise LitVizError(f"{name} has invalid attributes ({first_line(error)}): {_INSTEAD}") from error
    for option in ("mean", "std"):
        if channels == 1 and len(set(options[option])) == 1:  # options for three channels, of a gray network
            options[option] = options[option][:1]
    return options | {"origin": "of its image processor"}


def _check_kind(processor: Any, name: str) -> None:
    kind, is_processor, _ = name.partition("ImageProcessor")
    if getattr(processor, "do_flip_channel_order", False):
        raise LitVizError(
            f"{name} exchanges color channels (BGR), which is not supported: {_INSTEAD}, and a network that does so in "
            "its forward, as by x.flip(1)"
        )
    if not is_processor or kind not in KINDS:
        raise LitVizError(
            f"processor must be timm's or an image processor of transformers for {', '.join(KINDS)}, got {name}: "
            f"{_INSTEAD}"
        )
    for option in _UNREAD:
        if getattr(processor, option, False):
            raise LitVizError(f"{name} must not have the option {option}: {_INSTEAD}")


def _options_of_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "size": tuple(config["input_size"][1:]),
        "resizing": resizing_of_timm(config),
    }


def _options(processor: Any, name: str) -> dict[str, Any]:
    mean, std = _normalization(processor)
    size, resizing = _geometry(processor, name)
    options: dict[str, Any] = {"mean": mean, "std": std, "resizing": resizing}
    if size is not None:
        options["size"] = size
    return options


def _normalization(processor: Any) -> tuple[list[float], list[float]]:
    """Return mean and std for images in [0, 1]; the processor takes levels up to 255."""
    white = 255.0
    if processor.do_rescale:
        white *= processor.rescale_factor
    means, stds = [0.0], [1.0]
    if processor.do_normalize:
        means, stds = _numbers(processor.image_mean), _numbers(processor.image_std)
    if getattr(processor, "include_top", False):  # EfficientNet's divides by the standard deviation once more
        again = _numbers(processor.image_std)
        stds = [first * second for first, second in zip(stds, again, strict=True)]
    return [round(value / white, 8) for value in means], [round(value / white, 8) for value in stds]


def _numbers(values: float | Sequence[float]) -> list[float]:
    if isinstance(values, (int, float)):
        return [float(values)]
    return list(map(float, values))


def _geometry(processor: Any, name: str) -> tuple[tuple[int, int] | None, Resizing | None]:
    """Return the size (H, W) of the outputs, None if it is not fixed, and how pictures are fitted to it."""
    output: tuple[int, int] | None = None
    if getattr(processor, "do_center_crop", False):
        output = processor.crop_size["height"], processor.crop_size["width"]
    if not processor.do_resize:
        return output, None
    size = dict(processor.size)
    if size.keys() == {"height", "width"}:
        resized, stretch = (size["height"], size["width"]), True
    elif size.keys() == {"shortest_edge"}:
        resized, stretch = (size["shortest_edge"],) * 2, False
    else:  # limited by the longest edge or the number of pixels
        return output, None
    is_convnext = name.startswith("ConvNext")
    if is_convnext and output is None:
        output = resized
    crop_pct = getattr(processor, "crop_pct", None)
    if is_convnext and resized[0] >= _WARPED:
        stretch = True
    elif crop_pct is not None:
        stretch = resized[0] != resized[1]
        resized = int(resized[0] / crop_pct), int(resized[1] / crop_pct)
    if output is None and stretch:
        output = resized
    if output is None:
        return None, None
    fraction = output[0] / resized[0]
    if fraction > 1 or output[1] / resized[1] != fraction:  # borders, or other proportions
        return output, None
    return output, Resizing(fraction, _filter(processor), stretch)


def _filter(processor: Any) -> str:
    if processor.resample is None:
        return "bilinear"
    return Image.Resampling(processor.resample).name.lower()


@contextmanager
def messages_hidden() -> Iterator[None]:
    """Hide progress bars and messages of transformers, which are errors here where they matter."""
    from transformers.utils import logging

    verbosity, progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress:
            logging.enable_progress_bar()
