"""Measures of methods and attacks for comparisons: means by photograph with intervals, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lit_viz.evidence.attacks.robustness import RobustAccuracy, wilson_interval
from lit_viz.types import Record

_DRAWS = 2000  # of the bootstrap
_MOST_AT_ONCE = 1_000_000  # values that are drawn at once
_QUANTILES = (0.025, 0.975)


@dataclass(frozen=True)
class Estimate:
    """Mean or median over photographs with its 95 % interval.

    Attributes:
        value: the mean or median; NaN without values.
        low, high: of the interval; NaN of fewer than two values.
        count: number of photographs.
    """

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Measure:
    """A value of each photograph.

    Attributes:
        name: title of the column, ``insertion``.
        values: by photograph; the ones that are not finite are omitted.
        better: whether higher or lower values are better; None if neither is.
        statistic: what is stated of the values.
        digits: format of a value.
    """

    name: str
    values: Mapping[Hashable, float]
    better: Literal["higher", "lower"] | None = None
    statistic: Literal["mean", "median"] = "mean"
    digits: str = ".3f"

    @property
    def photographs(self) -> set[Hashable]:
        """Photographs with a finite value."""
        return {photograph for photograph, value in self.values.items() if math.isfinite(value)}

    def estimate(self) -> Estimate:
        """Return the statistic, with the Wilson interval of a share or the bootstrap interval over photographs."""
        values = np.array([value for value in self.values.values() if math.isfinite(value)], dtype=float)
        if not len(values):
            return Estimate(math.nan, math.nan, math.nan, 0)
        value = float(self._statistic(values))
        low, high = math.nan, math.nan
        if self.statistic == "mean" and np.isin(values, (0, 1)).all():
            low, high = wilson_interval(int(values.sum()), len(values))
        elif len(values) > 1:
            low, high = self._bootstrap(values)
        return Estimate(value, low, high, len(values))

    def is_better_than(self, other: Measure) -> bool:
        """Return whether the value is better than that of another one."""
        value, of_other = self.estimate().value, other.estimate().value
        if self.better == "higher":
            return value > of_other
        return value < of_other

    def is_distinguishable(self, other: Measure) -> bool:
        """Return whether the paired 95 % bootstrap interval of the difference to another one, which has the same
        photographs, excludes 0."""
        differences: list[float] = []
        for photograph in self.values:
            difference = self.values[photograph] - other.values[photograph]
            if math.isfinite(difference):
                differences.append(difference)
        low, high = self._bootstrap(np.array(differences))
        return low > 0 or high < 0

    def _statistic(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        statistic = np.median if self.statistic == "median" else np.mean
        return np.asarray(statistic(values, axis=-1))

    def _bootstrap(self, values: NDArray[np.float64]) -> tuple[float, float]:
        """Return the 95 % percentile interval of the statistic over values drawn with replacement."""
        generator = np.random.default_rng(0)
        rows = max(1, _MOST_AT_ONCE // len(values))
        drawn: list[NDArray[np.float64]] = []
        for start in range(0, _DRAWS, rows):
            shape = min(rows, _DRAWS - start), len(values)
            drawn.append(self._statistic(generator.choice(values, shape)))
        low, high = np.quantile(np.concatenate(drawn), _QUANTILES)
        return float(low), float(high)


@dataclass(frozen=True)
class RadiusCurve:
    """Robust photographs by radius.

    Attributes:
        norm: name of the norm of the radii.
        what: name of the share: ``robust accuracy``.
        points: by ascending radius.
    """

    norm: str
    what: str
    points: Sequence[RobustAccuracy]


@dataclass(frozen=True)
class Compared:
    """A method or an attack of a run.

    Attributes:
        name: its name.
        settings: its settings, which distinguish it from others of the same name.
        photographs: number of photographs, or tasks without one.
        measures: what was measured.
        curve: of an attack.
    """

    name: str
    photographs: int
    measures: Sequence[Measure]
    settings: Mapping[str, Any] = field(default_factory=dict)
    curve: RadiusCurve | None = None

    def measure(self, name: str) -> Measure | None:
        """Return the measure of a name; None if there is none, or it has no values."""
        for measure in self.measures:
            if measure.name == name and measure.values:
                return measure
        return None


def are_best(measures: Sequence[Measure | None]) -> list[bool]:
    """Return, for one measure of several methods, which are the best, or not distinguishable from the best.

    Only methods with a value of each photograph that any of them has a value of are compared: the distances of an
    attack that fools few photographs are those of the easy ones.
    """
    complete = _complete(measures)
    if len(complete) < 2:
        return [False] * len(measures)
    best = complete[0]
    for measure in complete[1:]:
        if measure.is_better_than(best):
            best = measure
    chosen: set[int] = set()
    for measure in complete:
        if measure is best or not best.is_distinguishable(measure):
            chosen.add(id(measure))
    return [id(measure) in chosen for measure in measures]


def _complete(measures: Sequence[Measure | None]) -> list[Measure]:
    """Return the measures with a value of each photograph that any of them has a value of."""
    ranked: list[Measure] = []
    photographs: set[Hashable] = set()
    for measure in measures:
        if measure is not None and measure.better is not None:
            ranked.append(measure)
            photographs |= measure.photographs
    return [measure for measure in ranked if photographs and measure.photographs == photographs]


def photograph_of(record: Record) -> Hashable:
    """Return what runs have in common: the photograph or the class, and the target."""
    return record.source, record.name, record.target


def costs(records: Sequence[Record]) -> list[Measure]:
    """Return the evaluations of the network and the seconds of finished tasks."""
    evaluations: dict[Hashable, float] = {}
    seconds: dict[Hashable, float] = {}
    for record in records:
        evaluations[photograph_of(record)] = (record.forwards or 0) + (record.backwards or 0)
        seconds[photograph_of(record)] = math.nan if record.seconds is None else record.seconds
    return [
        Measure("evaluations", evaluations, digits=",.0f"),
        Measure("seconds", seconds, digits=".3g"),
    ]
