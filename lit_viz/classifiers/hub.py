"""Networks of the Hugging Face Hub, or of a folder saved as there: of transformers or timm. No code of them is run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lit_viz.classifiers.resizing import Resizing
from lit_viz.classifiers.weights import WEIGHTS_FILES, read_weights, repository_file, state_dict_of
from lit_viz.errors import LitVizError, first_line

_CONFIG, _PROCESSOR = "config.json", "preprocessor_config.json"
_SIDES = (52, 86)  # of the pictures that measure an image processor: levels of ramps are multiples of 5 and 3

#: Functions as of a :class:`~lit_viz.classifiers.sources.Source`.
Build = Callable[[int | None], nn.Module]
Publish = Callable[[], tuple[nn.Module, Path | None]]


def repository_network(name: str, repository: str) -> tuple[Build, Publish]:
    """Return the functions that build the network of a repository, or folder, and load its weights.

    Args:
        name: of the classifier, for messages.
        repository: ``ORG/NAME`` of the Hugging Face Hub, or a folder.

    Raises:
        LitVizError: the repository can't be downloaded, its configuration is damaged, of another library or requires
            code, or transformers is not installed.
    """
    config = _read_config(repository, name)
    if "model_type" in config:
        return _transformers(name, repository)
    if "architecture" in config:
        return _timm(name, repository)
    raise LitVizError(f"{_CONFIG} of {name} must have a model_type (transformers) or architecture (timm), got neither")


def _read_config(repository: str, name: str) -> dict[str, Any]:
    def reject_code(options: dict[str, Any]) -> dict[str, Any]:
        # transformers downloads attention kernels that a configuration names.
        kernels = {key for key, value in options.items() if key.endswith("attn_implementation") and value}
        for key in {"auto_map", *kernels} & options.keys():
            if options[key] not in ("eager", "sdpa"):
                raise LitVizError(
                    f"{name} requires code of its repository ({key} in {_CONFIG}), which is never executed: load the "
                    "network in Python and give it as a module"
                )
        if ":" in str(architecture := options.get("architecture")):
            raise LitVizError(f"{name} must name its architecture without another repository, got {architecture!r}")
        return options

    path = repository_file(repository, [_CONFIG], name)
    try:
        config = json.loads(path.read_text(encoding="utf-8"), object_hook=reject_code)
    except (OSError, ValueError) as error:
        raise LitVizError(f"{_CONFIG} of {name} can't be read ({first_line(error)})") from error
    if not isinstance(config, dict):
        raise LitVizError(f"{_CONFIG} of {name} must be a mapping, got a {type(config).__name__}")
    return config


def _weights(repository: str, name: str) -> Path:
    """Return the file of the weights, next to the configuration of the same revision."""
    weights = repository_file(repository, WEIGHTS_FILES, name)
    _read_config(repository, name)  # of the revision of the weights, if these have just been downloaded
    return weights


def _transformers(name: str, repository: str) -> tuple[Build, Publish]:
    try:
        from transformers import AutoConfig, AutoModelForImageClassification
    except ImportError as error:
        raise LitVizError(
            f"{name} requires transformers, which is not installed: pip install 'lit-viz[transformers]'"
        ) from error
    local = {"local_files_only": True, "trust_remote_code": False}

    def download_processor() -> None:
        with suppress(LitVizError):  # there may be none
            repository_file(repository, [_PROCESSOR], name)

    def build(classes: int | None) -> nn.Module:
        folder = repository_file(repository, [_CONFIG], name).parent
        download_processor()
        with _errors_translated(name, "transformers"), _quiet():
            config = AutoConfig.from_pretrained(folder, **local)
            if classes is not None:
                config.num_labels = classes
            network: nn.Module = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
        return network.float()

    def publish() -> tuple[nn.Module, Path | None]:
        weights = _weights(repository, name)
        download_processor()
        with _errors_translated(name, "transformers", weights), _quiet():
            network, info = AutoModelForImageClassification.from_pretrained(
                weights.parent, output_loading_info=True, use_safetensors=weights.suffix == ".safetensors", **local
            )
        if missing := sorted(map(str, info["missing_keys"])):
            raise LitVizError(
                f"the weights of {name} must be of a trained classifier, but have no {missing[0]} "
                f"({len(missing)} missing keys): give one that was fine-tuned for image classification"
            )
        return _finite(network.float(), weights), weights

    return build, publish


def _timm(name: str, repository: str) -> tuple[Build, Publish]:
    import timm

    def create(folder: Path, weights: Path | None = None, **options: Any) -> Any:
        with _errors_translated(name, "timm", weights):
            return timm.create_model(f"local-dir:{folder}", pretrained=weights is not None, **options)

    def build(classes: int | None) -> nn.Module:
        options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        network: nn.Module = create(repository_file(repository, [_CONFIG], name).parent, **options)
        return network

    def publish() -> tuple[nn.Module, Path | None]:
        weights = _weights(repository, name)
        network = create(weights.parent, weights)
        trained = network.pretrained_cfg["num_classes"]
        if network.num_classes != trained:  # the last layer of timm is random then
            raise LitVizError(
                f"{_CONFIG} of {name} must have the num_classes of its weights, {trained}, got {network.num_classes}"
            )
        return _finite(network, weights), weights

    return build, publish


def _finite(network: nn.Module, weights: Path) -> nn.Module:
    """Return a network whose values are finite; raise as :func:`state_dict_of` otherwise."""
    state_dict_of(network.state_dict(), f"weights file {str(weights)!r}")
    return network


@contextmanager
def _errors_translated(name: str, library: str, weights: Path | None = None) -> Iterator[None]:
    """Raise :class:`LitVizError` for an exception of a library, whose configurations and weights may raise any."""
    try:
        yield
    except LitVizError:
        raise
    except Exception as error:
        if weights is not None:
            read_weights(weights)  # raises if the file is damaged or would run code
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise LitVizError(f"{library} can't load {name} as an image classifier ({reason})") from error


@contextmanager
def _quiet() -> Iterator[None]:
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


def stored_processor(config: Any) -> Any:
    """Return the image processor in the folder or in the cache of a Hugging Face configuration, or None."""
    name = str(getattr(config, "_name_or_path", ""))
    if not name:
        return None
    try:
        from transformers import AutoImageProcessor

        with _quiet():
            return AutoImageProcessor.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # there is none, it requires code, or it is damaged
        if Path(name, _PROCESSOR).is_file():
            raise LitVizError(f"{_PROCESSOR} in {name} can't be used ({first_line(error)})") from error
        return None


def processor_options(processor: Any, channels: int) -> dict[str, Any]:
    """Return size, mean, std and resizing of an image processor, measured on pictures of one color and on ramps.

    This includes what classes of processors do beside their options, such as a second division by the standard
    deviation (EfficientNet) or a crop (ConvNeXt). Only the name of the filter is read.

    Raises:
        LitVizError: it is no image processor, fails, or exchanges color channels.
    """
    try:
        try:
            values = _processed(processor, channels)
        except Exception:
            values = _processed(processor, 3)  # with options for three channels, of a gray network
        height, width = values.shape[2:]
        black, white, color = values[:3, :, height // 2, width // 2]
        std = 1 / (white - black)
        mean = 0.0 - black * std
        if not (std > 0).all():
            raise ValueError(f"its std is {std.tolist()}")
    except Exception as error:
        raise LitVizError(
            f"processor must be an image processor of transformers for {channels} channels, got "
            f"{type(processor).__name__} ({first_line(error)})"
        ) from error
    if not torch.allclose((color * std + mean) * 255, _colors(len(std))[2].double(), atol=1):
        raise LitVizError(
            f"{type(processor).__name__} must scale each color channel by itself, but it exchanges them (BGR): give a "
            "network that does so in its forward, as by x.flip(1), with mean=, std= and size="
        )
    if channels == 1 and len(mean.unique()) == len(std.unique()) == 1:
        mean, std = mean[:1], std[:1]
    means, stds = ([float(f"{value:.6g}") for value in tensor.tolist()] for tensor in (mean, std))
    options = {"mean": means, "std": stds, "size": (height, width), "origin": "of its image processor"}
    levels = (values[3:, 0] - black[0]) * std[0] * 255
    return {**options, "resizing": _resizing(processor, levels)}


def _processed(processor: Any, channels: int) -> Tensor:
    height, width = _SIDES
    ramps = torch.arange(width) * 3, torch.arange(height)[:, None] * 5
    pictures = [level.view(-1, 1, 1).expand(-1, height, width) for level in _colors(channels)]
    pictures += [ramp.byte().expand(channels, height, width) for ramp in ramps]
    values: Tensor = processor(images=pictures, return_tensors="pt")["pixel_values"]
    return values.double()


def _colors(channels: int) -> Tensor:
    """Return black, white and a color with other levels in each channel, ``(3, C)``."""
    return torch.tensor([[0, 0, 0], [255, 255, 255], [200, 100, 50]], dtype=torch.uint8)[:, :channels]


def _resizing(processor: Any, levels: Tensor) -> Resizing | None:
    """Return the resizing of a processor, given the levels ``(2, h, w)`` of the horizontal and the vertical ramp.

    It is None if the processor does not resize to a fixed size, or adds borders.
    """
    height, width = levels.shape[1:]
    across, down = (
        _fraction_shown(ramp, step * side)
        for ramp, step, side in zip((levels[0].mean(0), levels[1].mean(1)), (3, 5), reversed(_SIDES), strict=True)
    )
    resample = getattr(processor, "resample", None)
    interpolation = getattr(processor, "data_config", {}).get("interpolation") or (  # of timm
        "bilinear" if resample is None else Image.Resampling(resample).name.lower()
    )
    if type(processor).__name__.startswith("Perceiver") and processor.do_center_crop:
        return Resizing(processor.size["height"] / processor.crop_size["height"], interpolation, crop_first=True)
    fraction = max(across, down)
    if not getattr(processor, "do_resize", True) or not 0 < min(across, down) <= fraction < 1.02:
        return None
    side = height if down == fraction else width
    # Of a picture that keeps its proportions, the sides of a pixel are equal.
    proportions = across * _SIDES[1] * height / (down * _SIDES[0] * width)
    is_stretched = abs(math.log(across / down)) <= abs(math.log(proportions))
    return Resizing(side / max(side, round(side / fraction)), interpolation, is_stretched)


def _fraction_shown(ramp: Tensor, levels: int) -> float:
    """Return the part of the ``levels`` of a ramp that an output ``(n,)`` shows, by a line through its middle."""
    count = len(ramp)
    places = torch.arange(count).double()[count // 8 : count - count // 8]
    centered = places - places.mean()
    slope = (centered @ ramp[count // 8 : count - count // 8]) / centered.square().sum()
    return float(slope) * count / levels
