"""What follows from what scores decide, against closed forms in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.networks.decisions import Decision, Goal, rule_of
from lit_viz.objectives import Margin, Outputs

SCORES = torch.tensor([[1.5, -0.5, 0.25], [-2.0, 3.0, 0.0]], dtype=torch.float64)


def softmax(scores: Tensor) -> np.ndarray:
    powers = np.exp(scores.numpy())
    return np.asarray(powers / powers.sum(1, keepdims=True))


def test_classes_have_the_softmax_and_labels_the_sigmoid() -> None:
    expected = {"exclusive": softmax(SCORES), "independent": 1 / (1 + np.exp(-SCORES.numpy()))}
    for decision in ("exclusive", "independent"):
        rule = rule_of(decision)  # type: ignore[arg-type]
        np.testing.assert_allclose(rule.probabilities(SCORES), expected[decision], rtol=1e-12)
        np.testing.assert_allclose(rule.log_probabilities(SCORES), np.log(expected[decision]), rtol=1e-12)
        assert torch.equal(rule.values(SCORES), rule.probabilities(SCORES))


def test_numbers_have_no_probability() -> None:
    rule = rule_of("number")
    for function in (rule.probabilities, rule.log_probabilities):
        with pytest.raises(LitVizError, match="are numbers, which have no probability"):
            function(SCORES)
    assert torch.equal(rule.values(SCORES), SCORES)
    assert rule.summaries(SCORES, [0, 1]) == [{"score": 1.5}, {"score": 3.0}]
    assert rule.rankings(SCORES, "abc") == [(), ()]


@pytest.mark.parametrize(("decision", "classes"), [("exclusive", 7), ("independent", 2), ("number", 2)])
def test_a_decision_has_its_number_of_classes(decision: Decision, classes: int) -> None:
    assert rule_of(decision).classes(7) == classes


@pytest.mark.parametrize("decision", ["exclusive", "independent", "number"])
def test_the_value_of_a_goal_is_that_of_its_score(decision: Decision) -> None:
    """The probability of the class; of a label that its score exceeds the threshold; and a number itself."""
    rule = rule_of(decision)
    goals = {"targets": torch.tensor([0, 2]), "targeted": torch.tensor([True, False])}
    if decision != "exclusive":
        goals["thresholds"] = torch.tensor([0.5, -1.0], dtype=torch.float64)
    logits = rule.logits(SCORES, goals)
    margins = Margin()(Outputs(logits, goals["targets"], targeted=goals["targeted"]))
    expected = {
        "exclusive": softmax(SCORES)[[0, 1], [0, 2]],
        "independent": 1 / (1 + np.exp(-np.array([1.0, 1.0]))),
        "number": np.array([1.5, 0.0]),
    }
    np.testing.assert_allclose(rule.goal_values(logits, margins, goals), expected[decision], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("decision", "text", "goals"),
    [
        ("independent", "vanish", {"vanish": Goal(is_upward=False)}),
        ("independent", "become", {"become": Goal(is_upward=True, leaves_label=True)}),
        ("independent", "above:1", {}),
        ("number", "below:-2", {"below:-2": Goal(-2.0, False)}),
        ("number", "change:3", {"rise:3": Goal(3.0, True, True), "fall:3": Goal(-3.0, False, True)}),
        ("number", "change:-3", {}),
        ("number", "above:nan", {}),
        ("number", "vanish", {}),
    ],
)
def test_goals_are_those_of_the_scores(decision: Decision, text: str, goals: dict[str, Goal]) -> None:
    assert rule_of(decision).parse_goals(text) == goals


def test_exclusive_classes_have_no_goals_and_are_required_by_name() -> None:
    with pytest.raises(LitVizError, match="goal applies to scores that do not exclude each other"):
        rule_of("exclusive").parse_goals("vanish")
    rule_of("exclusive").require_exclusive("trust")
    with pytest.raises(LitVizError, match="trust requires classes that exclude each other, got number scores"):
        rule_of("number").require_exclusive("trust")
