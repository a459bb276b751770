"""Draw the figures of docs/zoo.md and docs/robust_networks.md.

python scripts/zoo_figures.py planted --out runs/planted     # planted images in two surroundings, and without the glyph
python scripts/zoo_figures.py robust --out runs/robust       # the plain and the robust network side by side
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

import lit_viz as lv
from lit_viz.cli import errors_reported
from lit_viz.figures.layout import Cell
from lit_viz.figures.sheet import sweep_figure
from lit_viz.images.priors import L2
from lit_viz.images.reading import read_photograph, to_uint8
from lit_viz.networks import Network
from lit_viz.zoo import PLANTED_LABELS, photograph_names, planted_images

#: One image of each class that has a distinct shape.
IMAGES = {
    "sneaker": "zoo:fashion/sneaker_9",
    "ankle boot": "zoo:fashion/ankle_boot_0",
    "bag": "zoo:fashion/bag_18",
    "trouser": "zoo:fashion/trouser_2",
    "dress": "zoo:fashion/dress_13",
    "coat": "zoo:fashion/coat_14",
}
#: All images of the zoo.
FASHION = [f"zoo:{name}" for name in photograph_names("fashion")]
NETWORKS = {"plain": "zoo/fashion_cnn", "robust": "zoo/fashion_robust_cnn"}


def cells(images: Sequence[Tensor], notes: Sequence[str] = ()) -> list[Cell | None]:
    """Return the cells of a row, with a note beneath each image."""
    row: list[Cell | None] = []
    for place, image in enumerate(images):
        note = notes[place] if notes else ""
        row.append(Cell(to_uint8(image), [note]))
    return row


def pixels(names: Sequence[str]) -> Tensor:
    """Return photographs ``(N, 1, 28, 28)``."""
    return torch.stack([read_photograph(name, (28, 28), channels=1).pixels for name in names])


def planted() -> Figure:
    """Draw an image of each class, the same glyphs in other surroundings, and the images without their glyph."""
    labels = planted_images(range(200)).labels
    indices = []
    for label in range(len(PLANTED_LABELS)):
        indices.append(int((labels == label).nonzero()[0]))
    first, second = planted_images(indices), planted_images(indices, surroundings=1)
    rows = [["image"], ["other surroundings"], ["without the glyph"]]
    pictures = [cells(list(first.images)), cells(list(second.images)), cells(list(first.removed))]
    return sweep_figure(rows, PLANTED_LABELS, pictures, "")


def robust() -> Figure:
    """Draw gradients, class images and adversarial examples of the plain and the robust network."""
    classes, names = list(IMAGES), list(IMAGES.values())
    rows = [["image"]]
    pictures = [cells(list(pixels(names)))]
    parts: dict[str, Callable[[Network], list[Cell | None]]] = {
        "gradient": lambda net: gradients(net, names, classes),
        "class image": lambda net: class_images(net, classes),
        "smallest attack": lambda net: attacks(net, names, classes),
    }
    for title, draw in parts.items():
        for kind, name in NETWORKS.items():
            rows.append([title, kind])
            pictures.append(draw(lv.load_network(name)))
    print_measurements()
    return sweep_figure(rows, classes, pictures, "gradients: gray is zero · attacks: DDN, prediction and L2 norm")


def gradients(net: Network, names: Sequence[str], classes: Sequence[str]) -> list[Cell | None]:
    """Return signed gradients of the logit: gray is zero, white three standard deviations."""
    run = lv.saliency(net, names, target=classes, method="gradient", captum="none")
    return cells([0.5 + gradient / (6 * gradient.std()) for gradient in run.arrays])


def class_images(net: Network, classes: Sequence[str]) -> list[Cell | None]:
    """Return class images by ``configs/visualize/small.yaml`` with a tenth of its prior."""
    run = lv.visualize(net, classes, config="small", priors=[L2(0.1)])
    return cells(list(run.images))


def attacks(net: Network, names: Sequence[str], classes: Sequence[str]) -> list[Cell | None]:
    """Return the adversarial examples of smallest L2 norm by DDN."""
    run = lv.attack(net, names, label=classes, attack="ddn")
    notes = []
    for record in run.records:
        notes.append(f"{record['predicted_name']}, {record['l2']:.1f}")
    return cells(list(run.images), notes)


def print_measurements() -> None:
    """Print the numbers of docs/robust_networks.md, of the images of the zoo that each network classifies correctly.

    The object is the pixels above black, and one more in every direction.
    """
    for kind, name in NETWORKS.items():
        net = lv.load_network(name)
        attacked = lv.attack(net, "zoo:fashion", label="folders", attack="ddn")
        lengths = [record["l2"] for record in attacked.records if record["success_file"]]
        explained = lv.saliency(net, "zoo:fashion", label="folders", method="gradient", captum="none")
        on_object = F.max_pool2d((pixels(FASHION) > 0).float(), 3, 1, 1) > 0
        energy = explained.arrays.square()
        shares = (energy * on_object).flatten(1).sum(1) / energy.flatten(1).sum(1)
        print(
            f"{kind}: median L2 norm of DDN {median(lengths):.2f} ({len(lengths)} images); gradient's energy on the "
            f"object {float(shares.mean()):.0%}, which is {float(on_object.float().mean()):.0%} of the image"
        )


FIGURES = {"planted": planted, "robust": robust}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=FIGURES)
    parser.add_argument("--out", type=Path, default=Path("runs/zoo_figures"), help="folder of figure.png")
    parser.add_argument("--wandb", help=argparse.SUPPRESS)  # of scripts/gallery.py; nothing is logged
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    FIGURES[options.figure]().savefig(options.out / "figure.png")
    print(f"figure  {options.out}/figure.png")


if __name__ == "__main__":
    with errors_reported("zoo_figures"):
        main()
