"""``lit-viz attack FOLDER --attack universal``: one perturbation for many photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from matplotlib.figure import Figure
from torch import Tensor

from lit_viz.attacks.norms import L2, LINF, NORMS, format_distance, label_with_eps
from lit_viz.errors import LitVizError
from lit_viz.evidence.attacks.mismatches import RecordedFile
from lit_viz.evidence.summaries import wilson_interval
from lit_viz.figures.universal import PerturbedPhotograph, UniversalPanel, universal_figure
from lit_viz.images.reading import read_png
from lit_viz.launch.commands.attack_evidence import contradicted
from lit_viz.launch.commands.attack_figures import seen_as
from lit_viz.launch.commands.base import Inquiry, shown_number
from lit_viz.methods import UniversalPerturbation
from lit_viz.methods.photograph_set import HELD_OUT
from lit_viz.rng import Draws, Key
from lit_viz.runs.results import Outcome
from lit_viz.runs.writer import RunFolder
from lit_viz.types import PerturbedImage, Task
from lit_viz.utils.formatting import has_several_radii


def universal_tasks(photographs: Sequence[Task], config: Namespace) -> list[Task]:
    """Return one task a target and radius, each for all photographs.

    Args:
        photographs: a task a photograph and target.
        config: of the run.

    Raises:
        LitVizError: every photograph has a target of its own, or more are held out than there are.
    """
    for task in photographs:
        if (wish := task.options.get("target")) is not None and wish != "none":
            raise LitVizError(f"--target {wish} is another class for each photograph: give one for all, or none.")
    usable = [task for task in photographs if "error" not in task.options]
    tasks: list[Task] = []
    for target, named in {task.target: task.target_name for task in usable}.items():
        mine = [task for task in photographs if "error" in task.options or task.target == target]
        members = _split(mine, config.held_out, config.seed)
        for radius in config.radii or [None]:
            options: dict[str, Any] = {"photographs": [asdict(member) for member in members]}
            options |= {} if radius is None else {"eps": radius}
            target_name = named if target is not None else None
            name = "universal" if target_name is None else f"universal {target_name}"
            seed = config.seed + len(tasks)
            tasks.append(Task(len(tasks), name, seed, target=target, target_name=target_name, options=options))
    return tasks


def _split(photographs: Sequence[Task], fraction: float, seed: int) -> list[Task]:
    """Return the photographs, numbered anew, of which a part drawn at random is held out."""
    order = Draws([Key(seed, 0)]).uniform("held out", shape=(len(photographs),))[0].argsort().tolist()
    out = set(order[: round(fraction * len(photographs))])
    return [
        replace(task, index=i, options={**task.options, **({HELD_OUT: True} if i in out else {})})
        for i, task in enumerate(photographs)
    ]


def universal_row(record: Mapping[str, Any]) -> dict[str, str]:
    """Return a row of the table that is printed at the end."""
    return {
        "target": record["target_name"] or "any other",
        "status": record["status"],
        "trained on": shown_number(record, "trained_on", "{}"),
        "fooled in the file": shown_number(record, "fooling_rate", "{:.0%}"),
        "held out": shown_number(record, "held_out", "{}"),
        "of them fooled": shown_number(record, "held_out_fooling_rate", "{:.0%}"),
        "iterations": str(record["iterations"]),
        "L2": shown_number(record, L2.name),
        "Linf": format_distance(record.get(LINF.name), LINF.name),
    }


def verify_universal(
    module: UniversalPerturbation, outcomes: Sequence[Outcome], folder: RunFolder, how: Inquiry
) -> bool:
    """Read the files of all photographs again and ask the original network what it sees in them."""
    if how.trust:
        how.notify(
            "trust: what is said of single images doesn't hold for a universal perturbation, so nothing is tried"
        )
    read = 0
    wrong: list[str] = []
    rates: dict[str, list[str]] = {}
    several = has_several_radii(outcome.record for outcome in outcomes)
    for outcome in outcomes:
        perturbed_images = outcome.perturbed_images()
        claims = [_claim(one.image, one, outcome.record) for one in perturbed_images if isinstance(one.image, Path)]
        found = contradicted(claims, module.classifier, folder, how)
        lies = [claim.record["name"] for claim, why in zip(claims, found, strict=True) if why is not None]
        read, wrong = read + len(claims), wrong + lies
        for perturbed_image in perturbed_images:
            if perturbed_image.record["status"] == "failed":
                how.notify(f"{perturbed_image.record['name']}: {perturbed_image.record['error']}")
        name = label_with_eps(outcome.name, outcome.record) if several else outcome.name
        rates[name] = _rates(outcome.record) + _stood_still(outcome, module.attack.objective.limit)
        for line in rates[name]:
            how.notify(f"evidence: {name}: {line}")
    if how.ends_run and how.config.held_out and not any(o.record.get("held_out") for o in outcomes):
        how.notify(f"--held-out {how.config.held_out:g} of so few photographs are none: give more of them")
    if how.ends_run and how.config.explain:
        how.notify("--explain draws maps of single images, and this run has none: lit-viz saliency explains files")
    folder.merge_evidence({"files": {"read": read, "wrong": wrong}, "universal": rates})
    said = f"{len(wrong)} of them not as recorded" if wrong else "all as recorded"
    how.notify(f"evidence: {read} files read back from the disk, {said}")
    return not wrong


def _claim(file: Path, perturbed_image: PerturbedImage, ball: Mapping[str, Any]) -> RecordedFile:
    """Return what is said of a photograph's file. Of one that was handed over off the 8-bit lattice the rounded one is
    kept, which half a level a value is off."""
    off = 0.5 if perturbed_image.record["source"] is None else 0.0
    return RecordedFile(file, perturbed_image.record, partial(_read, perturbed_image.source), ball, off)


def _read(source: Tensor | Path | None) -> Tensor | None:
    return read_png(source) if isinstance(source, Path) and source.exists() else None


def _stood_still(outcome: Outcome, limit: float) -> list[str]:
    since = stood_still_since(outcome.curve("objective"), limit)
    if since is None:
        return []
    return [
        f"learned nothing more from iteration {since} on, for the cross-entropy of every photograph had reached "
        f"--attack.clip {limit:g}: more photographs would teach it, or a larger clip"
    ]


def stood_still_since(curve: Sequence[tuple[int, float]], limit: float) -> int | None:
    """Return the iteration from which on the objective was at its limit, so that its slope was zero; None where that is
    not so of the last tenth of the iterations.

    Args:
        curve: of the objective, as (iteration, value).
        limit: its largest value.
    """
    last = curve[-1][0] if curve else 0
    learning = [iteration for iteration, value in curve if value < limit * (1 - 1e-6)]
    after = [iteration for iteration, _ in curve if iteration > max(learning, default=-1)]
    return after[0] if after and after[0] <= 0.9 * last else None


def _rates(record: Mapping[str, Any]) -> list[str]:
    """Return how many photographs are fooled, with Wilson's interval of 95 %."""
    lines = []
    for part, count, of in (("", "trained_on", "trained on"), ("held_out_", "held_out", "held out")):
        n = record.get(count) or 0
        if n:
            rate = record[f"{part}fooling_rate"]
            low, high = wilson_interval(round(rate * n), n)
            lines.append(f"fools {rate:.0%} of {n} {of} (95 %: {low:.0%} to {high:.0%})")
    return lines


