"""What ends a run of very many images: a row a class."""

from __future__ import annotations

from typing import Any

import pytest

from lit_viz.presentations.adversarial_example import AdversarialExamplePresentation
from lit_viz.presentations.saliency_map import SaliencyMapPresentation
from lit_viz.runs.evidence import SaliencyEvidence
from lit_viz.runs.records import AdversarialRecord
from lit_viz.types import Status


def record(status: Status = "done", **values: Any) -> AdversarialRecord:
    metrics = {name: values.pop(name) for name in ("probability", "l2", "linf") if name in values}
    return AdversarialRecord(index=0, name="x", status=status, attack="pgd", metrics=metrics, **values)


def test_classes_are_counted_the_largest_first() -> None:
    results = [
        record(target_name="hay", probability=0.2),
        record(target_name="quail", probability=0.9),
        record(target_name="quail", probability=0.5),
        record(target_name="quail", status="failed"),
        record(label=3, predicted_before=3, label_name="shark"),
        record(label=4, predicted_before=3, predicted_before_name="shark", status="failed"),
        record(),
    ]
    rows = SaliencyMapPresentation().summary(results)
    assert [(r["class"], r["images"], r["done"]) for r in rows] == [
        ("quail", "3", "2"), ("-", "1", "1"), ("class 4", "1", "0"), ("hay", "1", "1"), ("shark", "1", "1")
    ]  # fmt: skip
    assert rows[0]["probability"] == "0.700"
    assert rows[1]["probability"] == "-"


def test_the_summary_of_an_attack_counts_fooling_files() -> None:
    results = [
        record(target_name="hay", success_file=True, l2=0.5, linf=4 / 255),
        record(target_name="hay", success_file=True, l2=1.5, linf=2 / 255),
        record(target_name="hay", success_file=False, l2=90.0, linf=1.0),
    ]
    (row,) = AdversarialExamplePresentation().summary(results)
    assert list(row.values()) == ["hay", "3", "3", "2", "1.000", "3/255"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"predicted_name": "stingray", "success_file": True}, "quail → stingray, eps 4/255"),
        (
            {"predicted_name": "stingray", "success_file": True, "target_name": "stingray"},
            "quail → stingray, eps 4/255",
        ),
        ({"predicted_name": "hen", "success_file": False, "target_name": "eel"}, "quail → hen, target eel, eps 4/255"),
        ({"predicted_name": "quail", "success_file": False}, "still quail, eps 4/255"),
        (
            {"predicted_name": "quail", "success_file": True},
            "eps 4/255",
        ),  # of independent decisions, another one changed
        ({"predicted_name": "quail", "status": "skipped", "target_name": "eel"}, "target eel, eps 4/255"),
    ],
)
def test_the_card_of_an_attack_states_the_classes_before_and_after(fields: dict[str, Any], text: str) -> None:
    settings = {"eps": 4 / 255, "norm": "linf"}
    attacked = AdversarialRecord(
        index=0, name="bird", attack="pgd", settings=settings, predicted_before_name="quail", **fields
    )
    assert AdversarialExamplePresentation().subtitle(attacked) == text


def test_each_item_of_evidence_has_the_name_of_its_file() -> None:
    presentation = SaliencyMapPresentation()
    assert [item.name for item in presentation.evidence_items(SaliencyEvidence(), [])] == ["captum"]
