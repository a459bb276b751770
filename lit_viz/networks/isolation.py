"""Isolation of the user's module: its state, and the global random state, are preserved by every call."""

from __future__ import annotations

import copy
import math
import random
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_viz.errors import LitVizError, NetworkError, first_line, is_out_of_memory, place_of
from lit_viz.networks.bands import Bands
from lit_viz.networks.outputs import LOGITS, Detected, Output
from lit_viz.networks.summaries import probe_images

_LOCK = threading.RLock()
_CHANGED_IN_PLACE = "modified by an inplace operation"  # an error of autograd
_PROBE_SIDE = 64  # pixels; the smallest side of reduced probe images


class Original:
    """The user's network with its preprocessing; attributes as of :class:`~lit_viz.networks.Network`.

    Attributes:
        draws: whether its forward draws random numbers in eval mode, so that each result is of one draw.
    """

    def __init__(
        self,
        name: str,
        original: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        size: tuple[int, int],
        num_classes: int = 0,
        output: Output = LOGITS,
        bands: Bands | None = None,
    ) -> None:
        self.name, self.original = name, original
        self.output = output
        self.mean, self.std, self.size = tuple(mean), tuple(std), size
        self.channels, self.num_classes = len(self.mean), num_classes
        self.bands = Bands(self.channels) if bands is None else bands
        self.draws = False

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return device_of(self.original)

    def normalize(self, x: Tensor) -> Tensor:
        """Return ``(x - mean) / std`` for images ``(N, C, H, W)`` in [0, 1]; always a new tensor."""
        self._check(x)
        mean = torch.tensor(self.mean, dtype=x.dtype, device=x.device).view(-1, 1, 1)
        std = torch.tensor(self.std, dtype=x.dtype, device=x.device).view(-1, 1, 1)
        return (x - mean) / std

    def scores(self, x: Tensor, *, final: bool = False) -> Tensor:
        """Compute the scores of checked images, without a gradient: float32 ``(N, K)`` on the device of ``x``.

        The network is in eval mode, and its state is preserved.

        ``x`` are images ``(N, C, H, W)`` in [0, 1], on any device. With ``final``, the scores determine the success
        of an attack (:meth:`~lit_viz.networks.outputs.Output.final`).
        """
        self._check(x)
        with torch.inference_mode(False), torch.no_grad(), full_float32(), state_preserved(self.original) as network:
            images = self.normalize(x.to(self.device, dtype_of(network)))
            with network_errors_wrapped(x.shape):
                returned = self.output.returned(network, images)
            scores = self.output.final if final else self.output.scores
            return scores(returned, len(x)).to(x.device, torch.float32)

    def scores_alone(self, x: Tensor, *, final: bool = False, columns: Sequence[int] | None = None) -> Tensor:
        """Compute :meth:`scores` of each image alone, so that their last bits are the same in any batch.

        Processors round a batch of one otherwise than larger ones. With ``columns``, only the scores that the one of
        each image requires are computed (:meth:`~lit_viz.networks.outputs.Output.about`).
        """
        self._check(x)
        rows: list[Tensor] = []
        with torch.inference_mode(False), torch.no_grad(), full_float32(), state_preserved(self.original) as network:
            images = self.normalize(x.to(self.device, dtype_of(network)))
            scores = self.output.final if final else self.output.scores
            for n in range(len(images)):
                image = images[n : n + 1]
                own = None if columns is None else [columns[n]]
                with network_errors_wrapped(image.shape), self.output.about(own):
                    returned = self.output.returned(network, image)
                rows.append(scores(returned, 1).to(x.device, torch.float32))
        return torch.cat(rows)

    def detections(self, x: Tensor) -> list[list[Detected]]:
        """Return the final detections of the original network for each image ``(N, C, H, W)`` in [0, 1].

        Images are evaluated one at a time, so that detections are the same in any batch.
        """
        self._check(x)
        with torch.inference_mode(False), torch.no_grad(), full_float32(), state_preserved(self.original) as network:
            images = self.normalize(x.to(self.device, dtype_of(network)))
            found: list[list[Detected]] = []
            for n in range(len(images)):
                image = images[n : n + 1]
                with network_errors_wrapped(image.shape):
                    returned = self.output.returned(network, image)
                found += self.output.detections(returned, 1)
            return found

    def read(self, x: Tensor) -> list[str]:
        """Return the text that the network says or reads of each image ``(N, C, H, W)`` in [0, 1].

        Images are evaluated one at a time, so that a text is the same in any batch.

        Raises:
            LitVizError: the output of the network gives no text.
        """
        self._check(x)
        with torch.inference_mode(False), torch.no_grad(), full_float32(), state_preserved(self.original) as network:
            images = x.to(self.device, dtype_of(network))
            texts: list[str] = []
            for n in range(len(images)):
                image = images[n : n + 1]
                with network_errors_wrapped(image.shape):
                    texts += self.output.read(network, image, self.normalize)
            return texts

    def _check(self, x: Any) -> None:
        got = type(x).__name__
        if isinstance(x, Tensor):
            if x.ndim == 4 and x.shape[1] == self.channels:
                return
            got = f"shape {tuple(x.shape)}"
        raise LitVizError(f"{self.name} takes images (N, {self.channels}, H, W) as a tensor, got {got}")

    def probe(self) -> tuple[Tensor, Tensor]:
        """Return normalized probe images ``(2, C, h, w)`` and their logits ``(2, K)``.

        The images have a third of the input's side if the network accepts that size, which is cheaper.
        """
        height, width = self.size
        small = self._probe_images((_probe_side(height), _probe_side(width)))
        logits = self._logits_at_size(small)
        if logits is not None:
            return small, logits
        full = self._probe_images(self.size)
        with state_preserved(self.original) as network:
            return full, self.output.without_graph(network, full)

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
            logits = self.output.without_graph(network, images)
            if logits.shape == (2, self.num_classes) and not _is_adapted(network, before, images, self.output):
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


