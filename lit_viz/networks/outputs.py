"""Outputs: what of a network's return value is scored, as named numbers for each image; the logits of a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_viz.errors import LitVizError
from lit_viz.networks.bands import Bands
from lit_viz.networks.decisions import Decision, DecisionRule, Goal, finite_number
from lit_viz.utils.parts import Part

# Autograd nodes that do not change values.
_SHAPING_NODES = (
    "Squeeze", "Unsqueeze", "View", "UnsafeView", "Reshape", "ReshapeAlias", "Alias", "Clone", "ToCopy", "Expand",
)  # fmt: skip

# Autograd nodes that embeddings end in, and numbers of their components.
_EMBEDDING_NODES = ("Norm", "Mean", "Pool", "Relu", "Hardtanh", "Gelu", "Silu", "Tanh", "Div", "Slice", "Select")
_SMALLEST_EMBEDDING, _EMBEDDING_MULTIPLE = 64, 32

#: Least ``1 - p`` of the probability p of a text, above the rounding of float32.
_LEAST_DOUBT = 1e-6

#: Name by which a forward returns the final scores ``(N, K)`` among its activations; see :meth:`Output.final`.
FINAL = ":final"


@dataclass(frozen=True)
class Detected:
    """A final detection: index of its class, probability, and (x0, y0, x1, y1) in pixels of the input."""

    index: int
    score: float
    box: list[float]


class Output(Part, ABC):
    """What of a network's return value is scored: a differentiable number for each image and name.

    Objectives, saliency maps, attacks and the comparison with Captum work on these scores. Subclasses implement
    :meth:`scores`, and :meth:`call` for a network that takes more than the images.

    Attributes:
        decision: what the scores decide; see :data:`Decision`.
        unit: what one score is, for captions of numbers: ``cosine similarity``.
        goals: kinds of goals ``kind:V`` of attacks in addition to the decision's; see :meth:`goal`. They require scores
            that do not exclude each other.
        box: (x0, y0, x1, y1) in pixels of the input that the scores are about, which figures outline; or None.
        outline: polygons (x, y) in pixels of the input around a region that is no box, which figures draw; or None.
        backbone: submodule that processes the image, if the layers after it have no maps: Grad-CAM chooses its layer in
            it, and attention is read there; or None.
        bands: of the images of the network; known in :meth:`prepare`.
        note: what users must know of the scores of a network, such as a gradient that is not their derivative; known
            after :meth:`prepare`; or None.
        detects: whether the network detects boxes, which :meth:`detections` returns.
        auto_class: class of transformers that loads a network for the output by its name.
        preprocesses: whether :meth:`call` takes images in [0, 1], by a processor (:meth:`with_processor`).
        reads: whether the network says or reads a text, which :meth:`read` returns.
        has_parts: whether the scores are of the tokens or letters of texts, in their order.
    """

    decision: Decision = "exclusive"
    unit: str = "score"
    goals: tuple[str, ...] = ()
    box: Sequence[float] | None = None
    outline: Sequence[Sequence[Sequence[float]]] | None = None
    backbone: str | None = None
    bands: Bands = Bands(3)
    note: str | None = None
    detects: bool = False
    reads: bool = False
    has_parts: bool = False
    auto_class: str = "AutoModelForImageClassification"
    preprocesses: bool = False

    @property
    def is_open(self) -> bool:
        """Whether the scores are known only with the images and targets of a run."""
        return False

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width of the images that a processor makes; None if it is not known."""
        return None

    def with_processor(self, network: nn.Module, processor: Any) -> Output:
        """Return the output with the processor of a network, by default its own."""
        return self

    @property
    def names(self) -> Sequence[str] | None:
        """Names of the scores, or None if the network determines their number."""
        return None

    def call(self, network: Callable[..., Any], x: Tensor) -> Any:
        """Call the network on normalized images ``(N, C, H, W)``, and return what :meth:`scores` reads."""
        return network(x)

    @abstractmethod
    def scores(self, returned: Any, images: int) -> Tensor:
        """Return the scores ``(N, K)``, floating-point and differentiable by the images, for N images.

        Raises:
            LitVizError: the network returned something else.
        """

    def final(self, returned: Any, images: int) -> Tensor:
        """Return the scores ``(N, K)`` that determine the success of an attack: of the final output, if
        :meth:`scores` are defined before a discrete step."""
        return self.scores(returned, images)

    def read(self, network: nn.Module, images: Tensor, normalize: Callable[[Tensor], Tensor]) -> list[str]:
        """Return the text that the network says or reads of each image, by its own greedy decoding.

        Args:
            network: the original network, in eval mode.
            images: ``(N, C, H, W)`` in [0, 1].
            normalize: images -> inputs of the network.

        Raises:
            LitVizError: the network gives no text.
        """
        raise LitVizError(f"{type(self).__name__} gives scores and no text: load the network with ReadText")

    def agrees(self, text: str, index: int, *, is_said: bool) -> bool | None:
        """Return whether a text of :meth:`read` confirms the decision on a score; None if it can't.

        Args:
            text: the text.
            index: of the score.
            is_said: whether the decision is that it is said.
        """
        return None

    @contextmanager
    def about(self, columns: Sequence[int] | None) -> Iterator[None]:
        """Compute in the body only what the scores with these indices require, one of each image or one for all.

        Other scores may be ``-inf``. By default all are computed.
        """
        yield

    def place_of(self, index: int) -> int | None:
        """Return the place of a score in its text, from 1; None of scores that are of no part of a text."""
        if self.has_parts:
            return index + 1
        return None

    def detections(self, returned: Any, images: int) -> list[list[Detected]]:
        """Return the final detections of N images, the most confident first."""
        return [[] for _ in range(images)]

    @property
    def has_final(self) -> bool:
        """Whether other scores than :meth:`scores` determine the success of an attack."""
        return type(self).final is not Output.final

    def prepare(self, network: nn.Module, normalize: Callable[[Tensor], Tensor], size: tuple[int, int]) -> Output:
        """Return the output for a network, with what it computes once, such as the embedding of a reference image.

        Args:
            network: in eval mode, without gradients.
            normalize: images ``(N, C, H, W)`` in [0, 1] -> inputs of the network, on its device.
            size: height and width of the input in pixels.
        """
        return self

    def goal(self, kind: str, value: float) -> Goal:
        """Return the goal ``kind:value`` of one of the kinds :attr:`goals`; by default, the value is the threshold.

        Raises:
            LitVizError: the value is invalid.
        """
        return Goal(value)

    def caption(self, rule: DecisionRule) -> str:
        """Return what captions state of the scores; empty for the logits of exclusive classes."""
        return rule.caption(self.unit, type(self).__name__)

    def caption_of_attacks(self, rule: DecisionRule) -> str:
        """Return what captions of attacks state of a success; empty where records name it as a prediction or goal."""
        if self.reads and rule.of_attacks:
            return "Fooled: the text of the saved file is the target, or no more the label, whatever p is."
        return rule.of_attacks

    def goal_forms(self, rule: DecisionRule) -> list[str]:
        """Return the goals of attacks on the scores as users write them, ``above:V``."""
        return [*rule.goals, *(f"{kind}:V" for kind in self.goals)]

    def parse_goals(self, text: str, rule: DecisionRule) -> dict[str, Goal]:
        """Return the goals of a text, each by its own text: one, or two of ``change:T``: the score rises, and it falls.

        Raises:
            LitVizError: the scores have no such goal, or its number is invalid.
        """
        goals = rule.parse_goals(text)
        kind, _, number = text.partition(":")
        value = finite_number(number)
        if value is not None and kind in self.goals:
            goals = {text: self.goal(kind, value)}
        if not goals:
            raise LitVizError(f"goal must be {', '.join(self.goal_forms(rule))}, got {text!r}")
        return goals

    def __call__(self, network: Callable[..., Any], x: Tensor) -> Tensor:
        """Return the scores ``(N, K)`` of a network for normalized images ``(N, C, H, W)``."""
        return self.scores(self.returned(network, x), len(x))

    def returned(self, network: Callable[..., Any], x: Tensor) -> Any:
        """Return what the network returns; ``sys.exit`` in its code is an error like any other."""
        try:
            return self.call(network, x)
        except SystemExit as error:
            raise RuntimeError("it calls sys.exit") from error

    def returned_with_graph(self, network: nn.Module, x: Tensor) -> Any:
        """Return what the network returns, with its graph where it has one."""
        try:
            with torch.enable_grad():
                return self.returned(network, x.clone().requires_grad_() * 1)
        except Exception:  # quantized layers have no gradient; any other error is raised again
            return self.returned(network, x)

    def without_graph(self, network: nn.Module, x: Tensor) -> Tensor:
        """Return the scores ``(N, K)`` of normalized images; ``x`` is not modified."""
        with torch.no_grad():
            scores: Tensor = self(network, x.clone())
            return scores

    def with_graph(self, network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return a copy of ``x`` that requires a gradient, and its scores with their graph."""
        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            return leaf, self(network, leaf * 1)  # a leaf can't be changed in place by the network


def text_log_odds(log_p: Tensor) -> Tensor:
    """Return ``log p / (1 - p)`` of the log-probabilities of texts; ``1 - p`` is at least 1e-6."""
    return log_p - torch.log(-torch.expm1(log_p.clamp(max=-_LEAST_DOUBT)))


def checked_scores(value: Any, images: int, origin: str) -> Tensor:
    """Return scores ``(N, K)``; one score per image may be ``(N,)``.

    Args:
        value: what should be the scores.
        images: N.
        origin: what computed them, for the message.

    Raises:
        LitVizError: they are no floating-point tensor of N rows.
    """
    if not isinstance(value, Tensor):
        raise LitVizError(f"{origin} must return a tensor (N, K), got a {type(value).__name__}")
    scores = value
    if not scores.is_floating_point():
        raise LitVizError(f"{origin} must return floating-point scores, got a tensor of {scores.dtype}")
    if scores.ndim == 1 and len(scores) == images:
        scores = scores[:, None]
    if scores.ndim != 2 or len(scores) != images or not scores.shape[1]:
        raise LitVizError(
            f"{origin} must return a number per image and name (N, K), got a tensor of shape {tuple(scores.shape)} for "
            f"{images} images"
        )
    return scores


class Logits(Output):
    """Logits ``(N, K)`` of a network with exclusive classes: K >= 2.

    They are a tensor, ``.logits`` of an object, ``"logits"`` of a mapping, or the first element of a tuple or list. A
    squeezed dimension of one image or one logit is restored. A single logit z, ``(N, 1)`` or ``(N,)``, is converted to
    the two logits (-z/2, z/2): class 1 is predicted where z > 0, its probability is the sigmoid of z, and z is the
    margin.
    """

    unit = "logit"

    def caption(self, rule: DecisionRule) -> str:
        return rule.of_logits

    def scores(self, returned: Any, images: int) -> Tensor:
        return logits_of(returned, images)


Logits.__module__ = "lit_viz.outputs"  # the path that records have, beside the other outputs

#: The output of networks.
LOGITS = Logits()


def logits_of(output: Any, images: int) -> Tensor:
    """Return the logits ``(N, K)`` in the output of a network; see :class:`Logits`.

    Raises:
        LitVizError: for any other output.
    """
    scores = logits_in(output)
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        kind = f"a {type(output).__name__}"
        if isinstance(output, Tensor):
            kind = f"a tensor of {output.dtype}"
        elif isinstance(output, Mapping):
            kind += f" with the keys {', '.join(map(repr, output))}"
        raise _no_logits(kind, output)
    if scores.ndim < 2 and images and scores.numel() % images == 0:
        scores = scores.reshape(images, -1)
    if scores.ndim != 2 or not scores.shape[1]:
        raise _no_logits(f"a tensor of shape {tuple(scores.shape)}", output)
    if scores.shape[1] == 1:
        return torch.cat([-scores, scores], dim=1) / 2
    return scores


def _no_logits(kind: str, returned: Any) -> LitVizError:
    """Return the error for a network that returns no logits, with the output that fits what it returned."""
    return LitVizError(
        f"the network must return logits (N, K), got {kind}; if it is no classifier, give "
        f"output={_fitting_output(returned)} to lv.load_network"
    )


def _fitting_output(returned: Any) -> str:
    """Return the name of the output, or the key, that fits what a network returned, quoted; empty if none fits."""
    first = returned[0] if isinstance(returned, (list, tuple)) and returned else returned
    if isinstance(first, Mapping) and "boxes" in first:
        return "'detection'"
    if isinstance(returned, Mapping):
        if "heatmaps" in returned:
            return "'keypoint'"
        first = returned.get("out", returned.get("logits"))
        if first is None and returned:
            return repr(next(iter(returned)))
    if hasattr(returned, "logits"):
        first = returned.logits
    if isinstance(first, Tensor) and first.ndim == 4:
        return "'region'"
    return ""


def logits_in(output: Any) -> Any:
    """Return the element of a network's output that should hold the logits, unchecked."""
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "logits"):
        return output.logits
    if isinstance(output, Mapping):
        return output.get("logits")
    if isinstance(output, (tuple, list)) and output:
        return output[0]
    return output


