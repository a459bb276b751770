"""Classify the images of a run by other networks: probability and rank of each image's class.

python scripts/judge.py runs/visualize/20260102-030405_tarantula efficientnet_lite1 torchvision/squeezenet1_0
python scripts/judge.py RUN torchvision/squeezenet1_0=squeezenet1_0.pth          # with a weights file
"""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table
from torch import Tensor

from lit_viz.cli import errors_reported
from lit_viz.errors import LitVizError
from lit_viz.images.canvas import resize, split_group
from lit_viz.images.reading import read_png
from lit_viz.networks import Network
from lit_viz.networks.decisions import EXCLUSIVE
from lit_viz.networks.summaries import group_summary
from lit_viz.outputs import load_network
from lit_viz.runs.folder import FolderStorage
from lit_viz.types import Record


def target(record: Record, network: Network) -> int:
    """Return the class index of a record for a network: the same index if the label is the same, else by name."""
    index, name = record.target, record.target_name
    if index < len(network.labels) and network.labels[index] == name:
        return index
    return network.index_of(name)


def scores_of(network: Network, pictures: Tensor) -> Tensor:
    """Return a network's scores of images ``(G, C, H, W)``, converted to its number of channels."""
    if pictures.shape[1] != network.channels:
        pictures = pictures.mean(1, keepdim=True).expand(-1, network.channels, -1, -1)
    return network.scores(resize(pictures, network.size))


def judge(folder: str, names: list[str]) -> None:
    """Print the probability and rank of each image by each network, and the number of correct ones; of a group, the
    mean probability and the worst rank."""
    run = FolderStorage.open(folder)
    module = run.config.get("module") or {}
    group = (module.get("init_args") or {}).get("picture", {}).get("group", 1)
    records = [record for record in run.records() if record.file and not record.array]
    if not records or any(record.target is None for record in records):
        raise LitVizError(f"{folder} must be a run of class visualizations")
    columns: dict[str, list[dict[str, float]]] = {}
    for name in names:
        network, _, weights = name.partition("=")
        held_out = load_network(network, weights=weights or "DEFAULT")
        columns[network] = []
        for record in records:
            pictures = split_group(read_png(run.path / record.file), group)
            index = target(record, held_out)
            predictions = EXCLUSIVE.summaries(scores_of(held_out, pictures), [index] * len(pictures))
            columns[network].append(group_summary(predictions))
    table = Table(box=None, header_style="bold")
    for column in ("class", *columns):
        table.add_column(column)
    for row, record in enumerate(records):
        cells = [record.target_name]
        for column in columns.values():
            cells.append(f"{column[row]['probability']:.2f} ({column[row]['rank']})")
        table.add_row(*cells)
    totals = ["right"]
    for column in columns.values():
        right = sum(entry["rank"] == 1 for entry in column)
        totals.append(f"{right} of {len(records)}")
    table.add_row(*totals, style="bold")
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder")
    parser.add_argument("network", nargs="+", help="names of networks, each with =FILE for its weights")
    options = parser.parse_args()
    with errors_reported("judge"):
        judge(options.run, options.network)


if __name__ == "__main__":
    main()