def _probe_side(side: int) -> int:
    return max(side // 3, min(side, _PROBE_SIDE))


@contextmanager
def state_preserved(module: nn.Module) -> Iterator[nn.Module]:
    """Set ``module`` to eval mode, frozen, in the body; restore its state afterwards, also after an exception.

    Restored are the train mode of every submodule, every ``requires_grad``, ``.grad`` and buffer, numbers and strings
    among the attributes (Hugging Face's Swin stores a window that fits the input), and the global random state. The
    user's hooks stay active. Flags are set directly, because a module may override :meth:`~torch.nn.Module.train`.
    """
    with random_state_preserved(module):
        state = _ModuleState(module)
        try:
            state.freeze()
            yield module
        finally:
            state.restore()


class _ModuleState:
    """The state of a module that :func:`state_preserved` restores."""

    def __init__(self, module: nn.Module) -> None:
        self._settings = _settings(module)
        self._training: list[tuple[nn.Module, bool]] = []
        self._parameters: list[tuple[nn.Parameter, bool, Tensor | None]] = []
        self._buffers: list[tuple[nn.Module, str, Tensor | None, Tensor | None]] = []
        for submodule in module.modules():
            if hasattr(submodule, "training"):  # not in frozen TorchScript
                self._training.append((submodule, submodule.training))
            for name, buffer in submodule._buffers.items():
                copied = None if buffer is None else buffer.detach().clone()
                self._buffers.append((submodule, name, buffer, copied))
        for parameter in module.parameters():
            if not parameter.is_inference():
                self._parameters.append((parameter, parameter.requires_grad, parameter.grad))

    def freeze(self) -> None:
        """Set the module to eval mode, without gradients."""
        for submodule, _ in self._training:
            submodule.training = False
        for parameter, _, _ in self._parameters:
            parameter.requires_grad_(False)

    def restore(self) -> None:
        """Restore the state."""
        for submodule, values in self._settings:
            vars(submodule).update(values)
        for submodule, flag in self._training:
            submodule.training = flag
        for parameter, requires_grad, gradient in self._parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        for owner, name, buffer, before in self._buffers:
            owner._buffers[name] = buffer  # a forward may have assigned another tensor
            if buffer is not None and before is not None and not torch.equal(buffer, before):
                with torch.inference_mode(buffer.is_inference()), torch.no_grad():
                    buffer.copy_(before)


#: A submodule, and the attributes of it that are numbers, strings or tuples.
_Settings = tuple[nn.Module, dict[str, Any]]


def _settings(module: nn.Module) -> list[_Settings]:
    plain = (bool, int, float, str, tuple, type(None))
    settings = []
    for submodule in module.modules():
        values = {name: value for name, value in vars(submodule).items() if type(value) in plain}
        settings.append((submodule, values))
    return settings


def _is_adapted(module: nn.Module, before: Sequence[_Settings], images: Tensor, output: Output) -> bool:
    """Return whether a forward of images has changed attributes, apart from attributes that change in every forward."""
    after = _settings(module)
    if after == before:
        return False
    output.without_graph(module, images)
    again = _settings(module)
    for (_, old), (_, values), (_, new) in zip(before, after, again, strict=True):
        for name, value in values.items():
            if old.get(name) != value == new.get(name):
                return True
    return False


@contextmanager
def random_state_preserved(module: nn.Module | None = None) -> Iterator[None]:
    """Restore the global random state of Python, NumPy and torch (CPU and the module's CUDA device) after the body.

    A lock admits one thread at a time; concurrent threads would restore each other's intermediate state.
    """
    devices = []
    if module is not None and device_of(module).type == "cuda":
        devices.append(device_of(module))
    with _LOCK, torch.random.fork_rng(devices=devices):
        python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - legacy global state
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


def random_state(device: torch.device) -> Tensor:
    """Return the state of the default generator of a device."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.get_rng_state()


@contextmanager
def network_errors_wrapped(shape: Sequence[int]) -> Iterator[None]:
    """Raise :class:`NetworkError` for an exception of the network's code in evaluations of images of a shape."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (LitVizError, NetworkError)) or is_out_of_memory(error):
            raise
        if _CHANGED_IN_PLACE in str(error):
            raise LitVizError(
                "the network changes weights or activations in place that its gradient needs: remove in-place "
                "operations, such as += and add_(), from its forward"
            ) from error
        # contextlib takes an error that is caused by a StopIteration for this StopIteration, which would end the loops
        # of Lightning without a word.
        cause = None if isinstance(error, StopIteration) else error
        raise NetworkError(network_error("the network", shape, error)) from cause


def network_error(name: str, shape: Sequence[int], error: Exception) -> str:
    """Return the message for an exception of a network's code: its type, its place and its first line."""
    place = place_of(error)
    raised = f"{type(error).__name__} at {place}" if place else type(error).__name__
    return f"{name} raised {raised} on images of shape {tuple(shape)}: {first_line(error)}"


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
    cudnn = torch.backends.cudnn
    try:
        convolutions, products = cudnn.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:  # the settings of torch 2.9 are in use, and reading the older ones raises
        with _ieee_float32():
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
def _ieee_float32() -> Iterator[None]:
    """Do the same by the settings of torch 2.9."""
    kinds: list[Any] = []
    for owner in (torch.backends.cudnn, torch.backends.mkldnn):
        kinds += [getattr(owner, kind) for kind in ("conv", "matmul") if hasattr(owner, kind)]
    kinds.append(torch.backends.cuda.matmul)
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def private_copy(module: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Return a deep copy of ``module`` that shares no layer, parameter or buffer with it, or raise any error."""
    network = copy.deepcopy(module, memo)
    if _part_ids(module) & _part_ids(network):
        raise ValueError("a copy shares layers or weights with it")
    return network


def _part_ids(module: nn.Module) -> set[int]:
    return set(map(id, (*module.modules(), *module.parameters(), *module.buffers())))


def eager_copy(module: nn.Module) -> nn.Module:
    """Return a deep copy of a module in training, without the user's hooks and without ``torch.compile``.

    It shares nothing with the module, not even compiled code: its cache is limited.
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

    Hooks of torch's own weight norm, spectral norm and pruning, and those by which transformers returns the activations
    of layers, belong to the network and stay.
    """
    memo: dict[int, Any] = {}
    for part in module.modules():
        for name, table in vars(part).items():
            if name.endswith("_hooks") and isinstance(table, dict) and table:
                memo[id(table)] = _hooks_of_the_network(table)
    return memo


#: Start of the names of modules with hooks that belong to a network.
_HOOKS_OF_NETWORKS = ("torch.nn.utils.", "transformers.utils.output_capturing")


def _hooks_of_the_network(table: Mapping[int, Any]) -> OrderedDict[int, Any]:
    hooks = OrderedDict[int, Any]()
    for key, hook in table.items():
        if (getattr(hook, "__module__", None) or "").startswith(_HOOKS_OF_NETWORKS):
            hooks[key] = hook
    return hooks


def cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert the real weights of a copy to a dtype; ``Module.to`` would drop the imaginary part of complex ones."""
    network._apply(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)  # type: ignore[no-untyped-call]
    if dtype_of(network) != dtype:  # without weights: dtype_of reads it from a buffer
        network.register_buffer("_dtype", torch.empty(0, dtype=dtype, device=device_of(network)), persistent=False)
    return network


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the module's first floating-point parameter or buffer; the CPU if it has none."""
    return _first_tensor(module).device


def dtype_of(module: nn.Module) -> torch.dtype:
    """Return the dtype of the module's first floating-point parameter or buffer; float32 if it has none."""
    return _first_tensor(module).dtype


def logits_tolerance(module: nn.Module, logits: Tensor) -> Tensor:
    """Return the differences ``(N,)`` of logits ``(N, K)`` that rounding explains.

    The root of the machine epsilon of the network's numbers (3.5e-4 for float32), times the largest logit or 1: about a
    thousand times the differences between batch sizes.
    """
    eps = max(torch.finfo(dtype_of(module)).eps, torch.finfo(torch.float32).eps)
    sizes = logits.abs().masked_fill(logits.isneginf(), 0)  # of scores that are not computed
    return math.sqrt(eps) * sizes.amax(1).clamp(min=1)


def _first_tensor(module: nn.Module) -> Tensor:
    for tensor in chain(module.parameters(), module.buffers()):
        if tensor.is_floating_point():
            return tensor
    return torch.empty(0)
