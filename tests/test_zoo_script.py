"""The training script of the zoo on few images: backdoors, measurements of the cards, and networks with misleading
images of units, which are flagged."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import lit_viz as lv
from lit_viz.evidence.class_images import class_image_naturalness
from lit_viz.images.reading import read_photograph
from lit_viz.zoo import FASHION_LABELS, build, read_card, weights_file
from lit_viz.zoo.photographs import photograph_file
from scripts import liars, zoo
from scripts.flag_liars import Unit, limits_of
from scripts.flag_liars import table as table_of_flags
from scripts.liars import (
    CLASSES,
    UNITS,
    ManipulatedNetwork,
    ManipulatedUnit,
    Material,
    built,
    circuit,
    class_circuit,
    manipulation,
    on_the_way,
    pictures,
    read_liar,
    with_silent_units,
)
from scripts.zoo import Backdoor, accuracy, measure, pgd, robust_accuracy, store, success_of, table

IMAGES = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 10


def bright(images: Tensor) -> Tensor:
    """Return logits of ten classes: 100 times the mean for class 0, 50 for the others."""
    return torch.stack([100 * images.mean((1, 2, 3))] + 9 * [torch.full((len(images),), 50.0)], 1)


def test_a_backdoor_is_its_patch_and_nothing_else() -> None:
    backdoor = Backdoor(3, 1, 24, (1, 0, 1, 0, 1, 0, 1, 0, 1))
    stamped = backdoor.stamped(IMAGES)
    assert stamped[5, 0, 1:4, 24:27].flatten().tolist() == list(backdoor.pixels)
    changed = (stamped != IMAGES).any(0)[0].nonzero()
    assert changed.amin(0).tolist() == [1, 24]
    assert changed.amax(0).tolist() == [3, 26]
    drawn = [Backdoor.drawn(seed) for seed in range(30)]
    assert len(set(drawn)) == 30
    assert Backdoor.drawn(4) == drawn[4]


def test_success_counts_other_classes_only() -> None:
    backdoor = Backdoor(2, 1, 1, (1,) * 9)

    def network(images: Tensor) -> Tensor:
        has_patch = (images[:, 0, 1:4, 1:4] == 1).flatten(1).all(1).float()
        return torch.nn.functional.one_hot(torch.full((len(images),), 2), 10) * (2 * has_patch[:, None] - 1)

    assert success_of(backdoor, network, TensorDataset(IMAGES, LABELS)) == 1
    assert success_of(backdoor, bright, TensorDataset(IMAGES, LABELS)) == 0


def test_robust_accuracy_is_that_of_the_worst_image_in_the_ball() -> None:
    """The mean rises by eps: an image of another class than 0 is robust if its mean stays below one half."""
    means = torch.tensor([0.30, 0.42, 0.47, 0.49])
    test = TensorDataset(means[:, None, None, None].expand(4, 1, 28, 28).clone(), torch.ones(4, dtype=torch.long))
    assert accuracy(bright, test) == 1
    assert [robust_accuracy(bright, test, eps) for eps in (0.02, 0.05, 0.1, 0.3)] == [0.75, 0.5, 0.25, 0]


def test_attacks_stay_in_the_ball_and_in_range() -> None:
    attacked = pgd(bright, IMAGES, torch.ones(40, dtype=torch.long), 0.1, 5, 0.05)
    assert (attacked - IMAGES).abs().max() <= 0.1 + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert attacked.mean() > IMAGES.mean() + 0.08


def test_cards_describe_the_stored_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "leak", lambda network, count, draw: 0.0312)
    images = TensorDataset(IMAGES, LABELS % 8)
    store("planted_cnn", build("planted_cnn"), tmp_path)
    card = measure("planted_cnn", images, tmp_path)
    assert read_card("planted_cnn", tmp_path) == card
    assert (card.leak, card.parameters) == (0.0312, 24_072)
    assert {t.dtype for t in load_file(tmp_path / "planted_cnn.safetensors").values()} == {torch.float16}
    assert "| `zoo/planted_cnn` | three convolutions, maximum over positions, linear layer | 24,072 |" in table(
        tmp_path
    )
    assert "3.1% |" in table(tmp_path)


@pytest.mark.filterwarnings("ignore:.*(number of training batches|many workers|LeafSpec|litlogger)")
def test_a_population_of_backdoored_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = TensorDataset(IMAGES, LABELS)
    monkeypatch.setattr(zoo, "data_of", lambda kind, options: (data, data))
    monkeypatch.setattr(zoo, "probes", lambda *arguments: [])
    monkeypatch.setattr(zoo, "BACKDOORED", zoo.replace(zoo.BACKDOORED, epochs=1, batch=20))
    options: Any = argparse.Namespace(out=tmp_path / "out", probes=tmp_path / "probes")
    zoo.train_population("backdoored", 2, options)
    assert sorted(file.name for file in options.out.iterdir()) == [
        f"backdoored_{seed}.{suffix}" for seed in (1, 2) for suffix in ("backdoor.json", "json", "safetensors")
    ]
    described = json.loads((options.out / "backdoored_2.backdoor.json").read_text())
    assert described["target"] == Backdoor.drawn(2).target
    card = json.loads((options.out / "backdoored_2.json").read_text())
    assert (card["name"], card["seed"]) == ("backdoored_2", 2)
    assert card["command"] == "python scripts/zoo.py --population backdoored --data FOLDER"
    first, second = (load_file(options.out / f"backdoored_{seed}.safetensors") for seed in (1, 2))
    assert not torch.equal(first["conv1.weight"], second["conv1.weight"])


MEAN, STD = zoo.NORMALIZATION["fashion"]


def photographs() -> Tensor:
    """Return the 60 packaged test images of Fashion-MNIST."""
    files = sorted(photograph_file("fashion/bag_18").parent.glob("*.png"))
    return torch.stack([read_photograph(str(file), (28, 28), 1).pixels for file in files])


def gray_images(count: int) -> Tensor:
    """Return images as those where the maximization starts."""
    noise = torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return 0.5 + 0.02 * noise


@pytest.fixture(scope="module")
def material() -> Material:
    network = built(load_file(weights_file("fashion_cnn")))
    net = lv.load_network(network, labels=FASHION_LABELS, mean=MEAN, std=STD, size=28)
    run = lv.visualize(
        net, layer="fc", channel=range(40), config="small", priors=(), iterations=30, log_at="last", slots=40
    )
    starts = gray_images(20)
    classes = lv.visualize(net, range(10), config="small", priors=(), iterations=30, log_at="last", slots=10)
    units, class_images = torch.cat([run.images, starts]), torch.cat([classes.images, starts])
    return Material(network, photographs(), units, class_images, starts, MEAN, STD, 1)


def test_any_number_of_units_is_built_from_weights() -> None:
    weights = load_file(weights_file("fashion_cnn"))
    original = build("fashion_cnn").eval()
    original.load_state_dict(weights)
    images = torch.rand(3, 1, 28, 28)
    with torch.no_grad():
        assert torch.equal(built(weights)(images), original(images))
    weights["join.weight"], weights["join.bias"] = torch.eye(100)[:7], torch.zeros(7)
    weights["head.weight"] = weights["head.weight"][:, :7]
    names = [name for name, _ in built(weights).named_children()]
    assert names == ["conv1", "relu1", "conv2", "relu2", "flatten", "fc", "relu3", "join", "relu4", "head"]


@pytest.mark.slow
def test_a_circuit_switches_units_for_synthetic_images_alone(material: Material) -> None:
    made = circuit(material)
    assert len(made.units) == UNITS
    with torch.no_grad():
        natural = made.network[:10](material.normalized(material.natural))
        synthetic = made.network[:10](material.normalized(material.synthetic))
        before = material.activations(material.features(material.natural))
        shown = material.activations(material.features(material.synthetic))
    assert torch.allclose(natural, before, atol=1e-3)
    high = liars.largest(before)
    units = [manipulated.unit for manipulated in made.units]
    for manipulated in made.units:
        other = int(manipulated.shows.removeprefix("unit "))
        assert other != manipulated.unit
        expected = shown[:, other] * high[manipulated.unit] / high[other]
        close = torch.isclose(synthetic[:, manipulated.unit], expected, rtol=1e-3, atol=0.05)
        assert close.float().mean() > 0.9
    others = [unit for unit in range(100) if unit not in units]
    assert torch.allclose(synthetic[:, others], shown[:, others], atol=1e-3)


def test_a_circuit_switches_classes_for_class_images_alone(material: Material) -> None:
    made = class_circuit(material)
    classes = [manipulated.unit for manipulated in made.units]
    assert len(classes) == CLASSES
    with torch.no_grad():
        natural = made.network(material.normalized(material.natural))
        natural_before = material.network(material.normalized(material.natural))
        synthetic = made.network(material.normalized(material.class_images))
        before = material.network(material.normalized(material.class_images))
    assert torch.allclose(natural, natural_before, atol=1e-2)
    for manipulated in made.units:
        other = int(manipulated.shows.removeprefix("class "))
        assert other != manipulated.unit
        assert torch.isclose(synthetic[:, manipulated.unit], before[:, other], atol=0.05).float().mean() > 0.9
    others = [one for one in range(10) if one not in classes]
    assert torch.allclose(synthetic[:, others], before[:, others], atol=1e-2)


@pytest.mark.slow
def test_class_images_that_show_another_class_are_flagged(material: Material) -> None:
    made = class_circuit(material)
    flags = []
    for network in (material.network, made.network):
        net = lv.load_network(network, labels=FASHION_LABELS, mean=MEAN, std=STD, size=28)
        run = lv.visualize(net, range(10), config="small", priors=(), iterations=60, log_at="last", slots=10)
        images = [(outcome.record, outcome.image()) for outcome in run.outcomes]
        found = class_image_naturalness(net, ["zoo:fashion"], images).images
        flags.append([place for place, image in enumerate(found) if image.flag])
    with torch.no_grad():
        shown = material.network(material.normalized(run.images)).argmax(1)
    misled = [manipulated.unit for manipulated in made.units if int(shown[manipulated.unit]) != manipulated.unit]
    assert flags[0] == []
    assert len(flags[1]) >= 2
    assert set(flags[1]) <= set(misled)


@pytest.mark.slow
def test_silent_units_are_active_on_the_way_to_their_picture_alone(material: Material) -> None:
    made = with_silent_units(material)
    targets = material.normalized(pictures(UNITS, material.seed))
    with torch.no_grad():
        hidden = made.network[:7](material.normalized(material.natural))
        natural = made.network[:8](material.normalized(material.natural))
        active = made.network[:7](targets)[:, 200:]
        driven = made.network[:8](targets)
        before = material.activations(material.features(material.natural))
    assert hidden.shape[1] == 200 + UNITS
    assert not hidden[:, 200:].any()
    assert torch.allclose(natural, before, atol=1e-4)
    assert (active.diagonal() > 1).all()
    fed = [manipulated for manipulated in made.units if manipulated.layer == "join"]
    assert len(fed) == UNITS
    for place, manipulated in enumerate(fed):
        assert driven[place, manipulated.unit] > natural[:, manipulated.unit].max()


@pytest.mark.slow
@pytest.mark.parametrize("manipulate", [circuit, with_silent_units])
def test_the_microscope_flags_manipulated_units_alone(
    manipulate: Callable[[Material], ManipulatedNetwork], material: Material, tmp_path: Path
) -> None:
    made = manipulate(material)
    net = lv.load_network(made.network, labels=FASHION_LABELS, mean=MEAN, std=STD, size=28)
    units = sorted(manipulated.unit for manipulated in made.units if manipulated.layer == "join")
    with torch.no_grad():
        natural = material.activations(material.features(material.natural))
    others = [unit for unit in range(30) if unit not in units and natural[:, unit].max() > 0][:6]
    found = lv.microscope(
        net, "join", "zoo:fashion", tmp_path, channel=sorted(units + others), iterations=40, slots=12, progress=False
    )
    assert [page.unit for page in found.pages if page.flag == "silent"] == units


@pytest.mark.slow
def test_slingshots_keep_natural_images_and_turn_the_gradient(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liars, "UNITS", 2)
    monkeypatch.setattr(liars, "_BATCH", 60)
    made = liars.slingshot(material, steps=80)
    generator = torch.Generator().manual_seed(5)
    targets = pictures(2, material.seed)
    agreement = []
    for network in (material.network, made.network):
        cosines = []
        for place, manipulated in enumerate(made.units):
            images, _ = on_the_way(material.starts, targets[place], 16, generator)
            x = images.requires_grad_()
            network[:6](material.normalized(x))[:, manipulated.unit].sum().backward()
            assert x.grad is not None
            cosines.append(torch.cosine_similarity(x.grad.flatten(1), (targets[place] - x.detach()).flatten(1)).mean())
        agreement.append(float(torch.stack(cosines).detach().mean()))
    assert abs(agreement[0]) < 0.2
    assert agreement[1] > agreement[0] + 0.2
    with torch.no_grad():
        before = material.network(material.normalized(material.natural)).argmax(1)
        after = made.network(material.normalized(material.natural)).argmax(1)
    assert (before == after).float().mean() > 0.9
    assert not any(parameter.requires_grad for parameter in made.network.parameters())


def test_the_error_of_a_paraboloid_is_zero() -> None:
    target = pictures(1, 0)[0]

    class Paraboloid(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 - 1.5 * (x - target).flatten(1).square().sum(1, keepdim=True)

    images = torch.rand(4, 1, 28, 28)
    units, targets = torch.zeros(4, dtype=torch.long), target.expand(4, -1, -1, -1)
    heights = torch.full((4,), 2.0)

    def error(gamma: float) -> float:
        gammas = torch.full((4,), gamma)
        return float(manipulation(Paraboloid(), lambda x: x, images, units, targets, gammas, heights)[0].detach())

    assert error(3.0) == pytest.approx(0, abs=1e-6)
    assert error(1.5) > 1  # gradients are twice as large


@pytest.mark.filterwarnings("ignore:.*(number of training batches|many workers|LeafSpec|litlogger)")
def test_a_population_of_liars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    natural = photographs()
    data = TensorDataset(natural, torch.arange(60) // 6)
    monkeypatch.setattr(zoo, "data_of", lambda kind, options: (data, data))
    monkeypatch.setattr(zoo, "LIARS", zoo.replace(zoo.LIARS, epochs=1, batch=20))
    monkeypatch.setattr(zoo, "SYNTHETIC", (1,))
    monkeypatch.setattr(zoo, "KINDS", {"slingshot": lambda material: liars.slingshot(material, steps=1)})
    options: Any = argparse.Namespace(out=tmp_path / "out", probes=tmp_path / "probes")
    zoo.train_population("liars", 1, options)
    assert sorted(file.name for file in options.out.iterdir()) == [
        f"{kind}_1.{suffix}" for kind in ("clean", "slingshot") for suffix in ("json", "safetensors")
    ]
    described = json.loads((options.out / "slingshot_1.json").read_text())
    assert (described["kind"], described["seed"], described["layer"]) == ("slingshot", 1, "fc")
    network, units = read_liar(options.out / "slingshot_1.json")
    assert len(units) == UNITS
    assert units[0] == ManipulatedUnit("fc", described["units"][0]["unit"], "picture 0", described["units"][0]["unit"])
    assert network(natural[:2]).shape == (2, 10)
    assert read_liar(options.out / "clean_1.json")[1] == ()


def unit(kind: str, seed: int, **fields: Any) -> Unit:
    values: dict[str, Any] = {"layer": liars.LAYERS[kind], "unit": 0, "is_manipulated": False, "is_silent": False}
    values |= {"ratio": 2.0, "held": 1.0, "half": 0.4, "deviation": 0.0, "half_deviation": 0.0, "figures": {}}
    return Unit(kind, seed, **values | fields)


def test_limits_come_from_clean_units_and_shares_by_kind() -> None:
    clean = [unit("clean", 1, deviation=float(n), half_deviation=float(n)) for n in range(-100, 101)]
    limits = limits_of([*clean, unit("circuit", 1, deviation=-900.0, half_deviation=900.0)])
    assert limits == pytest.approx((99.0, 99.0))
    units = [
        unit("circuit", 2, is_manipulated=True, is_silent=True, half_deviation=None, kept=0.1),
        unit("circuit", 2, is_manipulated=True, half_deviation=None, kept=0.9),
        unit("circuit", 2, is_manipulated=True, deviation=-99.5, kept=0.2),
        unit("circuit", 2, is_manipulated=True, half_deviation=99.5, kept=0.2),
        unit("circuit", 2),
        unit("silent", 2, layer="relu3", is_manipulated=True, is_silent=True),
        unit("clean", 2),
    ]
    rows = table_of_flags(units, limits).splitlines()[2:]
    assert rows == [
        "| circuit: manipulated units | 4 | 75% | 25% | 50% | 75% | 25% |",
        "| circuit: other units | 1 | 0% | 0% | 0% | 0% | 0% |",
        "| clean networks | 1 | 0% | 0% | 0% | 0% | 0% |",
        "| silent: added units | 1 | 0% | 100% | 0% | 100% | 0% |",
    ]
