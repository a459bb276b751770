"""The training script of the zoo: backdoors, populations and the measurements of the cards, on few images."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import TensorDataset

from lit_viz.zoo import build, read_card
from scripts import zoo
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
