"""Shapley interactions against the regression solved at once, another package, and closed forms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import lit_viz as lv
from lit_viz.attributions import KernelShap, ShapleyInteractions, attribute
from lit_viz.attributions.shapley_interactions import evaluations_needed
from lit_viz.errors import LitVizError
from lit_viz.networks import Network
from lit_viz.types import Task
from tests.support.attributions import SMOOTH, Counted, distance
from tests.support.bands import BANDS, SingleBand

TARGETS = [3, 0]
SIDE = 24


def photographs() -> Tensor:
    blocks = torch.rand(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return (torch.nn.functional.interpolate(blocks, size=SIDE) * 255).round() / 255


def stripes(count: int, folder: Path) -> str:
    """Write a mask of vertical stripes and return its path."""
    path = folder / f"{count}.png"
    columns = np.arange(SIDE) * count // SIDE
    Image.fromarray(np.repeat(columns[None], SIDE, 0).astype(np.uint8)).save(path)
    return str(path)


def of_stripes(score: Callable[[Tensor], Tensor], count: int) -> Counted:
    """Return a network with a score of the mean colors of the stripes ``(M, count)``."""
    return Counted(lambda x: score(x.mean((1, 2)).unflatten(1, (count, -1)).mean(2))[:, None])


def explained(
    method: ShapleyInteractions, network: Counted, x: Tensor, targets: Sequence[int], evaluations: int
) -> list[tuple[Tensor, dict[tuple[int, int], float]]]:
    """Return the values of the superpixels and the interactions of the pairs of each image."""
    tasks = [Task(n, f"image {n}", n, target=target) for n, target in enumerate(targets)]
    found: list[dict[tuple[int, int], float]] = []
    attribution = method.attribution

    def recording(x: Tensor, state: dict[str, Tensor]) -> Tensor:
        for n in range(len(tasks)):
            fields = method.map_fields(state, n)
            found.append({(i, j): value for i, j, value in fields["interactions"]})
        return attribution(x, state)

    method.attribution = recording  # type: ignore[method-assign]
    maps, _ = attribute(method, network, x, targets, evaluations=evaluations)
    method.attribution = attribution  # type: ignore[method-assign]
    results = []
    for segments, values, pairs in zip(method.segments(x), maps, found, strict=True):
        count = int(segments.max()) + 1
        results.append((torch.stack([values[segments == k][0] for k in range(count)]), pairs))
    return results


def scores_of(x: Tensor, segments: Tensor, target: int) -> Callable[[Tensor], Tensor]:
    """Return the score of coalitions of visible superpixels, bool ``(M, count)``."""
    baseline = x.mean((1, 2), keepdim=True)

    def score(visible: Tensor) -> Tensor:
        return SMOOTH(torch.where(visible[:, None, segments], x, baseline))[:, target].detach()

    return score


def regression(score: Callable[[Tensor], Tensor], count: int) -> Tensor:
    """Return values and pairs by the definition: least squares over all coalitions, exact at both ends."""
    visible = torch.tensor(list(itertools.product([False, True], repeat=count)))
    pairs = list(itertools.combinations(range(count), 2))
    both = torch.stack([visible[:, i] & visible[:, j] for i, j in pairs], 1)
    design = torch.cat([visible, both], 1).double()
    scores = score(visible) - score(visible[:1])
    sizes = visible.sum(1).tolist()
    weights = [1 / (math.comb(count, k) * k * (count - k)) if 0 < k < count else 0.0 for k in sizes]
    roots = torch.tensor(weights, dtype=torch.float64).sqrt()
    # The last unknown follows from the others: all of them sum to the score of the image.
    reduced, rest = design[:, :-1] - design[:, -1:], scores - design[:, -1] * scores[-1]
    solution = torch.linalg.lstsq(roots[:, None] * reduced, (roots * rest)[:, None], driver="gelsd").solution[:, 0]
    return torch.cat([solution, scores[-1:] - solution.sum()])


@pytest.mark.parametrize("count", [2, 3, 4, 6, 8])
def test_all_coalitions_give_the_faithful_interactions(count: int, tmp_path: Path) -> None:
    method, network = ShapleyInteractions(stripes(count, tmp_path)), Counted(SMOOTH)
    x = photographs()
    for n, (values, pairs) in enumerate(explained(method, network, x, TARGETS, 2000)):
        expected = regression(scores_of(x[n], method.segments(x)[n, 0], TARGETS[n]), count)
        actual = torch.cat([values, torch.tensor([pairs[pair] for pair in sorted(pairs)], dtype=torch.float64)])
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    assert network.rows == 2 * 2**count


@pytest.mark.slow
@pytest.mark.usefixtures("peers")
@pytest.mark.parametrize("count", [3, 6, 9])
def test_interactions_are_those_of_shapiq(count: int, tmp_path: Path) -> None:
    from shapiq import ExactComputer

    method, x = ShapleyInteractions(stripes(count, tmp_path)), photographs()
    for n, (values, pairs) in enumerate(explained(method, Counted(SMOOTH), x, TARGETS, 2000)):
        score = scores_of(x[n], method.segments(x)[n, 0], TARGETS[n])
        computer = ExactComputer(lambda z, score=score: score(torch.from_numpy(np.atleast_2d(z))).numpy(), count)
        reference = computer("FSII", order=2)
        for k in range(count):
            assert float(values[k]) == pytest.approx(reference[(k,)], abs=1e-8)
        for pair, value in pairs.items():
            assert value == pytest.approx(reference[pair], abs=1e-8)


@pytest.mark.parametrize(("count", "evaluations"), [(4, 16), (12, 158), (12, 700), (24, 2000)])
def test_products_of_two_superpixels_are_exact(count: int, evaluations: int, tmp_path: Path) -> None:
    """Also where coalitions are drawn: such a score has no residual."""
    generator = torch.Generator().manual_seed(count)
    weights, matrix = torch.randn(count, generator=generator), torch.randn(count, count, generator=generator).triu(1)
    weights, matrix = weights.double(), matrix.double()
    network = of_stripes(lambda z: z @ weights + ((z @ matrix) * z).sum(1), count)
    method, x = ShapleyInteractions(stripes(count, tmp_path), baseline="black"), photographs()[:1]
    ((values, pairs),) = explained(method, network, x, [0], evaluations)
    z = x[0].mean((0, 1)).unflatten(0, (count, -1)).mean(1)
    torch.testing.assert_close(values, weights * z, rtol=0, atol=1e-10)
    for (i, j), value in pairs.items():
        assert value == pytest.approx(float(matrix[i, j] * z[i] * z[j]), abs=1e-10)
    assert network.rows == evaluations


def test_values_and_halves_of_the_pairs_are_shapley_values(tmp_path: Path) -> None:
    mask, x = stripes(6, tmp_path), photographs()
    shapley, _ = attribute(KernelShap(mask), Counted(SMOOTH), x, TARGETS, evaluations=6000)
    for n, (values, pairs) in enumerate(explained(ShapleyInteractions(mask), Counted(SMOOTH), x, TARGETS, 64)):
        sums = values.clone()
        for (i, j), value in pairs.items():
            sums[[i, j]] += value / 2
        assert distance(sums, shapley[n, 0, 0, :: SIDE // 6]) < 0.02


@pytest.mark.slow
def test_drawn_coalitions_converge_to_all_of_them(tmp_path: Path) -> None:
    mask, x = stripes(10, tmp_path), photographs()
    (exact, exact_pairs), _ = explained(ShapleyInteractions(mask), Counted(SMOOTH), x, TARGETS, 1024)
    (drawn, drawn_pairs), _ = explained(ShapleyInteractions(mask), Counted(SMOOTH), x, TARGETS, 700)
    assert distance(drawn, exact) < 0.05
    largest = max(map(abs, exact_pairs.values()))
    assert max(abs(drawn_pairs[pair] - exact_pairs[pair]) for pair in exact_pairs) < 0.1 * largest
    _, uncertainty = attribute(ShapleyInteractions(mask), Counted(SMOOTH), x, TARGETS, evaluations=1024)
    assert uncertainty["error"].tolist() == [0, 0]


@pytest.mark.slow
def test_reported_error_is_the_spread_over_seeds(tmp_path: Path) -> None:
    x = photographs()[:1].expand(30, -1, -1, -1)
    method = ShapleyInteractions(stripes(12, tmp_path))
    method.batch = 60
    maps, uncertainty = attribute(method, Counted(SMOOTH), x, [3] * 30, evaluations=300)
    measured = (maps - maps.mean(0)).square().mean((1, 2, 3)).mean().sqrt() * math.sqrt(30 / 29)
    reported = uncertainty["standard_error"].square().mean().sqrt()
    assert 0.5 < float(reported / measured) < 1.5


@pytest.mark.parametrize(("count", "needed"), [(1, 2), (2, 4), (4, 16), (6, 44), (30, 932)])
def test_the_number_of_forwards_that_determine_the_pairs(count: int, needed: int) -> None:
    assert evaluations_needed(count) == needed


def test_too_few_forwards_are_an_error_with_the_number_needed(tmp_path: Path) -> None:
    method = ShapleyInteractions(stripes(12, tmp_path))
    message = "iterations must be at least 158 for the interactions of 12 superpixels, got 157"
    with pytest.raises(LitVizError, match=message):
        attribute(method, Counted(SMOOTH), photographs(), TARGETS, evaluations=157)


def test_at_most_30_superpixels(smooth: Network) -> None:
    with pytest.raises(LitVizError, match="segments must be at most 30 for interactions of pairs, got 31"):
        ShapleyInteractions(31).bind(smooth)


def test_a_run_records_pairs_and_places(smooth: Network) -> None:
    x = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(3))
    run = lv.saliency(smooth, x, target=1, method=ShapleyInteractions(6), captum="captum")
    (record,) = run.records
    segments = ShapleyInteractions(6).segments(x[None])[0, 0]
    count = int(segments.max()) + 1
    assert record.iterations == 2**count
    assert [int(segments[y, x]) for x, y in record.places] == list(range(count))
    assert sorted((i, j) for i, j, _ in record.interactions) == list(itertools.combinations(range(count), 2))
    sizes = [abs(value) for _, _, value in record.interactions]
    assert sizes == sorted(sizes, reverse=True)
    assert run.evidence.captum.passed
    assert "Pairs: the strongest interactions" in " ".join(text.get_text() for text in run.figure().texts)


def test_bands_have_values_and_pairs() -> None:
    """Of a network that reads one band, all others have neither."""
    x = torch.rand(BANDS, 12, 12, generator=torch.Generator().manual_seed(1))
    network = lv.load_network(SingleBand(3), size=12, mean=0.5, std=0.25)
    method = ShapleyInteractions(features="bands")
    run = lv.saliency(network, x, target=1, method=method, iterations=184, captum="captum")
    (record,) = run.records
    values = list(record.bands.values())
    largest = abs(values[3])
    assert largest > 0
    assert max(abs(value) for band, value in enumerate(values) if band != 3) < 1e-4 * largest
    assert max(abs(value) for _, _, value in record.interactions) < 1e-4 * largest
    assert record.places is None
    assert run.evidence.captum.passed
