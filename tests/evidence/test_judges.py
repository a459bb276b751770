from __future__ import annotations

import math

import pytest
import torch

from lit_viz.classifiers import Classifier, load_classifier
from lit_viz.classifiers.outputs import prediction_summary, top5
from lit_viz.evidence.judges import held_out_judge, installed_judges
from lit_viz.images.reading import read_photograph


def test_prediction_summary_and_top_five() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0, 3.0])
    summary = prediction_summary(logits, 2)
    assert summary["logit"] == 2.0
    assert summary["rank"] == 3
    assert summary["probability"] == pytest.approx(float(logits.softmax(0)[2]))
    assert [prediction_summary(logits, k)["rank"] for k in (1, 3)] == [1, 2]
    assert [label for label, _ in top5(logits, "abcd")] == ["b", "d", "c", "a"]
    assert len(top5(logits, "abcd")) == 4
    assert len(top5(logits.repeat(2), "abcdefgh")) == 5


def test_rank_of_a_class() -> None:
    """Classes with NaN are last; of equal logits the first class is ahead."""
    for broken in (torch.full((4,), torch.nan), torch.tensor([1.0, torch.nan, 2.0, 0.0])):
        summaries = [prediction_summary(broken, k) for k in range(4)]
        assert all(math.isnan(summary["probability"]) and summary["rank"] == 4 for summary in summaries)
    same = torch.zeros(7)
    assert [prediction_summary(same, k)["rank"] for k in range(7)] == [1, 2, 3, 4, 5, 6, 7]
    assert [label for label, _ in top5(same, "abcdefg")] == list("abcde")
    infinite = torch.tensor([-torch.inf, 0.0, -torch.inf])
    assert [prediction_summary(infinite, k)["rank"] for k in range(3)] == [2, 1, 3]


def test_judges_are_other_networks_of_the_same_classes(lite0: Classifier, smooth: Classifier) -> None:
    assert installed_judges(lite0) == ("efficientnet_lite1", "efficientnet_lite2")
    assert installed_judges(smooth) == ()
    assert held_out_judge(smooth)(torch.rand(3, 16, 16), 0) == {}


def test_a_network_with_another_name_is_no_judge_of_itself(lite0: Classifier) -> None:
    other = load_classifier(lite0.original, labels=lite0.labels, mean=lite0.mean, std=lite0.std, size=lite0.size)
    assert installed_judges(other) == ("efficientnet_lite1", "efficientnet_lite2")


def test_judges_predict_the_class_of_a_photograph(lite0: Classifier) -> None:
    picture = read_photograph("packaged:chelsea", lite0.size).pixels
    judged = held_out_judge(lite0)(picture, lite0.index_of("tabby cat" if "tabby cat" in lite0.labels else "tabby"))
    assert judged.keys() == {"efficientnet_lite1", "efficientnet_lite2"}
    assert all(numbers["rank"] <= 5 for numbers in judged.values())
    judge = load_classifier("efficientnet_lite1")
    own = read_photograph("packaged:chelsea", judge.size).pixels
    direct = float(judge.logits(own[None]).softmax(1)[0, 281])
    assert judged["efficientnet_lite1"]["probability"] == pytest.approx(direct, abs=0.2)
