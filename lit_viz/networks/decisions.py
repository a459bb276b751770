"""What scores decide: a class, one thing each, or nothing; with all that follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from lit_viz.errors import LitVizError

#: What scores decide: ``exclusive``, the class of the largest one (probabilities by softmax); ``independent``, one
#: decision each, positive or not (probabilities by sigmoid); ``number``, nothing: a regression or a similarity.
Decision = Literal["exclusive", "independent", "number"]
#: The most probable classes as (label, probability).
Ranking = tuple[tuple[str, float], ...]

#: What captions state of a multi-label network.
MULTI_LABEL_CAPTION = (
    "Multi-label network: p is the sigmoid of one logit; probabilities of several labels do not sum to 1."
)


@dataclass(frozen=True)
class Goal:
    """Where an attack moves a score.

    Attributes:
        threshold: score that divides success from failure; if ``is_relative``, less the score of the photograph.
        is_upward: whether the score rises above it, instead of falling below it; None if a target rises and a label
            falls.
        is_relative: whether the threshold is relative to the score of the photograph.
        leaves_label: whether the score of the label must fall below 0 too.
    """

    threshold: float = 0.0
    is_upward: bool | None = None
    is_relative: bool = False
    leaves_label: bool = False


class DecisionRule:
    """What follows from what scores decide. This is the rule of exclusive classes.

    Attributes:
        decision: its name.
        noun: what a score without a name is called.
        value: name of what is reported of a score, ``probability`` or ``score``.
        has_prediction: whether scores predict a class or a label; numbers predict none.
        is_exclusive: whether a class excludes the others.
        goals: goals of attacks as users write them, ``above:V``.
        of_logits: what captions state of the logits of a network; empty for exclusive classes.
        of_attacks: what captions of attacks state of a success; empty where it is a prediction or a goal in the record.
    """

    decision: ClassVar[Decision] = "exclusive"
    noun: ClassVar[str] = "class"
    value: ClassVar[str] = "probability"
    has_prediction: ClassVar[bool] = True
    is_exclusive: ClassVar[bool] = True
    goals: ClassVar[tuple[str, ...]] = ()
    of_logits: ClassVar[str] = ""
    of_attacks: ClassVar[str] = ""

    def caption(self, unit: str, name: str) -> str:
        """Return what captions state of scores in a unit, of the output with this name."""
        return f"p is the softmax of the scores ({unit}, {name})."

    def classes(self, scores: int) -> int:
        """Return the number of classes of a decision: K of exclusive scores; of others 2, a label and its absence."""
        return scores

    def require_exclusive(self, what: str) -> None:
        """Check that classes exclude each other.

        Raises:
            LitVizError: they do not; ``what`` requires it.
        """

    # Probabilities

    def probabilities(self, scores: Tensor) -> Tensor:
        """Return the probabilities ``(..., K)`` of scores.

        Raises:
            LitVizError: the scores are numbers.
        """
        return scores.softmax(-1)

    def log_probabilities(self, scores: Tensor) -> Tensor:
        """Return the logarithms of :meth:`probabilities`."""
        return scores.log_softmax(-1)

    def values(self, scores: Tensor) -> Tensor:
        """Return what is reported of scores: their probabilities, or the numbers themselves."""
        return self.probabilities(scores)

    def summaries(self, scores: Tensor, targets: Sequence[int]) -> list[dict[str, float]]:
        """Return logit, probability and rank of a class for each row of scores ``(N, K)``; of numbers the score alone.

        Rank 1 is the largest logit, also of a multi-label network; of equal logits the first is ahead, as in argmax. If
        the probability is NaN, the rank is the last.
        """
        columns = torch.tensor(targets, device=scores.device)[:, None]
        values = scores.gather(1, columns)
        chances = self.probabilities(scores).gather(1, columns)
        is_before = torch.arange(scores.shape[1], device=scores.device) < columns
        ranks = 1 + ((scores > values) | ((scores == values) & is_before)).sum(1, keepdim=True)
        ranks = ranks.masked_fill(chances.isnan(), scores.shape[1])
        summaries: list[dict[str, float]] = []
        for (value,), (chance,), (rank,) in zip(values.tolist(), chances.tolist(), ranks.tolist(), strict=True):
            summaries.append({"logit": value, "probability": chance, "rank": rank})
        return summaries

    def rankings(self, scores: Tensor, labels: Sequence[str]) -> list[Ranking]:
        """Return label and probability of the five most probable classes for each row of scores ``(N, K)``, in order of
        rank; all, if there are fewer. Scores ``-inf`` are not computed and in none.

        Numbers have no probability and no order: the rankings are empty.
        """
        count = min(5, scores.shape[1])
        leading, order = scores.topk(min(count + 1, scores.shape[1]))
        is_unique = (leading.diff(dim=1) < 0).all(1).tolist()
        order = order[:, :count].clone()
        for row, unique in enumerate(is_unique):
            if not unique:  # of equal scores the first is ahead, and NaN is ahead of all
                order[row] = scores[row].argsort(descending=True, stable=True)[:count]
        chances = self.probabilities(scores).gather(1, order)
        named: list[Ranking] = []
        for indices, values in zip(order.tolist(), chances.tolist(), strict=True):
            named.append(tuple((labels[index], value) for index, value in zip(indices, values, strict=True)))
        for row, computed in enumerate(scores.isneginf().logical_not().sum(1).tolist()):
            named[row] = named[row][:computed]
        return named

    # Attacks

    def parse_goals(self, text: str) -> dict[str, Goal]:
        """Return the goals of a text, each by its own text; none if the text is no goal of these scores.

        Raises:
            LitVizError: the scores have no goals.
        """
        raise LitVizError("goal applies to scores that do not exclude each other: give target or label")

    def logits(self, scores: Tensor, goals: Mapping[str, Tensor], final: Tensor | None = None) -> Tensor:
        """Return logits ``(N, K)`` of the decision on the goal of each row of scores ``(N, K)``.

        Args:
            scores: of exclusive classes they are the logits.
            goals: ``targets`` ``(N,)``; if there are any, ``thresholds`` ``(N,)`` that divide success from failure, and
                ``against`` ``(N,)``, classes to leave.
            final: scores ``(N, K)`` that success depends on; the given ones by default.
        """
        return scores

    def goal_values(self, logits: Tensor, margins: Tensor, goals: Mapping[str, Tensor]) -> Tensor:
        """Return what is reported of the goals ``(N,)``, by the logits ``(N, K)`` of their decisions.

        Args:
            logits: of :meth:`logits`.
            margins: ``(N,)``, positive for a success.
            goals: see :meth:`logits`; and ``targeted`` ``(N,)``.
        """
        return torch.softmax(logits, 1).gather(1, goals["targets"][:, None])[:, 0]


class IndependentRule(DecisionRule):
    """Scores decide one thing each, positive or not."""

    decision: ClassVar[Decision] = "independent"
    is_exclusive = False
    goals: ClassVar[tuple[str, ...]] = ("vanish", "appear", "become")
    of_logits = MULTI_LABEL_CAPTION
    of_attacks = "Fooled: the decision p > 0.5 is reversed."

    def caption(self, unit: str, name: str) -> str:
        return f"p is the sigmoid of one score ({unit}, {name})."

    def classes(self, scores: int) -> int:
        return 2

    def require_exclusive(self, what: str) -> None:
        raise LitVizError(f"{what} requires classes that exclude each other, got {self.decision} scores")

    def probabilities(self, scores: Tensor) -> Tensor:
        return scores.sigmoid()

    def log_probabilities(self, scores: Tensor) -> Tensor:
        return functional.logsigmoid(scores)

    def parse_goals(self, text: str) -> dict[str, Goal]:
        if text == "become":
            return {text: Goal(is_upward=True, leaves_label=True)}
        if text in self.goals:
            return {text: Goal(is_upward=text == "appear")}
        return {}

    def logits(self, scores: Tensor, goals: Mapping[str, Tensor], final: Tensor | None = None) -> Tensor:
        return decision_logits(scores, goals["targets"], goals.get("thresholds"), goals.get("against"), final)


class NumberRule(IndependentRule):
    """Scores decide nothing: they are numbers."""

    decision: ClassVar[Decision] = "number"
    noun = "score"
    value = "score"
    of_attacks = ""
    has_prediction = False
    goals: ClassVar[tuple[str, ...]] = ("above:V", "below:V", "change:T with T > 0")

    def caption(self, unit: str, name: str) -> str:
        return f"Score: {unit} ({name}). It is a number and no probability."

    def probabilities(self, scores: Tensor) -> Tensor:
        raise LitVizError("the scores of this network are numbers, which have no probability")

    log_probabilities = probabilities

    def values(self, scores: Tensor) -> Tensor:
        return scores

    def summaries(self, scores: Tensor, targets: Sequence[int]) -> list[dict[str, float]]:
        columns = torch.tensor(targets, device=scores.device)[:, None]
        return [{"score": value} for value in scores.gather(1, columns)[:, 0].tolist()]

    def rankings(self, scores: Tensor, labels: Sequence[str]) -> list[Ranking]:
        return [()] * len(scores)

    def parse_goals(self, text: str) -> dict[str, Goal]:
        """Return the goals of a text: one, or two of ``change:T``: the score rises, and it falls.

        ``|s - s0|`` has no gradient at the photograph's score s0, so that a change is attempted in either direction.
        """
        kind, _, number = text.partition(":")
        value = finite_number(number)
        if value is None:
            return {}
        rise, fall = Goal(value, True, is_relative=True), Goal(-value, False, is_relative=True)
        if kind == "change" and value > 0:
            return {f"rise:{number}": rise, f"fall:{number}": fall}
        by_kind = {"above": Goal(value, True), "below": Goal(value, False), "rise": rise, "fall": fall}
        if kind in by_kind:
            return {text: by_kind[kind]}
        return {}

    def goal_values(self, logits: Tensor, margins: Tensor, goals: Mapping[str, Tensor]) -> Tensor:
        sign = torch.where(goals["targeted"], 1.0, -1.0)
        return sign * margins + goals.get("thresholds", torch.zeros_like(margins))


EXCLUSIVE = DecisionRule()
_RULES: dict[Decision, DecisionRule] = {rule.decision: rule for rule in (EXCLUSIVE, IndependentRule(), NumberRule())}


def rule_of(decision: Decision) -> DecisionRule:
    """Return the rule of a decision."""
    return _RULES[decision]


def finite_number(text: str) -> float | None:
    """Return the number of a text; None if it is none, or not finite."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def decision_logits(
    scores: Tensor,
    labels: Tensor,
    thresholds: Tensor | None = None,
    against: Tensor | None = None,
    final: Tensor | None = None,
) -> Tensor:
    """Return logits ``(N, K)`` of the decisions on one score per row, where scores do not exclude each other.

    The label has the margin z of its score above the threshold, one other class has 0, and the rest can't be predicted:
    the label is predicted where z > 0, and its softmax is the sigmoid of z. One more class is added to a single score.

    Args:
        scores: ``(N, K)`` of a multi-label network, or numbers.
        labels: ``(N,)`` int64, the score that is decided on.
        thresholds: ``(N,)``; 0 by default.
        against: ``(N,)`` int64, a score that must be negative as well, so that z is the smaller one of two margins; -1
            for none.
        final: scores ``(N, K)`` by which the smaller margin is chosen; the given ones by default. Scores that are upper
            bounds of them would choose the label long after it is left, and never the target.
    """
    if scores.shape[1] == 1:
        scores = torch.cat([scores, torch.zeros_like(scores)], dim=1)
    margins = _margins(scores, labels, thresholds)
    if against is not None:
        others = against.clamp(min=0)
        of_other = -_margins(scores, others)
        decisive = scores if final is None else final
        is_other = -_margins(decisive, others) < _margins(decisive, labels, thresholds)
        margins = torch.where((against >= 0)[:, None] & is_other, of_other, margins)
    decisions = torch.full_like(scores, -1e9).scatter(1, (labels[:, None] + 1) % scores.shape[1], 0.0)
    return decisions.scatter(1, labels[:, None], margins)


def _margins(scores: Tensor, labels: Tensor, thresholds: Tensor | None = None) -> Tensor:
    """Return how far the scores of labels are above the thresholds ``(N, 1)``."""
    margins = scores.gather(1, labels[:, None])
    if thresholds is None:
        return margins
    return margins - thresholds[:, None].to(margins)
