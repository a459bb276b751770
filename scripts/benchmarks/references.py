"""Reference implementations of the attacks: Foolbox (Rauber et al. 2020, doi:10.21105/joss.02607) and torchattacks (Kim
2020, arXiv:2010.01950), called with the arguments of the corresponding lit_viz attack.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

from lit_viz.attacks import APGD, DDN, FGSM, FMN, PGD, Attack, CarliniWagner, DeepFool, Square
from lit_viz.attacks.norms import L2, LINF, NORMS, Norm
from lit_viz.networks.isolation import random_state_preserved

#: How to install each, without dependencies that would downgrade those of lit_viz.
INSTALL = {
    "foolbox": "pip install --no-deps foolbox eagerpy GitPython gitdb smmap",
    "torchattacks": "pip install --no-deps torchattacks",
}
#: Maximum of classes for an implementation that computes a backward for each of them.
MAX_CLASSES = 100
#: Names of the norms in torchattacks.
_TORCHATTACKS_NORMS = {LINF.name: "Linf", L2.name: "L2"}


@dataclass(frozen=True)
class Problem:
    """What an attack is applied to: images that share a radius.

    Attributes:
        attack: the lit_viz attack, with its options.
        iterations: updates an image.
        eps: radius in units of [0, 1]; None without budget.
        images: ``(N, C, H, W)`` in [0, 1].
        classes: ``(N,)`` int64, to reach or to leave.
        targeted: whether they are the classes to reach.
        num_classes: of the network.
    """

    attack: Any
    iterations: int
    eps: float | None
    images: Tensor
    classes: Tensor
    targeted: bool
    num_classes: int

    @property
    def norm(self) -> Norm:
        """Norm that the attack bounds or minimizes."""
        return getattr(self.attack, "norm", NORMS["l2"])

    @property
    def step_size(self) -> float:
        """Length of PGD's steps."""
        counts = {"iteration": torch.tensor([0]), "iterations": torch.tensor([self.iterations])}
        return float(self.attack.step_size({"eps": torch.tensor([self.eps], dtype=torch.float64), **counts}))


@dataclass(frozen=True)
class Reference:
    """A reference implementation of an attack.

    Attributes:
        package: ``foolbox`` or ``torchattacks``.
        name: name of the class in the package.
        options: arguments of the class for a problem.
        norm: supported norm; None for both.
        targeted: whether it supports targets.
        backward_per_class: whether it computes a backward for every class.
    """

    package: str
    name: str
    options: Callable[[Problem], Mapping[str, Any]]
    norm: Norm | None = None
    targeted: bool = True
    backward_per_class: bool = False

    def __str__(self) -> str:
        return f"{self.package} {self.name}"

    def supports(self, problem: Problem) -> bool:
        """Return whether it solves the problem, in reasonable time."""
        return (
            self.norm in (None, problem.norm)
            and (self.targeted or not problem.targeted)
            and not (self.backward_per_class and problem.num_classes > MAX_CLASSES)
        )

    def run(self, network: nn.Module, problem: Problem, batch: int = 8) -> Tensor:
        """Return adversarial examples ``(N, C, H, W)``; the global random state is preserved.

        Args:
            network: images in [0, 1] -> logits; the package may modify it.
            problem: images and goals.
            batch: images at once.

        Raises:
            Exception: any exception of the package.
        """
        package = installed(self.package)
        attack = self._foolbox if self.package == "foolbox" else self._torchattacks
        pairs = zip(torch.split(problem.images, batch), torch.split(problem.classes, batch), strict=True)
        with random_state_preserved(network), warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            examples = [attack(package, network, problem, x.clone(), classes.clone()) for x, classes in pairs]
        return torch.cat(examples).detach().to(problem.images)

    def _foolbox(self, package: Any, network: nn.Module, problem: Problem, x: Tensor, classes: Tensor) -> Tensor:
        model = package.PyTorchModel(network, bounds=(0, 1), device=x.device)
        criteria = package.criteria
        criterion = (criteria.TargetedMisclassification if problem.targeted else criteria.Misclassification)(classes)
        attack = getattr(package.attacks, self.name)(**self.options(problem))
        _, clipped, _ = attack(model, x, criterion, epsilons=problem.eps)
        return cast(Tensor, clipped)

    def _torchattacks(self, package: Any, network: nn.Module, problem: Problem, x: Tensor, classes: Tensor) -> Tensor:
        attack = getattr(package, self.name)(network, **self.options(problem))
        if problem.targeted:
            attack.set_mode_targeted_by_label(quiet=True)
        return cast(Tensor, attack(x, classes))


