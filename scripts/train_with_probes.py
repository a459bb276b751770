"""Train a small network on scikit-learn's digits, with probes of what it learns: python scripts/train_with_probes.py

The folder of each probe gets ``epochs.png``, what the network has learned by epoch; see docs/probes.md.
"""

from __future__ import annotations

import argparse
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lit_viz as lv

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
MEAN, STD = 0.3, 0.4


class Digits(pl.LightningModule):
    """A convolutional network with batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64 * 16, 10),
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        images, labels = batch
        self.log("accuracy", (self.net(images).argmax(1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/probes", help="folder of the figures and logs")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--wandb", default="disabled", choices=["disabled", "offline", "online"])
    options = parser.parse_args()
    digits = load_digits()
    images = (torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16 - MEAN) / STD
    data = TensorDataset(images, torch.tensor(digits.target))
    training, validation = (torch.utils.data.Subset(data, part) for part in (range(1500), range(1500, 1797)))
    loader = DataLoader(validation, batch_size=100)

    network: dict[str, Any] = {"network": "net", "labels": NAMES, "mean": MEAN, "std": STD}
    probes = [
        lv.callbacks.ClassVisualizationProbe(
            ["seven", "three", "zero"], every_n_epochs=2, out=f"{options.out}/classes", **network
        ),
        lv.callbacks.SaliencyProbe(
            loader, every_n_epochs=2, method="smoothgrad", limit=4, out=f"{options.out}/saliency", **network
        ),
        lv.callbacks.RobustnessProbe(
            loader, every_n_epochs=2, attack="pgd", eps=0.1, out=f"{options.out}/robustness", **network
        ),
    ]
    loggers: list[Any] = [CSVLogger(options.out)]
    if options.wandb != "disabled":
        loggers.append(WandbLogger(project="lit_viz", save_dir=options.out, offline=options.wandb == "offline"))
    pl.seed_everything(0)
    trainer = pl.Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        logger=loggers,
        callbacks=probes,
        log_every_n_steps=10,
        enable_checkpointing=False,
    )
    trainer.fit(Digits(), DataLoader(training, batch_size=50, shuffle=True), loader)
    print(f"figures  {options.out}/*/epochs.png")


if __name__ == "__main__":
    main()
