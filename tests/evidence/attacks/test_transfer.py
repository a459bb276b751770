"""Transfer of adversarial examples to held-out networks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.evidence.attacks import robustness
from lit_viz.evidence.attacks.robustness import transfer_table, transfers
from lit_viz.evidence.judges import installed_judges
from lit_viz.images.reading import read_photograph
from lit_viz.networks import Network
from lit_viz.presentations.adversarial_example import AdversarialExamplePresentation
from lit_viz.runs.evidence import AdversarialEvidence
from lit_viz.runs.records import AdversarialRecord
from lit_viz.runs.results import Outcome
from tests.support.runs import amend_items


class PairOutcome(Outcome):
    """An outcome in memory: photograph and result."""

    def __init__(self, source: Tensor, image: Tensor, **record: Any) -> None:
        defaults = {"index": 0, "name": "x", "label": None, "target": None, "success_file": True}
        super().__init__(AdversarialRecord.from_dict({"attack": "pgd", **defaults, **record}))
        self.pair = source, image

    def source(self) -> Tensor:
        return self.pair[0]

    def image(self) -> Tensor:
        return self.pair[1]


def grey(*values: float) -> Tensor:
    """Return an image of two gray columns, left and right."""
    return torch.tensor(values).expand(3, 4, 2).clone()


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two judges whose class, apple to elder, is the brightness of the left column, or of the image, in fifths."""
    brightness = {"left": lambda x: x[:, 0, 0, 0], "whole": lambda x: x.mean((1, 2, 3))}

    def logits(name: str, pictures: Tensor) -> Tensor:
        classes = (brightness[name](pictures) * 5).long().clamp(0, 4)
        return torch.nn.functional.one_hot(classes, 5).float()

    monkeypatch.setattr(robustness, "installed_judges", lambda network: tuple(brightness))
    monkeypatch.setattr(robustness, "judge_logits", logits)


def rows(smooth: Network, *outcomes: Outcome) -> dict[str, Any]:
    return {row["judge"]: SimpleNamespace(**row) for row in transfers(outcomes, smooth).files}


@pytest.mark.usefixtures("judged")
def test_predictions_of_the_judges_for_a_file(smooth: Network) -> None:
    """The left column becomes brighter. In the mirrored change the right one does, which the left judge ignores."""
    transfer = rows(smooth, PairOutcome(grey(0.1, 0.1), grey(0.5, 0.1), label=0))
    left, whole = transfer["left"], transfer["whole"]
    assert (left.before, left.after, left.right, left.fooled, left.mirrored) == ("apple", "cherry", True, True, False)
    assert (whole.before, whole.after, whole.fooled, whole.mirrored) == ("apple", "banana", True, True)


@pytest.mark.usefixtures("judged")
def test_success_is_reaching_the_target_or_leaving_the_label(smooth: Network) -> None:
    outcome = PairOutcome(grey(0.1, 0.1), grey(0.5, 0.1), label=0, target=2)
    transfer = rows(smooth, outcome)
    assert transfer["left"].fooled
    assert not transfer["whole"].fooled  # predicts banana, not the target cherry
    amend_items(outcome, label=4)
    assert not rows(smooth, outcome)["left"].right
    amend_items(outcome, label=None)  # without a label, a photograph is right unless it is predicted as the target
    assert rows(smooth, outcome)["left"].right
    amend_items(outcome, target=0)
    assert not rows(smooth, outcome)["left"].right
    amend_items(outcome, success_file=False)
    assert rows(smooth, outcome) == {}


@pytest.mark.usefixtures("judged")
def test_a_transfer_counts_only_where_the_judge_was_right_on_the_photograph(smooth: Network) -> None:
    """The second photograph is seen wrongly by both; the third change is too small for the whole image."""
    left = [grey(0.1, 0.1), grey(0.5, 0.1)]
    outcomes = [PairOutcome(*left, label=0), PairOutcome(*left, label=4, index=1)]
    transfer = transfers(outcomes, smooth)
    (item,) = AdversarialExamplePresentation().part_items(AdversarialEvidence(transfer=transfer))
    assert [list(row.values()) for row in item.rows] == [["left", "1", "1", "0", "1"], ["whole", "1", "1", "1", "1"]]
    lines = transfer_table(transfer.files).splitlines()
    assert "apple -> cherry (fooled)" in lines[1]
    assert "(wrong)" in lines[2]
    (item,) = AdversarialExamplePresentation().part_items(AdversarialEvidence(transfer=transfers([], smooth)))
    assert item.text.startswith("Transfer was not measured: no held-out network")


@pytest.mark.usefixtures("judged")
def test_check_prints_and_stores_the_transfer(smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transfer is not part of the evidence at the end of a run."""
    images = (torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255).round() / 255
    labels: Sequence[int] = smooth.scores(images).argmax(1).tolist()
    run = lv.attack(smooth, images, label=labels, attack="ddn", iterations=20, out=tmp_path / "run", wandb="disabled")
    evidence = tmp_path / "run" / "evidence.json"
    assert "transfer" not in json.loads(evidence.read_text())
    assert lv.check(tmp_path / "run", smooth)
    kept = json.loads(evidence.read_text())["transfer"]
    assert kept["judges"].keys() == {"left", "whole"}
    assert len(kept["files"]) == 2 * sum(bool(r["success_file"]) for r in run.records)
    assert list(kept["files"][0]) == ["index", "name", "judge", "before", "after", "right", "fooled", "mirrored"]


def test_real_judges(lite0: Network) -> None:
    """A photograph of espresso, as the result of an attack on a cat, fools every judge."""
    cat, cup = (read_photograph(f"packaged:{name}", lite0.size).pixels for name in ("chelsea", "coffee"))
    transfer = transfers([PairOutcome(cat, cup, label=285), PairOutcome(cat, cat, label=285, index=1)], lite0)
    both = [SimpleNamespace(**row) for row in transfer.files]
    judges = installed_judges(lite0)
    assert {"efficientnet_lite1", "efficientnet_lite2"} <= set(judges) == {row.judge for row in both}
    assert [row.after for row in both if row.index == 0] == ["espresso"] * len(judges)
    assert [row.fooled for row in both] == [True, False] * len(judges)
    assert all(row.before == "Egyptian cat" and row.right for row in both)
