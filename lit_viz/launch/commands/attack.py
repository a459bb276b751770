"""``lit-viz attack``: adversarial examples and universal perturbations."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from lit_viz.attacks import ATTACKS, Attack, BudgetAttack, Universal, without_radius
from lit_viz.attacks.norms import LINF, format_distance, parse_radius
from lit_viz.errors import LitVizError
from lit_viz.launch.commands.base import PhotographCommand, class_of_part, class_paths
from lit_viz.methods import AdversarialExample, UniversalPerturbation


@dataclass
class AttackOptions:
    """Options of the method that the command line reads as classes.

    Args:
        attack: step rule and objective.
    """

    attack: Attack


class AttackCommand(PhotographCommand):
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
    flags = ("--explain",)
    demo = ("packaged:chelsea", "packaged:coffee", "packaged:rocket", "--target", "stingray")
    curve_at = "every:1"

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add = parser.add_argument
        add("--radii", type=list[float], default=[], help="several eps (--eps 1/255,2/255,4/255): a robustness curve")
        goal_help = "of a number: above:V, below:V, change:T; of a decision: vanish, appear, share:S"
        add("--goal", type=str | None, default=None, help=goal_help)
        held_out_help = "fraction of the photographs that a universal attack is not trained on"
        add("--held_out", type=float, default=0.0, help=held_out_help)
        add("--explain", action="store_true", help="draw the saliency maps of original and result side by side")

    def option(self, name: str, value: str) -> tuple[str, str]:
        """Translate ``pgd`` and ``4/255``; several radii are the option ``--radii``."""
        if name == "--attack":
            return name, _attack_path(value)
        if name == "--eps" and "," in value:
            return "--radii", json.dumps(_radii_of(value))
        return name, _as_decimal(value) if name == "--eps" or name.startswith("--attack.") else value

    def check(self, config: Namespace) -> None:
        super().check(config)
        if 0 in (_argument(config, "eps"), *config.radii):
            raise LitVizError("eps must be positive, got 0: try 4/255")
        attack = class_of_part(config.model.attack)
        if config.radii and not issubclass(attack, BudgetAttack):
            raise LitVizError(without_radius(attack))
        if len(set(config.radii)) < len(config.radii):
            norm = str(_argument(config, "norm") or LINF.name)
            radii = ", ".join(format_distance(radius, norm) for radius in config.radii)
            raise LitVizError(f"eps must have different radii, got {radii}")
        if config.held_out and not _is_universal(config):
            raise LitVizError("held_out requires the attack universal")

    def module_arguments(self, config: Namespace, parts: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of the module; a universal attack evaluates several photographs per iteration."""
        arguments = super().module_arguments(config, parts)
        if not _is_universal(config):
            return arguments
        if arguments.pop("transforms"):
            raise LitVizError("a universal perturbation supports no transforms: leave them out")
        arguments["held_out"] = config.held_out
        if arguments["views"] is None:
            del arguments["views"]
        return arguments

    def method(self, config: Namespace) -> type[Any]:
        return UniversalPerturbation if _is_universal(config) else self.module


def _argument(config: Namespace, name: str) -> Any:
    """Return an argument of the attack; None if it has none of that name."""
    arguments = config.model.attack.get("init_args") or {}
    return dict(arguments).get(name)


def _is_universal(config: Namespace) -> bool:
    return issubclass(class_of_part(config.model.attack), Universal)


def _attack_path(word: str) -> str:
    paths = class_paths(word, ATTACKS, "attack")
    if len(paths) != 1:
        raise LitVizError(f"a run must have one attack, got {len(paths)}")
    return paths[0]["class_path"]


def _radii_of(words: str) -> list[float]:
    """Return the radii of ``1/255,2/255``."""
    try:
        return [parse_radius(word.strip()) for word in words.split(",")]
    except LitVizError as error:
        raise LitVizError(f"eps must be numbers such as 0.0157 or 4/255, got {words!r}") from error


def _as_decimal(value: str) -> str:
    """Return ``4/255`` as a decimal number; anything else unchanged."""
    return str(parse_radius(value)) if re.fullmatch(r"[\d.]+/[\d.]+", value) else value
