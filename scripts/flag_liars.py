"""Measure which manipulated units the flags of the microscope find, and how many clean ones they flag.

python scripts/zoo.py --data FOLDER --population liars --count 10 --out liars
python scripts/flag_liars.py liars --data FOLDER --out runs/flag_liars        # microscopes, then the table
python scripts/flag_liars.py liars --out runs/flag_liars --table              # of stored figures

Each network gets a microscope of the layer of its manipulated units, over 600 test images; clean networks and networks
with manipulated classes get class images. The limits of the flag ``unnatural`` are set on the networks of odd seeds, so
that 0.5 % of the units of clean networks exceed each; the table of even seeds shows what they flag. A synthetic image
is misleading if it activates the unit of the clean network less than half as much as the clean unit's own synthetic
image does.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import lit_viz as lv
from lit_viz.cli import errors_reported
from lit_viz.errors import LitVizError
from lit_viz.evidence.class_images import class_image_naturalness
from lit_viz.evidence.naturalness import UNNATURAL
from lit_viz.images.reading import encode_png
from lit_viz.runs.evidence import LayerNaturalness
from lit_viz.units.pages import HILL, UnitPage
from scripts.liars import LAYERS, ManipulatedUnit, read_liar
from scripts.rankings.markdown import markdown_table
from scripts.zoo import NORMALIZATION, fashion, fashion_network

PHOTOGRAPHS = 600
#: Units of a layer that are compared with the manipulated ones, the first.
OTHERS = 40
#: The layer whose units are the classes.
CLASS_LAYER = LAYERS["classes"]
#: Share of the units of clean networks that each limit flags.
FLAGGED = 0.005
#: Activation of the clean unit by a misleading image is below this fraction of the activation by its own image.
MISLEADING = 0.5


@dataclass(frozen=True)
class Unit:
    """Measurements of a unit, or of a class as a unit of ``head``, for which only the figures are measured.

    Attributes:
        kind, seed: of the network.
        layer, unit: where it is.
        is_manipulated: whether its picture is made to be misleading.
        is_silent: whether it has the flag ``silent``.
        ratio: activation by the synthetic image relative to the largest by a photograph; None unless that is positive.
        held: share of that activation without the channels that no photograph activates; None unless it is positive.
        figures: sanity figure by layer; None where it is not decidable.
        kept: activation of the clean unit by this synthetic image, relative to that by its own; None if not measured.
        half: share of the activation at half the contrast of the synthetic image.
        deviation, half_deviation: of the figure of its own layer, and of ``half``, from the other units; None where
            not decidable.
    """

    kind: str
    seed: int
    layer: str
    unit: int
    is_manipulated: bool
    deviation: float | None
    figures: dict[str, float | None]
    is_silent: bool = False
    ratio: float | None = None
    held: float | None = None
    half: float | None = None
    half_deviation: float | None = None
    kept: float | None = None

    @property
    def is_undecided(self) -> bool:
        """Whether it can not be flagged, because its deviation is not decidable."""
        deviation = self.deviation if self.layer == CLASS_LAYER else self.half_deviation
        return not self.is_silent and deviation is None

    @property
    def is_misleading(self) -> bool:
        """Whether its synthetic image hardly activates the clean unit."""
        return self.kept is not None and self.kept < MISLEADING

    def is_unnatural(self, limits: tuple[float, float]) -> bool:
        """Whether the figure is too far below the others, or the share at half contrast too far above."""
        is_unlike = self.deviation is not None and self.deviation < -limits[0]
        is_hill = self.half_deviation is not None and self.half_deviation > limits[1]
        return is_unlike or is_hill


def write_photographs(data: str, folder: Path) -> None:
    """Write test images, in a fixed order."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(fashion(data, train=False).tensors[0][:PHOTOGRAPHS]):
        (folder / f"{number:04}.png").write_bytes(encode_png(image))


def measured_units(path: Path, photographs: Path, out: Path, iterations: int) -> list[Unit]:
    """Return the manipulated units of a network, and others of their layer."""
    kind, _, seed = path.stem.rpartition("_")
    network, manipulated = read_liar(path)
    net = fashion_network(network)
    layers: dict[str, set[int]] = {LAYERS[kind]: set(range(OTHERS))}
    if kind == "clean":  # also those that are manipulated in other networks
        layers["fc"].update(manipulated_units(path))
    for unit in manipulated:
        layers.setdefault(unit.layer, set()).add(unit.unit)
    rows = []
    for layer, channels in layers.items():
        folder = out / path.stem / layer
        for page in microscope_units(net, layer, sorted(channels), photographs, folder, iterations):
            rows.append(row_of(page, kind, int(seed), manipulated))
    return rows


