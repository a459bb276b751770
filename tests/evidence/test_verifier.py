"""A method names its verifier; evidence that raises an exception costs neither the results nor the other evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.engine.snapshots import Result
from lit_viz.errors import LitVizError, WriteError
from lit_viz.evidence.saliency.families import MapCheck
from lit_viz.evidence.verifier import EvidencePart, OutcomeVerifier
from lit_viz.networks import Network
from lit_viz.runs.evidence import SaliencyEvidence
from tests.support.marks import slow
from tests.support.verdicts import reasons, verdicts


def photographs() -> Tensor:
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return (x * 255).round() / 255


def explain(network: Network, **options: Any) -> Any:
    return lv.saliency(network, photographs(), target=2, captum="captum", localize=True, **options)


def attack(network: Network, **options: Any) -> Any:
    if "out" in options:
        options["explain"] = True
    return lv.attack(network, photographs(), attack="pgd", eps=["2/255", "8/255"], iterations=3, **options)


def perturb(network: Network, **options: Any) -> Any:
    return lv.attack(network, photographs(), attack="universal", eps="8/255", iterations=3, **options)


Make = Callable[..., Any]
SALIENCY, ATTACK = "lit_viz.evidence.saliency_map", "lit_viz.evidence.adversarial_example"
CLASSES = "lit_viz.evidence.class_visualization"

#: What raises, by the part of the evidence at the end of a run that computes it.
AT_THE_END: list[Any] = [
    (explain, "captum", "lit_viz.evidence.saliency.cross_check.cross_check"),
    (explain, "localization", f"{SALIENCY}.localize_run"),
    (attack, "files", f"{ATTACK}.mismatches"),
    slow(attack, "survivors", f"{ATTACK}.AdversarialExampleVerifier._break_down"),
    slow(attack, "robustness", f"{ATTACK}.AdversarialExampleVerifier._measure_robustness"),
    slow(attack, "trust", f"{ATTACK}.diagnostics"),
    (perturb, "files", "lit_viz.evidence.universal_perturbation.mismatches"),
]


def broken(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError("broken.\nsecond line")


@pytest.fixture
def no_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Localize nothing: OpenCV is optional."""

    class Nothing:
        evidence = staticmethod(lambda: None)

    monkeypatch.setattr(f"{SALIENCY}.localize_run", lambda *_: Nothing())
    monkeypatch.setattr("lit_viz.presentations.saliency_map.localization_figure", lambda *_: None)