def installed(package: str) -> Any:
    """Return a package, or None if it or one of its dependencies is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return import_module(package)
        except ImportError:
            return None


def references_of(attack: Attack) -> Sequence[Reference]:
    """Return the reference implementations of an attack; none with momentum, which they do not have."""
    return () if getattr(attack, "momentum", 0) else _REFERENCES.get(type(attack), ())


# Arguments of the reference implementations for a problem.


def _fgsm(p: Problem) -> Mapping[str, Any]:
    return {"eps": p.eps}


def _pgd_foolbox(p: Problem) -> Mapping[str, Any]:
    return {"abs_stepsize": p.step_size, "steps": p.iterations, "random_start": p.attack.random_start}


def _pgd_torchattacks(p: Problem) -> Mapping[str, Any]:
    return {"eps": p.eps, "alpha": p.step_size, "steps": p.iterations, "random_start": p.attack.random_start}


def _apgd(p: Problem) -> Mapping[str, Any]:
    loss = "dlr" if type(p.attack.objective).__name__ == "DLR" else "ce"
    return {"norm": _TORCHATTACKS_NORMS[p.norm.name], "eps": p.eps, "steps": p.iterations, "loss": loss}


def _ddn(p: Problem) -> Mapping[str, Any]:
    return {"init_epsilon": p.attack.init_norm, "steps": p.iterations, "gamma": p.attack.gamma}


def _deepfool_foolbox(p: Problem) -> Mapping[str, Any]:
    return {"steps": p.iterations, "candidates": p.attack.classes, "overshoot": p.attack.overshoot}


def _deepfool_torchattacks(p: Problem) -> Mapping[str, Any]:
    return {"steps": p.iterations, "overshoot": p.attack.overshoot}


def _fmn(p: Problem) -> Mapping[str, Any]:
    return {"steps": p.iterations, "max_stepsize": p.attack.alpha.lr, "gamma": p.attack.gamma.lr}


def _carlini_wagner(p: Problem) -> Mapping[str, Any]:
    searches = p.attack.restart_schedule.maximum
    bisection = {"binary_search_steps": searches, "steps": max(p.iterations // searches, 1)}
    return {**bisection, "stepsize": p.attack.adam.lr.lr, "initial_const": p.attack.c}


def _square(p: Problem) -> Mapping[str, Any]:
    norm = _TORCHATTACKS_NORMS[p.norm.name]
    return {"norm": norm, "eps": p.eps, "n_queries": p.iterations, "p_init": p.attack.p}


_REFERENCES: Mapping[type[Attack], Sequence[Reference]] = {
    FGSM: (
        Reference("foolbox", "LinfFastGradientAttack", lambda p: {}, LINF, targeted=False),
        Reference("foolbox", "L2FastGradientAttack", lambda p: {}, L2, targeted=False),
        Reference("torchattacks", "FGSM", _fgsm, LINF),
    ),
    PGD: (
        Reference("foolbox", "LinfProjectedGradientDescentAttack", _pgd_foolbox, LINF),
        Reference("foolbox", "L2ProjectedGradientDescentAttack", _pgd_foolbox, L2),
        Reference("torchattacks", "PGD", _pgd_torchattacks, LINF),
        Reference("torchattacks", "PGDL2", _pgd_torchattacks, L2),
    ),
    APGD: (Reference("torchattacks", "APGD", _apgd, targeted=False),),
    DDN: (Reference("foolbox", "DDNAttack", _ddn),),
    DeepFool: (
        Reference("foolbox", "LinfDeepFoolAttack", _deepfool_foolbox, LINF, targeted=False),
        Reference("foolbox", "L2DeepFoolAttack", _deepfool_foolbox, L2, targeted=False),
        Reference("torchattacks", "DeepFool", _deepfool_torchattacks, L2, targeted=False, backward_per_class=True),
    ),
    FMN: (Reference("foolbox", "LInfFMNAttack", _fmn, LINF), Reference("foolbox", "L2FMNAttack", _fmn, L2)),
    CarliniWagner: (Reference("foolbox", "L2CarliniWagnerAttack", _carlini_wagner),),
    Square: (Reference("torchattacks", "Square", _square),),
}
