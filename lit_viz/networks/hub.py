"""Networks of the Hugging Face Hub, or of a folder saved as there: of transformers or timm. No code of them is run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import nn

from lit_viz.errors import LitVizError, first_line
from lit_viz.networks.processors import PROCESSOR_FILE, messages_hidden
from lit_viz.networks.weights import WEIGHTS_FILES, read_weights, repository_file, state_dict_of
from lit_viz.utils.imports import required

_CONFIG = "config.json"

#: Class of transformers that loads a classifier.
CLASSIFIER = "AutoModelForImageClassification"
#: Files of the processor of a network of images and text.
PROCESSOR_FILES = (
    PROCESSOR_FILE,
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "generation_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)

#: Functions as of a :class:`~lit_viz.networks.sources.Source`.
Build = Callable[[int | None], nn.Module]
Publish = Callable[[], tuple[nn.Module, Path | None]]


def repository_network(name: str, repository: str, auto_class: str = CLASSIFIER) -> tuple[Build, Publish]:
    """Return the functions that build the network of a repository, or folder, and load its weights.

    Args:
        name: of the network, for messages.
        repository: ``ORG/NAME`` of the Hugging Face Hub, or a folder.
        auto_class: class of transformers that loads a network of it.

    Raises:
        LitVizError: the repository can't be downloaded, its configuration is damaged, of another library or requires
            code, or transformers is not installed.
    """
    config = _read_config(repository, name)
    if "model_type" in config:
        return _transformers(name, repository, auto_class)
    if "architecture" in config:
        return _timm(name, repository)
    raise LitVizError(f"{_CONFIG} of {name} must have a model_type (transformers) or architecture (timm), got neither")


def _read_config(repository: str, name: str) -> dict[str, Any]:
    def reject_code(options: dict[str, Any]) -> dict[str, Any]:
        # transformers downloads attention kernels that a configuration names.
        for key, value in options.items():
            is_kernel = key.endswith("attn_implementation") and value and value not in ("eager", "sdpa")
            if key == "auto_map" or is_kernel:
                raise LitVizError(
                    f"{name} requires code of its repository ({key} in {_CONFIG}), which is never executed: load the "
                    "network in Python and give it as a module"
                )
        architecture = options.get("architecture")
        if ":" in str(architecture):
            raise LitVizError(f"{name} must name its architecture without another repository, got {architecture!r}")
        return options

    path = repository_file(repository, [_CONFIG], name)
    try:
        config = json.loads(path.read_text(encoding="utf-8"), object_hook=reject_code)
    except (OSError, ValueError) as error:
        raise LitVizError(f"{_CONFIG} of {name} can't be read ({first_line(error)}): download it again") from error
    if not isinstance(config, dict):
        raise LitVizError(f"{_CONFIG} of {name} must be a mapping, got a {type(config).__name__}")
    return config


def _weights(repository: str, name: str) -> Path:
    """Return the file of the weights, next to the configuration of the same revision."""
    weights = repository_file(repository, WEIGHTS_FILES, name)
    _read_config(repository, name)  # of the revision of the weights, if these have just been downloaded
    return weights


def _transformers(name: str, repository: str, auto_class: str) -> tuple[Build, Publish]:
    with required("transformers 5", name, extra="transformers"):
        import transformers
    loader = getattr(transformers, auto_class)
    purpose = "fine-tuned for image classification" if auto_class == CLASSIFIER else "trained for images and text"
    local = {"local_files_only": True, "trust_remote_code": False}

    def download_processor() -> None:
        files = [PROCESSOR_FILE] if auto_class == CLASSIFIER else PROCESSOR_FILES
        for file in files:
            with suppress(LitVizError):  # there may be none
                repository_file(repository, [file], name)

    def build(classes: int | None) -> nn.Module:
        folder = repository_file(repository, [_CONFIG], name).parent
        download_processor()
        with _errors_translated(name, "transformers"), messages_hidden():
            config = transformers.AutoConfig.from_pretrained(folder, **local)
            if classes is not None:
                config.num_labels = classes
            network: nn.Module = loader.from_config(config, trust_remote_code=False)
        return network.float()

    def publish() -> tuple[nn.Module, Path | None]:
        weights = _weights(repository, name)
        download_processor()
        with _errors_translated(name, "transformers", weights), messages_hidden():
            network, info = loader.from_pretrained(
                weights.parent, output_loading_info=True, use_safetensors=weights.suffix == ".safetensors", **local
            )
        missing = _without_pooler(network, sorted(map(str, info["missing_keys"])))
        if missing:
            raise LitVizError(
                f"the weights of {name} must be of a trained network, but have no {missing[0]} "
                f"({len(missing)} missing keys): give one that was {purpose}"
            )
        return _finite(network.float(), weights), weights

    return build, publish


def _without_pooler(network: Any, missing: Sequence[str]) -> list[str]:
    """Return missing parameters without those of the pooler of an encoder-decoder, which are set to 0.

    A decoder of text reads the tokens of its encoder, not its pooler, which weights of such networks may lack.
    """
    if network.config.model_type != "vision-encoder-decoder":
        return list(missing)
    required: list[str] = []
    for name in missing:
        if name.startswith("encoder.pooler."):
            nn.init.zeros_(network.get_parameter(name))  # random values would differ each time that it is loaded
        else:
            required.append(name)
    return required


def _timm(name: str, repository: str) -> tuple[Build, Publish]:
    import timm

    def create(folder: Path, weights: Path | None = None, **options: Any) -> Any:
        with _errors_translated(name, "timm", weights):
            return timm.create_model(f"local-dir:{folder}", pretrained=weights is not None, **options)

    def build(classes: int | None) -> nn.Module:
        options: dict[str, Any] = {}
        if classes is not None:
            options["num_classes"] = classes
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
    """Return the network if its values are finite; raise as :func:`state_dict_of` otherwise."""
    state_dict_of(network.state_dict(), f"weights file {str(weights)!r}")
    return network


@contextmanager
def _errors_translated(name: str, library: str, weights: Path | None = None) -> Iterator[None]:
    """Raise :class:`LitVizError` for any exception of a library for its configurations and weights."""
    try:
        yield
    except LitVizError:
        raise
    except Exception as error:
        if weights is not None:
            read_weights(weights)  # raises if the file is damaged or would run code
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise LitVizError(f"{library} can't load {name} as an image classifier ({reason})") from error