def last_operation(tensor: Tensor) -> str:
    """Return the name of the last operation in the graph of a tensor that changes values, such as ``Softmax``."""
    node = tensor.grad_fn
    while node is not None and type(node).__name__.startswith(_SHAPING_NODES) and node.next_functions:
        node = node.next_functions[0][0]
    if node is None:
        return ""
    return type(node).__name__.rstrip("0123456789").removesuffix("Backward")


def embedding_sign(logits: Tensor) -> str | None:
    """Return why logits ``(N, K)`` of classes without names look like an embedding, or None.

    Embeddings have 64, 128, 384 ... components, and end in a normalization, an activation or a mean over positions.
    """
    if logits.ndim != 2 or logits.shape[1] < _SMALLEST_EMBEDDING or logits.shape[1] % _EMBEDDING_MULTIPLE:
        return None
    lengths = logits.detach().double().norm(dim=1)
    if torch.allclose(lengths, torch.ones_like(lengths), atol=1e-3):
        return "their length is 1"
    last = last_operation(logits)
    if any(name in last for name in _EMBEDDING_NODES):
        return f"the last operation is {last}"
    return None


def probability_head(returned: Any) -> str | None:
    """Return a description of the final softmax or sigmoid of logits that a network returned, or None."""
    scores = logits_in(returned)
    last = last_operation(scores)
    if last in ("Softmax", "LogSoftmax", "Sigmoid", "LogSigmoid"):
        return f"ends in {last.lower()}"
    if scores.ndim == 2 and scores.shape[1] > 1:  # rows of a network without a graph
        values, ones = scores.detach().double(), scores.new_ones(len(scores), dtype=torch.float64)
        if values.min() >= 0 and values.max() <= 1 and torch.allclose(values.sum(1), ones, atol=1e-3, rtol=0):
            return "returns probabilities (its rows sum to 1)"
        if values.max() <= 0 and torch.allclose(values.exp().sum(1), ones, atol=1e-3, rtol=0):
            return "returns log-probabilities (the exponentials of its rows sum to 1)"
    return None
