"""Adversarial attacks: step rules that search for a small change of an image that changes its class."""

from __future__ import annotations

from lit_viz.attacks.apgd import APGD
from lit_viz.attacks.base import (
    Attack,
    BudgetAttack,
    ClimbingAttack,
    is_adversarial,
    masked_gradient,
    run_attack,
)
from lit_viz.attacks.carlini_wagner import CarliniWagner
from lit_viz.attacks.ddn import DDN
from lit_viz.attacks.deepfool import DeepFool
from lit_viz.attacks.ensemble import Ensemble
from lit_viz.attacks.fmn import FMN
from lit_viz.attacks.normalized_ascent import NormalizedAscentAttack
from lit_viz.attacks.pgd import FGSM, PGD
from lit_viz.attacks.square import Square
from lit_viz.attacks.universal import Universal

#: By the names in commands, records and figures.
ATTACKS: dict[str, type[Attack]] = {
    "normalized_ascent": NormalizedAscentAttack,
    "fgsm": FGSM,
    "pgd": PGD,
    "apgd": APGD,
    "ddn": DDN,
    "deepfool": DeepFool,
    "fmn": FMN,
    "carlini_wagner": CarliniWagner,
    "square": Square,
    "ensemble": Ensemble,
    "universal": Universal,
}


def without_radius(attack: type[Attack]) -> str:
    """Return the error for an attack that was given a radius and has none."""
    reason = "minimizes the perturbation" if attack.minimal else "has no budget"
    return f"{attack.__name__} {reason}: leave out eps, or use an attack with a radius, such as pgd"


__all__ = [
    "APGD",
    "ATTACKS",
    "DDN",
    "FGSM",
    "FMN",
    "PGD",
    "Attack",
    "BudgetAttack",
    "CarliniWagner",
    "ClimbingAttack",
    "DeepFool",
    "Ensemble",
    "NormalizedAscentAttack",
    "Square",
    "Universal",
    "is_adversarial",
    "masked_gradient",
    "run_attack",
    "without_radius",
]
