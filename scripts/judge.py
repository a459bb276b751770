"""Ask any network about the pictures of a run: is the class seen by one that took no part?

python scripts/judge.py runs/visualize/20260102-030405_tarantula efficientnet_lite1 torchvision/squeezenet1_0
python scripts/judge.py RUN torchvision/squeezenet1_0=squeezenet1_0.pth          # with a weights file
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.table import Table

from lit_viz.classifiers import load_classifier
from lit_viz.engine.run_folder import RunFolder
from lit_viz.errors import LitVizError
from lit_viz.evidence.judges import fitted
from lit_viz.evidence.verdicts import verdict
from lit_viz.images.reading import read_png


def judge(folder: str, names: list[str]) -> None:
    """Print each picture's probability and rank by each network, and how many are right."""
    run = RunFolder.open(folder)
    records = [record for record in run.records() if record["file"] and not record["array"]]
    if not records or any(record["target"] is None for record in records):
        raise LitVizError(f"{folder} holds no pictures of classes, which alone can be judged")
    columns: dict[str, list[dict[str, float]]] = {}
    for name in names:
        network, _, weights = name.partition("=")
        classifier = load_classifier(network, weights=weights or "DEFAULT")
        columns[network] = []
        for record in records:
            picture = read_png(run.path / record["file"])
            said = classifier.logits(fitted(picture[None], classifier.size))[0]
            columns[network].append(verdict(said, classifier.index_of(record["target"])))
    table = Table(box=None, header_style="bold")
    for column in ("class", *columns):
        table.add_column(column)
    for row, record in enumerate(records):
        cells = [f"{said[row]['probability']:.2f} ({said[row]['rank']})" for said in columns.values()]
        table.add_row(record["target_name"], *cells)
    right = [sum(said["rank"] == 1 for said in column) for column in columns.values()]
    table.add_row("right", *(f"{count} of {len(records)}" for count in right), style="bold")
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder")
    parser.add_argument("network", nargs="+", help="names of networks, each with =FILE for its weights")
    options = parser.parse_args()
    try:
        judge(options.run, options.network)
    except LitVizError as error:
        sys.exit(f"judge: {error}")


if __name__ == "__main__":
    main()
