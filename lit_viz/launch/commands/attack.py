"""``lit-viz attack``: how little must change for the network to be wrong?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from jsonargparse import Namespace
from matplotlib.figure import Figure
from pytorch_lightning.cli import LightningArgumentParser

from lit_viz.attacks import ATTACKS, BudgetAttack, Universal, without_radius
from lit_viz.attacks.norms import L2, LINF, NORMS, format_distance
from lit_viz.classifiers import Classifier
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError
from lit_viz.launch.commands.attack_evidence import verify_attack
from lit_viz.launch.commands.attack_figures import figure_of_attack, figure_of_radii
from lit_viz.launch.commands.base import Inquiry, by_class, class_path, median_of, shown_number
from lit_viz.launch.commands.photographs import PhotographCommand, add_photograph_arguments
from lit_viz.launch.commands.universal import figure_of_universal, universal_row, universal_tasks, verify_universal
from lit_viz.methods import AdversarialExample, UniversalPerturbation
from lit_viz.methods.targets import is_targeted
from lit_viz.runs.results import Outcome
from lit_viz.runs.writer import RunFolder
from lit_viz.types import Task
from lit_viz.utils.formatting import has_several_radii


class Attack(PhotographCommand):
    """Adversarial examples of photographs, verified in the files that are saved."""

    name: ClassVar[str] = "attack"
    module: ClassVar[type[ImageTraining]] = AdversarialExample
    default_config: ClassVar[str] = "normalized_ascent"
    shorts: ClassVar[str] = (
        f"--attack NAME is one of {', '.join(ATTACKS)}; --attack.OPTION VALUE is its own (--attack.restarts 5), and so "
        "are --eps 4/255 and --norm linf or l2."
    )
    example: ClassVar[str] = "lit-viz attack packaged:chelsea --target stingray"
    demo: ClassVar[tuple[str, ...]] = ("packaged:chelsea", "packaged:coffee", "packaged:rocket", "--target", "stingray")
    target: ClassVar[Literal["label", "none"]] = "none"
    curve_at: ClassVar[str] = "every:1"

    def add_arguments(self, parser: LightningArgumentParser) -> None:
        """Add photographs, targets and labels, several radii, the part that is held out, and the maps beside."""
        add_photograph_arguments(parser)
        add = parser.add_argument
        add("--radii", type=list[float], default=[], help="several eps (--eps 1/255,2/255,4/255): a robustness curve")
        add("--held_out", type=float, default=0.0, help="part of the photographs that a universal attack isn't shown")
        add("--explain", action="store_true", help="draws the saliency of original and outcome side by side")

    def option(self, name: str, value: str) -> tuple[str, str]:
        """Turn ``--attack pgd``, ``--eps 4/255``, ``--norm linf`` into the attack's own options."""
        if name == "--attack":
            return "--model.attack", class_path(value, ATTACKS, "attack")
        if name == "--eps" and "," in value:
            return "--radii", json.dumps(radii_of(value))
        if name in ("--eps", "--norm"):
            name = f"--attack.{name[2:]}"
        if name.startswith("--attack."):
            return f"--model.{name[2:]}", _as_decimal(value)
        return name, value

    def check(self, config: Namespace) -> None:
        """Refuse a run without photographs, with a budget of nothing, or that holds out for no universal attack."""
        super().check(config)
        if _argument(config, "eps") == 0 or 0 in config.radii:
            raise LitVizError("--eps 0 lets nothing change: give a radius such as 4/255.")
        if len(set(config.radii)) < len(config.radii):
            told = ", ".join(format_distance(radius, _norm(config)) for radius in config.radii)
            raise LitVizError(f"--eps makes an image of each radius, and one of them is there twice: {told}.")
        if config.held_out and not _is_universal(config):
            raise LitVizError("--held-out is for photographs that are attacked together: take --attack universal.")
        if not 0 <= config.held_out < 1:
            raise LitVizError(f"--held-out {config.held_out} is no part: give a number from 0 to below 1 such as 0.25.")

    def tasks(
        self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier
    ) -> tuple[list[Task], list[str]]:
        """Return one task a photograph and target, and where there are several radii, of each."""
        if config.radii and not isinstance(parts["attack"], BudgetAttack):
            raise LitVizError(without_radius(type(parts["attack"])))
        for radius in config.radii:
            parts["attack"].check_radius(radius, "--eps")
        if isinstance(parts["attack"], Universal):
            photographs, notes = self.queue(config, classifier)
            return universal_tasks(photographs, config), notes
        tasks, notes = self.queue(config, classifier, [{"eps": radius} for radius in config.radii] or [{}])
        for targeted in {is_targeted(task) for task in tasks}:
            parts["attack"].check_classes(classifier, targeted=targeted)
        return tasks, notes

    def build(self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier) -> ImageTraining:
        """Return the module; a universal attack has one of its own, which looks at several photographs an iteration."""
        if not isinstance(parts["attack"], Universal):
            return super().build(config, parts, classifier)
        if parts["transforms"]:
            raise LitVizError("a universal perturbation knows no transforms: leave out --model.transforms.")
        views = Universal.views if parts["views"] is None else parts["views"]
        parts = {"attack": parts["attack"], "views": views, "residual_gradient": parts["residual_gradient"]}
        return self.made(UniversalPerturbation, config, parts, classifier)

    def figure(self, outcomes: Sequence[Outcome], config: Namespace) -> Figure:
        """Return original, fooled image and their difference, in a row an image, over the traces; for several radii the
        robustness curve."""
        if _is_universal(config):
            return figure_of_universal(outcomes)
        if config.radii:
            return figure_of_radii(outcomes, NORMS[_norm(config)].symbol)
        return figure_of_attack(outcomes)

    def verify(
        self, module: ImageTraining, outcomes: Sequence[Outcome], folder: RunFolder | None, how: Inquiry
    ) -> bool:
        """Read the files again and ask the original network what it sees in them."""
        if folder is None:
            return True
        if isinstance(module, UniversalPerturbation):
            return verify_universal(module, outcomes, folder, how)
        assert isinstance(module, AdversarialExample)
        return verify_attack(module, outcomes, folder, how)

    def summary(self, results: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
        """Return by class how many files fool the network, and how far they are from their photographs."""

        def further(done: Sequence[Mapping[str, Any]]) -> dict[str, str]:
            fooled = [record for record in done if record.get("success_file")]
            linf = median_of([{"linf": 255 * record[LINF.name]} for record in fooled], "linf", "{:.0f}/255")
            median = median_of(fooled, L2.name)
            return {"fooled in the file": str(len(fooled)), "median L2": median, "median Linf": linf}

        return by_class(results, further)

    def table(self, results: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
        """Return what became of each image, and of an ensemble by whom."""
        universal = any(record.get("attack") == "universal" for record in results)
        ensemble = any("by" in record for record in results)
        several = has_several_radii(results)
        return [
            {
                **(universal_row(record) if universal else _row(record)),
                **({"eps": format_distance(record.get("eps"), record.get("norm", L2.name))} if several else {}),
                **({"by": record.get("by") or "-"} if ensemble else {}),
            }
            for record in results
        ]


def _argument(config: Namespace, name: str) -> Any:
    """Return an argument of the attack, None where it has none of that name."""
    return dict(config.model.attack.get("init_args") or {}).get(name)


def _norm(config: Namespace) -> str:
    return str(_argument(config, "norm") or LINF.name)


def _is_universal(config: Namespace) -> bool:
    return str(config.model.attack.class_path).endswith(".Universal")


def class_path_of(attack: str | Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return an attack, given by its name or as ``{name: arguments}``, as the parser knows it.

    Raises:
        LitVizError: an unknown attack; the known ones are listed.
    """
    if not isinstance(attack, Mapping):
        return {"class_path": class_path(attack, ATTACKS, "attack")}
    if len(attack) != 1:
        raise LitVizError(f"a run has one attack, not {len(attack)}: run others by themselves.")
    ((name, arguments),) = attack.items()
    return {"class_path": class_path(name, ATTACKS, "attack"), "init_args": dict(arguments or {})}


def radii_of(given: float | str | Sequence[float | str]) -> list[float]:
    """Return radii as numbers: one, or several as ``1/255,2/255`` or in a list.

    Raises:
        LitVizError: one of them is no number.
    """
    several = given.split(",") if isinstance(given, str) else given if isinstance(given, Sequence) else [given]
    if not several:
        raise LitVizError("--eps names no radius: give one such as 4/255, or leave it out.")
    return [_number(str(one)) for one in several]


def _as_decimal(value: str) -> str:
    """Return ``4/255`` as a decimal number; anything else as it is."""
    above, slash, below = value.partition("/")
    try:
        return str(float(above) / float(below)) if slash else value
    except ZeroDivisionError as error:
        raise LitVizError(f"the radius {value} divides by zero: give one such as 4/255.") from error
    except ValueError:
        return value


def _number(radius: str) -> float:
    try:
        return float(_as_decimal(radius.strip()))
    except ValueError as error:
        raise LitVizError(f"--eps: {radius!r} is no number: give several as 1/255,2/255,4/255.") from error


def _row(record: Mapping[str, Any]) -> dict[str, str]:
    fooled = {True: "fooled", False: "not fooled", None: "-"}
    return {
        "photograph": record["name"],
        "target": record["target_name"] or "any other",
        "status": record["status"],
        "in the file": fooled[None if record["status"] == "skipped" else record.get("success_file")],
        "seen as": shown_number(record, "predicted_name", "{}"),
        "before": shown_number(record, "probability_before"),
        "after": shown_number(record, "probability"),
        "iterations": str(record["iterations"]),
        "L2": shown_number(record, L2.name),
        "Linf": format_distance(record.get(LINF.name), LINF.name),
    }
