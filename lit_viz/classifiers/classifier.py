"""The classifier: a guest network and what is known about it."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, SupportsIndex

import torch
from torch import Tensor, nn

from lit_viz.classifiers.fast.compiling import CompileMode
from lit_viz.classifiers.fast.copying import fast_copy
from lit_viz.classifiers.fast.frozen import FrozenNetwork
from lit_viz.classifiers.fast.rectifiers import Backprop
from lit_viz.classifiers.isolation import device_of, dtype_of, full_float32, network_errors_wrapped, state_preserved
from lit_viz.classifiers.labels import find_class
from lit_viz.classifiers.layers import check_layers, layer_of
from lit_viz.classifiers.outputs import logits_of
from lit_viz.classifiers.probe import LOGITS_TOLERANCE, normalize, probe_logits, relative_difference
from lit_viz.classifiers.weights import fingerprint
from lit_viz.errors import LitVizError

#: What is said of the weights of a network that was handed over as a module.
GIVEN_WEIGHTS = "given"


class Classifier:
    """A trained image classifier, kept exactly as it came, with its labels and preprocessing.

    Made by :func:`~lit_viz.classifiers.load_classifier`. It is no ``nn.Module``, so no trainer moves it, trains it or
    saves it.

    Attributes:
        name: ``efficientnet_lite0``, ``torchvision/vgg16``, ``package.module:factory``, or the class of a given module.
        original: the network itself; never changed (see :func:`~lit_viz.classifiers.isolation.state_preserved`).
        labels: K class names.
        mean, std: of the normalization ``(x - mean) / std``, one value a channel, in units of [0, 1].
        size: height and width of its input, in pixels.
        channels: of its input.
        weights: ``DEFAULT``, the file's path, ``none``, or ``given`` (a module handed over).
        sha256: of the weights file, or None.
        notes: sentences worth saying once, also about the fast copies made so far.
    """

    def __init__(
        self,
        name: str,
        original: nn.Module,
        *,
        labels: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        size: tuple[int, int],
        weights: str = GIVEN_WEIGHTS,
        sha256: str | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.original = original
        self.labels = tuple(labels)
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.size = size
        self.channels = len(self.mean)
        self.weights = weights
        self.sha256 = sha256
        self.notes = tuple(notes)
        self._copies: dict[object, FrozenNetwork] = {}
        self._state: _State | None = None  # of the original, when it was last looked at

    def __repr__(self) -> str:
        height, width = self.size
        shape = f"{self.channels} x {height} x {width}"
        return f"Classifier({self.name!r}, {shape}, {self.num_classes} classes, weights={self.weights!r})"

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where the original network is."""
        return device_of(self.original)

    def index_of(self, target: str | SupportsIndex) -> int:
        """Return the index of a class given by name or index; see :func:`~lit_viz.classifiers.labels.find_class`."""
        return find_class(target, self.labels)

    def normalize(self, x: Tensor) -> Tensor:
        """Return ``(x - mean) / std`` for images ``(N, C, H, W)`` in [0, 1]."""
        self._check_channels(x)
        return normalize(x, self.mean, self.std)

    def logits(self, x: Tensor) -> Tensor:
        """Return the original network's logits, float32 ``(N, K)`` on the device of ``x``.

        Runs in eval mode, without gradient, on the network's own device; the network is left as it was, and the call
        is allowed in inference mode.

        Args:
            x: images ``(N, C, H, W)`` in [0, 1], on any device.
        """
        with torch.inference_mode(False), torch.no_grad(), full_float32(), state_preserved(self.original) as network:
            # The subtraction makes a tensor of its own, so that a network that works in place never changes x.
            images = self.normalize(x.to(self.device, dtype_of(network)))
            with network_errors_wrapped(x):
                output = network(images)
            return logits_of(output, len(x)).to(x.device, torch.float32)

    def fast(
        self,
        keep: Collection[str] = (),
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        backprop: Backprop = "plain",
        residual_gradient: float = 1.0,
        compiled: CompileMode | None = None,
    ) -> FrozenNetwork:
        """Return the private fast copy: frozen, eval, channels-last, batch norm folded, activations fused.

        A copy is made once for the same arguments and weights, and again when the weights have changed since, as far as
        torch counts their changes (see :meth:`refresh`).

        Args:
            keep: layers that are read, or whose input's moments are, by name; they are neither folded nor fused.
            device: where the copy runs; by default where the original is.
            dtype: of its weights; bfloat16 only for a search that is verified in float32.
            backprop: the backward of its rectifiers (see :data:`~lit_viz.classifiers.fast.rectifiers.Backprop`). In a
                network without any all three are the gradient.
            residual_gradient: factor of the gradient through residual branches; below 1 it depends less on this one
                network (see :mod:`~lit_viz.classifiers.fast.residual`). Logits stay as they are.
            compiled: by ``torch.compile`` in this mode, instead of lit_viz's own kernels, which are for CPUs; where it
                can't be, or layers are read, the copy is used as it is.

        Raises:
            LitVizError: a layer in ``keep`` that the network doesn't have (the near names are listed), or a network
                that can't be given another backward: it can't be copied, or has other non-linearities than ReLU and
                ReLU6 modules (also a ReLU that is called as a function, attention, compiled code).
        """
        check_layers(keep, self.original)
        where = torch.device(device) if device is not None else self.device
        state = (*self.original.parameters(), *self.original.buffers())
        weights = tuple((id(t), 0 if t.is_inference() else t._version) for t in state)
        kept = frozenset(map(layer_of, keep))
        key = (kept, where, dtype, backprop, residual_gradient, compiled, weights)
        if key not in self._copies:
            self._copies = {k: copy for k, copy in self._copies.items() if k[-1] == weights}  # type: ignore[index]
            self._state = self._state or self._look()
            self._copies[key] = fast_copy(self, kept, where, dtype, backprop, residual_gradient, compiled)
            self.notes = tuple(dict.fromkeys((*self.notes, *self._copies[key].notes)))
        return self._copies[key]

    def original_network(self, *, non_differentiable: bool = False, notes: Sequence[str] = ()) -> FrozenNetwork:
        """Return the original itself as methods ask a network, under the guest contract: slower than a copy, and exact.

        Args:
            non_differentiable: it is known to give no gradient.
            notes: what is worth saying about it, in sentences.
        """
        return FrozenNetwork(
            self.original, self.mean, self.std, is_original=True, non_differentiable=non_differentiable, notes=notes
        )

    def refresh(self) -> None:
        """Forget the copies if the network isn't any more what it was; every run does so when it begins.

        Other weights are noticed also where torch hasn't counted the change, as of fused optimizers and writes through
        ``.data``; so are other layers, and whatever else changes its logits of the probe images: a hook, an attribute,
        a buffer.

        Raises:
            LitVizError: it has another number of classes.
        """
        now = self._look()
        if now.probed.numel() and now.probed.shape[1] != self.num_classes:
            raise LitVizError(
                f"{self.name} was loaded with {self.num_classes} classes and gives {now.probed.shape[1]} logits now: "
                "load it again."
            )
        if self._state is None or not now.same(self._state):
            self._state, self._copies = now, {}

    def identity(self) -> dict[str, Any]:
        """Return what tells this classifier from others in a run's record, as it was when a run last began (see
        :meth:`refresh`): the sha256 of the weights' file, or of the weights themselves where they come from none; and
        of each probe image the largest logit, None where it is no number."""
        self._state = self._state or self._look()
        largest = (float(logits.max()) for logits in self._state.probed)
        return {
            "weights_sha256": self.sha256 or self._state.weights,
            "probe_logits": [value if math.isfinite(value) else None for value in largest],
        }

    def probe_logits(self) -> Tensor:
        """Return the original network's logits ``(2, K)`` of the probe images; empty if its forward raises."""
        return probe_logits(self.original, self.mean, self.std, self.size, self.num_classes)

    def _look(self) -> _State:
        return _State(fingerprint(self.original), repr(self.original), self.probe_logits())

    def _check_channels(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise LitVizError(
                f"{self.name} takes images (N, {self.channels}, H, W), but a tensor of shape {tuple(x.shape)} was given"
            )


class _State(NamedTuple):
    """What tells a network from others: its weights, its layers with their arguments, and its logits."""

    weights: str
    layers: str
    probed: Tensor

    def same(self, other: _State) -> bool:
        """Return whether it is the same network; another number of threads may change the last bits of its logits."""
        unasked = not self.probed.numel() and not other.probed.numel()
        alike = unasked or relative_difference(self.probed, other.probed) <= LOGITS_TOLERANCE
        return self[:2] == other[:2] and alike