def figure_of_universal(outcomes: Sequence[Outcome]) -> Figure:
    """Return perturbations with some photographs and the curve of how many are fooled."""
    return universal_figure([panel for panel in map(_panel, outcomes) if panel is not None])


def _panel(outcome: Outcome) -> UniversalPanel | None:
    record, picture = outcome.record, outcome.image()
    if picture is None:
        return None
    norm = record["norm"]
    counted = [one for one in outcome.perturbed_images() if one.record["status"] == "done"]
    parts = ([one for one in counted if one.record[HELD_OUT] == out] for out in (False, True))
    shown = [one for pair in zip_longest(*parts) for one in pair if one is not None]  # of both, as long as there are
    return UniversalPanel(
        name=str(record["name"]),
        perturbation=picture,
        about=[
            f"{NORMS[norm]} {format_distance(record[norm], norm)}",
            f"magnified {record['magnified']:.3g} times",
        ],
        rates=_rates(record),
        curve=outcome.curve("fooling_rate"),
        photographs=[borne for borne in map(_borne, shown) if borne is not None],
    )


def _borne(perturbed_image: PerturbedImage) -> PerturbedPhotograph | None:
    record = perturbed_image.record
    if perturbed_image.image is None or perturbed_image.source is None:
        return None
    held_out = "\nheld out" if record[HELD_OUT] else ""
    before = seen_as(record, "predicted_before_name", "probability_before")
    after = seen_as(record, "predicted_name", "probability")
    return PerturbedPhotograph(perturbed_image.source, perturbed_image.image, before + held_out, after)
