"""Square attack: random square-shaped proposals without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from lit_viz.attacks.base import BudgetAttack
from lit_viz.attacks.norms import L2, LINF, NormName
from lit_viz.errors import require
from lit_viz.objectives import CrossEntropy, Margin, Outputs
from lit_viz.objectives.classes import AttackObjective
from lit_viz.optim import Evaluation, State
from lit_viz.optim.rule import chosen, per_slot, unit
from lit_viz.optim.rule import norm as p_norm
from lit_viz.rng import Draws, Key
from lit_viz.types import Task
from lit_viz.utils.device import to_device, to_list

_P = {LINF: 0.05, L2: 0.1}  # default p, the paper's for ImageNet
#: Iterations at which p is halved, of 10,000 (section 5).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_TINY = 1e-10
#: Index of all channels of a square in an image ``(C, H, W)``.
Window = tuple[slice, slice, slice]


class SquareLoss(AttackObjective):
    """The margin in an untargeted attack, the log-probability of the target in a targeted one (section 3.1)."""

    def score(self, outputs: Outputs, targeted: Tensor) -> Tensor:
        return torch.where(targeted, CrossEntropy()(outputs), Margin()(outputs))


class Square(BudgetAttack):
    """Square attack (Andriushchenko et al. 2020, arXiv:1912.00049, algorithms 1 to 3).

    The first update adds vertical stripes of +-eps in each channel (linf), or a grid of tiles (l2). Each later update
    is a proposal from the best image, accepted if the score rises: the channels of a random square are set to +-eps
    (linf, algorithm 2); or the change of a square grows by a tile and takes over the length of a second square, which
    is reset (l2, algorithm 3). An update costs one forward and no backward.

    A linf proposal that equals the image has its sign inverted; the authors draw again.

    Args:
        norm, eps, early_stop: see :class:`~lit_viz.attacks.base.BudgetAttack`.
        p: initial fraction of pixels in a square, halved nine times; 0.05 for linf and 0.1 for l2 by default.
    """

    iterations: int = 5000
    backwards_per_step: float = 0

    def __init__(
        self, norm: NormName = "linf", eps: float | str | None = None, p: float | None = None, early_stop: bool = True
    ) -> None:
        super().__init__(norm, eps, early_stop)
        if p is None:
            p = _P[self.norm]
        self.p = p
        require(0 < self.p <= 1, "Square: p must be above 0 and at most 1", self.p)
        self.objective = SquareLoss()

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Add ``kept``, the image that proposals modify, and its score ``top`` ``(N,)``."""
        state = super().init(x, tasks)
        state["kept"] = x.clone()
        state["top"] = torch.zeros_like(state["size"])
        return state

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        iteration, score, top = state["iteration"], evaluation.score, state["top"]
        accepted = (iteration <= 1) | (score > top)  # the initial change is accepted whatever its score
        state = state | {"kept": chosen(accepted, x, state["kept"]), "top": torch.where(accepted, score, top)}
        keys = list(map(Key, to_list(state["seed"]), to_list(iteration)))
        draws = Draws(keys, x.device).scoped("square")
        initial, propose = _tiles, self._propose_l2
        if self.norm is LINF:
            initial, propose = _stripes, self._propose_linf
        moved = propose(draws, state)
        if 0 in to_list(iteration):
            start = self.project(x + per_slot(state["eps"], x) * initial(draws, x), state)
            moved = chosen(iteration == 0, start, moved)
        return moved, state

    def _propose_linf(self, draws: Draws, state: State) -> Tensor:
        """Return the kept images with +-eps in a square (algorithm 2)."""
        moved = state["kept"].clone()
        changes = per_slot(state["eps"], moved) * _signs(draws, "sign", (moved.shape[1], 1, 1)).to(moved)
        windows = _windows(draws, "square", self._side(state, moved), moved)
        for source, image, change, window in zip(state["source"], moved, changes, windows, strict=True):
            proposed = (source[window] + change).clamp(0, 1)
            inverted = (source[window] - change).clamp(0, 1)
            image[window] = torch.where((proposed == image[window]).all(), inverted, proposed)
        return moved

    def _propose_l2(self, draws: Draws, state: State) -> Tensor:
        """Return the kept images with the change of one square moved to another (algorithm 3)."""
        kept = state["kept"]
        eps, change = per_slot(state["eps"], kept), kept - state["source"]
        unused = (eps.square() - per_slot(p_norm(change), kept).square()).clamp(min=0) / kept.shape[1]
        largest = (min(kept.shape[2:]) - 1) // 2 * 2 + 1  # sides are odd
        side = (self._side(state, kept).clamp(min=3) // 2 * 2 + 1).clamp(max=largest)
        grown, reset = _windows(draws, "square", side, kept), _windows(draws, "other", side, kept)
        signs = _signs(draws, "sign", (kept.shape[1], 1, 1)).to(kept)
        upright = to_list(draws.uniform("upright") < 0.5)
        for n, image_change in enumerate(change):
            tile = _tile(int(side[n])).to(kept)
            if not upright[n]:
                tile = tile.T
            _transfer(image_change, grown[n], reset[n], signs[n] * tile, unused[n])
        return self.project(state["source"] + eps * unit(change), state)

    def _side(self, state: State, x: Tensor) -> Tensor:
        """Return the sides of the squares in pixels ``(N,)`` int64."""
        progress = 10_000 * state["iteration"] // state["iterations"]
        halvings = (progress[:, None] > to_device(_HALVINGS, x.device)).sum(1)
        height, width = x.shape[2:]
        side = (self.p * height * width / 2.0**halvings).sqrt().round().long()
        return side.clamp(1, min(height, width))


def _transfer(change: Tensor, grown: Window, reset: Window, tile: Tensor, unused: Tensor) -> None:
    """Add a tile ``(C, s, s)`` to the change ``(C, H, W)`` in one square and reset another, in place.

    Each channel preserves its length over both squares and gains its share of the squared length ``unused``.
    """
    present = change[grown].clone()
    change[grown] = 0
    length = (_by_channel(present).square() + _by_channel(change[reset]).square() + unused).sqrt()
    change[reset] = 0
    tile = tile + present / _by_channel(present).clamp(min=_TINY)
    change[grown] = tile / _by_channel(tile).clamp(min=_TINY) * length


def _signs(draws: Draws, purpose: str, shape: Sequence[int]) -> Tensor:
    """Return -1 or 1 ``(N, *shape)``."""
    return torch.where(draws.uniform(purpose, shape=shape) < 0.5, -1.0, 1.0)


def _windows(draws: Draws, purpose: str, side: Tensor, x: Tensor) -> list[Window]:
    """Return a random square of ``side`` ``(N,)`` pixels in each image ``x``."""
    room = to_device(x.shape[2:], x.device) - side[:, None]
    corners = torch.minimum((draws.uniform(purpose, shape=(2,)).double() * (room + 1)).long(), room).tolist()
    windows = []
    for (top, left), width in zip(corners, side.tolist(), strict=True):
        windows.append((slice(None), slice(top, top + width), slice(left, left + width)))
    return windows


def _by_channel(change: Tensor) -> Tensor:
    """Return the Euclidean length of each channel, ``(C, 1, 1)`` of ``(C, h, w)``."""
    length: Tensor = torch.linalg.vector_norm(change, dim=(1, 2), keepdim=True)
    return length


def _stripes(draws: Draws, x: Tensor) -> Tensor:
    """Return vertical stripes of -1 and 1 ``(N, C, H, W)``."""
    return _signs(draws, "stripes", (x.shape[1], 1, x.shape[3])).to(x).expand_as(x)


def _tiles(draws: Draws, x: Tensor) -> Tensor:
    """Return a centered grid, five tiles along the shorter side, of total length 1 ``(N, C, H, W)``."""
    side = max(min(x.shape[2:]) // 5, 1)
    rows, columns = x.shape[2] // side, x.shape[3] // side
    tile = _tile(side).to(x)
    upright = draws.uniform("tiles upright", shape=(1, rows, columns, 1, 1)) < 0.5
    signs = _signs(draws, "tiles", (x.shape[1], rows, columns, 1, 1)).to(x)
    tiles = signs * torch.where(upright, tile, tile.T)  # (N, C, rows, columns, side, side)
    height, width = rows * side, columns * side
    top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    change = torch.zeros_like(x)
    change[:, :, top : top + height, left : left + width] = tiles.transpose(3, 4).reshape(*x.shape[:2], height, width)
    return unit(change)


@lru_cache(maxsize=256)
def _tile(side: int) -> Tensor:
    """Return eta (figure 3): two bumps of opposite sign, one above the other, ``(side, side)`` float64 of length 1."""
    upper = _normalized(_bump(side // 2, side))
    lower = _normalized(_bump(side - side // 2, side))
    return _normalized(torch.cat([upper, -lower]))


def _normalized(values: Tensor) -> Tensor:
    normalized: Tensor = values / torch.linalg.vector_norm(values)
    return normalized


def _bump(height: int, width: int) -> Tensor:
    """Return ``sum of 1 / j^2, j = d + 1 .. n + 1``, with d the Chebyshev distance to the center."""
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    series = (1 / torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64).square()).flip(0).cumsum(0).flip(0)
    return series[torch.maximum(rows[:, None], columns)]
