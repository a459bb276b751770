"""Trained networks of the zoo: files, cards, and the properties that they were trained for."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from safetensors.torch import load_file
from torch.utils.data import DataLoader, TensorDataset

import lit_viz as lv
from lit_viz.errors import LitVizError
from lit_viz.images.reading import read_photograph
from lit_viz.zoo import (
    FASHION_LABELS,
    NAMES,
    PAIR_LABELS,
    PAIR_TRUTH,
    WEIGHTS,
    class_of_photograph,
    leak,
    photograph_names,
    planted_bands,
    planted_images,
    planted_pairs,
    read_card,
    weights_file,
)
from tests.support.marks import slow

TRAINED = [name for name in NAMES if (WEIGHTS / f"{name}.json").is_file()]
#: Smallest accuracy of 10,000 test images.
ACCURACY = {
    "fashion_cnn": {"clean": 0.91},
    "fashion_robust_cnn": {"clean": 0.83, "pgd20 8/255": 0.78, "pgd20 0.1": 0.7},
    "fashion_vit": {"clean": 0.88},
    "fashion_vit_mean": {"clean": 0.88},
    "planted_cnn": {"clean": 0.99},
    "planted_vit": {"clean": 0.99},
    "planted_bands": {"clean": 0.99},
    "planted_pairs": {"clean": 0.99},
}
#: Networks of planted evidence of one glyph.
PLANTED = [name for name in TRAINED if name.startswith("planted") and name != "planted_pairs"]


@pytest.fixture(scope="module")
def fashion() -> tuple[torch.Tensor, torch.Tensor]:
    names = photograph_names("fashion")
    images = torch.stack([read_photograph(f"zoo:{name}", (28, 28), channels=1).pixels for name in names])
    classes = [class_of_photograph(name).replace("_", " ") for name in names]
    return images, torch.tensor([FASHION_LABELS.index(label) for label in classes])


@pytest.mark.parametrize("name", TRAINED)
def test_the_card_describes_the_file(name: str) -> None:
    card, file = read_card(name), weights_file(name)
    assert card.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    tensors = load_file(file)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert card.parameters == sum(tensor.numel() for tensor in tensors.values())
    for kind, least in ACCURACY[name].items():
        assert card.accuracy[kind] >= least
    assert (card.leak is not None) == (name in PLANTED)
    assert card.leak is None or card.leak <= 0.05
    assert f"--only {name}" in card.command


def test_the_package_holds_at_most_four_megabytes() -> None:
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) <= 4e6


@pytest.mark.parametrize("name", [name for name in TRAINED if name.startswith("fashion")])
def test_accuracy_of_the_images_of_the_package(name: str, fashion: tuple[torch.Tensor, torch.Tensor]) -> None:
    """An interval of four standard deviations of 60 images around the accuracy on the card."""
    images, labels = fashion
    network = lv.load_network(f"zoo/{name}")
    share = float((network.scores(images).argmax(1) == labels).float().mean())
    expected = read_card(name).accuracy["clean"]
    assert abs(share - expected) <= 4 * (expected * (1 - expected) / 60) ** 0.5
    assert network.labels == FASHION_LABELS
    assert (network.channels, network.size) == (1, (28, 28))


@pytest.mark.parametrize("name", ["planted_cnn", "planted_vit", slow("planted_bands")])
def test_planted_networks_read_the_glyph_and_nothing_else(name: str) -> None:
    network = lv.load_network(f"zoo/{name}")
    draw, count = (planted_bands, 150) if name == "planted_bands" else (planted_images, 500)
    planted = draw(range(count), seed=17)
    accuracy = float((network.scores(planted.images).argmax(1) == planted.labels).float().mean())
    assert accuracy >= 0.985
    assert leak(network.scores, count, seed=17, draw=draw) <= 0.06


@pytest.mark.slow
def test_ablation_of_bands_names_the_right_one() -> None:
    network = lv.load_network("zoo/planted_bands")
    assert (network.channels, network.size) == (13, (32, 32))
    assert weights_file("planted_bands").stat().st_size <= 400_000
    planted = planted_bands(range(60), seed=23)
    correct = network.scores(planted.images).argmax(1) == planted.labels
    images, labels, bands = (values[correct] for values in (planted.images, planted.labels, planted.bands))
    ablation = lv.attributions.FeatureAblation(features="bands")
    run = lv.saliency(network, images, target=labels.tolist(), method=ablation, captum="none")
    named = []
    for record in run.records:
        values = list(record.bands.values())
        named.append(values.index(max(values)))
    assert named == bands.tolist()


def test_scores_of_pairs_are_the_relations_of_their_glyphs() -> None:
    network = lv.load_network("zoo/planted_pairs")
    assert network.labels == PAIR_LABELS
    scores = network.scores(planted_pairs(range(500), seed=17).images.flatten(0, 1)).view(-1, 4, 3)
    assert (scores - PAIR_TRUTH).square().mean().sqrt() <= 0.03
    interactions = scores[:, 3] - scores[:, 1] - scores[:, 2] + scores[:, 0]
    torch.testing.assert_close(interactions.mean(0), torch.tensor([1.0, -1.0, -2.0]), atol=0.02, rtol=0)


@pytest.mark.slow
def test_shapley_interactions_tell_glyphs_that_need_from_glyphs_that_replace_each_other() -> None:
    """The sum over the pairs of a superpixel of each glyph has the sign of the interaction of the glyphs."""
    network = lv.load_network("zoo/planted_pairs")
    pairs = planted_pairs(range(200), seed=23)
    scores = network.scores(pairs.images.flatten(0, 1)).view(-1, 4, 3)
    interactions = scores[:, 3] - scores[:, 1] - scores[:, 2] + scores[:, 0]
    relations = [n % 3 for n in range(200)]
    method = lv.attributions.ShapleyInteractions()
    run = lv.saliency(
        network, pairs.images[:, 3], target=relations, method=method, iterations=1000, captum="none", seed=0
    )
    segments = method.segments(pairs.images[:, 3])[:, 0]
    correct = 0
    for n, record in enumerate(run.records):
        first, second = (superpixels_of(mask, segments[n]) for mask in pairs.masks[n])
        total = 0.0
        for i, j, value in record["interactions"]:
            if (i in first and j in second) or (j in first and i in second):
                total += value
        correct += total * float(interactions[n, relations[n]]) > 0
    assert correct >= 190


def superpixels_of(mask: torch.Tensor, segments: torch.Tensor) -> set[int]:
    """Return the superpixels that have at least a tenth of a glyph."""
    counts = torch.bincount(segments[mask])
    return set((counts >= 0.1 * mask.sum()).nonzero()[:, 0].tolist())


@pytest.mark.filterwarnings("ignore:.* skipped of 60 images")
@pytest.mark.slow
def test_an_attack_within_a_small_radius_fools_the_plain_network_only() -> None:
    shares = {}
    for name in ("fashion_cnn", "fashion_robust_cnn"):
        run = lv.attack(
            f"zoo/{name}", "zoo:fashion", label="folders", attack="pgd", eps="8/255", alpha="2/255", iterations=10
        )
        attacked = [record for record in run.records if record["success_file"] is not None]
        shares[name] = sum(record["success_file"] for record in attacked) / len(attacked)
    assert shares["fashion_cnn"] > 0.3
    assert shares["fashion_robust_cnn"] < 0.15


class Continued(pl.LightningModule):
    """Training of a network of the zoo that does not change it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.network = lv.load_network(f"zoo/{name}")
        self.net = self.network.original.requires_grad_(True)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        images, labels = batch
        loss: torch.Tensor = torch.nn.functional.cross_entropy(self.net(self.network.normalize(images)), labels)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), lr=0.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and logging intervals
