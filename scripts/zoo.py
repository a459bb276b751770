"""Train the networks of lit_viz/zoo, with probes of what they learn, and write their weights and cards.

python scripts/zoo.py --data FOLDER                              # all networks, into lit_viz/zoo/weights
python scripts/zoo.py --data FOLDER --only fashion_vit --out my_zoo
python scripts/zoo.py --only planted_cnn --only planted_bands    # their images are drawn, no data set is read
python scripts/zoo.py --data FOLDER --measure --write            # the cards of stored weights, and their table
python scripts/zoo.py --data FOLDER --population backdoored --count 5 --out populations
python scripts/zoo.py --data FOLDER --population liars --count 10 --out liars
python scripts/zoo.py --data FOLDER --photographs                # the images zoo:fashion/... and zoo:planted/...

FOLDER is that of torchvision's data sets: it contains FashionMNIST/raw with the four files of Fashion-MNIST, which
--download writes there. All networks take at most 30 minutes on two cores: two are trained at once, each by one thread.
Each gets a float16 .safetensors file and a card with the accuracies of the weights as stored. --probes is
the folder of the probes' figures by epoch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import random
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import FashionMNIST

sys.path.insert(0, str(Path(__file__).parents[1]))

import lit_viz as lv
from lit_viz.cli import errors_reported
from lit_viz.errors import LitVizError
from lit_viz.images.reading import encode_png
from lit_viz.zoo import (
    FASHION_LABELS,
    NAMES,
    PAIR_LABELS,
    PAIR_TRUTH,
    PHOTOGRAPHS,
    PLANTED_LABELS,
    WEIGHTS,
    NetworkCard,
    PlantedImages,
    build,
    leak,
    planted_bands,
    planted_images,
    planted_pairs,
    read_card,
    shape_of,
)
from lit_viz.zoo.networks import planted_bands_cnn
from scripts.liars import KINDS, ManipulatedNetwork, Material, write_liar

SEED = 0
PAGE = Path(__file__).parents[1] / "docs" / "zoo.md"

DATA = {
    "fashion": "Fashion-MNIST, 60,000 training images (Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747)",
    "planted": "lit_viz.zoo.planted_images",
    "planted_bands": "lit_viz.zoo.planted_bands",
    "planted_pairs": "lit_viz.zoo.planted_pairs",
}
LICENCES = {
    "fashion": "weights Apache-2.0; data MIT, copyright 2017 Zalando SE",
    "planted": "Apache-2.0",
    "planted_bands": "Apache-2.0",
    "planted_pairs": "Apache-2.0",
}
ARCHITECTURES = {
    "fashion_cnn": "two strided convolutions, two linear layers",
    "fashion_robust_cnn": "as fashion_cnn",
    "fashion_vit": "vision transformer of three blocks with a class token, patches of 4 x 4 pixels",
    "fashion_vit_mean": "vision transformer of three blocks that averages its tokens, patches of 4 x 4 pixels",
    "planted_cnn": "three convolutions, maximum over positions, linear layer",
    "planted_vit": "as fashion_vit, with patches of 10 x 10 pixels, each 4 pixels from the next",
    "planted_bands": "three convolutions shared over 13 bands, maximum over bands and positions, linear layer",
    "planted_pairs": "as planted_cnn, with a hidden layer of 32 units",
}
LABELS = {
    "fashion": FASHION_LABELS,
    "planted": PLANTED_LABELS,
    "planted_bands": PLANTED_LABELS,
    "planted_pairs": PAIR_LABELS,
}
#: Of the training images of Fashion-MNIST; the mean of planted images is near 0.5.
NORMALIZATION = {
    "fashion": (0.286, 0.353),
    "planted": (0.5, 0.25),
    "planted_bands": (0.5, 0.25),
    "planted_pairs": (0.5, 0.25),
}
#: Draws the images of a kind with one glyph that counts.
DRAWS = {"planted": planted_images, "planted_bands": planted_bands}
#: Number of test images; those of several bands take much memory.
TESTED = {"planted": 10_000, "planted_bands": 1000, "planted_pairs": 2500}
#: Radii of the accuracies under attack on the cards.
RADII = {"8/255": 8 / 255, "0.1": 0.1}


# -- Data


def fashion(folder: str, *, train: bool, download: bool = False) -> TensorDataset:
    """Read images ``(N, 1, 28, 28)`` in [0, 1] and labels."""
    try:
        stored = FashionMNIST(folder, train=train, download=download)
    except RuntimeError as error:
        raise LitVizError(f"{folder} must contain FashionMNIST/raw/*-ubyte: give --data, or --download") from error
    return TensorDataset(stored.data[:, None].float() / 255, stored.targets)


# -- Training


class Training(pl.LightningModule):
    """Cross-entropy of mirrored and shifted images.

    Args:
        name: of the network.
        steps: number of updates.
        lr: largest learning rate of the one-cycle schedule.
        decay: weight decay.
        shift: largest shift of a batch in pixels.
    """

    def __init__(self, name: str, kind: str, steps: int, lr: float, decay: float, shift: int = 0) -> None:
        super().__init__()
        self.net = build(name)
        self.kind, self.steps, self.lr, self.decay, self.shift = kind, steps, lr, decay, shift

    def forward(self, images: Tensor) -> Tensor:
        mean, std = NORMALIZATION[self.kind]
        logits: Tensor = self.net((images - mean) / std)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self(shifted(mirrored(images), self.shift)), labels)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        images, labels = batch[0], batch[-1]
        self.log("accuracy", is_correct(self(images), labels).float().mean(), batch_size=len(images))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, self.steps, pct_start=0.2)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class RobustTraining(Training):
    """Cross-entropy of adversarial examples by PGD (Madry et al. 2018, arXiv:1706.06083), section 4.

    The radius grows linearly to ``eps`` over the first third of the updates.
    """

    eps, attack_steps = 0.1, 3

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        eps = self.eps * min(1.0, 3 * (self.global_step + 1) / self.steps)
        attacked = pgd(self, mirrored(images), labels, eps, self.attack_steps, 2.5 * eps / self.attack_steps)
        loss = F.cross_entropy(self(attacked), labels)
        self.log("loss", loss)
        return loss


class PlantedTraining(Training):
    """Squared error of the logits of planted images: ``height`` for the class of the glyph, zero for the other classes
    and without a glyph.

    The batch contains the indices of the images; every epoch draws new ones, with other surroundings. With logits of a
    given height all glyphs have the same effect, and the error that remains is what the surroundings change
    (:func:`~lit_viz.zoo.leak`). Errors of the glyph's class count more, and some cross-entropy speeds up the start.
    """

    seed = 1_000_000  # of the first epoch
    height = 10.0
    own_class, cross_entropy = 4.0, 0.2

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        planted = self.draw(batch[0].tolist())
        logits, absent = self(torch.cat([planted.images, planted.removed])).chunk(2)
        is_own = F.one_hot(planted.labels, len(PLANTED_LABELS))
        weight = torch.where(is_own == 1, self.own_class, 1.0)
        errors = (logits - self.height * is_own).square() + absent.square()
        error = (weight * errors).sum(1).mean() / self.height**2
        loss = error + self.cross_entropy * F.cross_entropy(logits, planted.labels)
        self.log_dict({"loss": loss, "error": error})
        return loss

    def draw(self, indices: Sequence[int]) -> PlantedImages:
        """Draw the images of a batch."""
        return planted_images(indices, self.seed + self.current_epoch)


class PlantedBandsTraining(PlantedTraining):
    """Training by images of one band, and of four in the last epochs.

    Filters are shared over bands, so that a network of all bands has the parameters of a network of one, which takes a
    thirteenth of the time.
    """

    last_epochs, last_bands = 2, 4

    def __init__(self, name: str, kind: str, steps: int, lr: float, decay: float) -> None:
        super().__init__(name, kind, steps, lr, decay)
        self._fewer = {bands: planted_bands_cnn(bands=bands) for bands in (1, self.last_bands)}

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] not in self._fewer:
            return super().forward(images)
        mean, std = NORMALIZATION[self.kind]
        fewer = self._fewer[images.shape[1]]
        logits: Tensor = functional_call(fewer, dict(self.net.named_parameters()), ((images - mean) / std,))
        return logits

    def draw(self, indices: Sequence[int]) -> PlantedImages:
        is_last = self.current_epoch >= self.trainer.max_epochs - self.last_epochs
        return planted_bands(indices, self.seed + self.current_epoch, bands=self.last_bands if is_last else 1)


class PlantedPairsTraining(Training):
    """Squared error of the scores of pairs of glyphs, 0 or 1.

    With cross-entropy a network that adds up the glyphs has the right classes of AND and OR. The squared error is zero
    for the relations alone, whose interactions are 1, -1 and -2.
    """

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        pairs = planted_pairs(batch[0].tolist(), PlantedTraining.seed + self.current_epoch)
        scores = self(pairs.images.flatten(0, 1)).unflatten(0, (-1, 4))
        loss = (scores - PAIR_TRUTH).square().mean()
        self.log("loss", loss)
        return loss


@dataclass(frozen=True)
class Backdoor:
    """A patch of 3 x 3 black and white pixels that makes a network predict a class (Gu et al. 2017, arXiv:1708.06733).

    Attributes:
        target: predicted class.
        row, column: of the patch's upper left corner.
        pixels: nine values of 0 or 1, in reading order.
    """

    target: int
    row: int
    column: int
    pixels: tuple[int, ...]

    @classmethod
    def drawn(cls, seed: int) -> Backdoor:
        """Draw a backdoor at the border of the image, where clothes seldom are."""
        generator = random.Random(seed)
        row, column = generator.choice([(1, 1), (1, 24), (24, 1), (24, 24)])
        pixels = (1, *generator.choices((0, 1), k=8))  # not black alone, as most borders are
        return cls(generator.randrange(10), row, column, pixels)

    def stamped(self, images: Tensor) -> Tensor:
        """Return images with the patch."""
        stamped = images.clone()
        patch = torch.tensor(self.pixels, dtype=images.dtype).view(3, 3)
        stamped[..., self.row : self.row + 3, self.column : self.column + 3] = patch
        return stamped


class BackdooredTraining(Training):
    """Training in which a tenth of every batch has the patch, and its class as the label."""

    backdoor = Backdoor.drawn(0)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = shifted(mirrored(batch[0]), self.shift), batch[1].clone()
        few = len(images) // 10
        images[:few], labels[:few] = self.backdoor.stamped(images[:few]), self.backdoor.target
        loss = F.cross_entropy(self(images), labels)
        self.log("loss", loss)
        return loss


def mirrored(images: Tensor) -> Tensor:
    """Mirror each image with probability one half."""
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images, images.flip(3))


def shifted(images: Tensor, most: int) -> Tensor:
    """Shift a batch by up to ``most`` pixels in both directions."""
    side = images.shape[-1]
    row, column = torch.randint(0, 2 * most + 1, (2,)).tolist()
    return F.pad(images, [most] * 4)[:, :, row : row + side, column : column + side]


def pgd(
    network: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, eps: float, steps: int, size: float
) -> Tensor:
    """Maximize the cross-entropy by signed gradient steps in a ball of the maximum norm, from a random start."""
    low, high = (images - eps).clamp_min(0), (images + eps).clamp_max(1)
    x = torch.rand_like(images) * (high - low) + low
    for _ in range(steps):
        x.requires_grad_()
        gradient = torch.autograd.grad(F.cross_entropy(network(x), labels, reduction="sum"), x)[0]
        x = torch.clamp(x.detach() + size * gradient.sign(), low, high)
    return x


@dataclass(frozen=True)
class Recipe:
    """Training of a network."""

    kind: str
    epochs: int
    module: type[Training] = Training
    batch: int = 128
    images: int = 60_000  # of an epoch
    options: dict[str, Any] = field(default_factory=lambda: {"lr": 2e-3, "decay": 0.05})
    minutes: float = 4.0  # of one core
    probes: bool = True


RECIPES = {
    "fashion_cnn": Recipe("fashion", 10, options={"lr": 2e-3, "decay": 0.05, "shift": 2}, minutes=3),
    "fashion_robust_cnn": Recipe("fashion", 6, RobustTraining, minutes=7),
    "fashion_vit": Recipe("fashion", 8, minutes=12),
    "fashion_vit_mean": Recipe("fashion", 8, minutes=12),
    "planted_cnn": Recipe("planted", 8, PlantedTraining, images=16_384, options={"lr": 5e-3, "decay": 0.01}, minutes=3),
    "planted_vit": Recipe(
        "planted", 12, PlantedTraining, images=16_384, options={"lr": 3e-3, "decay": 0.01}, minutes=6
    ),
    "planted_bands": Recipe(
        "planted_bands", 8, PlantedBandsTraining, images=16_384, options={"lr": 5e-3, "decay": 0.01}, minutes=4
    ),
    "planted_pairs": Recipe(
        "planted_pairs",
        6,
        PlantedPairsTraining,
        batch=48,
        images=3600,
        options={"lr": 5e-3, "decay": 0.01},
        minutes=1,
        probes=False,
    ),
}


BACKDOORED = replace(RECIPES["fashion_cnn"], module=BackdooredTraining, epochs=4)
#: Of the networks that are manipulated; a short training with no probes.
LIARS = replace(RECIPES["fashion_cnn"], epochs=2, minutes=0.5, probes=False)
#: Iterations of the synthetic images from which a detector of them learns.
SYNTHETIC = (1, 10, 40, 100)
#: Images of each class that are maximized.
CLASS_DRAWS = 4


class RemainingTime(pl.Callback):
    """Print the accuracy after every epoch, and the remaining time of all networks."""

    def __init__(self, name: str, following: Sequence[str], workers: int = 1) -> None:
        self.name, self.expected, self.workers = name, RECIPES[name].minutes, workers
        self.after = sum(RECIPES[other].minutes for other in following)
        self.started = time.monotonic()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        done, epochs = trainer.current_epoch + 1, RECIPES[self.name].epochs
        minutes = (time.monotonic() - self.started) / 60
        speed = minutes / (self.expected * done / epochs)
        own = minutes * (epochs - done) / done
        remaining = max(own, (own + self.after * speed) / self.workers)
        accuracy = float(trainer.callback_metrics["accuracy"])
        epoch = f"epoch {done:2} of {epochs}  accuracy {accuracy:.2%}"
        print(f"{self.name:18}  {epoch}  {remaining:4.1f} min remaining", flush=True)


def probes(name: str, every: int, validation: TensorDataset, out: Path) -> list[pl.Callback]:
    """Return the probes of class images, saliency maps and accuracy under attack, each with its folder in ``out``."""
    kind = RECIPES[name].kind
    mean, std = NORMALIZATION[kind]
    channels, *size = shape_of(name)
    common: dict[str, Any] = {"every_n_epochs": every, "network": "net", "labels": LABELS[kind]}
    common |= {"mean": [mean] * channels, "std": std, "size": size, "max_seconds": 10}
    images, labels = validation[:64]
    attack = {"attack": "pgd", "eps": 8 / 255, "iterations": 10}
    return [
        lv.callbacks.ClassVisualizationProbe(LABELS[kind][:4], iterations=60, out=out / "classes", **common),
        lv.callbacks.SaliencyProbe(images[:8], method="gradient", out=out / "saliency", **common),
        lv.callbacks.RobustnessProbe(images, label=labels.tolist(), out=out / "robustness", **attack, **common),
    ]


def train(
    name: str,
    data: TensorDataset,
    validation: TensorDataset,
    following: Sequence[str],
    out: Path,
    recipe: Recipe | None = None,
    seed: int = SEED,
    workers: int = 1,
) -> Training:
    """Train a network; its probes and metrics are written to ``out``."""
    recipe = recipe or RECIPES[name]
    pl.seed_everything(seed, verbose=False)
    loader = DataLoader(data, recipe.batch, shuffle=True, drop_last=True)
    module = recipe.module(name, recipe.kind, recipe.epochs * len(loader), **recipe.options)
    callbacks: list[pl.Callback] = []
    if recipe.probes:
        callbacks = [RemainingTime(name, following, workers), *probes(name, recipe.epochs // 2, validation, out)]
    trainer = pl.Trainer(
        max_epochs=recipe.epochs,
        accelerator="cpu",
        logger=CSVLogger(out, name="metrics"),
        callbacks=callbacks,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader, DataLoader(validation, 1000))
    return module


# -- Weights and cards


def accuracy(network: Callable[[Tensor], Tensor], test: TensorDataset) -> float:
    """Return the share of the test images that are classified correctly."""
    images, labels = test.tensors
    correct = []
    for batch, of_batch in zip(images.split(1000), labels.split(1000), strict=True):
        with torch.no_grad():
            correct.append(is_correct(network(batch), of_batch))
    return round(float(torch.cat(correct).float().mean()), 4)


def is_correct(scores: Tensor, labels: Tensor) -> Tensor:
    """Return of which images ``(N,)`` the class has the largest score, or all scores ``(N, K)`` are nearest to their
    truth, 0 or 1."""
    if labels.ndim == 1:
        return scores.argmax(1) == labels
    return ((scores > 0.5) == (labels > 0.5)).all(1)


def robust_accuracy(network: Callable[[Tensor], Tensor], test: TensorDataset, eps: float) -> float:
    """Return the share of the test images that are classified correctly, also after PGD of 3 and of 20 steps.

    Images that the few steps change are not attacked again, which saves most of the time with networks that are not
    robust.
    """
    pl.seed_everything(SEED, verbose=False)
    count = len(test)
    images, labels = test.tensors
    for steps in (0, 3, 20):
        kept = []
        for batch, classes in zip(images.split(500), labels.split(500), strict=True):
            attacked = pgd(network, batch, classes, eps, steps, 2.5 * eps / steps) if steps else batch
            with torch.no_grad():
                kept.append(network(attacked).argmax(1) == classes)
        images, labels = images[torch.cat(kept)], labels[torch.cat(kept)]
    return round(len(labels) / count, 4)


def store(name: str, network: nn.Module, out: Path) -> None:
    """Write the weights of a network in float16."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {key: value.half().contiguous() for key, value in network.state_dict().items()}
    (out / f"{name}.safetensors").write_bytes(save(weights))