@pytest.mark.usefixtures("no_opencv")
@pytest.mark.parametrize("in_folder", [True, slow(False)], ids=["folder", "memory"])
@pytest.mark.parametrize(("make", "part", "name"), AT_THE_END)
def test_a_run_is_delivered(
    make: Make,
    part: str,
    name: str,
    in_folder: bool,
    smooth: Network,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(name, broken)
    options = {"out": tmp_path / "run", "logger": "none"} if in_folder else {}
    run = make(smooth, **options)
    assert {outcome.record.status for outcome in run.outcomes} <= {"done", "skipped"}
    assert run.images.isfinite().all()
    assert run.evidence.failures == {part: "broken"}
    text = f"Evidence {part} not computed: broken."
    assert text in [item.text for item in run.presentation.evidence_items(run.evidence, [])]
    assert run.figure() is not None
    if in_folder:
        assert (tmp_path / "run" / "figure.png").exists()
        assert text in (tmp_path / "run" / "report.html").read_text()
    complete = run.evidence.to_dict().keys()
    monkeypatch.undo()
    if make is not explain:
        assert run.check()
        assert not run.evidence.failures
        assert complete <= run.evidence.to_dict().keys()


def test_explanations_that_fail_do_not_cost_an_attack(
    smooth: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lit_viz.presentations.adversarial_example._explanation_figure", broken)
    run = attack(smooth, out=tmp_path / "run", logger="none")
    assert run.evidence.failures == {"explanation": "broken"}
    assert run.evidence.files is not None


@pytest.mark.parametrize("name", ["with_formula", "with_controls"])
def test_formulas_and_controls_that_fail_are_reasons_of_maps(
    name: str, smooth: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MapCheck, name, broken)
    run = lv.saliency(smooth, photographs(), target=2, captum="captum")
    assert "broken" in str(reasons(run)[0])
    assert run.maps.isfinite().all()


@pytest.mark.parametrize("in_folder", [True, False], ids=["folder", "memory"])
def test_judges_that_fail_do_not_cost_an_image(
    in_folder: bool, smooth: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(f"{CLASSES}.held_out_judge", lambda _: broken)
    options = {"out": tmp_path / "run", "logger": "none"} if in_folder else {}
    run = visualize(smooth, **options)
    assert [outcome.record.status for outcome in run.outcomes] == ["done", "done"]
    assert run.evidence.failures == {"held_out": "broken"}
    monkeypatch.undo()
    assert run.check()
    assert not run.evidence.failures


def visualize(network: Network, **options: Any) -> Any:
    return lv.visualize(network, [0, 1], iterations=2, **options)


#: Evidence of ``lit-viz check`` alone, with its options.
OF_CHECK: list[tuple[Make, str, str, dict[str, Any]]] = [
    (explain, "faithfulness", f"{SALIENCY}.evaluate_maps", {"faithfulness": True}),
    (attack, "transfer", f"{ATTACK}.robustness.transfers", {}),
    (attack, "trust", f"{ATTACK}.stronger_attacks", {"trust": True}),
    (visualize, "held_out", f"{CLASSES}.held_out_judge", {}),
    (visualize, "pictures", f"{CLASSES}._evaluate", {}),
    (visualize, "naturalness", f"{CLASSES}.class_image_naturalness", {"images": "none"}),
]


@pytest.mark.usefixtures("no_opencv")
@pytest.mark.parametrize(("make", "part", "name", "options"), OF_CHECK)
def test_a_check_computes_the_other_parts(
    make: Make, part: str, name: str, options: dict[str, Any], smooth: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(smooth)
    assert run.evidence.failures is None
    monkeypatch.setattr(name, broken)
    assert not run.check(**options)
    assert run.evidence.failures == {part: "broken"}
    assert run.evidence.to_dict().keys() & {"captum", "files", "pictures"} or part == "pictures"


@pytest.mark.parametrize(
    ("kind", "text"), [(KeyboardInterrupt, ""), (WriteError, "disk full"), (RuntimeError, "gloo: connection closed")]
)
def test_interrupts_full_disks_and_failures_of_ranks_are_raised(
    kind: type[BaseException], text: str, smooth: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*_: Any, **__: Any) -> NoReturn:
        raise kind(text)

    monkeypatch.setattr("lit_viz.evidence.saliency.cross_check.cross_check", raises)
    with pytest.raises(kind):
        lv.saliency(smooth, photographs(), target=2, captum="captum")


def test_errors_of_the_user_are_raised_by_a_check_and_recorded_by_a_run(
    smooth: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*_: Any, **__: Any) -> NoReturn:
        raise LitVizError("give other photographs")

    run = lv.saliency(smooth, photographs(), target=2, captum="captum")
    assert verdicts(run) == [True, True]
    monkeypatch.setattr("lit_viz.evidence.saliency.cross_check.cross_check", raises)
    with pytest.raises(LitVizError, match="give other photographs"):
        run.check()
    run = lv.saliency(smooth, photographs(), target=2, captum="captum")
    (item,) = run.presentation.part_items(run.evidence)
    assert (item.text, item.verdict) == ("Evidence captum not computed: give other photographs.", "no verdict")


def test_the_test_stage_warns(smooth: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    module, tasks = lv.SaliencyMap(smooth), lv.ImageTasks(smooth, photographs(), target=2)
    trainer = pl.Trainer(max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(module, tasks)
    monkeypatch.setattr("lit_viz.evidence.saliency.cross_check.cross_check", broken)
    with pytest.warns(UserWarning, match="Evidence captum not computed: broken"):
        trainer.test(module, tasks)


class CountedEvidence(SaliencyEvidence):
    """The evidence of saliency maps with the number of results."""

    count: int | None = None


class CountVerifier(OutcomeVerifier[Any]):
    """A verifier that counts the results."""

    evidence_class = CountedEvidence

    def parts(self) -> Mapping[str, Callable[[], EvidencePart]]:
        return {"count": self.count}

    def count(self) -> EvidencePart:
        return EvidencePart(CountedEvidence(count=len(self.outcomes)), passed=False)

    @classmethod
    def test_numbers(cls, module: lv.SaliencyMap, results: Sequence[Result]) -> dict[str, float]:
        return {"count": len(results)}


class CountedMap(lv.SaliencyMap):
    verifier = f"{__name__}.CountVerifier"


def test_the_run_its_check_and_the_test_stage_use_the_verifier_of_the_class(smooth: Network, tmp_path: Path) -> None:
    tasks = lv.ImageTasks(smooth, photographs(), target=2)
    run = lv.run(CountedMap(smooth), tasks, tmp_path / "run", logger="none")
    assert run.evidence.to_dict() == {"count": 2}
    assert not run.check()
    module = CountedMap(smooth)
    trainer = pl.Trainer(max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(module, tasks)
    (numbers,) = trainer.test(module, tasks)
    assert numbers["count"] == 2
    assert numbers["cost/backwards"] == 2
