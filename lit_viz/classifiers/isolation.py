"""Isolation of the user's module: its state, and the global random state, are preserved by every call."""

from __future__ import annotations

import copy
import random
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_viz.errors import LitVizError, NetworkError, first_line

_LOCK = threading.RLock()


@contextmanager
def state_preserved(module: nn.Module) -> Iterator[nn.Module]:
    """Set ``module`` to eval mode, frozen, in the body; restore its state afterwards, also after an exception.

    Restored are the train mode of every submodule, every ``requires_grad``, ``.grad`` and buffer, and the global random
    state. The user's hooks stay active. Flags are set directly, because a module may override
    :meth:`~torch.nn.Module.train`.
    """
    with random_state_preserved(module):
        training = [
            (m, m.training) for m in module.modules() if hasattr(m, "training")
        ]  # missing in frozen TorchScript
        parameters = [(p, p.requires_grad, p.grad) for p in module.parameters() if not p.is_inference()]
        named_buffers = [(m, name, b) for m in module.modules() for name, b in m._buffers.items()]
        missing = [(m, name) for m, name, b in named_buffers if b is None]
        buffers = [(m, name, b, b.detach().clone(), _version(b)) for m, name, b in named_buffers if b is not None]
        try:
            for submodule, _ in training:
                submodule.training = False
            for parameter, _, _ in parameters:
                parameter.requires_grad_(False)
            yield module
        finally:
            for submodule, flag in training:
                submodule.training = flag
            for parameter, requires_grad, gradient in parameters:
                parameter.requires_grad_(requires_grad)
                parameter.grad = gradient
            for owner, name, buffer, before, version in buffers:
                _restore(owner, name, buffer, before, version)
            for owner, name in missing:
                owner._buffers[name] = None


def _restore(owner: nn.Module, name: str, buffer: Tensor, before: Tensor, version: int) -> None:
    owner._buffers[name] = buffer  # a forward may have assigned another tensor
    # Writes through .data do not change the version.
    if _version(buffer) != version or buffer.is_inference() or not _equal(buffer, before):
        with torch.inference_mode(buffer.is_inference()), torch.no_grad():
            buffer.copy_(before)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _equal(value: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal, with NaN equal to NaN."""
    if torch.equal(value, other):
        return True
    return value.is_floating_point() and bool(((value == other) | (value.isnan() & other.isnan())).all())


@contextmanager
def random_state_preserved(module: nn.Module | None = None) -> Iterator[None]:
    """Restore the global random state of Python, NumPy and torch (CPU and the module's CUDA device) after the body.

    A lock admits one thread at a time; concurrent threads would restore each other's intermediate state.
    """
    device = device_of(module) if module is not None else torch.device("cpu")
    with _LOCK, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - legacy global state
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


def random_state(device: torch.device) -> Tensor:
    """Return the state of the default generator of a device."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


@contextmanager
def network_errors_wrapped(x: Tensor) -> Iterator[None]:
    """Raise :class:`NetworkError` for an exception of the network's code in a forward of ``x``."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (LitVizError, NetworkError)) or is_out_of_memory(error):
            raise
        raise NetworkError(f"the network fails on images of shape {tuple(x.shape)} ({first_line(error)})") from error


def is_out_of_memory(error: Exception) -> bool:
    """Return whether torch or NumPy raised an error because memory is exhausted, on a GPU or the host."""
    phrases = ("can't allocate memory", "out of memory", "ALLOC_FAILED")  # the last two of CUDA and its libraries
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(text in str(error) for text in phrases)


_IGNORED_WARNINGS = (  # of torch, when scripted or exported networks are copied or read
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"The \.grad attribute of a Tensor that is not a leaf",
    r"'torch\.load' received a zip file that looks like a TorchScript archive",
)


@contextmanager
def torch_warnings_ignored() -> Iterator[None]:
    """Ignore torch's warnings about kinds of networks that users can't act on."""
    with warnings.catch_warnings():
        for message in _IGNORED_WARNINGS:
            warnings.filterwarnings("ignore", message)
        yield


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute in full float32 in the body, without TF32 or bfloat16 in convolutions and matrix products."""
    cudnn = torch.backends.cudnn
    try:
        convolutions, products = cudnn.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:  # the newer settings are in use, and reading the older ones raises
        with _full_fp32_precision():
            yield
        return
    try:
        cudnn.allow_tf32 = False
        if products != "highest":
            torch.set_float32_matmul_precision("highest")
        yield
    finally:
        cudnn.allow_tf32 = convolutions
        if products != "highest":
            torch.set_float32_matmul_precision(products)


@contextmanager
def _full_fp32_precision() -> Iterator[None]:
    """Do the same with the settings of torch 2.9 and later, one per backend and operation."""
    backends = torch.backends
    kinds = [getattr(owner, kind, None) for owner in (backends.cudnn, backends.mkldnn) for kind in ("conv", "matmul")]
    before = [(kind, kind.fp32_precision) for kind in (*kinds, backends.cuda.matmul) if kind is not None]
    try:
        for kind, _ in before:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in before:
            kind.fp32_precision = precision


def private_copy(module: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Return a deep copy of ``module`` that shares no layer, parameter or buffer with it.

    Args:
        module: the user's module.
        memo: as of ``copy.deepcopy``.

    Raises:
        ValueError: its ``__deepcopy__`` returns shared parts.
        Exception: any error of its attributes.
    """
    network = copy.deepcopy(module, memo)
    parts, copied = (
        {id(part) for part in (*root.modules(), *root.parameters(), *root.buffers())} for root in (module, network)
    )
    if parts & copied:
        raise ValueError("a copy shares layers or weights with it")
    return network


def memo_without_hooks(module: nn.Module) -> dict[int, Any]:
    """Return a ``deepcopy`` memo in which every table of hooks is copied already, without the user's hooks.

    Hooks of torch's own weight norm, spectral norm and pruning belong to the network and stay.
    """
    tables = [t for m in module.modules() for name, t in vars(m).items() if name.endswith("_hooks") and t]
    return {
        id(table): OrderedDict(
            (key, hook)
            for key, hook in table.items()
            if (getattr(hook, "__module__", None) or "").startswith("torch.nn.utils.")
        )
        for table in tables
        if isinstance(table, dict)
    }


def cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert a private network to a real dtype, complex weights to the same precision; return it.

    ``Module.to(dtype)`` drops the imaginary part of complex weights.
    """
    complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64

    def convert(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(complex_dtype)
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    network._apply(convert)  # type: ignore[no-untyped-call]
    return network


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the module's first floating-point parameter or buffer; the CPU if it has none."""
    return _first_tensor(module).device


def dtype_of(module: nn.Module) -> torch.dtype:
    """Return the dtype of the module's first floating-point parameter or buffer; float32 if it has none."""
    return _first_tensor(module).dtype


def _first_tensor(module: nn.Module) -> Tensor:
    floating = (t for tensors in (module.parameters(), module.buffers()) for t in tensors if t.is_floating_point())
    return next(floating, torch.empty(0))
