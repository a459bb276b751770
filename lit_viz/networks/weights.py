"""Weights: read files without running their code, fit keys to a network, download published files."""

from __future__ import annotations

import argparse
import pickle
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from lit_viz.errors import LitVizError, is_out_of_memory
from lit_viz.networks.isolation import torch_warnings_ignored
from lit_viz.utils.files import missing_weights_error

#: Names of the weights in a folder or repository of the Hugging Face Hub.
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")

_NESTED = ("state_dict", "model_state_dict", "model", "net")  # usual keys of a state dict in a file
_MAX_LISTED = 5  # keys in an error
_TIMEOUT = 20.0  # seconds without a response of a server
_NO_DOWNLOAD = "or use efficientnet_lite0, which needs no download"
_ALTERNATIVES = f"give a file by weights= of the network, {_NO_DOWNLOAD}"


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` file, a state dict, a dict that holds one, or a Lightning checkpoint.

    No code in the file is run (``weights_only``).

    Raises:
        LitVizError: the file is missing, empty, damaged, without weights, or a pickle that would run code.
    """
    path = Path(path)
    file = f"weights file {str(path)!r}"
    if not path.is_file():
        state = "doesn't exist"
        if path.is_dir():
            state = "is a folder"
        elif path.exists():
            state = "is no regular file"
        raise LitVizError(missing_weights_error(path, state))
    if path.stat().st_size == 0:
        raise LitVizError(f"{file} is empty: copy or download it again")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return state_dict_of(load_file(path), file)
        # Options of timm's training script are a Namespace, and hyperparameters of Lightning often contain paths.
        with torch.serialization.safe_globals([argparse.Namespace, type(Path())]), torch_warnings_ignored():
            return state_dict_of(torch.load(path, map_location="cpu", weights_only=True), file)
    except (LitVizError, MemoryError):
        raise
    except Exception as error:  # a damaged file may raise any error
        if is_out_of_memory(error):
            raise
        raise LitVizError(f"{file} {_problem(error)}") from error


def _problem(error: Exception) -> str:
    """Return what is wrong with a file that torch or safetensors can't load, and what to do."""
    unsafe = re.search("unsupported global|unsupported class|unrecognized function", str(error), re.IGNORECASE)
    if "TorchScript" in str(error):
        return "is a TorchScript archive: save the state_dict() of the network instead"
    if isinstance(error, pickle.UnpicklingError) and unsafe:
        return (
            "contains Python objects, and loading these could run code: if you trust it, load it by "
            "torch.load(FILE, weights_only=False) and save the state_dict() alone"
        )
    return "is damaged or no weights file: copy or download it again"


def state_dict_of(content: Any, source: str) -> dict[str, Tensor]:
    """Return the only, or usual, state dict in the content of a file.

    Raises:
        LitVizError: there is none, or several, or values are not finite.
    """
    if not isinstance(content, Mapping):
        raise LitVizError(f"{source} must contain a state dict, got a {type(content).__name__}: save net.state_dict()")
    state = _only_state_dict(content, source)
    for key, tensor in state.items():
        if not isinstance(key, str):
            raise LitVizError(
                f"the keys of weights must be text, but {source} has the key {key!r}: save net.state_dict()"
            )
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise LitVizError(f"weights must be dense tensors with values, but {source} has another kind in {key}")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise LitVizError(f"weights must be finite, but {source} has other values in {key}")
    return state


def _only_state_dict(content: Mapping[Any, Any], source: str) -> dict[str, Tensor]:
    """Return what is under a usual key, else the tensors of the content, else what is under its only key."""
    inner: dict[Any, dict[str, Tensor]] = {}
    for key, value in content.items():
        tensors = _tensors(value)
        if tensors:
            inner[key] = tensors
    for key in _NESTED:
        if key in inner:
            return inner[key]
    if own := _tensors(content):
        return own
    if len(inner) == 1:
        return next(iter(inner.values()))
    keys = ", ".join(map(str, [*(inner or content)][:_MAX_LISTED]))
    number = f"several, under {keys}" if inner else f"none ({keys})"
    raise LitVizError(f"{source} must contain one state dict, got {number}")


def _tensors(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class _Stripped:
    """The tensors of a file under a prefix, without it, and the keys of the network that they lack."""

    prefix: str
    tensors: dict[str, Tensor]
    missing: list[str]

    @classmethod
    def of(cls, state: Mapping[str, Tensor], prefix: str, expected: Mapping[str, Tensor]) -> _Stripped:
        tensors = {}
        for key, tensor in state.items():
            if key.startswith(prefix):
                tensors[key.removeprefix(prefix)] = tensor
        missing = [key for key in expected if key not in tensors and not _is_count(key)]
        return cls(prefix, tensors, missing)

    def is_complete(self, expected: Mapping[str, Tensor]) -> bool:
        return not self.missing and self.tensors.keys() <= expected.keys()


def _is_count(key: str) -> bool:
    """Return whether this is the number of batches that a batch norm has averaged."""
    return key.endswith("num_batches_tracked")


def fit_keys(state: Mapping[str, Tensor], network: nn.Module, source: str) -> dict[str, Tensor]:
    """Return ``state`` with the keys of ``network``, without a prefix such as ``model.`` or ``module.``.

    Next to a prefix, the file may contain other tensors (a loss, a metric); without one the keys must match exactly.
    Missing ``num_batches_tracked`` are ignored.

    Raises:
        LitVizError: keys do not match (they are listed), or several prefixes match.
    """
    expected = network.state_dict()
    candidates = [_Stripped.of(state, prefix, expected) for prefix in ("", *_prefixes(state, expected))]
    complete = [candidate for candidate in candidates if candidate.is_complete(expected)]
    if not complete:
        closest = min(candidates, key=lambda candidate: len(candidate.missing))
        raise LitVizError(
            f"the keys of {source} don't match the network"
            + _listed("missing in the file: ", closest.missing)
            + _listed("not in the network: ", sorted(set(closest.tensors) - set(expected)))
            + ": give the network that was trained, or a package.module:factory that builds it"
        )
    chosen = complete[0]
    if len(complete) > 1 and chosen.prefix:
        under = " and ".join(repr(candidate.prefix) for candidate in complete)
        raise LitVizError(f"{source} contains the network several times, under {under}: save the one to load alone")
    return {key: chosen.tensors.get(key, tensor) for key, tensor in expected.items()}


def _prefixes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Return the prefixes of the first key of a network in the keys of a file, if they end with a dot."""
    first = next((key for key in expected if not _is_count(key)), "")
    prefixes = set()
    for key in state:
        prefix = key.removesuffix(first)
        if first and key.endswith(first) and prefix.endswith("."):
            prefixes.add(prefix)
    return sorted(prefixes)


def fill(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load ``state``, which has the keys of ``network``, in place.

    Raises:
        LitVizError: shapes do not match (they are listed), or numbers are integers or complex.
    """
    expected = network.state_dict()
    wrong = []
    for key, tensor in state.items():
        given, own = tuple(tensor.shape), tuple(expected[key].shape)
        if given != own:
            wrong.append(f"{key} is {given} in the file and {own} in the network")
    if wrong:
        raise LitVizError(
            f"the shapes in {source} don't match the network" + _listed("", wrong) + ": build it as it was trained"
        )
    for key, tensor in state.items():
        if expected[key].is_floating_point() and not tensor.is_floating_point():
            raise LitVizError(f"weights must be real floating-point numbers, but {source} has {tensor.dtype} in {key}")
    network.load_state_dict(state)


def _listed(title: str, entries: list[str]) -> str:
    if not entries:
        return ""
    listed = f"; {title}{', '.join(entries[:_MAX_LISTED])}"
    more = len(entries) - _MAX_LISTED
    if more > 0:
        return f"{listed} and {more} more"
    return listed


def torch_hub_file(url: str, name: str) -> Path:
    """Return the file of ``url`` in torch hub's cache; download it if it is missing.

    Raises:
        LitVizError: the weights of the network ``name`` can't be downloaded. The message has the file, the folder
            and an alternative.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(urlparse(url).path).name
    if path.is_file():
        return path
    checksum = re.search(r"-([0-9a-f]{8,})\.", path.name)
    timeout = socket.getdefaulttimeout()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        socket.setdefaulttimeout(_TIMEOUT)
        torch.hub.download_url_to_file(url, str(path), checksum and checksum.group(1), progress=False)
    except (OSError, RuntimeError) as error:  # no network, no such file, disk full, damaged download
        raise LitVizError(
            f"the weights of {name} can't be downloaded ({_reason(error)}): put {path.name} from {url} into "
            f"{folder}, {_ALTERNATIVES}"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
    return path


def repository_file(repository: str, filenames: Sequence[str], name: str) -> Path:
    """Return the first of some files that a folder, or a repository of the Hugging Face Hub, contains.

    Files of a repository are read from the hub's cache, and downloaded if they are missing there.

    Raises:
        LitVizError: as :func:`torch_hub_file`, or the folder contains none of the files.
    """
    if Path(repository).is_dir():
        return _folder_file(repository, filenames)
    from huggingface_hub import constants, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        for filename in filenames:
            path = try_to_load_from_cache(repository, filename)
            if isinstance(path, str):
                return Path(path)
        if not constants.HF_HUB_OFFLINE:
            # The hub's client retries for more than half a minute, so the connection is tested first.
            request = urllib.request.Request(hf_hub_url(repository, filenames[0]), method="HEAD")
            with suppress(urllib.error.HTTPError):  # the server is reachable, and the hub's client reports the reason
                urllib.request.urlopen(request, timeout=_TIMEOUT).close()
        for filename in filenames:
            try:
                return Path(hf_hub_download(repository, filename))
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError as error:
                missing = error
        raise missing
    except (OSError, RuntimeError, ValueError, EntryNotFoundError) as error:
        folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
        what, otherwise = name, _NO_DOWNLOAD
        if filenames[0] in WEIGHTS_FILES:
            what, otherwise = f"the weights of {name}", _ALTERNATIVES
        raise LitVizError(
            f"{what} can't be downloaded ({_reason(error)}): {filenames[0]} of the "
            f"Hugging Face repository {repository} is not in {folder}; download the repository on a machine with a "
            f"network and give its folder as the name, {otherwise}"
        ) from error


def _folder_file(folder: str, filenames: Sequence[str]) -> Path:
    for filename in filenames:
        path = Path(folder, filename)
        if path.is_file():
            return path
    raise LitVizError(
        f"folder {folder!r} must contain {' or '.join(filenames)}: save the network by save_pretrained "
        "(transformers) or timm.models.save_for_hf, with its weights in one file"
    )


def _reason(error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return text.strip().splitlines()[0].rstrip(".")
