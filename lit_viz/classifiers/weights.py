"""Weights files: reading them without running what is in them, and fitting their keys to a network."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_viz.classifiers.isolation import torch_warnings_ignored
from lit_viz.errors import LitVizError

_NESTED = ("state_dict", "model_state_dict", "model", "net")
_SHOWN = 5  # keys listed in an error


def fingerprint(network: nn.Module) -> str:
    """Return the sha256, in hexadecimal digits, of the names and values in a network's state dict."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if isinstance(value, Tensor) and value.layout == torch.strided:
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` file, a state dict, a dict that holds one, or a Lightning checkpoint.

    Nothing in the file is run (``weights_only``).

    Raises:
        LitVizError: missing, empty, damaged, not weights, or a pickle that would run code.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "doesn't exist"
        raise LitVizError(f"the weights file {str(path)!r} {what}: give the path of a .pth, .safetensors or .ckpt file")
    if path.stat().st_size == 0:
        raise LitVizError(f"the weights file {str(path)!r} is empty: copy or download it again")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state = _state_in(content, path)
    for key, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise LitVizError(
                f"the weights file {str(path)!r} holds values that are not finite in {key}: use another one"
            )
    return state


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path) from error


def _read_torch(path: Path) -> Any:
    try:
        # timm's training script saves its options so, Lightning the hyperparameters, among which are often paths.
        with torch.serialization.safe_globals([argparse.Namespace, type(Path())]), torch_warnings_ignored():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if re.search("unsupported global|unsupported class|unrecognized function", str(error), re.IGNORECASE):
            raise LitVizError(
                f"the weights file {str(path)!r} holds Python objects, whose loading could run code, so it isn't "
                "loaded: if you trust it, torch.load(FILE, weights_only=False) it yourself and save the state_dict() "
                "alone"
            ) from error
        raise _damaged(path) from error
    except Exception as error:  # a damaged file makes the reader raise nearly anything
        if "TorchScript" in str(error):
            raise LitVizError(
                f"the weights file {str(path)!r} is a TorchScript archive: save the state_dict() of the network instead"
            ) from error
        raise _damaged(path) from error


def _damaged(path: Path) -> LitVizError:
    return LitVizError(
        f"the weights file {str(path)!r} can't be read, because it is damaged, cut off, or no weights file: "
        "copy or download it again"
    )


def _state_in(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise LitVizError(
            f"the weights file {str(path)!r} holds no state dict but a {type(content).__name__}: save net.state_dict()"
        )
    inner = {key: tensors for key, value in content.items() if (tensors := _tensors(value))}
    usual = next((inner[key] for key in _NESTED if key in inner), None) or _tensors(content)
    if not usual and len(inner) != 1:
        keys = ", ".join(map(str, [*(inner or content)][:_SHOWN]))
        found = f"several, under {keys}" if inner else f"none ({keys})"
        raise LitVizError(
            f"the weights file {str(path)!r} should hold one state dict, and holds {found}: save it alone"
        )
    return usual or next(iter(inner.values()))


def _tensors(content: Any) -> dict[str, Tensor]:
    return {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}


def fit_keys(state: Mapping[str, Tensor], network: nn.Module, source: str) -> dict[str, Tensor]:
    """Return ``state`` with the keys of ``network``, stripped of the prefix (``model.``, ``module.`` ...) they have.

    Under a prefix the file may hold other things beside the network (a loss, a metric); without one it must match
    exactly. Missing ``num_batches_tracked`` are forgiven.

    Raises:
        LitVizError: lists the keys that don't match, or the prefixes under which the file holds such a network.
    """
    wanted = network.state_dict()
    readings = {prefix: _stripped(state, prefix) for prefix in _prefixes(state, wanted)}
    complete = [p for p, found in readings.items() if not _missing(found, wanted) and not set(found) - set(wanted)]
    if len(complete) > 1 and "" not in complete:
        under = " and ".join(repr(p) for p in complete)
        raise LitVizError(f"{source} holds the network several times, under {under}: save the one you mean alone")
    if complete:
        found = readings["" if "" in complete else complete[0]]
        return {key: found.get(key, tensor) for key, tensor in wanted.items()}
    best = min(readings.values(), key=lambda found: len(_missing(found, wanted)))
    raise LitVizError(
        f"the keys of {source} don't match the network"
        + _listed("missing in the file", _missing(best, wanted))
        + _listed("unknown to the network", sorted(set(best) - set(wanted)))
        + ": name the network that was trained, or a package.module:factory that builds it"
    )


def fill(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load ``state``, whose keys are those of ``network``, in place.

    Raises:
        LitVizError: lists the tensors whose shapes don't match.
    """
    wanted = network.state_dict()
    wrong = [
        f"{key} is {tuple(tensor.shape)} in the file and {tuple(wanted[key].shape)} in the network"
        for key, tensor in state.items()
        if tensor.shape != wanted[key].shape
    ]
    if wrong:
        raise LitVizError(
            f"the shapes in {source} don't match the network" + _listed("", wrong) + ": build it as it was trained"
        )
    network.load_state_dict(state)


def fill_by_order(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load the tensors of ``state`` in place in the order in which they stand, whatever they are called."""
    wanted = network.state_dict()
    if len(wanted) != len(state):
        raise LitVizError(f"{source} holds {len(state)} tensors, but the network has {len(wanted)}")
    fill(network, dict(zip(wanted, state.values(), strict=True)), source)


def _prefixes(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    first = next((k for k in wanted if not k.endswith("num_batches_tracked")), "")
    found = {k[: -len(first)] for k in state if first and k.endswith(first)}
    return ["", *sorted(p for p in found if p.endswith("."))]


def _stripped(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}


def _missing(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    return [k for k in wanted if k not in found and not k.endswith("num_batches_tracked")]


def _listed(title: str, entries: list[str]) -> str:
    if not entries:
        return ""
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return f"; {title}{': ' if title else ''}{', '.join(entries[:_SHOWN])}{more}"
