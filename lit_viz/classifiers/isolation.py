"""A classifier is a guest: whatever is run on it, it is handed back as it came."""

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

_TURN = threading.RLock()


@contextmanager
def state_preserved(module: nn.Module) -> Iterator[nn.Module]:
    """Lend ``module`` in eval mode and frozen; restore it on leaving, also when the body raised.

    Restored exactly: the train mode of every submodule, every ``requires_grad``, every ``.grad``, every buffer, and the
    global random state. Hooks of the owner stay and run. The flags are set one by one and not through
    :meth:`~torch.nn.Module.train`, which a module may have overridden to do more than set them.
    """
    with random_state_preserved(module):
        training = [(m, m.training) for m in module.modules() if hasattr(m, "training")]  # not in frozen TorchScript
        parameters = [(p, p.requires_grad, p.grad) for p in module.parameters() if not p.is_inference()]
        missing = [(m, name) for m in module.modules() for name, b in m._buffers.items() if b is None]
        buffers = [(m, name, b, b.detach().clone(), _version(b)) for m, name, b in _buffers(module)]
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


@contextmanager
def random_state_preserved(module: nn.Module | None = None) -> Iterator[None]:
    """Put the global random state (Python's, NumPy's, torch's on the CPU and on the module's CUDA device) back on
    leaving.

    One thread at a time: two that lend the same module would each hand back what the other has made of it.
    """
    device = device_of(module) if module is not None else torch.device("cpu")
    with _TURN, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        pythons, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002 - which old code draws from
        try:
            yield
        finally:
            random.setstate(pythons)
            np.random.set_state(numpys)  # noqa: NPY002


def random_state(device: torch.device) -> Tensor:
    """Return the state of the generator from which layers on a device draw."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


@contextmanager
def network_errors_wrapped(x: Tensor) -> Iterator[None]:
    """Say of what the network's own code raises, in a forward of ``x``, that it was the network's.

    Raises:
        NetworkError: it did.
    """
    try:
        yield
    except Exception as error:  # whatever its code raises
        if isinstance(error, (LitVizError, NetworkError)) or is_out_of_memory(error):
            raise
        raise NetworkError(f"the network fails on images of shape {tuple(x.shape)} ({first_line(error)})") from error


def is_out_of_memory(error: Exception) -> bool:
    """Return whether this is how torch and NumPy say that memory is not enough, a GPU's or the machine's."""
    said = ("can't allocate memory", "out of memory", "ALLOC_FAILED")  # the last two by CUDA and its libraries
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error) for words in said)


#: What torch says of networks that are scripted or exported when they are copied or read: of use to nobody here.
_REMARKS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"The \.grad attribute of a Tensor that is not a leaf",
    r"'torch\.load' received a zip file that looks like a TorchScript archive",
)


@contextmanager
def torch_warnings_ignored() -> Iterator[None]:
    """Let torch's remarks on somebody's kind of network go unsaid."""
    with warnings.catch_warnings():
        for remark in _REMARKS:
            warnings.filterwarnings("ignore", remark)
        yield


@contextmanager
def full_float32() -> Iterator[None]:
    """Let the body calculate with all bits of float32, not with the 10 of 23 of TF32 or the 7 of bfloat16: NVIDIA's
    GPUs do so in convolutions by default, and where somebody has asked for it in products of matrices as well."""
    cudnn = torch.backends.cudnn
    try:
        convolutions, products = cudnn.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:  # somebody has told torch in its newer way, and may not ask in the older one any more
        with _newly_told():
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
def _newly_told() -> Iterator[None]:
    """Do the same in the newer way (torch 2.9 and later), kind by kind of operation."""
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
    """Return a deep copy of ``module``, of which nothing belongs to its owner; ``memo`` as of ``copy.deepcopy``.

    Raises:
        ValueError: its own ``__deepcopy__`` gives away what it has.
        Exception: whatever its attributes raise.
    """
    network = copy.deepcopy(module, memo)
    if _parts(network) & _parts(module):
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


def _parts(module: nn.Module) -> set[int]:
    return {id(part) for part in (*module.modules(), *module.parameters(), *module.buffers())}


def cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert a private network to real numbers of ``dtype``, and complex ones of the same precision; return it.

    ``Module.to(dtype)`` drops the imaginary part of complex weights.
    """
    pairs = torch.complex128 if dtype == torch.float64 else torch.complex64

    def converted(tensor: Tensor) -> Tensor:
        return tensor.to(pairs) if tensor.is_complex() else tensor.to(dtype) if tensor.is_floating_point() else tensor

    network._apply(converted)  # type: ignore[no-untyped-call]
    return network


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the module's first parameter or buffer; the CPU where it has none."""
    return _first_tensor(module).device


def dtype_of(module: nn.Module) -> torch.dtype:
    """Return the dtype of the module's first floating-point parameter or buffer; float32 where it has none."""
    return _first_tensor(module).dtype


def _first_tensor(module: nn.Module) -> Tensor:
    floating = (t for tensors in (module.parameters(), module.buffers()) for t in tensors if t.is_floating_point())
    return next(floating, torch.empty(0))


def _buffers(module: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for submodule in module.modules():
        for name, buffer in submodule._buffers.items():
            if buffer is not None:
                yield submodule, name, buffer


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _equal(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors hold the same, NaN in the same places."""
    if torch.equal(one, other):
        return True
    return one.is_floating_point() and bool(((one == other) | (one.isnan() & other.isnan())).all())


def _restore(owner: nn.Module, name: str, buffer: Tensor, before: Tensor, version: int) -> None:
    owner._buffers[name] = buffer  # a forward may have put another tensor in its place
    # Writes through .data are not counted.
    if _version(buffer) != version or buffer.is_inference() or not _equal(buffer, before):
        with torch.inference_mode(buffer.is_inference()), torch.no_grad():
            buffer.copy_(before)