def measured_classes(path: Path, photographs: Path, out: Path) -> list[Unit]:
    """Return the classes of a network."""
    kind, _, seed = path.stem.rpartition("_")
    network, manipulated = read_liar(path)
    net = fashion_network(network)
    run = lv.visualize(net, range(net.num_classes), config="small", priors=(), log_at="last", slots=10, progress=False)
    folder = out / path.stem / CLASS_LAYER
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(dict(enumerate(run.images)), folder / "images.pt")
    images = [(outcome.record, outcome.image()) for outcome in run.outcomes]
    rows = []
    for number, evidence in enumerate(class_image_naturalness(net, [photographs], images).images):
        rows.append(
            Unit(
                kind=kind,
                seed=int(seed),
                layer=CLASS_LAYER,
                unit=number,
                is_manipulated=any(unit.unit == number for unit in manipulated),
                deviation=evidence.deviation,
                figures=figures_of(evidence.layers),
            )
        )
    return rows


def manipulated_units(path: Path) -> set[int]:
    """Return the units that are manipulated in any network of the same seed as a clean one."""
    originals = set()
    for other in path.parent.glob(f"*_{path.stem.rpartition('_')[2]}.json"):
        for unit in read_liar(other)[1]:
            if unit.original is not None:
                originals.add(unit.original)
    return originals


def microscope_units(
    net: lv.Network, layer: str, channels: Sequence[int], photographs: Path, out: Path, iterations: int
) -> Sequence[UnitPage]:
    """Return the pages of units of a layer, and store their synthetic images by unit as ``images.pt``."""
    made = lv.microscope(
        net, layer, photographs, out, channel=channels, iterations=iterations, slots=50, progress=False
    )
    images = dict(zip(channels, made.runs[layer].images, strict=True))
    torch.save(images, out / "images.pt")
    return made.pages


def row_of(page: UnitPage, kind: str, seed: int, manipulated: Iterable[ManipulatedUnit]) -> Unit:
    """Return the measurements of a unit with a page."""
    held = None
    if page.held is not None and page.synthetic > 0:
        held = round(page.held / page.synthetic, 4)
    return Unit(
        kind=kind,
        seed=seed,
        layer=page.layer,
        unit=page.unit,
        is_manipulated=any((unit.layer, unit.unit) == (page.layer, page.unit) for unit in manipulated),
        deviation=page.deviation,
        figures=figures_of(page.naturalness),
        is_silent=page.flag == "silent",
        ratio=page.ratio,
        held=held,
        half=page.half,
        half_deviation=page.half_deviation,
    )


def figures_of(layers: Iterable[LayerNaturalness]) -> dict[str, float | None]:
    """Return the sanity figure by layer; None where it is not decidable."""
    figures: dict[str, float | None] = {}
    for figure in layers:
        figures[figure.layer] = round(figure.value, 4) if figure.is_decidable else None
    return figures


