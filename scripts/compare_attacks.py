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

from lit_viz.attacks import Attack, Ensemble, attack_name
from lit_viz.attacks.norms import format_distance
from lit_viz.attacks.rounding import LEVELS, LatticeBall, levels_of
from lit_viz.cli import errors_reported
from lit_viz.errors import LitVizError, first_line
from lit_viz.evidence.attacks.robustness import attack_record
from lit_viz.launch.resume import stored_form
from lit_viz.methods import AdversarialExample
from lit_viz.networks import FrozenNetwork, Network
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.results import Outcome
from lit_viz.utils.formatting import Notify, notify, text_table

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
    solvable = [
        (reference, problem, group)
        for problem, group in problems(outcomes, attack, iterations, network)
        for reference in references_of(attack)
        if reference.supports(problem)
    ]
    if not any(outcome.record.status == "done" for outcome in outcomes):
        notify("compare: the run has no attacked image")
    elif not solvable:
        members = "; attack with its members in separate runs" if isinstance(attack, Ensemble) else ""
        notify(f"compare: {' and '.join(INSTALL)} have no {attack_name(attack)} with these options{members}")
    missing = [name for name in dict.fromkeys(ref.package for ref, *_ in solvable) if installed(name) is None]
    for name in missing:
        notify(f"compare: {name} is not installed: {INSTALL[name]}")
    selected = [row for row in solvable if row[0].package not in missing]
    if selected:
        evaluations = iterations * sum(len(group) for *_, group in selected)
        names = ", ".join(dict.fromkeys(str(reference) for reference, *_ in selected))
        notify(f"compare: {names}: about {evaluations} evaluations")
    return [compare_one(reference, problem, group, network) for reference, problem, group in selected]


def problems(
    outcomes: Sequence[Outcome], attack: Attack, iterations: int, network: Network
) -> list[tuple[Problem, list[Outcome]]]:
    """Group the outcomes by radius and mode, with the problem of each group."""
    groups: dict[tuple[float | None, bool], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.record.status == "done" and outcome.source() is not None:
            groups[attack_record(outcome).eps, outcome.record.target is not None].append(outcome)
    pairs = []
    for (eps, targeted), group in groups.items():
        images = torch.stack([source for outcome in group if (source := outcome.source()) is not None])
        classes = torch.tensor([outcome.record.target if targeted else outcome.record.label for outcome in group])
        device, count = network.device, network.num_classes
        pairs.append((Problem(attack, iterations, eps, images.to(device), classes.to(device), targeted, count), group))
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
    balls = [LatticeBall(image, None if problem.eps is None else norm, problem.eps) for image in problem.images]
    inside = [ball.contains(levels_of(image)) for ball, image in zip(balls, rounded, strict=True)]
    files = torch.tensor([bool(attack_record(outcome).success_file) for outcome in group], device=success.device)
    both = success & files
    run_lengths = [
        float(o.record.metrics[norm.name] or 0.0) for o, counts in zip(group, both.tolist(), strict=True) if counts
    ]
    return replace(
        result,
        float_successes=int(success.sum()),
        file_successes=int((adversarial(rounded) & torch.tensor(inside, device=success.device)).sum()),
        run_successes=int(files.sum()),
        reference_length=median(length[both].tolist()) if run_lengths else None,
        run_length=median(run_lengths) if run_lengths else None,
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
    rows = [comparison.row() for comparison in comparisons if comparison.error is None]
    errors = [f"{comparison.title} failed: {comparison.error}" for comparison in comparisons if comparison.error]
    return "\n".join([*([text_table(rows, words=1)] if rows else []), *errors])


def compare_run(folder: Path | str, network: Network | None = None) -> list[Comparison]:
    """Compare the run in a folder; ``network`` for a network that was passed as a module."""
    run = FolderStorage.open(folder)
    form = stored_form(run)
    if not issubclass(form.module_class, AdversarialExample):
        raise LitVizError(f"{folder} must be a run of lit-viz attack on single photographs")
    if network is None:
        network = form.load_network()
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
            rows = [{**asdict(comparison), "ratio": comparison.ratio} for comparison in comparisons]
            options.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
