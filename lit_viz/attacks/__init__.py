"""Adversarial attacks, one a file: how little must change for the network to be wrong?"""

from __future__ import annotations

from lit_viz.attacks.apgd import APGD
from lit_viz.attacks.base import Attack, is_adversarial, masked_gradient, run_attack
from lit_viz.attacks.budget import BudgetAttack, ClimbingAttack
from lit_viz.attacks.carlini_wagner import CarliniWagner
from lit_viz.attacks.ddn import DDN
from lit_viz.attacks.deepfool import DeepFool
from lit_viz.attacks.ensemble import Ensemble
from lit_viz.attacks.fgsm import FGSM
from lit_viz.attacks.fmn import FMN
from lit_viz.attacks.normalized_ascent import NormalizedAscentAttack
from lit_viz.attacks.pgd import PGD
from lit_viz.attacks.square import Square
from lit_viz.attacks.universal import Universal

#: By the names that commands, records and figures use.
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


def name_of(attack: Attack) -> str:
    """Return the attack's name; that of its class where it is none of ``ATTACKS``."""
    return next((name for name, kind in ATTACKS.items() if kind is type(attack)), type(attack).__name__)


def without_radius(attack: type[Attack]) -> str:
    """Return the sentence that says that an attack has no radius to be given."""
    kind = "looks for the smallest change and has" if attack.minimal else "has"
    return f"{attack.__name__} {kind} no radius: leave out --eps, or take an attack that has one, such as pgd."


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
    "name_of",
    "run_attack",
    "without_radius",
]