def test_a_probe_tells_the_robust_network_from_the_plain_one(
    fashion: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    images, labels = fashion
    shares = {}
    for name in ("fashion_cnn", "fashion_robust_cnn"):
        module = Continued(name)
        mean, std = list(module.network.mean), list(module.network.std)
        probe = lv.callbacks.RobustnessProbe(
            images, 1, label=labels.tolist(), attack="pgd", eps="8/255", iterations=10, network="net",
            labels=FASHION_LABELS, mean=mean, std=std, size=28,
        )  # fmt: skip
        logger = CSVLogger(tmp_path, name=name)
        options: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": logger}
        trainer = pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[probe], enable_checkpointing=False, **options)
        trainer.fit(module, DataLoader(TensorDataset(images, labels), 60))
        with Path(logger.log_dir, "metrics.csv").open() as file:
            (logged,) = [row for row in csv.DictReader(file) if row.get("probe/accuracy")]
        correct = module.network.scores(images).argmax(1) == labels
        assert float(logged["probe/accuracy"]) == pytest.approx(float(correct.float().mean()))
        shares[name] = float(logged["probe/robust_share"])
    assert shares["fashion_cnn"] < 0.65
    assert shares["fashion_robust_cnn"] > 0.75


def test_gradients_of_the_robust_network_are_on_the_object(fashion: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, labels = fashion
    on_object = torch.nn.functional.max_pool2d((images > 0).float(), 3, 1, 1) > 0
    shares = {}
    for name in ("fashion_cnn", "fashion_robust_cnn"):
        run = lv.saliency(f"zoo/{name}", images, target=labels.tolist(), method="gradient", captum="none")
        energy = run.arrays.square()
        shares[name] = float(((energy * on_object).flatten(1).sum(1) / energy.flatten(1).sum(1)).mean())
    assert shares["fashion_cnn"] < 0.85
    assert shares["fashion_robust_cnn"] > 0.9


def test_missing_and_unknown_networks_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LitVizError, match="the zoo has no network 'fashion_vitt'; did you mean"):
        lv.load_network("zoo/fashion_vitt")
    with pytest.raises(LitVizError, match="unknown network 'fashion_cnn'; did you mean 'zoo/fashion_cnn'"):
        lv.load_network("fashion_cnn")
    with pytest.raises(LitVizError, match=r"fashion_cnn\.json of the zoo is missing: scripts/zoo\.py trains"):
        read_card("fashion_cnn", tmp_path)
    with pytest.raises(LitVizError, match=r"fashion_cnn\.safetensors of the zoo is missing"):
        weights_file("fashion_cnn", tmp_path)
