from __future__ import annotations

import math

import pytest
import torch

from lit_viz.rng import Draws, Key, generator_for, restart_seed

KEYS = [Key(seed, iteration, view) for seed in range(3) for iteration in range(2) for view in range(4)]
SHAPES = [(), (3,), (3, 40, 40)]


def _draw(kind: str, draws: Draws, shape: tuple[int, ...]) -> torch.Tensor:
    if kind == "integers":
        return draws.integers("p", -5, 5, shape)
    return getattr(draws, kind)("p", shape=shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["uniform", "normal", "integers", "noise"])
def test_a_row_depends_on_its_key_only(kind: str, shape: tuple[int, ...]) -> None:
    together = _draw(kind, Draws(KEYS), shape)
    order = torch.randperm(len(KEYS)).tolist()
    assert torch.equal(_draw(kind, Draws([KEYS[n] for n in order]), shape), together[order])
    assert torch.equal(_draw(kind, Draws([KEYS[7]]), shape)[0], together[7])


@pytest.mark.parametrize("kind", ["uniform", "normal", "noise"])
def test_every_part_of_the_key_and_the_purpose_matter(kind: str) -> None:
    base = Key(3, 4, 5)
    keys = [base, Key(4, 4, 5), Key(3, 5, 5), Key(3, 4, 6), Key(4, 3, 5), Key(3, 5, 4)]
    drawn = [_draw(kind, Draws([key]), (6,)) for key in keys]
    drawn += [_draw(kind, Draws([base]).scoped("a"), (6,)), _draw(kind, Draws([base]).scoped("b"), (6,))]
    rows = {tuple(row.flatten().tolist()) for row in drawn}
    assert len(rows) == len(drawn)


def test_seeds_with_equal_low_32_bits_draw_differently() -> None:
    keys = [Key(5, 0), Key(5 + 7 * 2**32, 0), Key(-1, 0), Key(2**63, 0)]
    for shape in SHAPES:
        rows = Draws(keys).uniform("p", shape=shape).flatten(1) if shape else Draws(keys).uniform("p")[:, None]
        assert len({tuple(row.tolist()) for row in rows}) == 4


def test_the_global_random_state_is_neither_read_nor_touched() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = Draws(KEYS).normal("p", (100,))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(Draws(KEYS).normal("p", (100,)), first)


@pytest.mark.parametrize("shape", [(2,), (200,)])
def test_distributions_have_their_moments(shape: tuple[int, ...]) -> None:
    draws = Draws([Key(seed, 0) for seed in range(40_000 // shape[0])])
    uniform, normal = draws.uniform("u", 2, 4, shape), draws.normal("n", shape)
    integers = draws.integers("i", -2, 2, shape)
    assert uniform.min() >= 2
    assert uniform.max() <= 4
    # Five standard errors of 40 000 values.
    assert abs(float(uniform.mean()) - 3) < 5 * (2 / math.sqrt(12)) / 200
    assert abs(float(normal.mean())) < 5 / 200
    assert abs(float(normal.var()) - 1) < 5 * math.sqrt(2) / 200
    assert abs(float(normal.pow(4).mean()) - 3) < 5 * math.sqrt(96) / 200
    counts = torch.bincount(integers.flatten() + 2)
    assert len(counts) == 5
    assert (counts - 8000).abs().max() < 5 * math.sqrt(40_000 * 0.2 * 0.8)


def test_neighbouring_keys_are_uncorrelated() -> None:
    drawn = torch.stack([Draws([Key(1, k, v) for k in range(2000)]).uniform("u") for v in range(4)])
    assert (torch.corrcoef(drawn) - torch.eye(4)).abs().max() < 5 / math.sqrt(2000)
    assert torch.corrcoef(torch.stack([drawn[0, 1:], drawn[0, :-1]]))[0, 1].abs() < 5 / math.sqrt(2000)


def test_noise_is_standard_normal_and_rows_are_uncorrelated() -> None:
    rows = Draws(KEYS).noise("n", (3, 60, 60)).flatten(1)
    assert rows.mean(1).abs().max() < 5 / math.sqrt(10_800)
    assert (rows.std(1) - 1).abs().max() < 5 / math.sqrt(2 * 10_800)
    assert (torch.corrcoef(rows) - torch.eye(len(KEYS))).abs().max() < 6 / math.sqrt(10_800)


def test_noise_larger_than_the_table_is_drawn() -> None:
    rows = Draws([Key(1, 0), Key(2, 0)]).noise("n", (3, 700, 700))
    assert rows.shape == (2, 3, 700, 700)
    assert not torch.equal(rows[0], rows[1])


def test_rows_selects_draws() -> None:
    draws = Draws(KEYS).scoped("s")
    assert torch.equal(draws.rows([4, 1]).uniform("p"), draws.uniform("p")[[4, 1]])


def test_no_rows_give_empty_draws() -> None:
    assert Draws([]).uniform("p", shape=(2,)).shape == (0, 2)
    assert Draws([]).noise("p", (2, 3)).shape == (0, 2, 3)


def test_generator_is_a_function_of_key_and_purpose() -> None:
    def first(key: Key, purpose: str) -> float:
        return float(torch.rand((), generator=generator_for(key, purpose)))

    assert first(Key(1, 2, 3), "a") == first(Key(1, 2, 3), "a")
    assert len({first(Key(1, 2, 3), "a"), first(Key(1, 2, 3), "b"), first(Key(1, 2, 4), "a")}) == 3


@pytest.mark.parametrize("kind", ["uniform", "normal", "noise"])
def test_draws_do_not_depend_on_the_default_dtype(kind: str) -> None:
    """Lightning sets it to float64 under ``--trainer.precision 64-true``."""
    shape = (3, 16, 16)
    usual = getattr(Draws([Key(1, 2)]), kind)("probe", shape=shape)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(getattr(Draws([Key(1, 2)]), kind)("probe", shape=shape), usual)
    finally:
        torch.set_default_dtype(before)


def test_progress_is_each_rows_own_and_follows_the_rows() -> None:
    draws = Draws([Key(0, 0), Key(1, 3), Key(2, 8)], last_iterations=[8, 4, 8])
    assert draws.progress.tolist() == [0.0, 0.75, 1.0]
    assert draws.rows([2, 1]).scoped("a").progress.tolist() == [1.0, 0.75]
    assert torch.equal(draws.uniform("u"), Draws(draws.keys).uniform("u"))


def test_large_draws_fill_each_row_from_its_own_generator() -> None:
    keys, shape = [Key(n, 3) for n in range(3)], (3, 80, 80)
    rows = [torch.empty(shape).normal_(generator=generator_for(key, "noise")) for key in keys]
    assert torch.equal(Draws(keys).normal("noise", shape), torch.stack(rows))


def test_the_seed_of_a_restart_depends_on_task_and_restart_only() -> None:
    assert [restart_seed(seed, 0) for seed in (0, 7, -3)] == [0, 7, -3]
    seeds = [restart_seed(seed, restart) for seed in range(50) for restart in range(3)]
    assert len(set(seeds)) == len(seeds)
    # Recorded: other values would change the images of recorded runs.
    assert (restart_seed(0, 1), restart_seed(19, 2)) == (17907624908248063478, 13292308107663772577)
