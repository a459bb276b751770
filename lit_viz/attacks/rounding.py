"""Verification of adversarial examples as files: rounding to the values of a file, repair of rounding failures, and
evaluation of the decoded image.

Levels are whole numbers in float64, from 0 to 255 of 8-bit files, so that lengths are exact. Floating-point files have
no levels: their images are not rounded.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lit_viz.attacks.base import is_adversarial
from lit_viz.attacks.norms import TOLERANCE, Norm, lengths
from lit_viz.errors import LitVizError
from lit_viz.images.formats import LEVELS, PICTURE, FileFormat, within
from lit_viz.images.reading import decode, encode_jpeg
from lit_viz.images.rendering import psnr, ssim
from lit_viz.networks import Network
from lit_viz.networks.isolation import logits_tolerance
from lit_viz.objectives import Margin, Outputs

_RADIUS = 1e-6  # tolerance for float32, relative to the radius; of floating-point files in units of [0, 1]
#: JPEG qualities in which a success is tested.
JPEG_QUALITIES = (95, 75)
CANDIDATES = 6  # evaluations of the fast copy in each climb
CLIMBS = 6  # gradients at most: most images need one, a few that were shortened to nothing need all
#: Factor of the linear prediction for the first candidate: the true gain is smaller, since the gradient rotates.
_MARGIN_FACTOR = 1.7
#: Minimal reduction of the number of moves, relative to the sufficient number, that justifies an evaluation.
_REDUCTION = 1 / 8
_GROWTH = 4  # maximal growth of the number of moves after a failure
_SEARCHES = 2  # searches, where the original network rejects the result of the fast copy


# -- verification


@dataclass(frozen=True)
class Saved:
    """An adversarial example as its file holds it.

    Attributes:
        image: ``(C, H, W)`` float32 in [0, 1] on the CPU, bit-equal to the decoded file.
        success: whether the image is in the ball and the original network's prediction of the file reaches the goal.
        logits: ``(K,)`` of the original network for the file.
        repaired: sum of the level changes that restored a success; 0 without repair.
        jpeg: by quality, whether the prediction of a JPEG of the image reaches the goal; empty where the file is no
            picture of 8 bits.
        distances: see :func:`distances`.
        text: what the network says or reads of the file; None where it gives no text.
        text_agrees: whether the text confirms the prediction; a success that it does not is none.
    """

    image: Tensor
    success: bool
    logits: Tensor
    repaired: int
    jpeg: Mapping[int, bool]
    distances: Mapping[str, float]
    text: str | None = None
    text_agrees: bool | None = None

    def record_fields(self, labels: Sequence[str], *, is_predicted: bool = True) -> dict[str, Any]:
        """Return the prediction of the file, unless its scores are numbers, and its success as record fields."""
        prediction: dict[str, Any] = {}
        if is_predicted:
            predicted = int(self.logits.argmax())
            prediction = {"predicted": predicted, "predicted_name": labels[predicted]}
        return {
            **prediction,
            "success_file": self.success,
            "success_jpeg95": self._after_jpeg(95),
            "success_jpeg75": self._after_jpeg(75),
        }

    def _after_jpeg(self, quality: int) -> bool | None:
        if not self.jpeg:
            return None
        return self.success and self.jpeg[quality]


@torch.inference_mode(False)
def save_and_verify(
    network: Network,
    images: Tensor,
    sources: Tensor,
    goals: Tensor,
    targeted: Tensor,
    float_success: Tensor,
    *,
    norm: Norm | None = None,
    eps: Tensor | None = None,
    thresholds: Tensor | None = None,
    against: Tensor | None = None,
    formats: Sequence[FileFormat] | None = None,
) -> list[Saved]:
    """Round adversarial examples inside their balls to the values of their files, repair rounding failures, and verify
    the files.

    Files are encoded and decoded in memory. Each result is independent of the rest of the batch.

    Args:
        network: the attacked network.
        images, sources: results of the attack, and photographs ``(N, C, H, W)`` in [0, 1].
        goals, targeted: ``(N,)`` class to reach, or to leave; whether it is the class to reach.
        float_success: ``(N,)`` bool, success before rounding; only these images are repaired.
        norm, eps: of the balls, with radii ``(N,)`` in units of [0, 1]; None for an attack without budget.
        thresholds: ``(N,)``, of scores that are numbers.
        against: ``(N,)``, classes to leave beside the one to reach; -1 for none.
        formats: of the N files; by default pictures of 8 bits.
    """
    verifier = Verifier(network, goals, targeted, thresholds, against)
    images = images.detach().cpu().float()
    radii = [None] * len(images)
    if eps is not None:
        radii = eps.tolist()
    if formats is None:
        formats = [PICTURE] * len(images)
    balls: list[LatticeBall] = []
    for source, radius, file_format in zip(sources, radii, formats, strict=True):
        balls.append(LatticeBall(source, norm, radius, file_format))
    levels = _round(images, balls, verifier)
    files = torch.stack([ball.decoded(rounded) for ball, rounded in zip(balls, levels, strict=True)])
    logits = verifier.logits(files)
    inside = torch.tensor([ball.contains(rounded) for ball, rounded in zip(balls, levels, strict=True)])
    rounded_formats = torch.tensor([not file_format.is_float for file_format in formats])
    lost = float_success.cpu() & inside & rounded_formats & ~verifier.success(logits)
    rows = lost.nonzero()[:, 0].tolist()
    margins, tolerances = verifier.margin(logits).tolist(), verifier.tolerance(logits).tolist()
    searches = {}
    for n in rows:
        rounded = (levels[n], margins[n])
        searches[n] = _search(images[n], rounded, tolerances[n], balls[n], verifier[[n]])
    repaired = [0] * len(images)
    for n, (restored, file, prediction) in _repair(searches, verifier).items():
        repaired[n] = int((restored - levels[n]).abs().sum())
        files[n], logits[n] = file, prediction
    success = verifier.success(logits) & inside
    pictures = [n for n, file_format in enumerate(formats) if file_format == PICTURE]
    jpeg: list[dict[int, bool]] = [{} for _ in files]
    for quality in JPEG_QUALITIES if pictures else ():
        compressed = torch.stack([decode(encode_jpeg(files[n], quality)) for n in pictures])
        for n, met in zip(pictures, verifier[pictures].fast_success(compressed).tolist(), strict=True):
            jpeg[n][quality] = met
    texts, confirmed = verifier.texts(files, verifier.success(logits))
    saved = []
    for n, file in enumerate(files):
        saved.append(
            Saved(
                image=file,
                success=bool(success[n]) and confirmed[n] is not False,
                logits=logits[n],
                repaired=repaired[n],
                jpeg=jpeg[n],
                distances=distances(balls[n].image(balls[n].source), file, formats[n]),
                text=texts[n],
                text_agrees=confirmed[n],
            )
        )
    return saved


def distances(source: Tensor, image: Tensor, file_format: FileFormat = PICTURE) -> dict[str, float]:
    """Return the distances of a saved image to its photograph, both ``(C, H, W)`` in [0, 1].

    They are the lengths in all norms in units of [0, 1], ``l0``, the fraction of the C * H * W values that differ, and
    :func:`~lit_viz.images.rendering.ssim` and :func:`~lit_viz.images.rendering.psnr`.
    """
    reference, levels = file_format.levels(source), file_format.levels(image)
    change = levels - reference
    distances = change_lengths(change, file_format)
    distances["l0"] = float((change != 0).double().mean())
    if file_format == PICTURE:
        image, source = levels.double() / LEVELS, reference.double() / LEVELS
    distances["ssim"] = ssim(image.float(), source.float())
    distances["psnr"] = psnr(image.double(), source.double())
    return distances


def change_lengths(change: Tensor, file_format: FileFormat) -> dict[str, float]:
    """Return the lengths of a change in levels, in all norms, in units of [0, 1]."""
    reference = file_format.reference
    return {name: length / reference for name, length in lengths(change * file_format.ratio).items()}


def _round(images: Tensor, balls: Sequence[LatticeBall], verifier: Verifier) -> list[Tensor]:
    """Return the nearest levels inside the balls."""
    levels = [ball.nearest(image) for ball, image in zip(balls, images, strict=True)]
    outside = [n for n, ball in enumerate(balls) if not ball.contains(levels[n])]
    if outside:
        gradients = verifier[outside].margin_gradient(torch.stack([balls[n].image(levels[n]) for n in outside]))
        for n, gradient in zip(outside, gradients, strict=True):
            levels[n] = balls[n].shorten(levels[n], balls[n].by_level(gradient))
    return levels


class Verifier:
    """Predictions of a network, tested against the goals ``(N,)`` of N images."""

    def __init__(
        self,
        network: Network,
        goals: Tensor,
        targeted: Tensor,
        thresholds: Tensor | None = None,
        against: Tensor | None = None,
    ) -> None:
        self.network, self.goals, self.targeted = network, goals.cpu(), targeted.cpu()
        if thresholds is None:
            thresholds = torch.zeros(len(goals))
        if against is None:
            against = torch.full_like(self.goals, -1)
        self.thresholds, self.against = thresholds.cpu(), against.cpu()

    def __getitem__(self, rows: Sequence[int]) -> Verifier:
        goals, targeted = self.goals[rows], self.targeted[rows]
        return Verifier(self.network, goals, targeted, self.thresholds[rows], self.against[rows])

    def logits(self, images: Tensor) -> Tensor:
        """Return the original network's logits ``(N, K)`` for images ``(N, C, H, W)`` in [0, 1], on the CPU; those of
        an image are the same in any batch."""
        return self.network.scores_alone(images, final=True).cpu()

    def _with_close_ones_alone(self, images: Tensor, logits: Tensor) -> Tensor:
        """Return logits; a margin within :meth:`tolerance` is computed again for the image alone."""
        for n in (self.margin(logits).abs() < self.tolerance(logits)).nonzero()[:, 0].tolist():
            logits[n] = self.network.scores(images[n : n + 1], final=True)[0].cpu()
        return logits

    def success(self, logits: Tensor) -> Tensor:
        """Return which predictions meet their goals ``(N,)`` bool."""
        return is_adversarial(self._decisions(logits), self.goals, self.targeted)

    def texts(self, images: Tensor, success: Tensor) -> tuple[list[str | None], list[bool | None]]:
        """Return what the network says or reads of each image, and whether it confirms the verdict on it; None of
        networks without text."""
        output = self.network.output
        if not output.reads:
            return [None] * len(images), [None] * len(images)
        texts: list[str | None] = []
        confirmed: list[bool | None] = []
        for n, text in enumerate(self.network.read(images)):
            is_said = bool(success[n]) == bool(self.targeted[n])
            texts.append(text)
            confirmed.append(output.agrees(text, int(self.goals[n]), is_said=is_said))
        return texts, confirmed

    def margin(self, logits: Tensor) -> Tensor:
        """Return the margins in logits ``(N,)``, positive for a success."""
        device = logits.device
        return Margin()(Outputs(self._decisions(logits), self.goals.to(device), targeted=self.targeted.to(device)))

    def _decisions(self, logits: Tensor) -> Tensor:
        device = logits.device
        goals = {
            "targets": self.goals.to(device),
            "thresholds": self.thresholds.to(device),
            "against": self.against.to(device),
        }
        return self.network.rule.logits(logits, goals)

    def tolerance(self, logits: Tensor) -> Tensor:
        """Return the margins ``(N,)`` above which a verdict is the same in any batch."""
        return logits_tolerance(self.network.original, logits)

    def fast_success(self, images: Tensor) -> Tensor:
        """Return which images meet their goals ``(N,)`` bool: by the fast copy, at half the time of the original
        network, which decides alone where the margin is within :meth:`tolerance`."""
        logits = self.network.fast().final_scores(images).cpu()
        return self.success(self._with_close_ones_alone(images, logits))

    def fast_margin(self, images: Tensor) -> Tensor:
        """Return the margins ``(N,)`` of the fast copy, on the CPU."""
        return self.margin(self.network.fast().final_scores(images)).cpu()

    def margin_gradient(self, images: Tensor) -> Tensor:
        """Return the gradient of the margins by 8-bit levels, ``(N, C, H, W)`` float64 on the CPU, by one backward.

        Zero for a non-differentiable network, which Square can attack.
        """
        with torch.enable_grad():
            leaf = images.detach().clone().requires_grad_()
            try:
                logits = self.network.fast()(leaf)[0]
            except LitVizError:  # non-differentiable
                return torch.zeros_like(leaf, dtype=torch.float64, device="cpu")
            (gradient,) = torch.autograd.grad(self.margin(logits).sum(), leaf)
        return gradient.cpu().double().nan_to_num(0.0, 0.0, 0.0) / LEVELS


# -- repair


_VerifierMethod = Literal["margin_gradient", "fast_margin", "logits"]  # methods of Verifier
_Request = tuple[_VerifierMethod, Tensor]  # an evaluation that a search waits for, and its image
_Candidate = tuple[Tensor, float]  # levels, and their margin by the fast copy
_Repaired = tuple[Tensor, Tensor, Tensor]  # levels of a success, the image decoded from their file, and its logits
_Search = Generator[_Request, Any, _Repaired | None]


def _repair(searches: Mapping[int, _Search], verifier: Verifier) -> dict[int, _Repaired]:
    """Run the searches of these rows, with evaluations in batches; return the results of successful searches."""
    repaired: dict[int, _Repaired] = {}
    requests = {n: next(search) for n, search in searches.items()}
    while requests:
        # One method at a time; the original network comes after all others, so that its batch is large.
        requested = {method for method, _ in requests.values()}
        method = next(name for name in get_args(_VerifierMethod) if name in requested)
        images = {n: image for n, (own_method, image) in requests.items() if own_method == method}
        values = getattr(verifier[[*images]], method)(torch.stack([*images.values()]))
        for n, value in zip(images, values, strict=True):
            try:
                requests[n] = searches[n].send(value)
            except StopIteration as stop:
                if stop.value is not None:
                    repaired[n] = stop.value
                del requests[n]
    return repaired


def _search(image: Tensor, rounded: _Candidate, required: float, ball: LatticeBall, verifier: Verifier) -> _Search:
    """Search for levels inside the ball with a successful file.

    First, values that were rounded against the gradient at the unrounded image are rounded the other way, in order of
    descending gradient. If this is not enough, any values move along the gradient at the best candidate by one level,
    in the same order, repeatedly. A success of the fast copy is confirmed by the original network.

    An image costs at most CLIMBS backwards, each with a forward, ``CLIMBS * CANDIDATES`` forwards of the fast copy, and
    a forward of the original network; twice that if the networks disagree.

    Args:
        image: a success ``(C, H, W)`` float32 in [0, 1], before rounding.
        rounded: its levels inside the ball, a failure, with their margin by the original network.
        required: margin above which a verdict is the same in any batch.
        ball: feasible levels.
        verifier: of this image.
    """
    for _ in range(_SEARCHES):
        candidate = rounded
        for climb in range(CLIMBS):
            evaluated = image
            if climb > 0:
                evaluated = ball.image(candidate[0])
            gradient = yield "margin_gradient", evaluated
            gradient = ball.by_level(gradient)
            priority = gradient.abs()
            if climb == 0:
                priority = priority * (gradient * (ball.levels(image) - rounded[0]) > 0)  # lowered by rounding
            candidate = yield from _climb(candidate, gradient, priority, ball, required)
            if candidate[1] >= required:
                break
        levels, fast_margin = candidate
        if not fast_margin >= required:
            break
        file = ball.decoded(levels)
        logits = yield "logits", file
        margin = float(verifier.margin(logits[None]))
        if margin > 0:
            return levels, file, logits
        required += fast_margin - margin
    return None


def _climb(
    start: _Candidate, gradient: Tensor, priority: Tensor, ball: LatticeBall, required: float
) -> Generator[_Request, Any, _Candidate]:
    """Move the k values of highest positive priority by a level along the gradient, and search for the smallest k that
    reaches the required margin; return its candidate, or the one with the largest margin."""
    direction = gradient.sign()
    after = start[0] + direction
    feasible = ((after >= ball.low) & (after <= ball.high) & (priority > 0)).flatten().nonzero()[:, 0]
    order = feasible[priority.flatten()[feasible].argsort(descending=True, stable=True)]
    gains = gradient.abs().flatten()[order]
    predicted = torch.cat([gains.new_zeros(1), gains.cumsum(0)])  # gain of k moves by the linear model
    best, tried = start, [(0, start[1])]
    for _ in range(CANDIDATES):
        count = _next_count(tried, predicted, required)
        if count is None:
            break
        moves = torch.zeros_like(direction).flatten()
        moves[order[:count]] = direction.flatten()[order[:count]]
        levels = ball.shorten(start[0] + moves.view_as(direction), gradient)
        margin = float((yield "fast_margin", ball.image(levels)))
        tried.append((count, margin))
        if margin >= required or (not best[1] >= required and margin > best[1]):
            best = levels, margin
    return best


def _next_count(tried: Sequence[tuple[int, float]], predicted: Tensor, required: float) -> int | None:
    """Return the next number of moves to evaluate, or None to stop, given the numbers ``tried`` and their margins."""
    # The margin is linear in the gain predicted of k moves: interpolated between the largest failing number and the
    # smallest sufficient one, or extrapolated from the two largest failing ones.
    sufficient, failing = [], []
    for point in sorted(tried):
        if point[1] >= required:
            sufficient.append(point)
        else:
            failing.append(point)
    k, margin = failing[-1]
    other = None
    if sufficient:
        other = sufficient[0]
    elif len(failing) > 1:
        other = failing[-2]
    if other is None:
        gain = _MARGIN_FACTOR * (required - margin)
    else:
        rate = (other[1] - margin) / float(predicted[other[0]] - predicted[k])
        gain = float(predicted[k])
        if rate > 0:
            gain += (required - margin) / rate
        else:
            gain *= 2
    count = min(int((predicted[1:] <= gain).sum()) + 1, len(predicted) - 1)
    if sufficient:
        is_useful = k < count < sufficient[0][0] * (1 - _REDUCTION)
    else:
        count = min(count, _GROWTH * k or count)
        is_useful = count > k
    if is_useful:
        return count
    return None


# -- the lattice


def is_singleton(eps: float) -> bool:
    """Return whether a ball of this radius holds no 8-bit image but its center, in any norm."""
    return eps * LEVELS < 1 - TOLERANCE


class LatticeBall:
    """Images that a file can hold, at a distance of at most eps from a source image ``(C, H, W)``, which may be off the
    lattice.

    Without ``norm`` and ``eps`` all of [0, 1] is feasible. ``source`` and the bounds ``low`` and ``high`` of each value
    are in levels; of a floating-point file in units of [0, 1], with a tolerance for its rounding.
    """

    def __init__(
        self,
        source: Tensor,
        norm: Norm | None = None,
        eps: float | None = None,
        file_format: FileFormat = PICTURE,
    ) -> None:
        self.format = file_format
        self.source = self.levels(source)
        self._radius = bound = math.inf
        if eps is not None:
            self._radius = eps * file_format.reference * (1 + _RADIUS)
        if norm is not None:
            bound = norm.value_bound(self._radius)
        if file_format.is_float:
            self._radius += _RADIUS
        self._norm = norm
        least, most = file_format.bounds
        low, high = self.source - bound / file_format.ratio, self.source + bound / file_format.ratio
        if not file_format.is_float:
            low, high = low.ceil(), high.floor()
        self.low, self.high = within(low, least, most), within(high, least, most)

    def levels(self, image: Tensor) -> Tensor:
        """Return an image in levels; see :meth:`~lit_viz.images.formats.FileFormat.levels`."""
        return self.format.levels(image)

    def image(self, levels: Tensor) -> Tensor:
        """Return levels as an image in [0, 1], float32, bit-equal to the decoded file."""
        return self.format.image(levels)

    def decoded(self, levels: Tensor) -> Tensor:
        """Return the image ``(C, H, W)``, float32 in [0, 1], that is decoded from a file of these levels."""
        return self.format.decode(self.format.encode(self.image(levels)))

    def by_level(self, gradient: Tensor) -> Tensor:
        """Return a gradient by 8-bit levels as one by levels of the format."""
        if self.format == PICTURE:
            return gradient
        return gradient * (LEVELS / self.format.steps)

    def nearest(self, image: Tensor) -> Tensor:
        """Return the nearest levels of an image, which may be slightly outside an L2 ball; NaN becomes black."""
        levels = self.levels(image).nan_to_num(0.0)
        if self.format.is_float:
            return self.levels(self.image(levels.clamp(self.low, self.high)))
        return levels.round().clamp(self.low, self.high)

    def contains(self, levels: Tensor) -> bool:
        """Return whether the levels are in the ball."""
        slack = _RADIUS if self.format.is_float else 0.0
        within = bool(((levels >= self.low - slack) & (levels <= self.high + slack)).all())
        return within and self._excess(levels) <= 0

    def shorten(self, levels: Tensor, gradient: Tensor) -> Tensor:
        """Return levels inside the ball, by moving some values one level closer to the source.

        Values are selected greedily by the least loss of margin, from ``gradient``, for the removed excess, a knapsack
        problem: the loss exceeds the optimum by at most that of one step (Dantzig 1957, doi:10.1287/opre.5.2.266). A
        single pass suffices for the rounding of an image in a ball around a lattice image. If the ball holds no lattice
        image, the result is the nearest to the source. Images of floating-point files are not changed.
        """
        if self._norm is None or self.format.is_float:
            return levels
        ratio = self.format.ratio
        while (excess := self._excess(levels)) > 0:
            change = levels - self.source
            removed = self._norm.excess_removed(change * ratio, ratio).flatten()
            loss = (gradient * change.sign()).flatten()
            cost = torch.where(removed > 0, loss / removed, torch.inf)
            order = cost.argsort(stable=True)[: int((removed > 0).sum())]
            if len(order) == 0:
                break
            count = int((removed[order].cumsum(0) < excess).sum()) + 1
            step = torch.zeros_like(removed).index_fill(0, order[:count], 1.0)
            levels = levels - step.view_as(change) * change.sign()
        return levels

    def _excess(self, levels: Tensor) -> float:
        if self._norm is None:
            return 0.0
        return self._norm.excess((levels - self.source) * self.format.ratio, self._radius)
