"""Restarts that disagree: more of them would find more."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import lit_viz as lv
from lit_viz.attacks import ATTACKS, PGD
from lit_viz.evidence.attacks.diagnostics import best_margins, diagnostics, restart_disagreement, restarts_of
from lit_viz.networks import Network
from tests.support.runs import Traced, amend_items

#: Three restarts of four images each; the photograph itself belongs to none.
RESTART = restarts_of(PGD(restarts=3), 12)


def tried(success: bool, *best: float, **record: Any) -> Traced:
    """An image whose restarts got so far: each climbs to its best margin."""
    climb = [value for top in best for value in (top - 3, top - 1, top, top - 0.5)]
    outcome = Traced(success, margin=[0.0, *climb])
    amend_items(outcome, name=str(id(outcome)), **record)
    return outcome


def messages(*outcomes: Traced) -> list[str]:
    return restart_disagreement(outcomes, RESTART, final=RESTART(12))


def test_images_belong_to_the_restart_that_made_them() -> None:
    assert [RESTART(k) for k in range(1, 13)] == [0] * 4 + [1] * 4 + [2] * 4
    assert [restarts_of(PGD(restarts=1), 12)(k) for k in (1, 12)] == [0, 0]
    assert restarts_of(ATTACKS["ddn"](), 12)(12) == 0
    assert best_margins(tried(False, -4.0, -2.0, -3.0), RESTART) == [-4, -2, -3]


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([tried(False, -4.0, -4.5, -4.2)], None),  # half a logit apart, four away
        ([tried(False, -1.0, -4.5, -4.2)], "1 image disagree (best margins differ by up to 3.5, 1 are missing"),
        ([tried(False, -1.0, -2.5, -1.0), tried(False, -4.2, -0.1, -0.2)], "2 images disagree"),
        ([tried(False, -4.0)], None),
        ([tried(True, -4.0, -0.1, 0.5)], None),  # everything fell: there is no more to find
        ([tried(True, -4.0, -0.1, 0.5), tried(False, -4.0, -4.1, -4.2)], "1 image fooled only late"),
        ([tried(True, -4.0, 0.5), tried(False, -4.0, -4.1, -4.2)], None),  # the later ones found no more
        ([tried(True, 0.5), tried(False, -4.0, -4.1, -4.2)], None),
    ],
)
def test_restart_disagreement(outcomes: list[Traced], expected: str | None) -> None:
    found = messages(*outcomes)
    assert len(found) == (expected is not None)
    assert expected is None or expected in found[0]
    assert (expected or "") in diagnostics(outcomes, PGD(restarts=3), 12).sentence


def test_one_photograph_with_several_seeds() -> None:
    a, b = (tried(ok, 0.5 if ok else -0.5, source="cat.png", eps=0.1) for ok in (True, False))
    once = restarts_of(PGD(), 12)
    assert "1 image fooled only late or by some restarts" in restart_disagreement([a, b], once, 0)[0]
    amend_items(b, eps=0.05)  # another question
    assert restart_disagreement([a, b], once, 0) == []
    c, d = (tried(False, best, source="cat.png", eps=0.1) for best in (-3.0, -0.5))
    assert "differ by up to 2.5, 0.5 are missing" in restart_disagreement([c, d], once, 0)[0]
    amend_items(d, source="dog.png")
    assert restart_disagreement([c, d], once, 0) == []


def test_the_restarts_of_a_real_run(smooth: Network) -> None:
    """The margins that a run logged are those of its restarts, and on a smooth network these agree."""
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(3)).mul(255).round() / 255
    labels = smooth.scores(images).argmax(1).tolist()
    run = lv.attack(smooth, images, label=labels, attack="pgd", restarts=3, eps=0.02, norm="linf", iterations=30)
    restart_of = restarts_of(PGD(restarts=3), 30)
    failed = [o for o in run.outcomes if not o.record.success_float]
    assert failed
    for outcome in failed:
        best = best_margins(outcome, restart_of)
        assert len(best) == 3
        assert max(best) - min(best) < 0.05
        assert max(best) == pytest.approx(max(v for k, v in outcome.curve("margin") if k), abs=0)
    assert diagnostics(run.outcomes, PGD(restarts=3), 30).reasons == []


def test_the_last_margin_is_that_of_the_file() -> None:
    """Which holds the best image, whichever restart made it."""
    outcome = tried(False, -4.0, -2.0, -3.0, iterations=12)
    outcome.values["margin"][-1] = -2.0
    assert best_margins(outcome, RESTART) == [-4, -2, -3]