def stored_units(out: Path) -> list[Unit]:
    """Read the measurements of all networks."""
    units = []
    for path in sorted([*out.glob("*/units.jsonl"), *out.glob("*/classes.jsonl")]):
        units += [Unit(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return units


def with_kept(units: Sequence[Unit], folder: Path, out: Path) -> list[Unit]:
    """Return the units with the share of the clean unit's activation that their synthetic images keep."""
    measured = []
    for unit in units:
        if unit.kind == "clean" or unit.layer != LAYERS[unit.kind]:
            measured.append(unit)
            continue
        clean_layer = CLASS_LAYER if unit.layer == CLASS_LAYER else LAYERS["clean"]
        clean = clean_activations("clean", unit.seed, clean_layer, folder, out).get(unit.unit, 0.0)
        kept = clean_activations(unit.kind, unit.seed, unit.layer, folder, out)[unit.unit]
        measured.append(replace(unit, kept=round(kept / clean, 4) if clean > 0 else None))
    return measured


@cache
def clean_activations(kind: str, seed: int, layer: str, folder: Path, out: Path) -> dict[int, float]:
    """Return the activations of the units of the clean network by their synthetic images of a network."""
    network, _ = read_liar(folder / f"clean_{seed}.json")
    hidden = network if layer == CLASS_LAYER else network[:6]
    mean, std = NORMALIZATION["fashion"]
    images = torch.load(out / f"{kind}_{seed}" / layer / "images.pt")
    activations = {}
    for unit, image in images.items():
        activations[unit] = float(hidden((image[None] - mean) / std)[0, unit])
    return activations


def limits_of(units: Sequence[Unit]) -> tuple[float, float]:
    """Return the limits of both deviations that a given share of the units of clean networks exceeds."""
    figures, halves = [], []
    for unit in units:
        if unit.kind != "clean" or unit.layer == CLASS_LAYER:
            continue
        if unit.deviation is not None:
            figures.append(unit.deviation)
        if unit.half_deviation is not None:
            halves.append(unit.half_deviation)
    return -float(np.quantile(figures, FLAGGED)), float(np.quantile(halves, 1 - FLAGGED))


def table(units: Sequence[Unit], limits: tuple[float, float]) -> str:
    """Return the shares of misleading, flagged and undecidable units by kind."""
    columns: dict[str, Callable[[Unit], bool]] = {
        "misleading": lambda unit: unit.is_misleading,
        "silent": lambda unit: unit.is_silent,
        "unnatural": lambda unit: unit.is_unnatural(limits),
        "flagged": lambda unit: unit.is_silent or unit.is_unnatural(limits),
        "not decidable": lambda unit: unit.is_undecided,
    }
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        groups.setdefault(group_of(unit), []).append(unit)
    rows: list[list[str]] = []
    for name in sorted(groups):
        members = groups[name]
        cells = [name, str(len(members))]
        for test in columns.values():
            share = sum(map(test, members)) / len(members)
            cells.append(f"{share:.0%}")
        rows.append(cells)
    return markdown_table(["units", "number", *columns], rows)


def group_of(unit: Unit) -> str:
    """Return the row of the table to which a unit belongs."""
    if unit.kind == "clean":
        return "clean networks: classes" if unit.layer == CLASS_LAYER else "clean networks"
    if not unit.is_manipulated:
        return f"{unit.kind}: other units"
    if unit.layer != LAYERS[unit.kind]:
        return f"{unit.kind}: added units"
    return f"{unit.kind}: manipulated units"


def measure(path: Path, photographs: Path, out: Path, iterations: int) -> None:
    """Measure a network and store the results, unless they are stored."""
    kind = path.stem.rpartition("_")[0]
    parts: dict[str, Callable[[], list[Unit]]] = {}
    if kind != "classes":
        parts["units"] = lambda: measured_units(path, photographs, out, iterations)
    if kind in ("clean", "classes"):
        parts["classes"] = lambda: measured_classes(path, photographs, out)
    for part, of_part in parts.items():
        stored = out / path.stem / f"{part}.jsonl"
        if stored.exists():
            continue
        started = time.process_time()
        rows = of_part()
        stored.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
        print(f"{path.stem:14} {part:7}  {time.process_time() - started:.1f} s of processor time", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("liars", type=Path, help="folder of the population")
    parser.add_argument("--data", default="data", metavar="FOLDER", help="folder of torchvision's data sets [data]")
    parser.add_argument("--out", type=Path, default=Path("runs/flag_liars"), metavar="FOLDER")
    parser.add_argument("--iterations", type=int, default=80, help="of the synthetic images of units [80]")
    parser.add_argument("--table", action="store_true", help="print the table of stored figures alone")
    options = parser.parse_args()
    if not options.table:
        write_photographs(options.data, options.out / "photographs")
        paths = sorted(options.liars.glob("*.json"))
        if not paths:
            raise LitVizError(f"{options.liars} has no networks: scripts/zoo.py --population liars trains them")
        for path in paths:
            measure(path, options.out / "photographs", options.out, options.iterations)
    units = with_kept(stored_units(options.out), options.liars, options.out)
    odd = [unit for unit in units if unit.seed % 2]
    even = [unit for unit in units if not unit.seed % 2]
    measured = limits_of(odd)
    print(f"limits that {FLAGGED:.1%} of clean units of odd seeds exceed each: {measured[0]:.2f}, {measured[1]:.2f}")
    for name, limits in (("these", measured), ("the package's", (UNNATURAL, HILL))):
        print(f"\neven seeds, {name} limits:\n\n{table(even, limits)}")
    print(f"\nodd seeds, the package's limits:\n\n{table(odd, (UNNATURAL, HILL))}")


if __name__ == "__main__":
    with errors_reported("flag_liars"):
        main()
