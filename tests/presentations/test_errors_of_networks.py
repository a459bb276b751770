"""Saliency runs state the predictions of the network, and begin with its errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lit_viz as lv
from lit_viz.errors import LitVizError

PHOTOGRAPHS = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def labels_with_errors(network: Any, wrong: tuple[int, ...]) -> list[int]:
    labels = network.scores(PHOTOGRAPHS).argmax(1).tolist()
    for place in wrong:
        labels[place] = (labels[place] + 1) % network.num_classes
    return labels


def test_records_state_the_prediction_and_whether_it_is_the_label(smooth: Any) -> None:
    labels = labels_with_errors(smooth, (1, 6))
    run = lv.saliency(smooth, PHOTOGRAPHS, label=labels, method=["gradient", "occlusion"], captum="none")
    predicted = 2 * smooth.scores(PHOTOGRAPHS).argmax(1).tolist()
    assert [record["predicted"] for record in run.records] == predicted
    assert [record["predicted_name"] for record in run.records] == [smooth.labels[index] for index in predicted]
    assert [record["correct"] for record in run.records] == 2 * [place not in (1, 6) for place in range(8)]
    assert run.records[1]["label_name"] == smooth.labels[labels[1]]


def test_without_a_label_no_prediction_is_right_or_wrong(smooth: Any) -> None:
    run = lv.saliency(smooth, PHOTOGRAPHS[:2], captum="none")
    assert [record["correct"] for record in run.records] == [None, None]
    assert run.records[0]["predicted_name"] == run.records[0].target_name


def test_errors_come_first_with_what_was_seen(smooth: Any, figures: Any, tmp_path: Path) -> None:
    labels = labels_with_errors(smooth, (1, 6))
    run = lv.saliency(smooth, PHOTOGRAPHS, label=labels, captum="none", out=tmp_path / "run", logger="none")
    record = run.records[6]
    text = f"true {record['label_name']}, seen as {record['predicted_name']} ("
    assert run.presentation.table(run.records)[6]["prediction"].startswith(text)
    texts = " ".join(figures.texts(run.figure()))
    assert texts.count("seen as") == 2
    assert texts.index("of image 1") < texts.index("of image 0")
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.index('href="#task-6"') < page.index('href="#task-0"')
    assert page.index('id="task-6"') < page.index('id="task-0"')
    assert '<th scope="col">seen as</th>' in page
    assert '"prediction": "error"' in page


def test_only_errors_get_maps(smooth: Any) -> None:
    labels = labels_with_errors(smooth, (1, 6))
    run = lv.saliency(smooth, PHOTOGRAPHS, label=labels, only="errors", method=["gradient", "occlusion"], captum="none")
    assert [record["correct"] for record in run.records] == [False] * 4
    assert [record.label for record in run.records] == 2 * [labels[1], labels[6]]


@pytest.mark.parametrize(
    ("label", "reason"), [(None, "only requires labels, got none"), ("right", "only finds no error: all 8 photographs")]
)
def test_only_errors_requires_labels_and_errors(smooth: Any, label: Any, reason: str) -> None:
    given = labels_with_errors(smooth, ()) if label == "right" else None
    with pytest.raises(LitVizError, match=reason):
        lv.saliency(smooth, PHOTOGRAPHS, label=given, only="errors", captum="none")
