"""Rows without a gradient are omitted from backwards, and the gradients of the others are bit-equal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lit_viz.networks import Network
from lit_viz.networks.fast import convolution as of_convolutions
from lit_viz.networks.fast.backward import nonzero_rows, runs, scatter_rows, select_rows, sparse_backward


def input_gradients(lite0: Network, read_rows: Tensor, sparse: bool) -> Tensor:
    x = torch.rand(len(read_rows), 3, 128, 128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = lite0.fast()(x)[0]
    with sparse_backward(read_rows if sparse else None):
        return torch.autograd.grad(torch.where(read_rows, logits[:, 3], 0).sum(), x)[0]


@pytest.mark.parametrize("read_rows", [[1, 0, 0, 1, 0, 1, 1, 0, 0], [0] * 9, [1] * 9, [0, 0, 0, 0, 0, 0, 0, 0, 1]])
def test_the_other_rows_get_the_same_gradient(lite0: Network, read_rows: list[int]) -> None:
    rows = torch.tensor(read_rows, dtype=torch.bool)
    whole, part = (input_gradients(lite0, rows, sparse) for sparse in (False, True))
    assert torch.equal(part, whole)
    assert bool(whole[rows].flatten(1).any(1).all())


def test_backwards_compute_only_rows_with_a_gradient(lite0: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: set[int] = set()
    backward = of_convolutions.input_gradient

    def counting(gradient: Tensor, *args: Any) -> Tensor:
        counts.add(len(gradient))
        return backward(gradient, *args)

    rows = torch.tensor([True, False, True, True, False])
    lite0.fast()  # made before anything is counted
    monkeypatch.setattr(of_convolutions, "input_gradient", counting)
    input_gradients(lite0, rows, sparse=False)
    assert counts == {5}
    counts.clear()
    input_gradients(lite0, rows, sparse=True)
    assert counts == {3}


def test_nan_rows_are_not_zero() -> None:
    gradient = torch.zeros(4, 2, 3, 3)
    gradient[1, 0, 2, 2] = torch.nan
    gradient[3, 1, 0, 0] = -1e-30
    with sparse_backward(torch.tensor([True, False])), torch.no_grad():
        found = nonzero_rows(gradient, 0.5)
        assert found is not None
        assert found[0].tolist() == [1, 3]
        assert torch.equal(found[1].nan_to_num(7), gradient[[1, 3]].nan_to_num(7))
        assert nonzero_rows(gradient[1:2], 0.5) is None
    with torch.no_grad():
        assert nonzero_rows(gradient, 0.5) is None  # no rows are known to be zero


def test_selected_rows_are_scattered_back() -> None:
    x, rows = torch.rand(5, 2, 3, 4).contiguous(memory_format=torch.channels_last), torch.tensor([0, 3])
    part = select_rows(x, rows)
    assert torch.equal(part, x[rows])
    assert part.is_contiguous(memory_format=torch.channels_last)
    back = scatter_rows(part, rows, 5)
    assert torch.equal(back, torch.where(torch.tensor([1, 0, 0, 1, 0]).bool().view(5, 1, 1, 1), x, 0))
    assert back.is_contiguous(memory_format=torch.channels_last)


def test_consecutive_rows_are_one_run() -> None:
    rows = torch.tensor([0, 1, 4, 6, 7, 8])
    assert [(of.start, of.stop) for _, of in runs(rows)] == [(0, 2), (4, 5), (6, 9)]
    assert torch.equal(torch.cat([torch.arange(9)[of] for _, of in runs(rows)]), rows)
    assert torch.equal(torch.cat([rows[some] for some, _ in runs(rows)]), rows)
    assert list(runs(rows[:0])) == []


def test_recorded_rows_are_dropped_after_an_addition() -> None:
    part, rows = torch.rand(2, 2, 3, 4), torch.tensor([0, 3])
    with sparse_backward(torch.tensor([True, False])), torch.no_grad():
        known = nonzero_rows(scatter_rows(part, rows, 5), 0.0)
        assert known is not None
        assert known[1] is part  # not looked for
        whole = scatter_rows(part, rows, 5)
        whole += torch.ones(5, 1, 1, 1) * torch.tensor([0, 1, 0, 0, 0]).view(5, 1, 1, 1)  # as torch sums gradients
        found = nonzero_rows(whole, 0.5)
        assert found is not None
        assert found[0].tolist() == [0, 1, 3]
        assert torch.equal(found[1], whole[[0, 1, 3]])
