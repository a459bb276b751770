"""``lit-viz attack`` as users meet it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import lit_viz as lv
from lit_viz.attacks import APGD, DDN, PGD, NormalizedAscentAttack
from lit_viz.attacks.norms import parse_radius
from lit_viz.errors import LitVizError
from lit_viz.images import Noise
from lit_viz.launch.methods import METHODS, method_form
from lit_viz.networks import Network
from lit_viz.objectives import DLR
from lit_viz.outputs import load_network
from lit_viz.presentations.adversarial_example import AdversarialExamplePresentation
from lit_viz.runs.folder import FolderStorage
from tests.support.forgery import forge
from tests.support.networks import smooth_network


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "photographs"
    path.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"p{i}.png")
    (path / "q_empty.jpg").touch()
    return path


def test_files_are_fooled_and_read_back(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, records: Any, small_options: Any
) -> None:
    run = tmp_path / "run"
    words = ["--attack", "pgd", "--eps", "24/255", "--norm", "linf", "--iterations", "30"]
    lit_viz("attack", str(folder), *small_options, *words, "--out", str(run), expect=1)
    message = capsys.readouterr()
    found = records(run)
    assert [r["status"] for r in found] == ["done", "done", "done", "failed"]
    assert "0 bytes" in message.out
    network = lv.load_network(
        "tests.support.networks:smooth_network", weights="none", size=16, mean=[0.5] * 3, std=[0.25] * 3
    )
    fooled = 0
    for record in found[:3]:
        source = np.asarray(Image.open(folder / f"{record['name']}.png"), dtype=np.int64)
        saved = np.asarray(Image.open(run / record["file"]), dtype=np.int64)
        assert abs(saved - source).max() <= 24
        logits = network.scores(torch.from_numpy(saved / 255).permute(2, 0, 1)[None].float())[0]
        assert record["success_file"] == (int(logits.argmax()) != record["label"])
        assert record["label_source"] == "predicted"
        fooled += record["success_file"]
    assert fooled
    verdict = f"{fooled} of 3 files fool the original network, re-read from the disk (1 failed)"
    assert f"evidence: {verdict}; all match their records." in message.err
    assert json.loads((run / "evidence.json").read_text())["files"]["fooled"] == fooled
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert {"figure.png", "frames/0000_p0/iter_000000.png", "frames/0000_p0.difference/iter_000000.png"} <= names
    assert {"sources/0000_p0.png", "metrics.csv"} <= names


def fool(folder: Path, run: Path, *, lit_viz: Any, small_options: Any) -> None:
    """Attack the three photographs so strongly that all are fooled."""
    photographs = [str(folder / f"p{n}.png") for n in range(3)]
    lit_viz("attack", *photographs, *small_options, "--attack", "pgd", "--eps", "60/255", "--out", str(run))


def test_check_notices_the_file_that_was_changed(
    folder: Path, tmp_path: Path, lit_viz: Any, records: Any, reseal: Any, small_options: Any
) -> None:
    run = tmp_path / "run"
    fool(folder, run, lit_viz=lit_viz, small_options=small_options)
    before = records(run)
    assert [record["success_file"] for record in before] == [True] * 3
    lit_viz("check", str(run))
    assert records(run) == before
    (run / before[1]["file"]).write_bytes((folder / "p1.png").read_bytes())
    reseal(run)
    lit_viz("check", str(run), expect=1)
    assert [record.get("success_file") for record in records(run)] == [True, None, True]
    files = json.loads((run / "evidence.json").read_text())["files"]
    assert (files["read"], files["fooled"], files["wrong"]) == (3, 2, ["p1"])


def test_check_notices_another_file_that_fools_as_well(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    lit_viz: Any,
    records: Any,
    reseal: Any,
    small_options: Any,
) -> None:
    """Distance, ball and class of the record are compared with those of the file."""
    run = tmp_path / "run"
    fool(folder, run, lit_viz=lit_viz, small_options=small_options)
    before = records(run)
    capsys.readouterr()
    lit_viz("check", str(run))
    assert "not as recorded" not in capsys.readouterr().err
    source, saved = (np.asarray(Image.open(run / part / "0001_p1.png")) for part in ("sources", "images"))
    further = (source + 1.5 * (saved.astype(float) - source)).round().clip(0, 255).astype(np.uint8)
    Image.fromarray(further).save(run / "images" / "0001_p1.png")
    reseal(run)
    lit_viz("check", str(run), expect=1)
    message = capsys.readouterr().err
    assert "images/0001_p1.png is not as recorded: outside its ball, L∞ 60/255; L2 distance" in message
    assert "Trust: no sign of a failed attack" in message  # the attack itself did not fail
    after = records(run)
    assert [record.get("success_file") for record in after] == [True, None, True]
    assert not any(after[1].get(f"success_jpeg{quality}") for quality in (95, 75))
    assert [after[n] for n in (0, 2)] == [before[n] for n in (0, 2)]
    assert json.loads((run / "evidence.json").read_text())["files"]["wrong"] == ["p1"]


def test_check_notices_another_photograph(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    lit_viz: Any,
    records: Any,
    reseal: Any,
    small_options: Any,
) -> None:
    run = tmp_path / "run"
    fool(folder, run, lit_viz=lit_viz, small_options=small_options)
    (run / "sources" / "0001_p1.png").write_bytes((run / "sources" / "0000_p0.png").read_bytes())
    (run / "sources" / "0002_p2.png").unlink()
    reseal(run)
    lit_viz("check", str(run), expect=1)
    message = capsys.readouterr().err
    assert "images/0001_p1.png is not as recorded: outside its ball" in message
    assert "1 photograph missing, so their files can't be verified and do not count" in message
    assert "images/0002" not in message
    assert [record.get("success_file") for record in records(run)] == [True, None, None]


def test_check_notices_another_class(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    lit_viz: Any,
    records: Any,
    reseal: Any,
    small_options: Any,
) -> None:
    """The prediction of the file must equal that of the record."""
    run = tmp_path / "run"
    fool(folder, run, lit_viz=lit_viz, small_options=small_options)
    record = records(run)[0]
    another = next(n for n in range(5) if n not in (record["predicted"], record["label"]))
    forge(run, 0, "predicted", another)
    lit_viz("check", str(run), expect=1)
    assert f"images/0000_p0.png is not as recorded: predicted {record['predicted_name']}" in capsys.readouterr().err


def test_a_file_that_no_longer_fools_is_no_success_of_the_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lit_viz: Any, records: Any, small_options: Any
) -> None:
    """The file differs from the verified image."""
    run, write = tmp_path / "run", FolderStorage._write

    def swapped(self: FolderStorage, name: str, content: bytes) -> None:
        if name.startswith("images/0001"):
            content = (self.path / "sources" / Path(name).name).read_bytes()
        write(self, name, content)

    monkeypatch.setattr(FolderStorage, "_write", swapped)
    fool(folder, run, lit_viz=lit_viz, small_options=small_options)
    assert [record.get("success_file") for record in records(run)] == [True, None, True]


def test_target_equal_to_the_label(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, records: Any, small_options: Any
) -> None:
    run = tmp_path / "run"
    lit_viz("attack", str(folder / "p0.png"), *small_options, "--target", "label", "--out", str(run))
    (record,) = records(run)
    assert record["status"] == "skipped"
    assert (
        f"p0: predicted as {record['predicted_name']} before the attack: give another target" in capsys.readouterr().out
    )


def test_from_python(smooth: Network) -> None:
    images = (torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255).round() / 255
    labels = smooth.scores(images).argmax(1).tolist()
    targets = [(label + 1) % 5 for label in labels]
    run = lv.attack(smooth, images, label=labels, target=targets, attack="pgd", alpha=0.01, eps=0.2, iterations=60)
    assert run.images.shape == images.shape
    assert (run.images - images).abs().max() <= 0.2 + 1e-6
    assert smooth.scores(run.images).argmax(1).tolist() == targets
    assert all(r["success_file"] and r["label_source"] != "predicted" for r in run.records)
    assert run.figure().axes


def test_several_radii_make_a_robustness_curve(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, records: Any, small_options: Any
) -> None:
    run = tmp_path / "run"
    words = ["--attack", "pgd", "--eps", "1/255,30/255", "--iterations", "20"]
    lit_viz("attack", str(folder), *small_options, *words, "--out", str(run), expect=1)
    found = records(run)
    assert [round(r["eps"] * 255, 6) for r in found if r["status"] == "done"] == [1, 1, 1, 30, 30, 30]
    assert all(r["linf"] <= r["eps"] + 1e-9 for r in found if r["status"] == "done")
    message = capsys.readouterr().err
    fooled = [sum(r["success_file"] for r in found if r.get("eps") and round(r["eps"] * 255) == e) for e in (1, 30)]
    assert "evidence: Robustness by radius, L∞ norm." in message
    rows = [line.split()[:4] for line in message.splitlines() if line.startswith(("1/255", "30/255"))]
    assert rows == [["1/255", str(3 - fooled[0]), "of", "3"], ["30/255", str(3 - fooled[1]), "of", "3"]]
    assert (run / "figure.png").exists()


def test_tasks_are_ordered_by_radius_image_and_target(
    folder: Path, tmp_path: Path, lit_viz: Any, records: Any, small_options: Any
) -> None:
    photographs = [str(folder / f"p{n}.png") for n in range(2)]
    words = ["--attack", "pgd", "--eps", "1/255,2/255", "--vary.target", "1,3", "--iterations", "1"]
    lit_viz("attack", *photographs, *small_options, *words, "--out", str(tmp_path / "run"))
    found = [(round(record["eps"] * 255), record["name"], record["target"]) for record in records(tmp_path / "run")]
    assert found == [(eps, name, target) for eps in (1, 2) for name in ("p0", "p1") for target in (1, 3)]
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["tasks"]["init_args"]["vary"]["target"] == [1, 3]


def test_a_class_applies_to_all_images_of_a_folder(
    folder: Path, tmp_path: Path, lit_viz: Any, records: Any, small_options: Any
) -> None:
    """The index of a class is not read as the name of an image."""
    run, words = tmp_path / "run", ["--label", "2", "--target", "0", "--iterations", "1"]
    (folder / "q_empty.jpg").unlink()
    lit_viz("attack", str(folder), *small_options, *words, "--out", str(run))
    found = records(run)
    assert [(record["name"], record["label"], record["target"]) for record in found] == [
        (f"p{n}", 2, 0) for n in range(3)
    ]


def test_the_images_of_the_configuration_are_named(
    capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any
) -> None:
    lit_viz("attack", *small_options, "--count")
    printed = capsys.readouterr()
    assert "no images given, using the default of --config normalized_ascent: packaged:" in printed.err
    assert "steps" in printed.out


def test_the_module_is_that_of_the_attack() -> None:
    for attack, kind in {"pgd": lv.AdversarialExample, "universal": lv.UniversalPerturbation}.items():
        form = method_form(METHODS["attack"], {"images": "x", "attack": attack})
        assert form.module_class is kind


def test_the_saliency_of_original_and_outcome_side_by_side(
    folder: Path, tmp_path: Path, lit_viz: Any, small_options: Any
) -> None:
    run = tmp_path / "run"
    lit_viz("attack", str(folder / "p0.png"), *small_options, "--target", "random", "--explain", "--out", str(run))
    assert (run / "explained.png").exists()


def test_a_number_is_an_index_also_where_classes_are_called_by_numbers() -> None:
    net = load_network(smooth_network(), labels=["2", "0", "1", "4", "3"], size=16)
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)).mul(255).round() / 255
    labels = net.scores(x).argmax(1).tolist()
    run = lv.attack(net, x, label=labels, target=[(label + 1) % 5 for label in labels], iterations=1)
    assert [record["label"] for record in run.records] == labels
    assert [record["target"] for record in run.records] == [(label + 1) % 5 for label in labels]
    by_name = lv.attack(net, x, label=[net.labels[label] for label in labels], iterations=1)
    assert [record["label"] for record in by_name.records] == labels


def test_misclassified_photographs_are_no_success_without_early_stop(smooth: Network) -> None:
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)).mul(255).round() / 255
    labels = smooth.scores(x).argmax(1).tolist()
    labels[1] = (labels[1] + 1) % 5
    with pytest.warns(UserWarning, match="1 skipped of 3 images: image 1: predicted as"):
        run = lv.attack(smooth, x, label=labels, attack="pgd", early_stop=False, eps=0.001, iterations=3)
    assert [record["status"] for record in run.records] == ["done", "skipped", "done"]
    assert [record["success_file"] for record in run.records] == [False, None, False]


def test_views_do_not_decide_whether_there_is_anything_to_attack(smooth: Network) -> None:
    x = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(1)).mul(255).round() / 255
    labels = smooth.scores(x).argmax(1).tolist()
    noisy: dict[str, Any] = {"transforms": [Noise(sd=0.5)], "views": 2}
    run = lv.attack(smooth, x, label=labels, attack="pgd", eps=0.2, iterations=4, **noisy)
    assert all(record["status"] == "done" for record in run.records)
    assert all(record["predicted_before"] == label for record, label in zip(run.records, labels, strict=True))
    wrong_labels = [(label + 1) % 5 for label in labels]
    with pytest.warns(UserWarning, match="12 skipped of 12 images"):
        wrong = lv.attack(smooth, x, label=wrong_labels, attack="pgd", iterations=4, **noisy)
    assert all(record["status"] == "skipped" for record in wrong.records)


def test_single_step_attacks_get_no_advice_on_iterations(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any
) -> None:
    words = ["--attack", "fgsm", "--eps", "1/255", "--iterations", "15", "--out", str(tmp_path / "run")]
    lit_viz("attack", str(folder / "p0.png"), *small_options, *words)
    message = capsys.readouterr().err
    assert "1 update at most" in message
    assert "fgsm takes 1 update" in message
    assert "(an attack of more steps, such as pgd)" in message
    assert "more iterations" not in message


def test_a_targeted_share_is_no_accuracy(smooth: Network) -> None:
    from lit_viz.evidence.attacks.robustness import accuracy_label

    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)).mul(255).round() / 255
    labels = smooth.scores(x).argmax(1).tolist()
    untargeted = lv.attack(smooth, x, label=labels, iterations=1)
    targeted = lv.attack(smooth, x, label=labels, target=[(label + 1) % 5 for label in labels], iterations=1)
    assert accuracy_label(untargeted.outcomes) == "robust accuracy"
    assert accuracy_label(targeted.outcomes) == "target not reached"


def test_records_of_an_ensemble_have_the_prediction_before_the_attack(smooth: Network) -> None:
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)).mul(255).round() / 255
    labels = smooth.scores(x).argmax(1).tolist()
    run = lv.attack(smooth, x, label=labels, attack="ensemble", eps=0.002, iterations=40, slots=2)
    assert [record["predicted_before"] for record in run.records] == labels
    assert all(0 < record["probability_before"] < 1 for record in run.records)


def test_weights_that_torch_has_not_counted_are_noticed() -> None:
    network = smooth_network()
    net = load_network(network, size=16)
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)).mul(255).round() / 255
    lv.attack(net, x, iterations=1)
    network.requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.3, fused=True)
    torch.nn.functional.cross_entropy(network(x), torch.tensor([4, 4])).backward()
    optimizer.step()
    run = lv.saliency(net, x, target=[1, 2], captum="none")
    expected = net.scores(x).softmax(1)
    assert [record["probability"] for record in run.records] == pytest.approx(
        [float(expected[0, 1]), float(expected[1, 2])], rel=1e-4
    )


def test_only_computed_gradients_have_a_norm(smooth: Network, tmp_path: Path) -> None:
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)).mul(255).round() / 255
    labels = smooth.scores(x).argmax(1).tolist()
    run = lv.attack(smooth, x, label=labels, attack="apgd", early_stop=False, eps=0.02, iterations=30, slots=4)
    norms = [norm for outcome in run.outcomes for _, norm in outcome.curve("gradient_norm")]
    assert len(norms) > 50
    assert min(norms) > 0


def test_a_file_that_fools_outside_its_ball_is_as_recorded(smooth: Network, tmp_path: Path) -> None:
    """Off the 8-bit lattice a small ball holds no file at all: such a record is no success, and no lie."""
    run = tmp_path / "run"
    generator = torch.Generator().manual_seed(1)
    start, colors = torch.rand(8, 3, 16, 16, generator=generator), torch.rand(32, 3, 1, 1, generator=generator)
    label = smooth.scores(start).argmax(1)
    plain = colors.expand(-1, 3, 16, 16)
    end = plain[smooth.scores(plain).argmax(1) != label[0]][:1]
    low, high = torch.zeros(8, 1, 1, 1), torch.ones(8, 1, 1, 1)
    for _ in range(20):  # photographs on both sides of the boundary of two classes
        middle = (low + high) / 2
        is_same = (smooth.scores(start + middle * (end - start)).argmax(1) == label).view(-1, 1, 1, 1)
        low, high = torch.where(is_same, middle, low), torch.where(is_same, high, middle)
    x = torch.cat([start + low * (end - start), start + high * (end - start)])
    options: dict[str, Any] = {"attack": "pgd", "eps": 0.3 / 255, "iterations": 20, "logger": "none"}
    done = lv.attack(smooth, x, label=smooth.scores(x).argmax(1).tolist(), out=run, **options)
    outside = [record for record in done.records if record["predicted"] != record["label"]]
    assert outside
    assert not any(record["success_file"] for record in outside)
    assert lv.check(run, smooth)
    assert json.loads((run / "evidence.json").read_text())["files"]["wrong"] == []


def test_misclassified_photographs_are_neither_success_nor_failure(smooth: Network) -> None:
    """Caption, panels and table of a run agree."""
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    labels = smooth.scores(x).argmax(1).tolist()
    labels[1] = (labels[1] + 1) % 5
    with pytest.warns(UserWarning, match="1 skipped of 3 images"):
        run = lv.attack(smooth, x, label=labels, attack="pgd", eps=0.5, iterations=20)
    assert [r["status"] for r in run.records] == ["done", "skipped", "done"]
    message = " ".join(text.get_text().replace("\n", " ") for text in run.figure().texts)
    assert "2 of 2 fooled in the file" in message
    assert message.count("fooled at iteration") == 2
    assert "skipped: misclassified before the attack" in message
    assert [
        row["in the file"]
        for row in AdversarialExamplePresentation().table([outcome.record for outcome in run.outcomes])
    ] == ["fooled", "-", "fooled"]


def test_a_radius_may_be_any_fraction() -> None:
    assert [parse_radius(word) for word in ("4/255", "0.5/255", "0.1")] == [4 / 255, 0.5 / 255, 0.1]
    with pytest.raises(LitVizError, match="the denominator of a radius must not be 0, got 4/0"):
        parse_radius("4/0")
    with pytest.raises(LitVizError, match=r"eps must be numbers such as 0.0157 or 4/255, got 'a/b'"):
        method_form(METHODS["attack"], {"attack": "pgd", "eps": "a/b"})


def test_results_of_stronger_attacks_are_kept(smooth: Network, tmp_path: Path) -> None:
    """A plain check keeps the verdict of an earlier deep check of the same files."""
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    labels = smooth.scores(x).argmax(1).tolist()
    futile = PGD(eps=0.5, alpha=1e-6, random_start=False)  # which gets nowhere, where Square does
    lv.attack(smooth, x, label=labels, attack=futile, iterations=12, out=tmp_path / "run", wandb="disabled")

    def reasons() -> list[str]:
        return json.loads((tmp_path / "run" / "evidence.json").read_text())["trust"]["reasons"]

    lv.check(tmp_path / "run", smooth, trust=True)
    assert any("Square with 1000 queries fooled 2 images" in reason for reason in reasons())
    lv.check(tmp_path / "run", smooth)
    assert any("Square with 1000 queries fooled 2 images" in reason for reason in reasons())


@pytest.mark.parametrize(
    ("attack", "classes", "target", "message"),
    [
        (APGD(loss="dlr"), 2, None, "DLR requires 3 classes .* a network with 2: use the cross-entropy"),
        (APGD(loss="dlr"), 3, 1, "DLR requires 4 classes in targeted .* with 3: use the cross-entropy"),
        (APGD(loss="dlr"), 3, "random", "DLR requires 4 classes in targeted"),
        (PGD(objective=DLR()), 2, None, "with 2: use the cross-entropy"),
        (NormalizedAscentAttack(objective=DLR()), 2, None, "use the cross-entropy"),
    ],
)
def test_too_few_classes_are_rejected_before_a_run_is_replaced(
    attack: Any,
    classes: int,
    target: int | str | None,
    message: str,
    tmp_path: Path,
    records: Any,
) -> None:
    net, out = load_network(smooth_network(classes=classes), size=16), tmp_path / "run"
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)).mul(255).round() / 255
    options = {"iterations": 2, "out": out, "wandb": "disabled"}
    lv.attack(net, x, label=[0], **options)
    with pytest.raises(LitVizError, match=message):
        lv.attack(net, x, label=[0], target=target, attack=attack, overwrite=True, **options)
    assert len(records(out)) == 1
    if classes == 3:
        assert lv.attack(net, x, label=[0], attack=attack, iterations=2).records


def test_radii_in_python_are_as_on_the_command_line(smooth: Network) -> None:
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)).mul(255).round() / 255

    def radii(eps: object) -> list[float]:
        return [
            record["eps"] for record in lv.attack(smooth, x, label=[0], attack="pgd", eps=eps, iterations=1).records
        ]

    assert radii("4/255") == radii(4 / 255) == radii(np.float64(4 / 255)) == [4 / 255]
    assert radii([1 / 255, "2/255"]) == radii("1/255,2/255") == radii(np.array([1, 2]) / 255) == [1 / 255, 2 / 255]
    with pytest.raises(LitVizError, match="got 'four'"):
        radii("four")
    with pytest.raises(LitVizError, match=r"^eps of PGD must be at most 1, got 4: write 4/255"):
        radii([0.1, 4.0])


def test_radii_require_an_attack_with_a_budget_in_every_run(smooth: Network) -> None:
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)).mul(255).round() / 255
    module = lv.AdversarialExample(smooth, attack=DDN(), iterations=1)
    with pytest.raises(LitVizError, match="DDN minimizes the perturbation"):
        lv.run(module, lv.ImageTasks(smooth, x, label=0, vary={"eps": [0.1, 0.2]}))
