"""The network: the original network with its labels and preprocessing, and a cache of its fast copies."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn

from lit_viz.errors import LitVizError, printable
from lit_viz.networks.bands import Bands
from lit_viz.networks.decisions import Decision, DecisionRule, Ranking, rule_of
from lit_viz.networks.fast import Backprop, CompileMode, FrozenNetwork, fast_copy
from lit_viz.networks.isolation import Original
from lit_viz.networks.layers import check_layers, layer_of
from lit_viz.networks.outputs import LOGITS, Logits, Output
from lit_viz.networks.resizing import Resizing
from lit_viz.networks.summaries import LOGITS_TOLERANCE, relative_difference
from lit_viz.utils.labels import find_class, find_text
from lit_viz.utils.parts import plain_arguments

#: Value of ``Network.weights`` for a network that was passed as a module.
GIVEN_WEIGHTS = "given"


class Network(Original):
    """A trained vision network with its labels and preprocessing; the network is never changed.

    Created by :func:`lit_viz.load_network`. It is no ``nn.Module``, so that a trainer does not move,
    train or save it. Layers of the network are attributes: ``net.layer4`` is ``net.original.layer4``.

    Attributes:
        name: ``efficientnet_lite0``, ``torchvision/vgg16``, ``package.module:factory``, or the class of a given module.
        original: the network; see :func:`~lit_viz.networks.isolation.state_preserved`.
        labels: K class names.
        mean, std: of the normalization ``(x - mean) / std``, one value per channel, in units of [0, 1].
        size: height and width of the input in pixels.
        channels, num_classes: C of the input and K of the logits.
        bands: names, ranges and display of the channels.
        output: what of the network's return value is scored; by default the logits.
        decision: what the scores decide: a class (``exclusive``), one thing each (``independent``), or nothing
            (``number``); see :data:`~lit_viz.networks.decisions.Decision`.
        resizing: how photographs are fitted to the input, as published with the network; None if unknown.
        weights: ``DEFAULT``, the path of a file, ``none``, or ``given`` for a module.
        sha256: of the weights file, or None.
        notes: messages for the user, also about the fast copies that were requested since the last :meth:`refresh`.
        logged_notes: messages that the user has received.
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
        multi_label: bool = False,
        resizing: Resizing | None = None,
        weights: str = GIVEN_WEIGHTS,
        sha256: str | None = None,
        notes: Sequence[str] = (),
        output: Output = LOGITS,
        given_labels: Sequence[str] | str | Path | None = None,
        bands: Bands | None = None,
        each_image: bool = False,
    ) -> None:
        super().__init__(name, original, mean, std, size, len(labels), output, bands)
        self.labels = tuple(map(printable, labels))
        self.decision: Decision = "independent" if multi_label else self.output.decision
        self.resizing = resizing
        self.weights = weights
        self.sha256 = sha256
        self._given_labels = given_labels
        self._each_image = each_image
        self._own_notes = self.notes = tuple(notes)
        self.logged_notes: set[str] = set()
        self._copies: dict[tuple[object, ...], FrozenNetwork] = {}
        # Of the original, at the last check: hash of the weights, representation of the layers, logits of probe images.
        self._state: tuple[str, str, Tensor] | None = None

    def __getattr__(self, name: str) -> nn.Module:
        """Return a layer of the original network by its attribute, as in ``GradCAM(layer=net.layer4)``."""
        layer = getattr(vars(self).get("original"), name, None)
        if isinstance(layer, nn.Module):
            return layer
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without the fast copies, which an unpickled network makes again."""
        return vars(self) | {"_copies": {}}

    def __repr__(self) -> str:
        height, width = self.size
        shape = f"{self.channels} x {height} x {width}"
        return f"Network({self.name!r}, {shape}, {self.num_classes} classes, weights={self.weights!r})"

    @property
    def rule(self) -> DecisionRule:
        """What follows from what the scores decide."""
        return rule_of(self.decision)

    @property
    def exclusive_classes(self) -> int:
        """Number of classes of a decision: K of exclusive scores; of others 2, such as a label and its absence."""
        return self.rule.classes(self.num_classes)

    @property
    def multi_label(self) -> bool:
        """Whether labels do not exclude each other, so that a probability is a sigmoid and no softmax."""
        return self.decision == "independent"

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the scores ``(N, K)`` of images, differentiable with respect to them.

        The network is in eval mode, and its state is preserved. :meth:`scores` checks the images and computes no
        gradient; :meth:`fast` gives the same scores in less time.

        Args:
            x: images ``(N, C, H, W)``, floating-point in [0, 1].

        Raises:
            LitVizError: ``x`` has another shape or type, or requires a gradient that the network does not give.
        """
        self._check(x)
        if not x.is_floating_point():
            raise LitVizError(f"{self.name} takes floating-point images in [0, 1], got {x.dtype}: divide them by 255")
        logits: Tensor = self.original_network()(x)[0]
        return logits

    def prediction(self, logits: Tensor, target: int) -> dict[str, float]:
        """Return logit, probability and rank of a class for logits ``(K,)``."""
        return self.predictions(logits[None], [target])[0]

    def predictions(self, logits: Tensor, targets: Sequence[int]) -> list[dict[str, float]]:
        """Return logit, probability and rank of a class for each row of logits ``(N, K)``."""
        return self.rule.summaries(logits, targets)

    def top5(self, logits: Tensor) -> Ranking:
        """Return label and probability of the five most probable classes for logits ``(K,)``."""
        return self.rankings(logits[None])[0]

    def rankings(self, logits: Tensor) -> list[Ranking]:
        """Return :meth:`top5` for each row of logits ``(N, K)``."""
        return self.rule.rankings(logits, self.labels)

    def index_of(self, target: str | SupportsIndex) -> int:
        """Return the index of a class given by name or index; see :func:`~lit_viz.utils.labels.find_class`.

        Texts that a network reads or says are matched exactly.
        """
        if self.output.reads:
            return find_text(target, self.labels)
        return find_class(target, self.labels)

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

        Copies are cached by arguments and weights, as far as torch counts changes of weights (see :meth:`refresh`).

        Args:
            keep: names of layers of which the output or input statistics are read; they are neither folded nor fused.
            device: of the copy; by default that of the original.
            dtype: of its weights; half precision only for searches that are verified in float32; not with "rescale".
            backprop: backward of its rectifiers (see :data:`~lit_viz.networks.fast.backward.Backprop`). Without
                rectifiers it is the gradient.
            residual_gradient: factor of the gradient through residual branches; below 1 it depends less on this network
                (see :func:`~lit_viz.networks.fast.residual.scale_branches`). Logits do not change.
            compiled: mode of ``torch.compile``, instead of lit_viz's own kernels for CPUs. The copy is used uncompiled
                if that fails and where layers are read.

        Raises:
            LitVizError: a layer in ``keep`` is unknown, or ``backprop`` is not ``plain`` and the network can't be
                copied or has non-linearities other than ReLU and ReLU6, of modules or functions.
        """
        check_layers(keep, self.original)
        target = torch.device(device) if device is not None else self.device
        weights = _versions(self.original)
        kept = frozenset(map(layer_of, keep))
        key = (kept, target, dtype, backprop, residual_gradient, compiled, weights)
        if key not in self._copies:
            for other in list(self._copies):
                if other[-1] != weights:
                    del self._copies[other]
            self._state = self._state or self._current_state()
            self._copies[key] = fast_copy(
                self, keep=kept, device=target, dtype=dtype, backprop=backprop,
                residual_gradient=residual_gradient, compiled=compiled,
            )  # fmt: skip
        self.notes = tuple(dict.fromkeys((*self.notes, *self._copies[key].notes)))
        return self._copies[key]

    def any_fast(self) -> FrozenNetwork:
        """Return any fast copy, an existing one if possible."""
        weights = _versions(self.original)
        for (_, _, dtype, backprop, *_, version), network in self._copies.items():
            if backprop == "plain" and dtype in (torch.float32, torch.float64) and version == weights:
                return network
        return self.fast()

    def original_network(self) -> FrozenNetwork:
        """Return the original behind the interface of the fast copy: exact and slower, with its state preserved."""
        return FrozenNetwork(self.original, self.mean, self.std, is_original=True, output=self.output)

    def log_notes(self, log: Callable[[str], object], others: Iterable[str] = ()) -> None:
        """Pass the notes to a function, and other notes about a run of the network, each once."""
        for note in (*self.notes, *others):
            if note not in self.logged_notes:
                self.logged_notes.add(note)
                log(note)

    def refresh(self) -> None:
        """Discard notes about copies, and the copies if the network has changed; called at the start of every run.

        Compared are the weights (torch does not count changes by fused optimizers and ``.data``), the layers, and the
        logits of the probe images, which also depend on hooks, attributes and buffers.

        Raises:
            LitVizError: the number of classes has changed.
        """
        self.notes = self._own_notes
        state = self._current_state()
        logits = state[2]
        if logits.numel() and logits.shape[1] != self.num_classes:
            raise LitVizError(
                f"{self.name} was loaded with {self.num_classes} classes and gives {logits.shape[1]} logits now: "
                "load it again"
            )
        before = self._state
        # The last bits of the logits may depend on the number of threads.
        if before is None or state[:2] != before[:2] or relative_difference(logits, before[2]) > LOGITS_TOLERANCE:
            self._state, self._copies = state, {}

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments by which :func:`lit_viz.load_network` loads the network again, or a given module; plain values."""
        arguments: dict[str, Any] = {"name": self.name, "weights": self.weights}
        if self._given_labels is not None:
            arguments["labels"] = plain_arguments(self._given_labels)
        elif self.weights == GIVEN_WEIGHTS:
            arguments["labels"] = list(self.labels)
        mean, std = self.bands.in_files(self.mean, self.std)
        arguments |= {
            "mean": list(mean),
            "std": list(std),
            "size": list(self.size),
            "multi_label": self.multi_label,
            **self.bands.arguments(),
        }
        if self._each_image:
            arguments["each_image"] = True
        if not isinstance(self.output, Logits):
            arguments["output"] = plain_arguments(self.output)
        return arguments

    def identity(self) -> dict[str, Any]:
        """Return the identity of this network for a run's record, as of the last :meth:`refresh`.

        It is the sha256 of the weights file, or of the weights if they come from no file, and the largest logit of each
        probe image, None if it is not finite.
        """
        self._state = self._state or self._current_state()
        weights, _, logits = self._state
        probe_logits: list[float | None] = []
        for row in logits:
            largest = float(row.max())
            probe_logits.append(largest if math.isfinite(largest) else None)
        return {"weights_sha256": self.sha256 or weights, "probe_logits": probe_logits}

    def _current_state(self) -> tuple[str, str, Tensor]:
        return _fingerprint(self.original), repr(self.original), self.probe_logits()


def _versions(network: nn.Module) -> tuple[tuple[int, int], ...]:
    """Return what changes where a parameter or buffer of a network is replaced, or changed in place."""
    tensors: list[Tensor | None] = []
    waiting: list[nn.Module | None] = [network]
    seen: set[int] = set()
    while waiting:  # parameters() and buffers() take a hundredth of the time of a batch of gradients
        module = waiting.pop()
        if module is None or id(module) in seen:
            continue
        seen.add(id(module))
        for own in (module._parameters, module._buffers):
            if own:
                tensors += own.values()
        if module._modules:
            waiting += module._modules.values()
    present = [tensor for tensor in tensors if tensor is not None]
    return tuple([(id(tensor), 0 if tensor.is_inference() else tensor._version) for tensor in present])


def _fingerprint(network: nn.Module) -> str:
    """Return the hexadecimal sha256 of the names and values in a network's state dict."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if isinstance(value, Tensor) and value.layout == torch.strided:
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            flat = value.detach().cpu().contiguous().view(-1)
            if flat.stride(0) != 1:  # a single value may have any stride
                flat = flat.clone(memory_format=torch.contiguous_format)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