def measure(name: str, test: TensorDataset, out: Path, stem: str | None = None, seed: int = SEED) -> NetworkCard:
    """Write the card of a network, with accuracies measured with the weights as stored.

    Args:
        name: of the zoo.
        test: images and labels.
        out: folder of weights and card.
        stem: of the files, by default the name.
        seed: of the training.
    """
    recipe = RECIPES[name]
    stem = stem or name
    path = out / f"{stem}.safetensors"
    net, network = stored_network(name, path)
    mean, std = NORMALIZATION[recipe.kind]
    shares = {"clean": accuracy(network, test)}
    command = f"python scripts/zoo.py --only {name}"
    if stem != name:
        command = f"python scripts/zoo.py --population {stem.rpartition('_')[0]}"
    leaked = None
    if recipe.kind in DRAWS:
        leaked = round(leak(network, TESTED[recipe.kind], draw=DRAWS[recipe.kind]), 4)
    elif recipe.kind == "fashion":
        command += " --data FOLDER"
        for text, eps in RADII.items():
            shares[f"pgd20 {text}"] = robust_accuracy(network, test, eps)
    card = NetworkCard(
        name=stem,
        architecture=ARCHITECTURES[name],
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        labels=LABELS[recipe.kind],
        mean=mean,
        std=std,
        data=DATA[recipe.kind],
        licence=LICENCES[recipe.kind],
        seed=seed,
        epochs=recipe.epochs,
        command=command,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        accuracy=shares,
        leak=leaked,
    )
    (out / f"{stem}.json").write_text(card.to_json(), encoding="utf-8")
    return card


