"""``lit-viz attack``: adversarial examples and universal perturbations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from lit_viz.attacks import ATTACKS, BudgetAttack, Universal, without_radius
from lit_viz.attacks import Attack as AttackRule
from lit_viz.attacks.norms import LINF, format_distance
from lit_viz.classifiers import Classifier
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError
from lit_viz.launch.commands.base import PhotographCommand, class_of_part, class_paths
from lit_viz.methods import AdversarialExample, UniversalPerturbation
from lit_viz.methods.photographs import is_targeted
from lit_viz.methods.universal_perturbation import universal_tasks
from lit_viz.types import Task


@dataclass
class AttackOptions:
    """Options of the method that the command line reads as classes.

    Args:
        attack: step rule and objective.
    """

    attack: AttackRule


class Attack(PhotographCommand):
    """Adversarial examples of photographs, verified in the files that are saved."""

    name = "attack"
    module = AdversarialExample
    variants = (UniversalPerturbation,)
    flat = (AttackOptions,)
    default_config = "normalized_ascent"
    shorts = (
        f"--attack NAME is one of {', '.join(ATTACKS)}; --attack.OPTION VALUE is an option of the attack "
        "(--attack.restarts 5), as are --eps 4/255, --norm linf or l2, and --lr."
    )
    example = "lit-viz attack packaged:chelsea --target stingray"
    short = {f"--{name}": f"--model.attack.{name}" for name in ("eps", "norm", "lr")} | {"--attack": "--model.attack"}
    demo = ("packaged:chelsea", "packaged:coffee", "packaged:rocket", "--target", "stingray")
    default_target = "none"
    curve_at = "every:1"

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add = parser.add_argument
        add("--radii", type=list[float], default=[], help="several eps (--eps 1/255,2/255,4/255): a robustness curve")
        held_out_help = "fraction of the photographs that a universal attack is not trained on"
        add("--held_out", type=float, default=0.0, help=held_out_help)
        add("--explain", action="store_true", help="draw the saliency maps of original and result side by side")

    def option(self, name: str, value: str) -> tuple[str, str]:
        """Translate ``pgd`` and ``4/255``; several radii are the option ``--radii``."""
        if name == "--attack":
            return name, attack_path(value)["class_path"]
        if name == "--eps" and "," in value:
            return "--radii", json.dumps(radii_of(value))
        return name, _as_decimal(value) if name == "--eps" or name.startswith("--attack.") else value

    def check(self, config: Namespace) -> None:
        super().check(config)
        if _argument(config, "eps") == 0 or 0 in config.radii:
            raise LitVizError("--eps must be positive, got 0: try 4/255")
        if len(set(config.radii)) < len(config.radii):
            norm = str(_argument(config, "norm") or LINF.name)
            radii = ", ".join(format_distance(radius, norm) for radius in config.radii)
            raise LitVizError(f"the radii of --eps must differ, got {radii}")
        if config.held_out and not _is_universal(config):
            raise LitVizError("--held-out requires --attack universal")
        if not 0 <= config.held_out < 1:
            raise LitVizError(f"--held-out must be at least 0 and less than 1, got {config.held_out}")

    def tasks(
        self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier
    ) -> tuple[list[Task], list[str]]:
        """Return a task per radius, photograph and target; of a universal attack, per target and radius."""
        attack = parts["attack"]
        if config.radii and not isinstance(attack, BudgetAttack):
            raise LitVizError(without_radius(type(attack)))
        for radius in config.radii:
            attack.check_radius(radius, "--eps")
        if isinstance(attack, Universal):
            photographs, notes = self.queue(config, classifier)
            return universal_tasks(photographs, config.held_out, config.seed, config.radii), notes
        tasks, notes = self.queue(config, classifier, [{"eps": radius} for radius in config.radii] or [{}])
        for targeted in {is_targeted(task) for task in tasks}:
            attack.check_classes(classifier, targeted=targeted)
        return tasks, notes

    def build(self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier) -> ImageTraining:
        """Return the method; a universal attack evaluates several photographs per iteration."""
        if not isinstance(parts["attack"], Universal):
            return super().build(config, parts, classifier)
        if parts["transforms"]:
            raise LitVizError("a universal perturbation supports no transforms: leave out --model.transforms")
        views = Universal.views if parts["views"] is None else parts["views"]
        parts = {"attack": parts["attack"], "views": views, "residual_gradient": parts["residual_gradient"]}
        return super().build(config, parts, classifier)

    def method(self, config: Namespace) -> type[Any]:
        return UniversalPerturbation if _is_universal(config) else AdversarialExample


def _argument(config: Namespace, name: str) -> Any:
    """Return an argument of the attack; None if it has none of that name."""
    attack = config.model.attack
    return (
        dict(attack.get("init_args") or {}).get(name) if isinstance(attack, Namespace) else getattr(attack, name, None)
    )


def _is_universal(config: Namespace) -> bool:
    return issubclass(class_of_part(config.model.attack), Universal)


def attack_path(given: Any) -> Any:
    """Return the class path and arguments of an attack, given as ``name`` or ``{name: arguments}``; or its instance."""
    paths = class_paths(given, ATTACKS, "attack")
    if len(paths) != 1:
        raise LitVizError(f"a run must have one attack, got {len(paths)}")
    return paths[0]


def radii_of(given: float | str | Sequence[float | str]) -> list[float]:
    """Return radii as numbers: one, or several as ``1/255,2/255`` or in a list."""
    radii = given.split(",") if isinstance(given, str) else given if isinstance(given, Sequence) else [given]
    if not radii:
        raise LitVizError("--eps must have at least one radius, got none: try 4/255")
    try:
        return [float(_as_decimal(str(radius).strip())) for radius in radii]
    except ValueError as error:
        raise LitVizError(f"--eps must be numbers such as 1/255,2/255, got {given!r}") from error


def _as_decimal(value: str) -> str:
    """Return ``4/255`` as a decimal number; anything else unchanged."""
    numerator, slash, denominator = value.partition("/")
    try:
        return str(float(numerator) / float(denominator)) if slash else value
    except ZeroDivisionError as error:
        raise LitVizError(f"the denominator of a radius must not be 0, got {value}") from error
    except ValueError:
        return value
