"""Multi-label networks: probabilities are sigmoids, and attacks flip one decision."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch import nn

import lit_viz as lv
from lit_viz.errors import LitVizError
from lit_viz.networks import Network
from lit_viz.networks.decisions import MULTI_LABEL_CAPTION, decision_logits
from lit_viz.objectives.base import Outputs
from lit_viz.outputs import load_network
from tests.support.marks import slow
from tests.support.networks import smooth_network

NAMES = ["ant", "bee", "cat", "dog", "elk"]
FOOLED = "Fooled: the decision p > 0.5 is reversed."


class Balanced(nn.Module):
    """Logits of both signs for each label."""

    def __init__(self) -> None:
        super().__init__()
        self.network = smooth_network()
        x = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(9))
        with torch.no_grad():
            logits = self.network((x - 0.5) / 0.25)
        self.register_buffer("median", logits.median(0).values)
        self.register_buffer("scale", logits.std(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.network(x) - self.median) / self.scale


@pytest.fixture(scope="module")
def network() -> Network:
    return load_network(Balanced().eval(), size=16, mean=[0.5] * 3, std=[0.25] * 3, labels=NAMES, multi_label=True)


def photographs(count: int = 4) -> torch.Tensor:
    return (torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255).round() / 255


def test_decision_logits_have_the_sigmoid_as_softmax() -> None:
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 3, 0])
    own = logits.gather(1, labels[:, None])[:, 0]
    decisions = decision_logits(logits, labels)
    torch.testing.assert_close(decisions.softmax(1).gather(1, labels[:, None])[:, 0], own.sigmoid())
    assert torch.equal(decisions.argmax(1) == labels, own > 0)


def test_maps_have_sigmoids_as_probabilities(network: Network) -> None:
    x = photographs()
    run = lv.saliency(network, x, target="cat", method=["gradient", "rise"], iterations=8, captum="none")
    sigmoids = network.scores(x).sigmoid()
    for record in run.records:
        expected = sigmoids[record["index"] % 4]
        assert record["probability"] == pytest.approx(float(expected[2]), abs=1e-4)
        best = expected.argsort(descending=True)
        assert [name for name, _ in record["top5"]] == [NAMES[i] for i in best]
        assert [value for _, value in record["top5"]] == pytest.approx(expected[best].tolist(), abs=1e-4)
        assert record["rank"] == best.tolist().index(2) + 1


def test_the_score_of_rise_is_a_sigmoid(network: Network) -> None:
    module = lv.SaliencyMap(network, method="rise")
    outputs = Outputs(network.scores(photographs()), torch.tensor([2, 2, 2, 2]))
    scores = module.methods["rise"].objective(outputs)
    torch.testing.assert_close(scores, outputs.logits[:, 2].sigmoid())


def test_captions_state_what_probability_and_fooled_mean(network: Network, smooth: Network) -> None:
    for attacked, expected in ((network, True), (smooth, False)):
        run = lv.attack(attacked, photographs(1), attack="pgd", iterations=1)
        texts = " ".join(" ".join(text.get_text() for text in run.figure().texts).split())
        assert (f"{MULTI_LABEL_CAPTION} {FOOLED}" in texts) is expected
        assert (f"{MULTI_LABEL_CAPTION} {FOOLED}" in unescape(str(run._repr_html_()))) is expected


def test_captions_of_maps_do_not_state_what_fooled_means(network: Network, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = lv.saliency(network, photographs(1), target="cat", method="gradient", captum="none", out=out, logger=None)
    assert yaml.safe_load((out / "config.yaml").read_text())["recorded"]["scores"] == MULTI_LABEL_CAPTION
    texts = " ".join(" ".join(text.get_text() for text in run.figure().texts).split())
    for text in (texts, str(run._repr_html_()), (out / "report.html").read_text()):
        assert MULTI_LABEL_CAPTION in unescape(text)
        assert "ooled" not in text


def test_class_images_have_sigmoids_as_probabilities(network: Network) -> None:
    run = lv.visualize(network, ["dog"], iterations=5, config="small")
    logits = network.scores(run.images)[0]
    assert run.records[0]["probability"] == pytest.approx(float(logits[3].sigmoid()), abs=1e-3)


@pytest.mark.parametrize(
    ("attack", "targeted"),
    [
        ("pgd", False),
        ("deepfool", False),
        ("normalized_ascent", True),
        ("apgd", True),
        slow("ddn", False),
        slow("fmn", True),
        slow("carlini_wagner", True),
    ],
)
def test_attacks_flip_the_decision_on_their_label(network: Network, attack: str, targeted: bool) -> None:
    x = photographs(6)
    logits, few = network.scores(x), {"iterations": 100} if attack == "carlini_wagner" else {}
    if targeted:
        goals = logits.argmin(1)
        run = lv.attack(network, x, target=goals.tolist(), attack=attack, **few)
    else:
        goals = torch.where(logits > 0, logits, torch.inf).argmin(1)  # not the most probable label
        run = lv.attack(network, x, label=goals.tolist(), attack=attack, **few)
    after = network.scores(run.images)
    flipped = 0
    for n, record in enumerate(run.records):
        before, now = float(logits[n, goals[n]]), float(after[n, goals[n]])
        assert record["probability_before"] == pytest.approx(torch.sigmoid(torch.tensor(before)).item(), abs=1e-4)
        assert record["probability"] == pytest.approx(torch.sigmoid(torch.tensor(now)).item(), abs=1e-4)
        assert record["status"] == "done"
        assert record["success_file"] == ((now > 0) == targeted)
        assert record["margin"] == pytest.approx(now if targeted else -now, abs=1e-4)
        assert record["predicted_name"] == NAMES[int(after[n].argmax())]
        flipped += record["success_file"]
    assert flipped >= 4  # of 6; the budget of some attacks is small


def test_a_label_that_is_absent_is_skipped_by_an_untargeted_attack(network: Network) -> None:
    x = photographs(1)
    labels = network.scores(x).argmin(1).tolist()
    with pytest.warns(UserWarning, match="1 skipped of 1 image"):
        run = lv.attack(network, x, label=labels, attack="pgd")
    assert run.records[0]["status"] == "skipped"


def test_a_run_records_multi_label_and_is_checked_and_resumed(network: Network, tmp_path: Path) -> None:
    lv.attack(network, photographs(2), target="bee", attack="pgd", seed=123, out=tmp_path / "run", wandb="disabled")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["network"]["multi_label"] is True
    assert config["recorded"]["scores"] == f"{MULTI_LABEL_CAPTION} {FOOLED}"
    page = unescape((tmp_path / "run" / "report.html").read_text())
    assert MULTI_LABEL_CAPTION in page
    assert re.search(r"seed</\w+>\s*<\w+>123<", page)
    assert lv.check(tmp_path / "run", Balanced().eval())
    assert len(lv.resume(tmp_path / "run", network).records) == 2
    exclusive = load_network(Balanced().eval(), size=16, mean=[0.5] * 3, std=[0.25] * 3, labels=NAMES)
    with pytest.raises(LitVizError, match="was started with other multi_label True, got False"):
        lv.resume(tmp_path / "run", exclusive)


def test_methods_for_classes_that_exclude_each_other_are_rejected(network: Network, tmp_path: Path) -> None:
    for options in ({"attack": "universal"}, {"attack": "apgd", "loss": "dlr"}):
        with pytest.raises(LitVizError, match=r"requires (classes that exclude|3 classes)"):
            lv.attack(network, photographs(2), label=["ant", "ant"], **options)  # type: ignore[arg-type]


def test_multi_label_is_read_from_a_hugging_face_configuration() -> None:
    for problem, expected in (("multi_label_classification", True), ("single_label_classification", False)):
        network = smooth_network()
        network.config = SimpleNamespace(  # type: ignore[assignment]
            image_size=16, id2label=dict(enumerate(NAMES)), problem_type=problem, _name_or_path=""
        )
        loaded = load_network(network)
        assert loaded.multi_label is expected
        assert any("is multi-label" in note for note in loaded.notes) is expected
        assert load_network(network, multi_label=not expected).multi_label is not expected