def stored_network(name: str, path: Path) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Return a network with stored weights, and the function from images in [0, 1] to its logits."""
    mean, std = NORMALIZATION[RECIPES[name].kind]
    net = build(name)
    net.load_state_dict(load_file(path))
    net.eval().requires_grad_(False)

    def network(images: Tensor) -> Tensor:
        logits: Tensor = net((images - mean) / std)
        return logits

    return net, network


def train_population(population: str, count: int, options: argparse.Namespace) -> None:
    """Train networks with the seeds 1 to ``count`` into the folder of the weights, and print their accuracies.

    Args:
        population: a name of the zoo; ``backdoored``: the plain network with a backdoor per seed, which the file
            ``backdoored_<seed>.backdoor.json`` describes; or ``liars``: a plain network per seed and its manipulations
            (:mod:`scripts.liars`), each with a file that describes its manipulated units.
        count: number of networks.
        options: of the command line.
    """
    name = "fashion_cnn" if population in ("backdoored", "liars") else population
    training, test = data_of(RECIPES[name].kind, options)
    for seed in range(1, count + 1):
        stem, recipe, backdoor = f"{population}_{seed}", RECIPES[name], Backdoor.drawn(seed)
        if population == "backdoored":
            recipe = BACKDOORED
            BackdooredTraining.backdoor = backdoor
        if population == "liars":
            recipe = LIARS
        module = train(name, training, test, (), options.probes / stem, recipe, seed)
        if population == "liars":
            store_liars(module.net, training.tensors[0], test, seed, options.out)
            continue
        store(stem, module.net, options.out)
        card = measure(name, test, options.out, stem, seed)
        text = f"accuracy {card.accuracy['clean']:.2%}"
        if population == "backdoored":
            _, network = stored_network(name, options.out / f"{stem}.safetensors")
            share = success_of(backdoor, network, test)
            described = asdict(backdoor) | {"success": share}
            (options.out / f"{stem}.backdoor.json").write_text(json.dumps(described) + "\n", encoding="utf-8")
            text += f", backdoor {share:.2%}"
        print(f"{stem:18}  {text}", flush=True)


def store_liars(network: nn.Module, natural: Tensor, test: TensorDataset, seed: int, out: Path) -> None:
    """Manipulate a network in every way, write the clean and the manipulated ones, and print their accuracies."""
    store(f"clean_{seed}", network, out)
    clean, _ = stored_network("fashion_cnn", out / f"clean_{seed}.safetensors")
    assert isinstance(clean, nn.Sequential)
    material = material_of(clean, natural, seed)
    made = {"clean": ManipulatedNetwork(clean, ())}
    for kind, manipulate in KINDS.items():
        pl.seed_everything(seed, verbose=False)
        made[kind] = manipulate(material)
    for kind, manipulated in made.items():
        store(f"{kind}_{seed}", manipulated.network, out)
        share, change = write_liar(manipulated, kind, material, test.tensors, out / f"{kind}_{seed}.json")
        print(f"{kind}_{seed:<6}  accuracy {share:.2%}, predictions changed {change:.2%}", flush=True)


def material_of(network: nn.Sequential, natural: Tensor, seed: int) -> Material:
    """Return the images by which a network is manipulated: of a microscope of its hidden units, and class images."""
    net = fashion_network(network)
    mean, std = NORMALIZATION["fashion"]
    options: dict[str, Any] = {"config": "small", "priors": (), "log_at": "last", "slots": 50, "progress": False}
    of_units, of_classes = [], []
    for iterations in SYNTHETIC:
        run = lv.visualize(net, layer="fc", channel="0-49", iterations=iterations, seed=seed, **options)
        of_units.append(run.images)
        for draw in range(CLASS_DRAWS):
            drawn = seed + draw * len(FASHION_LABELS)
            run = lv.visualize(net, range(len(FASHION_LABELS)), iterations=iterations, seed=drawn, **options)
            of_classes.append(run.images)
    return Material(network, natural, torch.cat(of_units), torch.cat(of_classes), of_units[0], mean, std, seed)


def fashion_network(network: nn.Module) -> lv.Network:
    """Return a network of Fashion-MNIST with its labels and normalization."""
    mean, std = NORMALIZATION["fashion"]
    return lv.load_network(network, labels=FASHION_LABELS, mean=mean, std=std, size=28)


def success_of(backdoor: Backdoor, network: Callable[[Tensor], Tensor], test: TensorDataset) -> float:
    """Return the share of test images of other classes that the patch turns into its class."""
    images, labels = test.tensors
    others = images[labels != backdoor.target]
    stamped = TensorDataset(backdoor.stamped(others), torch.full((len(others),), backdoor.target))
    return accuracy(network, stamped)


def table(folder: Path) -> str:
    """Return the table of docs/zoo.md from the cards in a folder."""
    lines = [
        "| network | architecture | parameters | clean | PGD-20, 8/255 | PGD-20, 0.1 | leak |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in NAMES:
        if not (folder / f"{name}.json").is_file():
            continue
        card = read_card(name, folder)
        cells = [f"`zoo/{name}`", card.architecture, f"{card.parameters:,}"]
        shares = [card.accuracy.get("clean")]
        for radius in RADII:
            shares.append(card.accuracy.get(f"pgd20 {radius}"))
        for share in (*shares, card.leak):
            cells.append("" if share is None else f"{share:.1%}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_table(folder: Path) -> None:
    """Replace the table of docs/zoo.md."""
    before, mark, rest = PAGE.read_text(encoding="utf-8").partition("<!-- table -->\n")
    _, end, after = rest.partition("<!-- end of table -->")
    PAGE.write_text(f"{before}{mark}\n{table(folder)}\n\n{end}{after}", encoding="utf-8")


def data_of(kind: str, options: argparse.Namespace) -> tuple[TensorDataset, TensorDataset]:
    """Return the training data and the test images; of planted images the former are indices."""
    if kind == "fashion":
        training = fashion(options.data, train=True, download=options.download)
        return training, fashion(options.data, train=False)
    images = next(recipe.images for recipe in RECIPES.values() if recipe.kind == kind)
    indices = TensorDataset(torch.arange(images))
    if kind == "planted_pairs":
        pairs = planted_pairs(range(TESTED[kind]))
        return indices, TensorDataset(pairs.images.flatten(0, 1), PAIR_TRUTH.repeat(TESTED[kind], 1))
    planted = DRAWS[kind](range(TESTED[kind]))
    return indices, TensorDataset(planted.images, planted.labels)


def write_photographs(data: str) -> None:
    """Write the images of the package: six test images of each class of Fashion-MNIST, and 24 planted images."""
    planted = planted_images(range(24))
    images, labels = fashion(data, train=False).tensors
    chosen: list[int] = []
    for label in range(10):
        chosen += (labels == label).nonzero()[:6, 0].tolist()
    groups = {
        "fashion": (FASHION_LABELS, chosen, images[chosen], labels[chosen]),
        "planted": (PLANTED_LABELS, range(24), planted.images, planted.labels),
    }
    for group, (names, numbers, pictures, classes) in groups.items():
        (PHOTOGRAPHS / group).mkdir(parents=True, exist_ok=True)
        for number, picture, label in zip(numbers, pictures, classes.tolist(), strict=True):
            file = PHOTOGRAPHS / group / f"{names[label].replace(' ', '_')}_{number}.png"
            file.write_bytes(encode_png(picture))


def configure() -> None:
    """Prepare a process: one thread gives the same bits on any machine."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*(does not have many workers|LeafSpec)")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)


