"""The Square attack: random squares, kept where they help; it asks for no gradient, so none can be hidden from it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from lit_viz.attacks.budget import BudgetAttack
from lit_viz.attacks.norms import Norm
from lit_viz.errors import LitVizError
from lit_viz.objectives import CrossEntropy, Margin, Outputs
from lit_viz.objectives.attacks import AttackObjective
from lit_viz.optim import Evaluation, State
from lit_viz.optim.rule import chosen, per_slot, unit
from lit_viz.optim.rule import norm as euclidean
from lit_viz.rng import Draws, Key
from lit_viz.types import Task
from lit_viz.utils.device import to_device, to_list

#: Part of the pixels in the first square unless another is given: the paper's for ImageNet.
_SHARE: dict[Norm, float] = {"linf": 0.05, "l2": 0.1}
#: Where the part is halved, in ten-thousandths of the iterations (section 5, for ten thousand of them).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_TINY = 1e-10
#: All channels of a square of an image ``(C, H, W)``.
Window = tuple[slice, slice, slice]


class SquareLoss(AttackObjective):
    """The margin to the class to leave, the log-probability of the class to reach (section 3.1 of the paper)."""

    def score(self, outputs: Outputs, targeted: Tensor) -> Tensor:
        """Return margins or log-probabilities."""
        return torch.where(targeted, CrossEntropy()(outputs), Margin()(outputs))


class Square(BudgetAttack):
    """The Square attack (Andriushchenko et al. 2020, arXiv:1912.00049, algorithms 1 to 3).

    The first update is vertical stripes of +-eps in every channel (linf), or a grid of tiles (l2). Every further one is
    a proposal, made from the image that scored highest: a square at a random place whose channels are set to +-eps of
    the photograph (linf); or whose change grows by a tile, paid for by the change in a second square, which is
    taken back (l2). It costs one forward and no backward.

    The sign of a linf proposal that would change nothing is turned, where the authors draw anew.

    Args:
        norm, eps, early_stop: see :class:`~lit_viz.attacks.budget.BudgetAttack`.
        p: part of the pixels in the first square, halved nine times on the way; 0.05 for linf and 0.1 for l2 unless
            given.

    Raises:
        LitVizError: for values that make no attack.
    """

    iterations: int = 5000
    backwards_per_step: float = 0

    def __init__(
        self, norm: Norm = "linf", eps: float | None = None, p: float | None = None, early_stop: bool = True
    ) -> None:
        super().__init__(norm, eps, early_stop)
        self.p = _SHARE[norm] if p is None else p
        if not 0 < self.p <= 1:
            raise LitVizError(f"p {p} is no part of the pixels: give a number above 0, at most 1, such as 0.05.")
        self.objective = SquareLoss()

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return besides: ``kept`` the image from which proposals are made, and its score ``top`` ``(N,)``."""
        state = super().init(x, tasks)
        return {**state, "kept": x.clone(), "top": torch.zeros_like(state["size"])}

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        """Keep the last proposal if it was good, and make another."""
        iteration, score, top = state["iteration"], evaluation.score, state["top"]
        taken = (iteration <= 1) | (score > top)  # the start is kept whatever it scores
        kept = {"kept": chosen(taken, x, state["kept"]), "top": torch.where(taken, score, top)}
        state = {**state, **kept}
        keys = [Key(seed, k) for seed, k in zip(to_list(state["seed"]), to_list(iteration), strict=True)]
        draws = Draws(keys, x.device).scoped("square")
        moved = (self._square if self.norm == "linf" else self._exchange)(draws, state)
        if 0 in to_list(iteration):
            start = (_stripes if self.norm == "linf" else _tiles)(draws, x)
            moved = chosen(iteration == 0, self.project(x + per_slot(state["eps"], x) * start, state), moved)
        return moved, state

    def _square(self, draws: Draws, state: State) -> Tensor:
        """Return the kept images with +-eps in a square (algorithm 2)."""
        moved = state["kept"].clone()
        changes = per_slot(state["eps"], moved) * _signs(draws, "sign", (moved.shape[1], 1, 1)).to(moved)
        windows = _windows(draws, "square", self._side(state, moved), moved)
        for source, image, change, window in zip(state["source"], moved, changes, windows, strict=True):
            proposed, turned = ((source[window] + c).clamp(0, 1) for c in (change, -change))
            image[window] = torch.where((proposed == image[window]).all(), turned, proposed)
        return moved

    def _exchange(self, draws: Draws, state: State) -> Tensor:
        """Return the kept images with more of their change in one square and none in another (algorithm 3)."""
        kept = state["kept"]
        eps, change = per_slot(state["eps"], kept), kept - state["source"]
        unused = (eps.square() - per_slot(euclidean(change), kept).square()).clamp(min=0) / kept.shape[1]
        largest = (min(kept.shape[2:]) - 1) // 2 * 2 + 1  # sides are odd
        side = (self._side(state, kept).clamp(min=3) // 2 * 2 + 1).clamp(max=largest)
        here, there = (_windows(draws, name, side, kept) for name in ("square", "other"))
        signs = _signs(draws, "sign", (kept.shape[1], 1, 1)).to(kept)
        upright = [u < 0.5 for u in to_list(draws.uniform("upright"))]
        for n, whole in enumerate(change):
            tile = _tile(int(side[n])).to(kept)
            added = signs[n] * (tile if upright[n] else tile.T)
            _trade(whole, here[n], there[n], added, unused[n])
        return self.project(state["source"] + eps * unit(change), state)

    def _side(self, state: State, x: Tensor) -> Tensor:
        """Return how wide the squares are ``(N,)`` int64."""
        passed = 10_000 * state["iteration"] // state["iterations"]
        halvings = (passed[:, None] > to_device(_HALVINGS, x.device)).sum(1)
        height, width = x.shape[2:]
        side = (self.p * height * width / 2.0**halvings).sqrt().round().long()
        return side.clamp(1, min(height, width))


def _trade(change: Tensor, here: Window, there: Window, tile: Tensor, unused: Tensor) -> None:
    """Add a tile ``(C, s, s)`` to the change ``(C, H, W)`` here and take away what is there, in place.

    Each channel keeps the length that it had in both together, and gets its share of the squared length ``unused``.
    """
    present = change[here].clone()
    change[here] = 0
    length = (_by_channel(present).square() + _by_channel(change[there]).square() + unused).sqrt()
    change[there] = 0
    tile = tile + present / _by_channel(present).clamp(min=_TINY)
    change[here] = tile / _by_channel(tile).clamp(min=_TINY) * length


def _signs(draws: Draws, purpose: str, shape: Sequence[int]) -> Tensor:
    """Return -1 or 1 ``(N, *shape)``."""
    return torch.where(draws.uniform(purpose, shape=shape) < 0.5, -1.0, 1.0)


def _windows(draws: Draws, purpose: str, side: Tensor, x: Tensor) -> list[Window]:
    """Return a square at random in each of the images ``x``, ``side`` ``(N,)`` pixels wide."""
    room = to_device(x.shape[2:], x.device) - side[:, None]
    corners = torch.minimum((draws.uniform(purpose, shape=(2,)).double() * (room + 1)).long(), room).tolist()
    return [
        (slice(None), slice(top, top + width), slice(left, left + width))
        for (top, left), width in zip(corners, side.tolist(), strict=True)
    ]


def _by_channel(change: Tensor) -> Tensor:
    """Return the Euclidean length of each channel, ``(C, 1, 1)`` of ``(C, h, w)``."""
    length: Tensor = torch.linalg.vector_norm(change, dim=(1, 2), keepdim=True)
    return length


def _stripes(draws: Draws, x: Tensor) -> Tensor:
    """Return vertical stripes of -1 and 1."""
    return _signs(draws, "stripes", (x.shape[1], 1, x.shape[3])).to(x).expand_as(x)


def _tiles(draws: Draws, x: Tensor) -> Tensor:
    """Return a grid of five tiles across, of length 1 in all."""
    side = max(min(x.shape[2:]) // 5, 1)
    down, across = (n // side for n in x.shape[2:])
    tile = _tile(side).to(x)
    upright = draws.uniform("tiles upright", shape=(1, down, across, 1, 1)) < 0.5
    signs = _signs(draws, "tiles", (x.shape[1], down, across, 1, 1)).to(x)
    grid = (
        (signs * torch.where(upright, tile, tile.T)).transpose(3, 4).reshape(*x.shape[:2], down * side, across * side)
    )
    above, left = (x.shape[2] - down * side) // 2, (x.shape[3] - across * side) // 2
    change = torch.zeros_like(x)
    change[:, :, above : above + down * side, left : left + across * side] = grid
    return unit(change)


@lru_cache(maxsize=256)
def _tile(side: int) -> Tensor:
    """Return two humps of opposite sign, one above the other, ``(side, side)`` float64 of length 1 (eta, figure 3)."""
    upper, lower = (h / torch.linalg.vector_norm(h) for h in (_hump(side // 2, side), _hump(side - side // 2, side)))
    tile = torch.cat([upper, -lower])
    unit_tile: Tensor = tile / torch.linalg.vector_norm(tile)
    return unit_tile


def _hump(height: int, width: int) -> Tensor:
    """Return ``sum of 1 / j^2, j = d + 1 .. n + 1`` of the distance d to the middle, in the largest coordinate."""
    rows, columns = ((torch.arange(n) - n // 2).abs() for n in (height, width))
    series = (1 / torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64).square()).flip(0).cumsum(0).flip(0)
    return series[torch.maximum(rows[:, None], columns)]
