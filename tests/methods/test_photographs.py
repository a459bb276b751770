"""Labels and targets that depend on the prediction for a photograph."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from lit_viz.errors import LitVizError
from lit_viz.methods.photographs import needs_logits, resolve
from lit_viz.types import Task

NAMES = ["apple", "banana", "cherry", "date", "elder"]
LOGITS = torch.tensor([0.0, -2.0, 3.0, 1.0, 2.0])


def task(wish: str | None = None, label: int | None = None, seed: int = 0, source: str = "predicted") -> Task:
    return Task(0, "photo", seed, label=label, label_source=source, rule=wish)


@pytest.mark.parametrize(
    ("wish", "label", "target"),
    [("label", 2, 2), ("predicted", 2, 2), ("least-likely", 2, 1), ("none", 2, None), (None, 2, None)],
)
def test_the_logits_complete_a_task(wish: str | None, label: int, target: int | None) -> None:
    open_task = task(wish)
    assert needs_logits(open_task)
    assert resolve(open_task, None, NAMES) == open_task
    done = resolve(open_task, LOGITS, NAMES)
    assert (done.label, done.label_source, done.target) == (label, "predicted", target)
    assert done.target_name == (None if target is None else NAMES[target])
    assert not needs_logits(done)
    assert resolve(done, LOGITS.flip(0), NAMES) == done


def test_a_given_label_is_kept_without_a_prediction() -> None:
    known = {wish: task(wish, label=4, source="folders") for wish in ("label", "predicted", "random", "least-likely")}
    done = {wish: resolve(one, None, NAMES) for wish, one in known.items()}
    assert done["label"].target == 4
    assert done["random"].target in (0, 1, 2, 3)
    assert [needs_logits(done[wish]) for wish in done] == [False, True, False, True]
    calls = {wish: resolve(one, LOGITS, NAMES) for wish, one in known.items()}
    assert (calls["predicted"].target, calls["predicted"].label) == (2, 4)
    assert calls["random"] == done["random"]


def test_contrasted_classes_follow_the_target() -> None:
    runner_up = Task(0, "photo", 0, target=2, label=2, against="runner-up")
    assert needs_logits(runner_up)
    done = resolve(runner_up, LOGITS, NAMES)
    assert (done.against, done.target_name) == (4, "cherry vs. elder")
    assert resolve(done, LOGITS, NAMES) == done
    assert resolve(replace(runner_up, target=1), LOGITS, NAMES).against == 2
    with pytest.raises(LitVizError, match="another class than the target, got cherry for both"):
        resolve(replace(runner_up, against=2), None, NAMES)


def test_an_unpredicted_label_is_none() -> None:
    unknown = Task(0, "photo", 0, target=2, target_name="cherry")
    assert not needs_logits(unknown)
    assert resolve(unknown, LOGITS, NAMES) == unknown


def test_a_given_target_is_kept_and_may_be_the_label() -> None:
    given = Task(0, "photo", 0, target=2, target_name="cherry", label_source="predicted")
    done = resolve(given, LOGITS, NAMES)
    assert (done.label, done.target, done.target_name) == (2, 2, "cherry")


def test_a_random_target_is_uniform_over_the_other_classes() -> None:
    """Chi-square of 2000 draws over 4 classes: above 16.3 (3 degrees of freedom) once in a thousand."""
    for label in range(5):
        drawn = Counter(resolve(task("random", label, seed), None, NAMES).target for seed in range(2000))
        assert set(drawn) == set(range(5)) - {label}
        assert sum((count - 500) ** 2 / 500 for count in drawn.values()) < 16.3


def test_a_random_target_depends_on_the_seed_only() -> None:
    first = resolve(task("random", seed=7), LOGITS, NAMES).target
    torch.rand(3)
    assert resolve(task("random", seed=7), LOGITS, NAMES).target == first
    assert resolve(task("random", label=2, seed=7), None, NAMES).target == first
    assert {resolve(task("random", 2, seed), None, NAMES[:3]).target for seed in range(20)} == {0, 1}


def test_a_random_target_needs_a_second_class() -> None:
    with pytest.raises(LitVizError, match="requires at least 2 classes"):
        resolve(task("random", 0), None, ["only"])