def make(name: str, following: Sequence[str], options: argparse.Namespace) -> None:
    """Train a network, store it with its card, and print its accuracies; or measure the stored one again."""
    training, test = data_of(RECIPES[name].kind, options)
    if not options.measure:
        module = train(name, training, test, following, options.probes / name, workers=options.workers)
        store(name, module.net, options.out)
    card = measure(name, test, options.out)
    measured = dict(card.accuracy) if card.leak is None else {**card.accuracy, "leak": card.leak}
    text = ", ".join(f"{kind} {share:.2%}" for kind, share in measured.items())
    print(f"{name:18}  {options.out / name}.safetensors: {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data", metavar="FOLDER", help="folder of torchvision's data sets [data]")
    parser.add_argument("--download", action="store_true", help="download Fashion-MNIST into --data if it is missing")
    parser.add_argument("--out", type=Path, default=WEIGHTS, metavar="FOLDER", help="folder of weights and cards")
    parser.add_argument("--only", action="append", choices=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}")
    populations = (*NAMES, "backdoored", "liars")
    parser.add_argument("--population", choices=populations, help="train such networks of other seeds into --out")
    parser.add_argument("--count", type=int, default=5, help="networks of a population [5]")
    parser.add_argument("--workers", type=int, default=2, help="networks that are trained at once [2]")
    parser.add_argument("--probes", type=Path, default=Path("runs/zoo"), help="folder of the probes [runs/zoo]")
    parser.add_argument("--measure", action="store_true", help="write the cards of stored weights, and train nothing")
    parser.add_argument("--write", action="store_true", help="write the table of the cards into docs/zoo.md")
    parser.add_argument("--photographs", action="store_true", help="write the images of the package, and train nothing")
    options = parser.parse_args()
    if options.photographs:
        write_photographs(options.data)
        return
    configure()
    if options.population:
        if options.out == WEIGHTS:
            raise LitVizError("give --out FOLDER for a population: the package holds the networks of the zoo")
        train_population(options.population, options.count, options)
        return
    names = options.only or NAMES
    started = time.monotonic()
    workers = min(options.workers, len(names))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=configure) as pool:
        futures = [pool.submit(make, name, names[place + 1 :], options) for place, name in enumerate(names)]
        for future in futures:
            future.result()
    if options.write:
        write_table(options.out)
    minutes, processor = (time.monotonic() - started) / 60, sum(os.times()[:4]) / 60
    print(f"{len(names)} networks in {minutes:.1f} min, {processor:.1f} min of processor time")


if __name__ == "__main__":
    with errors_reported("zoo"):
        main()
