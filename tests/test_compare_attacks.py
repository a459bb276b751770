"""The comparison of attack runs with Foolbox and torchattacks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.attacks import ATTACKS
from lit_viz.attacks.norms import NORMS
from lit_viz.launch.run import Run
from lit_viz.networks import Network
from lit_viz.outputs import load_network
from scripts.compare_attacks import Comparison, compare, compare_run, references_of, table
from tests.support.networks import NAMES, smooth_network

Given = list[dict[str, Any]]
#: Function from the network, the photographs and the other arguments of a fake attack to its images.
FakeAttack = Callable[[nn.Module, Tensor, dict[str, Any]], Tensor]


def images(count: int = 4) -> Tensor:
    return (torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(5)) * 255).round() / 255


def attacked(
    network: Network,
    name: str,
    *,
    targeted: bool = False,
    iterations: int = 20,
    eps: float | None = None,
    **given: Any,
) -> Run:
    labels = network.scores(images()).argmax(1).tolist()
    targets = [(label + 1) % 5 for label in labels] if targeted else None
    radius = {} if eps is None else {"eps": eps}
    attack = ATTACKS[name](**given, **radius)
    return lv.attack(network, images(), label=labels, target=targets, attack=attack, iterations=iterations)


def compared(network: Network, run: Run, name: str, iterations: int = 20, **given: Any) -> list[Comparison]:
    return compare(run.outcomes, network, ATTACKS[name](**given), iterations)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> tuple[Given, dict[str, FakeAttack]]:
    """Fakes of both packages, which record the arguments of each call and return ``fake_attacks["attack"]`` of them."""
    given: Given = []
    fake_attacks: dict[str, FakeAttack] = {"attack": lambda network, x, options: x}

    def write(package: str, name: str, network: nn.Module, x: Tensor, **output: Any) -> Tensor:
        given.append({"package": package, "name": name, "x": x, **output})
        return fake_attacks["attack"](network, x, output)

    class Foolbox(ModuleType):
        criteria = SimpleNamespace(
            Misclassification=lambda classes: ("left", classes),
            TargetedMisclassification=lambda classes: ("reached", classes),
        )

        @staticmethod
        def PyTorchModel(network: nn.Module, bounds: tuple[int, int], device: torch.device) -> nn.Module:
            assert bounds == (0, 1)
            return network

        class _Attacks:
            def __getattr__(self, name: str) -> Any:
                def made(**options: Any) -> Any:
                    def attack(model: nn.Module, x: Tensor, criterion: Any, epsilons: float | None) -> Any:
                        (how, classes) = criterion
                        output = {"how": how, "classes": classes, "eps": epsilons, **options}
                        adversarial = write("foolbox", name, model, x, **output)
                        return None, adversarial, None

                    return attack

                return made

        attacks = _Attacks()

    class Torchattacks(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)

            class Made:
                def __init__(self, network: nn.Module, **options: Any) -> None:
                    next(network.parameters())  # torchattacks reads the device from it
                    self.network, self.options, self.how = network, options, "left"

                def set_mode_targeted_by_label(self, quiet: bool) -> None:
                    self.how = "reached"

                def __call__(self, x: Tensor, classes: Tensor) -> Tensor:
                    output = {"how": self.how, "classes": classes, **self.options}
                    return write("torchattacks", name, self.network, x, **output)

            return Made

    monkeypatch.setitem(sys.modules, "foolbox", Foolbox("foolbox"))
    monkeypatch.setitem(sys.modules, "torchattacks", Torchattacks("torchattacks"))
    return given, fake_attacks


@pytest.mark.parametrize("targeted", [False, True])
def test_libraries_get_the_same_arguments(smooth: Network, fakes: tuple[Given, Any], targeted: bool) -> None:
    run = attacked(smooth, "pgd", targeted=targeted, eps=0.05)
    compared(smooth, run, "pgd", eps=0.05)
    assert [(g["package"], g["name"]) for g in fakes[0]] == [
        ("foolbox", "LinfProjectedGradientDescentAttack"),
        ("torchattacks", "PGD"),
    ]
    required = [r["target"] if targeted else r["label"] for r in run.records]
    for call in fakes[0]:
        assert torch.equal(call["x"], images())
        assert call["classes"].tolist() == required
        assert call["how"] == ("reached" if targeted else "left")
        assert call["eps"] == pytest.approx(0.05)
        assert call["steps"] == 20
        alpha = call["abs_stepsize"] if call["package"] == "foolbox" else call["alpha"]
        assert alpha == pytest.approx(2.5 * 0.05 / 19)  # the first of 20 updates is the random start
        assert call["random_start"] is True


@pytest.mark.parametrize(
    ("name", "given", "targeted", "expected"),
    [
        ("pgd", {"norm": "l2"}, False, ["foolbox L2ProjectedGradientDescentAttack", "torchattacks PGDL2"]),
        ("pgd", {"momentum": 0.9}, False, []),
        ("fgsm", {}, False, ["foolbox LinfFastGradientAttack", "torchattacks FGSM"]),
        ("fgsm", {"norm": "l2"}, False, ["foolbox L2FastGradientAttack"]),
        ("fgsm", {}, True, ["torchattacks FGSM"]),
        ("apgd", {"loss": "dlr"}, False, ["torchattacks APGD"]),
        ("apgd", {}, True, []),
        ("ddn", {}, True, ["foolbox DDNAttack"]),
        ("deepfool", {}, False, ["foolbox L2DeepFoolAttack", "torchattacks DeepFool"]),
        ("deepfool", {"norm": "linf"}, False, ["foolbox LinfDeepFoolAttack"]),
        ("deepfool", {}, True, []),
        ("fmn", {"norm": "linf"}, True, ["foolbox LInfFMNAttack"]),
        ("fmn", {}, False, ["foolbox L2FMNAttack"]),
        ("carlini_wagner", {}, False, ["foolbox L2CarliniWagnerAttack"]),
        ("square", {"eps": 0.1}, True, ["torchattacks Square"]),
        ("normalized_ascent", {}, True, []),
    ],
)
def test_counterparts_of_each_attack(
    smooth: Network,
    fakes: tuple[Given, Any],
    name: str,
    given: dict[str, Any],
    targeted: bool,
    expected: list[str],
) -> None:
    run = attacked(smooth, name, targeted=targeted, iterations=4, **given)
    message: list[str] = []
    comparisons = compare(run.outcomes, smooth, ATTACKS[name](**given), 4, message.append)
    assert [comparison.reference for comparison in comparisons] == expected
    assert not any(comparison.error for comparison in comparisons)  # such as an argument with an unknown name
    assert ("have no " in message[0]) == (not expected)
    for call in fakes[0]:
        assert call["how"] == ("reached" if targeted else "left")
        if name in ("ddn", "deepfool", "fmn", "carlini_wagner") and call["package"] == "foolbox":
            assert call["eps"] is None  # no limit


def test_attacks_with_a_backward_for_each_class_are_omitted_for_many_classes(fakes: tuple[Given, Any]) -> None:
    many = load_network(
        smooth_network(classes=101), labels=[f"c{i}" for i in range(101)], mean=[0.5] * 3, std=[0.25] * 3, size=16
    )
    labels = many.scores(images()).argmax(1).tolist()
    run = lv.attack(many, images(), label=labels, attack="deepfool", iterations=2)
    assert [comparison.reference for comparison in compared(many, run, "deepfool")] == ["foolbox L2DeepFoolAttack"]


def test_rows_are_evaluated_by_the_original_network(smooth: Network, fakes: tuple[Given, Any]) -> None:
    """A reference whose perturbations are twice those of the run, or zero, as floats and rounded."""
    run = attacked(smooth, "ddn", iterations=100)
    result = run.images
    assert all(r["success_file"] for r in run.records)
    source = images()
    fakes[1]["attack"] = lambda network, x, output: (
        source + 2 * (result - source) * torch.tensor([1, 1, 1, 0]).view(4, 1, 1, 1)
    )
    (comparison,) = compared(smooth, run, "ddn", 100)
    far = (source + 2 * (result - source))[:3]
    seen = smooth.scores(far).argmax(1) != smooth.scores(source[:3]).argmax(1)
    rounded = smooth.scores((far.clamp(0, 1) * 255).round() / 255).argmax(1) != smooth.scores(source[:3]).argmax(1)
    assert (comparison.images, comparison.float_successes, comparison.file_successes, comparison.run_successes) == (
        4,
        int(seen.sum()),
        int(rounded.sum()),
        4,
    )
    assert comparison.float_successes == 3
    norms = torch.stack([(result - source)[i].double().norm() for i in range(3)])
    assert comparison.run_length == pytest.approx(float(norms.median()), rel=1e-6)  # of the three images that both fool
    assert comparison.reference_length == pytest.approx(2 * float(norms.median()), rel=1e-5)
    assert comparison.ratio == pytest.approx(0.5, rel=1e-5)
    header, row = table([comparison]).splitlines()
    assert " ".join(header.split()) == "reference float 8 bits run median l2 of the run ratio"
    assert "3 of 4" in row
    assert row.endswith("0.500")


def test_successes_lost_by_rounding_are_reported(smooth: Network, fakes: tuple[Given, Any]) -> None:
    """All values of an image change equally, just enough to cross the boundary; some are rounded down."""
    run = attacked(smooth, "ddn", iterations=100)
    source, labels = images(), smooth.scores(images()).argmax(1)
    direction = (run.images - source).sign()

    def across(levels: Tensor) -> Tensor:
        return (source + levels.view(4, 1, 1, 1) / 255 * direction).clamp(0, 1)

    def fooled(levels: Tensor) -> Tensor:
        return smooth.scores(across(levels)).argmax(1) != labels

    low, high = torch.zeros(4), torch.full((4,), 60.0)
    for _ in range(25):
        middle = (low + high) / 2
        low, high = torch.where(fooled(middle), low, middle), torch.where(fooled(middle), middle, high)
    fakes[1]["attack"] = lambda network, x, output: across(high)
    (comparison,) = compared(smooth, run, "ddn", 100)
    assert comparison.float_successes == 4
    assert comparison.file_successes == int(fooled(high.round()).sum()) < 4


def test_radii_and_largest_values(smooth: Network, fakes: tuple[Given, Any]) -> None:
    labels = smooth.scores(images()).argmax(1).tolist()
    run = lv.attack(smooth, images(), label=labels, attack="pgd", norm="linf", eps=[0.02, 0.3], iterations=20)
    fakes[1]["attack"] = lambda network, x, output: (x + output["eps"]).clamp(0, 1)
    comparisons = compared(smooth, run, "pgd")
    assert [round(comparison.eps, 3) for comparison in comparisons] == [0.02, 0.02, 0.3, 0.3]
    assert comparisons[-1].norm == "linf"
    assert "eps 76.5/255" in table(comparisons)
    assert all(comparison.images == 4 for comparison in comparisons)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_images_beyond_the_radius_are_no_success(smooth: Network, fakes: tuple[Given, Any], norm: str) -> None:
    """Two of four images are inside, one at the radius up to rounding; one exceeds it in a single value."""
    eps = 20 / 255 if norm == "linf" else 20 / 255 * 768**0.5
    source = ((0.25 + 0.5 * images()) * 255).round() / 255
    labels = smooth.scores(source).argmax(1).tolist()
    leaf = source.clone().requires_grad_()
    own = smooth.fast()(leaf)[0].log_softmax(1)[range(4), labels].sum()
    away = -torch.autograd.grad(own, leaf)[0].sign()
    run = lv.attack(smooth, source, label=labels, attack="pgd", norm=norm, eps=eps, iterations=5)
    change = torch.tensor([20.0, 10.0, 20.0, 25.0]).view(4, 1, 1, 1) / 255
    change[0] *= 1 + 1e-6
    adversarial = source + change * away
    adversarial[2, 0, 0, 0] += away[2, 0, 0, 0] / 255
    fooled = smooth.scores(adversarial).argmax(1) != torch.tensor(labels)
    fakes[1]["attack"] = lambda network, x, output: adversarial
    comparisons = compared(smooth, run, "pgd", 5, norm=norm)
    assert {(comparison.float_successes, comparison.file_successes) for comparison in comparisons} == {
        (int(fooled[:2].sum()), int(fooled[:2].sum()))
    }
    assert int(fooled.sum()) > int(fooled[:2].sum()) > 0


def test_libraries_get_a_copy_of_the_network(fakes: tuple[Given, Any]) -> None:
    network = smooth_network()
    network.train()
    network.head.bias.requires_grad_(False)
    result = load_network(network, labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16)
    run = attacked(result, "ddn")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    scores, state = result.scores(images()), torch.get_rng_state()
    networks: list[nn.Module] = []

    def vandal(model: nn.Module, x: Tensor, output: dict[str, Any]) -> Tensor:
        networks.append(model)
        assert torch.is_grad_enabled()
        torch.rand(3)
        model.train().requires_grad_(True)
        for tensor in (*model.parameters(), *model.buffers()):
            with torch.no_grad():
                tensor.zero_()
        x.requires_grad_()
        model(x).sum().backward()
        return x.detach().zero_()

    fakes[1]["attack"] = vandal
    compared(result, run, "ddn")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(result.scores(images()), scores)
    assert torch.equal(result.fast()(images())[0].argmax(1), scores.argmax(1))
    assert network.training
    assert network.features[1].training
    assert [p.requires_grad for p in network.parameters()] == [True] * 7 + [False]
    assert all(p.grad is None for p in network.parameters())
    actual = {id(t) for t in (*network.parameters(), *network.buffers(), *result.fast().parameters())}
    assert not actual & {id(t) for t in (*networks[0].parameters(), *networks[0].buffers())}


def test_a_failing_library_is_reported_and_skipped(smooth: Network, fakes: tuple[Given, Any]) -> None:
    def breaks(network: nn.Module, x: Tensor, output: dict[str, Any]) -> Tensor:
        if "alpha" in output:
            raise ValueError("no such thing\nat all")
        return x

    fakes[1]["attack"] = breaks
    foolbox, torchattacks = comparisons = compared(smooth, attacked(smooth, "pgd"), "pgd")
    assert foolbox.error is None
    assert torchattacks.error == "no such thing"
    assert table(comparisons).splitlines()[-1] == "torchattacks PGD, eps 4/255 failed: no such thing"
    assert table(comparisons[1:]).startswith("torchattacks PGD")


def test_a_network_that_cannot_be_copied_is_not_compared(fakes: tuple[Given, Any]) -> None:
    network = smooth_network()
    network.lock = open(__file__)  # noqa: PTH123, SIM115
    with network.lock:
        result = load_network(network, labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16)
        run = attacked(result, "ddn", iterations=2)
        with pytest.raises(lv.LitVizError, match="can not be copied"):
            compared(result, run, "ddn")
    assert fakes[0] == []


def test_an_attack_without_a_counterpart_is_reported(smooth: Network) -> None:
    message: list[str] = []
    run = attacked(smooth, "normalized_ascent")
    compare(run.outcomes, smooth, ATTACKS["normalized_ascent"](), 20, message.append)
    compare(run.outcomes, smooth, ATTACKS["ensemble"](), 20, message.append)
    compare([], smooth, ATTACKS["pgd"](), 20, message.append)
    assert message == [
        "compare: foolbox and torchattacks have no normalized_ascent with these options",
        "compare: foolbox and torchattacks have no ensemble with these options; attack with its members in separate "
        "runs",
        "compare: the run has no attacked image",
    ]


def test_missing_libraries_give_an_install_command(smooth: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("foolbox", "torchattacks"):
        monkeypatch.setitem(sys.modules, name, None)
    message: list[str] = []
    run = attacked(smooth, "pgd")
    assert compare(run.outcomes, smooth, ATTACKS["pgd"](), 20, message.append) == []
    assert message[0].startswith("compare: foolbox is not installed: pip install --no-deps foolbox")
    assert message[1].startswith("compare: torchattacks is not installed: pip install")


def test_a_run_folder_is_compared(smooth: Network, fakes: tuple[Given, Any], tmp_path: Path) -> None:
    labels: Sequence[int] = smooth.scores(images()).argmax(1).tolist()
    lv.attack(smooth, images(), label=labels, attack="ddn", iterations=5, out=tmp_path / "run", wandb="disabled")
    (row,) = compare_run(tmp_path / "run", smooth)
    assert row.reference == "foolbox DDNAttack"
    assert fakes[0][0]["steps"] == 5
    lv.saliency(smooth, images(1), out=tmp_path / "maps", captum="none", wandb="disabled")
    with pytest.raises(lv.LitVizError, match="must be a run of lit-viz attack"):
        compare_run(tmp_path / "maps", smooth)


# -- the installed libraries


@pytest.mark.slow
@pytest.mark.usefixtures("peers")
@pytest.mark.parametrize(
    ("name", "given", "iterations"),
    [
        ("pgd", {"eps": 13 / 255}, 20),
        ("pgd", {"eps": 1.0, "norm": "l2"}, 20),
        ("fgsm", {"eps": 26 / 255}, 1),
        ("apgd", {"eps": 13 / 255}, 20),
        ("ddn", {}, 100),
        ("deepfool", {"norm": "l2"}, 50),
        ("fmn", {"norm": "l2"}, 100),
        ("carlini_wagner", {}, 180),
        ("square", {"eps": 26 / 255}, 100),
    ],
)
def test_results_agree_with_the_installed_libraries(
    smooth: Network, name: str, given: dict[str, Any], iterations: int
) -> None:
    run = attacked(smooth, name, iterations=iterations, **given)
    comparisons = compared(smooth, run, name, iterations, **given)
    assert len(comparisons) == sum(
        reference.norm in (None, NORMS[given.get("norm", "linf")])
        for reference in references_of(ATTACKS[name](**given))
    )
    for comparison in comparisons:
        assert comparison.error is None
        assert comparison.run_successes >= comparison.float_successes
        assert comparison.ratio is None or comparison.ratio < 1.06
    assert table(comparisons)
