"""Compare the reported error of sampled saliency maps with the measured error.

    python scripts/calibrate_saliency_error.py photographs/*.jpg packaged:chelsea --method smoothgrad
    python scripts/calibrate_saliency_error.py FOLDER --count 100 --method smoothgrad

Each photograph has two independent maps. The measured error of each after n samples is the L2 distance to the other
one after all samples, over the norm of the latter, both corrected for its noise. For RISE that norm is too uncertain:
sets of n samples are drawn with replacement from the samples of one map, and the mean of all its samples is the limit.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.attributions import ATTRIBUTIONS, RISE, Sampling, attribute
from lit_viz.attributions.base import attributions_after, relative_error
from lit_viz.images.listing import photographs
from lit_viz.images.reading import read_photograph
from lit_viz.networks.fast import FrozenNetwork

#: Pairs of reported and measured error by number of samples.
Pairs = dict[int, list[tuple[float, float]]]


def compare(
    method: Sampling, network: FrozenNetwork, x: Tensor, target: int, counts: Sequence[int], most: int
) -> Pairs:
    """Compare the errors of two maps of an image ``(1, C, H, W)`` after each of ``counts`` samples, ascending; the
    references have ``most`` samples."""
    images = x.expand(2, -1, -1, -1)
    taken = list(attributions_after(method, network, images, [target] * 2, [*counts, most], seeds=[0, 1]))
    maps, uncertainty = taken[-1]
    references, noise = method.pattern(maps).flatten(1), uncertainty["standard_error"].square()
    power = references.square().mean(1) - noise
    pairs: Pairs = {}
    for count, (maps, uncertainty) in zip(counts, taken, strict=False):
        patterns = method.pattern(maps).flatten(1)
        distance = (patterns - references.flip(0)).square().mean(1) - noise.flip(0)
        measured = (distance.clamp_min(0) / power.flip(0)).sqrt().tolist()
        pairs[count] = list(zip(uncertainty["error"].tolist(), measured, strict=True))
    return pairs


class Recorded(RISE):
    """RISE that keeps its samples without their mean over the pixels, ``(1, H, W)`` each."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[Tensor] = []

    def samples(self, *arguments: object) -> Tensor:
        drawn = super().samples(*arguments)  # type: ignore[arg-type]
        self.drawn += self.pattern(drawn)
        return drawn


def resample(
    network: FrozenNetwork, x: Tensor, target: int, counts: Sequence[int], most: int, sets: int = 100
) -> Pairs:
    """Compare the errors of ``sets`` sets of each of ``counts`` masks, drawn with replacement from ``most`` masks."""
    method = Recorded()
    attribute(method, network, x, [target], evaluations=most, seeds=[0])
    drawn = torch.stack(method.drawn).flatten(1)
    products = (drawn @ drawn.T).double() / drawn.shape[1]
    limit = products.mean()
    generator = torch.Generator().manual_seed(0)
    pairs: Pairs = {}
    for count in counts:
        chosen = torch.randint(most, (sets, count), generator=generator)
        shares = torch.zeros(sets, most, dtype=torch.float64).scatter_add_(1, chosen, torch.ones(sets, count).double())
        shares /= count
        squares = ((shares @ products) * shares).sum(1)
        variance = (shares @ products.diagonal() - squares) / (count - 1)
        reported = relative_error(variance, squares, method.max_error)
        if count < method.fewest:
            reported.fill_(math.inf)
        distance = squares - 2 * (shares @ products).mean(1) + limit
        pairs[count] = list(zip(reported.tolist(), (distance / limit).sqrt().tolist(), strict=True))
    return pairs


def ratios_of(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """Return reported / measured of the resolved errors, in ascending order."""
    return sorted(reported / measured for reported, measured in pairs if math.isfinite(reported))


def within(pairs: Sequence[tuple[float, float]], factor: float = 1.5) -> float:
    """Return the share of the resolved errors that are reported within a factor; NaN if none is resolved."""
    ratios = ratios_of(pairs)
    if not ratios:
        return math.nan
    return sum(1 / factor <= ratio <= factor for ratio in ratios) / len(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", nargs="+", help="files, folders or packaged:NAME")
    parser.add_argument("--count", type=int, help="number of photographs, drawn by a seed; all by default")
    names = [name for name, kind in ATTRIBUTIONS.items() if issubclass(kind, Sampling)]
    parser.add_argument("--method", choices=names, default="smoothgrad")
    parser.add_argument("--samples", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64, 128, 256])
    parser.add_argument("--most", type=int, default=512, help="samples of the reference map")
    parser.add_argument("--network", default="efficientnet_lite0")
    options = parser.parse_args()

    classifier = lv.load_network(options.network)
    method, network = ATTRIBUTIONS[options.method](), classifier.fast()
    assert isinstance(method, Sampling)
    rows: Pairs = defaultdict(list)
    paths = [entry.path for entry in photographs(options.photographs).entries]
    if options.count is not None:
        paths = random.Random(0).sample(paths, min(options.count, len(paths)))
    for path in paths:
        x = read_photograph(path, classifier.size, classifier.channels).pixels.float()[None]
        target = int(classifier.scores(x).argmax(1))
        if isinstance(method, RISE):
            pairs = resample(network, x, target, options.samples, options.most)
        else:
            pairs = compare(method, network, x, target, options.samples, options.most)
        for count in options.samples:
            rows[count] += pairs[count]
        print(path, flush=True)
    print(
        "| samples | reported | measured | reported / measured | within 1.5 | not resolved |\n|---|---|---|---|---|---|"
    )
    for count, of_count in rows.items():
        reported, measured = zip(*of_count, strict=True)
        ratios = ratios_of(of_count)
        typical = spread = "-"
        if ratios:
            typical = f"{median(filter(math.isfinite, reported)):.0%}"
            spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        missing = 1 - len(ratios) / len(of_count)
        cells = [str(count), typical, f"{median(measured):.0%}", spread, f"{within(of_count):.0%}", f"{missing:.0%}"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
