"""Isolation of the user's module: its state, and the global random state, are preserved by every call."""

from __future__ import annotations

import copy
import random
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_viz.classifiers.outputs import forward, logits_of, logits_without_graph, probe_images
from lit_viz.errors import LitVizError, NetworkError, first_line

_LOCK = threading.RLock()
_PROBE_SIDE = 64  # pixels; the smallest side of reduced probe images


class Original:
    """The user's network with its preprocessing; attributes as of :class:`~lit_viz.classifiers.Classifier`."""

    def __init__(
        self,
        name: str,
        original: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        size: tuple[int, int],
        num_classes: int = 0,
    ) -> None:
        self.name, self.original = name, original
        self.mean, self.std, self.size = tuple(mean), tuple(std), size
        self.channels, self.num_classes = len(self.mean), num_classes

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return device_of(self.original)

    def normalize(self, x: Tensor) -> Tensor:
        """Return ``(x - mean) / std`` for images ``(N, C, H, W)`` in [0, 1]; always a new tensor."""
        self._check(x)
        mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std

    def logits(self, x: Tensor) -> Tensor:
        """Return the network's logits in eval mode, float32 ``(N, K)`` on the device of ``x``, without a gradient.

        ``x`` are images ``(N, C, H, W)`` in [0, 1], on any device.
        """
        self._check(x)
        with torch.inference_mode(False), torch.no_grad(), full_float32(), state_preserved(self.original) as network:
            images = self.normalize(x.to(self.device, dtype_of(network)))
            with network_errors_wrapped(x.shape):
                output = forward(network, images)
            return logits_of(output, len(x)).to(x.device, torch.float32)

    def _check(self, x: Any) -> None:
        if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[1] != self.channels:
            got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise LitVizError(f"{self.name} takes images (N, {self.channels}, H, W) as a tensor, got {got}")

    def probe(self) -> tuple[Tensor, Tensor]:
        """Return normalized probe images ``(2, C, h, w)`` and their logits ``(2, K)``.

        The images have a third of the input's side if the network accepts that size, which is cheaper.
        """
        height, width = (max(side // 3, min(side, _PROBE_SIDE)) for side in self.size)
        small = self._probe_images((height, width))
        if (logits := self._logits_at_size(small)) is not None:
            return small, logits
        full = self._probe_images(self.size)
        with state_preserved(self.original) as network:
            return full, logits_without_graph(network, full)

    def accepts(self, size: tuple[int, int]) -> bool:
        """Return whether the network gives logits for inputs of a size (H, W), and keeps its state."""
        with torch.inference_mode(False), torch.no_grad():
            return self._logits_at_size(self._probe_images(size)) is not None

    def _probe_images(self, size: tuple[int, int]) -> Tensor:
        return self.normalize(probe_images(self.channels, size).to(self.device, dtype_of(self.original)))

    def _logits_at_size(self, images: Tensor) -> Tensor | None:
        """Return logits ``(2, K)``; None where the network does not accept the size or adapts its attributes to it."""
        with state_preserved(self.original) as network, suppress(Exception):  # networks raise any kind of error
            before = _settings(network)
            logits = logits_without_graph(network, images)
            if logits.shape == (2, self.num_classes) and not _is_adapted(network, before, images):
                return logits
        return None

    def probe_logits(self) -> Tensor:
        """Return the logits ``(2, K)`` of the probe images; empty if the forward raises.

        The random generators are seeded, so that a network that draws random numbers returns the same logits.
        """
        with torch.inference_mode(False), torch.no_grad(), full_float32(), random_state_preserved(self.original):
            torch.default_generator.manual_seed(0)
            if self.device.type == "cuda":
                with torch.cuda.device(self.device):
                    torch.cuda.manual_seed(0)
            try:
                return self.probe()[1].clone()
            except Exception:  # from the user's code; the caller that needs the logits raises it again
                return torch.empty(0)


@contextmanager
def state_preserved(module: nn.Module) -> Iterator[nn.Module]:
    """Set ``module`` to eval mode, frozen, in the body; restore its state afterwards, also after an exception.

    Restored are the train mode of every submodule, every ``requires_grad``, ``.grad`` and buffer, numbers and strings
    among the attributes (Hugging Face's Swin stores a window that fits the input), and the global random state. The
    user's hooks stay active. Flags are set directly, because a module may override :meth:`~torch.nn.Module.train`.
    """
    with random_state_preserved(module):
        settings = _settings(module)
        training = [(m, m.training) for m in module.modules() if hasattr(m, "training")]  # not in frozen TorchScript
        parameters = [(p, p.requires_grad, p.grad) for p in module.parameters() if not p.is_inference()]
        buffers = [
            (m, name, b, None if b is None else b.detach().clone())
            for m in module.modules()
            for name, b in m._buffers.items()
        ]
        try:
            for submodule, _ in training:
                submodule.training = False
            for parameter, _, _ in parameters:
                parameter.requires_grad_(False)
            yield module
        finally:
            for submodule, values in settings:
                vars(submodule).update(values)
            for submodule, flag in training:
                submodule.training = flag
            for parameter, requires_grad, gradient in parameters:
                parameter.requires_grad_(requires_grad)
                parameter.grad = gradient
            for owner, name, buffer, before in buffers:
                owner._buffers[name] = buffer  # a forward may have assigned another tensor
                if buffer is not None and before is not None and not torch.equal(buffer, before):
                    with torch.inference_mode(buffer.is_inference()), torch.no_grad():
                        buffer.copy_(before)


def _settings(module: nn.Module) -> list[tuple[nn.Module, dict[str, Any]]]:
    """Return the attributes of each submodule that are numbers, strings or tuples."""
    plain = (bool, int, float, str, tuple, type(None))
    return [(m, {name: value for name, value in vars(m).items() if type(value) in plain}) for m in module.modules()]


def _is_adapted(module: nn.Module, before: Sequence[tuple[nn.Module, dict[str, Any]]], images: Tensor) -> bool:
    """Return whether a forward of images has changed attributes, apart from those that change in every forward."""
    if (after := _settings(module)) == before:
        return False
    logits_without_graph(module, images)
    return any(
        old.get(name) != value == new.get(name)
        for (_, old), (_, values), (_, new) in zip(before, after, _settings(module), strict=True)
        for name, value in values.items()
    )


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
def network_errors_wrapped(shape: Sequence[int]) -> Iterator[None]:
    """Raise :class:`NetworkError` for an exception of the network's code in forwards of images of a shape."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (LitVizError, NetworkError)) or is_out_of_memory(error):
            raise
        raise NetworkError(f"the network fails on images of shape {tuple(shape)} ({first_line(error)})") from error


def is_out_of_memory(error: Exception) -> bool:
    """Return whether torch or NumPy raised an error because memory is exhausted, on a GPU or the host."""
    phrases = ("can't allocate memory", "out of memory", "ALLOC_FAILED")  # the last two of CUDA and its libraries
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(text in str(error) for text in phrases)


@contextmanager
def torch_warnings_ignored() -> Iterator[None]:
    """Ignore torch's warnings about scripted and exported networks that are copied or read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
        warnings.filterwarnings("ignore", r"The \.grad attribute of a Tensor that is not a leaf")
        warnings.filterwarnings("ignore", "Detected pickle protocol")
        warnings.filterwarnings("ignore", r"'torch\.load' received a zip file that looks like a TorchScript archive")
        yield


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute in full float32 in the body, without TF32 or bfloat16 in convolutions and matrix products."""
    backends = torch.backends
    try:
        convolutions, products = backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:  # the settings of torch 2.9 are in use, and reading the older ones raises
        owners = (backends.cudnn, backends.mkldnn)
        kinds = [getattr(owner, kind, None) for owner in owners for kind in ("conv", "matmul")]
        before = [(kind, kind.fp32_precision) for kind in (*kinds, backends.cuda.matmul) if kind is not None]
        try:
            for kind, _ in before:
                kind.fp32_precision = "ieee"
            yield
        finally:
            for kind, precision in before:
                kind.fp32_precision = precision
        return
    try:
        backends.cudnn.allow_tf32 = False
        if products != "highest":
            torch.set_float32_matmul_precision("highest")
        yield
    finally:
        backends.cudnn.allow_tf32 = convolutions
        if products != "highest":
            torch.set_float32_matmul_precision(products)


def private_copy(module: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Return a deep copy of ``module`` that shares no layer, parameter or buffer with it, or raise any error."""
    network = copy.deepcopy(module, memo)
    parts, copied = (
        {id(part) for part in (*root.modules(), *root.parameters(), *root.buffers())} for root in (module, network)
    )
    if parts & copied:
        raise ValueError("a copy shares layers or weights with it")
    return network


def eager_copy(module: nn.Module) -> nn.Module:
    """Return a deep copy of a module in training, without the user's hooks and without ``torch.compile``.

    It shares nothing with the module, not even compiled code, whose cache is limited.
    """
    memo = memo_without_hooks(module)
    for part in reversed(list(module.modules())):  # inner parts before those that contain them
        if (original := part._modules.get("_orig_mod")) is not None:
            memo[id(part)] = copy.deepcopy(original, memo)
        elif getattr(part, "_compiler_ctx", None) is not None:  # Lightning's record of a compiled LightningModule
            memo[id(part._compiler_ctx)] = {}
    network = private_copy(module, memo)
    for part in network.modules():
        part._compiled_call_impl = None
        if getattr(part, "_compiler_ctx", None) is not None:
            for name in ("forward", "training_step", "validation_step", "test_step", "predict_step"):
                vars(part).pop(name, None)
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
    """Convert the real weights of a network to a dtype; ``Module.to`` would drop the imaginary part of complex ones."""
    network._apply(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)  # type: ignore[no-untyped-call]
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
