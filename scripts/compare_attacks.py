"""Compare an attack run with reference implementations: Foolbox and torchattacks, on the same photographs.

python scripts/compare_attacks.py runs/attack/20260102-030405_stingray
python scripts/compare_attacks.py RUN --json comparison.json

The reference implementations get a copy of the network, and the photographs, classes, radius and iterations of the run.
Their step sizes and random draws are their own, and they have one start: without early stop or restarts, they spend all
iterations at once. The original network decides which examples are successes: as floats, and rounded to 8 bits inside
the ball. The lengths are medians over the images that are a success on both sides. Packages that are not installed are
skipped.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parent))

from benchmarks.references import INSTALL, Problem, Reference, installed, references_of

from lit_viz.attacks import Attack, Ensemble
from lit_viz.attacks.norms import format_distance
from lit_viz.attacks.rounding import LatticeBall
from lit_viz.cli import errors_reported
from lit_viz.errors import LitVizError, first_line
from lit_viz.images.formats import LEVELS
from lit_viz.launch.resume import stored_form
from lit_viz.methods import AdversarialExample
from lit_viz.networks import FrozenNetwork, Network
from lit_viz.outputs.loading import load_recorded
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.results import Outcome
from lit_viz.utils.formatting import Notify, notify, text_table
from lit_viz.utils.parts import short_name

TOLERANCE = 1e-5  # of a radius, for float32


@dataclass(frozen=True)
class Comparison:
    """The examples of a reference implementation and of the run, for one radius.

    Attributes:
        reference: name of the implementation.
        eps: radius, in units of [0, 1]; None without budget.
        norm: name of the norm.
        images: number of images.
        float_successes, file_successes: of the reference, as floats and rounded to 8 bits.
        run_successes: of the run, in the file.
        reference_length, run_length: medians over the images that are a success on both sides.
        error: exception of the reference.
    """

    reference: str
    eps: float | None
    norm: str
    images: int
    float_successes: int = 0
    file_successes: int = 0
    run_successes: int = 0
    reference_length: float | None = None
    run_length: float | None = None
    error: str | None = None

    @property
    def title(self) -> str:
        """Name with the radius."""
        return self.reference if self.eps is None else f"{self.reference}, eps {format_distance(self.eps, self.norm)}"

    @property
    def ratio(self) -> float | None:
        """Length of the run's perturbations relative to the reference's."""
        if self.run_length is None or not self.reference_length:
            return None
        return self.run_length / self.reference_length

    def row(self) -> dict[str, str]:
        """Return the row of the table."""
        return {
            "reference": self.title,
            "float": f"{self.float_successes} of {self.images}",
            "8 bits": f"{self.file_successes} of {self.images}",
            "run": f"{self.run_successes} of {self.images}",
            f"median {self.norm}": format_distance(self.reference_length, self.norm),
            "of the run": format_distance(self.run_length, self.norm),
            "ratio": "-" if self.ratio is None else f"{self.ratio:.3f}",
        }


def compare(
    outcomes: Sequence[Outcome], network: Network, attack: Attack, iterations: int, notify: Notify = notify
) -> list[Comparison]:
    """Run the installed reference implementations of an attack on the problems of a run.

    Args:
        outcomes: of the run.
        network: the attacked network.
        attack: the attack, with its options.
        iterations: updates an image.
        notify: receives notes: missing packages and the cost.

    Raises:
        LitVizError: the network can not be copied.
    """
    groups = problems(outcomes, attack, iterations, network)
    solvable: list[tuple[Reference, Problem, list[Outcome]]] = []
    for problem, group in groups:
        for reference in references_of(attack):
            if reference.supports(problem):
                solvable.append((reference, problem, group))
    if not groups:
        notify("compare: the run has no attacked image")
    elif not solvable:
        members = "; attack with its members in separate runs" if isinstance(attack, Ensemble) else ""
        notify(f"compare: {' and '.join(INSTALL)} have no {short_name(type(attack))} with these options{members}")
    missing: set[str] = set()
    for reference, _, _ in solvable:
        package = reference.package
        if package not in missing and installed(package) is None:
            missing.add(package)
            notify(f"compare: {package} is not installed: {INSTALL[package]}")
    selected = [row for row in solvable if row[0].package not in missing]
    if selected:
        names: list[str] = []
        images = 0
        for reference, _, group in selected:
            images += len(group)
            if str(reference) not in names:
                names.append(str(reference))
        notify(f"compare: {', '.join(names)}: about {iterations * images} evaluations")
    return [compare_one(*row, network) for row in selected]


def problems(
    outcomes: Sequence[Outcome], attack: Attack, iterations: int, network: Network
) -> list[tuple[Problem, list[Outcome]]]:
    """Group the outcomes by radius and mode, with the problem of each group."""
    groups: dict[tuple[float | None, bool], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.record.status == "done" and outcome.source() is not None:
            groups[outcome.record.eps, outcome.record.target is not None].append(outcome)
    pairs = []
    for (eps, targeted), group in groups.items():
        sources: list[Tensor] = []
        indices: list[int | None] = []
        for outcome in group:
            source = outcome.source()
            assert source is not None
            sources.append(source)
            indices.append(outcome.record.target if targeted else outcome.record.label)
        images = torch.stack(sources).to(network.device)
        classes = torch.tensor(indices, device=network.device)
        pairs.append((Problem(attack, iterations, eps, images, classes, targeted, network.num_classes), group))
    return pairs


def compare_one(reference: Reference, problem: Problem, group: Sequence[Outcome], network: Network) -> Comparison:
    """Run one implementation on one problem and compare it with the outcomes."""
    norm = problem.norm
    result = Comparison(str(reference), problem.eps, norm.name, len(group))
    copied = NetworkCopy.of(network)
    try:
        examples = reference.run(copied, problem)
    except Exception as error:  # any exception of another package; it goes to the table
        return replace(result, error=first_line(error))

    def adversarial(images: Tensor) -> Tensor:
        predicted = torch.cat([network.scores(batch).argmax(1) for batch in torch.split(images, 8)])
        return (predicted == problem.classes) == problem.targeted

    length = norm.length((examples - problem.images).double())
    success = adversarial(examples)
    if problem.eps is not None:
        success &= length <= problem.eps * (1 + TOLERANCE)
    rounded = (examples.clamp(0, 1) * LEVELS).round() / LEVELS
    ball_norm = None if problem.eps is None else norm
    inside = []
    for source, image in zip(problem.images, rounded, strict=True):
        ball = LatticeBall(source, ball_norm, problem.eps)
        inside.append(ball.contains(ball.levels(image)))
    is_inside = torch.tensor(inside, device=success.device)
    files = torch.tensor([bool(outcome.record.success_file) for outcome in group], device=success.device)
    both = success & files
    run_lengths = []
    for outcome, counts in zip(group, both.tolist(), strict=True):
        if counts:
            run_lengths.append(float(outcome.record.metrics[norm.name] or 0.0))
    if run_lengths:
        result = replace(result, reference_length=median(length[both].tolist()), run_length=median(run_lengths))
    return replace(
        result,
        float_successes=int(success.sum()),
        file_successes=int((adversarial(rounded) & is_inside).sum()),
        run_successes=int(files.sum()),
    )


class NetworkCopy(nn.Module):
    """A copy of the fast network for other packages: images in [0, 1] -> logits."""

    def __init__(self, network: FrozenNetwork) -> None:
        super().__init__()
        self.network = network
        # torchattacks reads the device of the first parameter; a network may have none.
        self.device_marker = nn.Parameter(torch.zeros(0, device=network.scale.device), requires_grad=False)
        self.eval()

    @classmethod
    def of(cls, network: Network) -> NetworkCopy:
        """Copy the network of a network."""
        try:
            return cls(copy.deepcopy(network.fast()))
        except Exception as error:  # any exception of the user's modules
            raise LitVizError(f"{network.name} can not be copied: {first_line(error)}") from error

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = x * 1
        if x.requires_grad:  # torchattacks expects channels-first gradients
            x.register_hook(torch.Tensor.contiguous)
        logits: Tensor = self.network(x)[0]
        return logits


def table(comparisons: Sequence[Comparison]) -> str:
    """Return a row for each implementation and radius, then the errors."""
    rows, errors = [], []
    for comparison in comparisons:
        if comparison.error is None:
            rows.append(comparison.row())
        else:
            errors.append(f"{comparison.title} failed: {comparison.error}")
    lines = []
    if rows:
        lines.append(text_table(rows, words=1))
    return "\n".join(lines + errors)


def compare_run(folder: Path | str, network: Network | None = None) -> list[Comparison]:
    """Compare the run in a folder; ``network`` for a network that was passed as a module."""
    run = FolderStorage.open(folder)
    form = stored_form(run)
    if not issubclass(form.module_class, AdversarialExample):
        raise LitVizError(f"{folder} must be a run of lit-viz attack on single photographs")
    if network is None:
        network = load_recorded(form.network)
    module = form.build_module(network)
    assert isinstance(module, AdversarialExample)
    if module.transforms.transforms:
        raise LitVizError(f"{folder} has transforms, which the reference implementations do not support")
    return compare(run.outcomes(), network, module.attack, module.iterations)


def main() -> None:
    """Print the table, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder of lit-viz attack")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    with errors_reported("compare_attacks"):
        comparisons = compare_run(options.run)
        print(table(comparisons))
        if options.json:
            rows = []
            for comparison in comparisons:
                rows.append(asdict(comparison) | {"ratio": comparison.ratio})
            options.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
