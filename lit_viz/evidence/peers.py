"""The same attacks as other people implemented them: Foolbox (Rauber et al. 2020, doi:10.21105/joss.02607) and
torchattacks (Kim 2020, arXiv:2010.01950), where they are installed.
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
from lit_viz.classifiers.isolation import random_state_preserved

#: How each is installed; without dependencies, some of which would downgrade what lit_viz runs on.
INSTALL = {
    "foolbox": "pip install --no-deps foolbox eagerpy GitPython gitdb smmap",
    "torchattacks": "pip install --no-deps torchattacks",
}
#: Photographs that a peer is given at once.
_BATCH = 8
#: Classes up to which an attack is asked that makes a backward for each of them.
_FEW = 100


@dataclass(frozen=True)
class Question:
    """What an attack was asked of photographs that share a radius.

    Attributes:
        attack: as it was run.
        iterations: updates an image.
        eps: the radius in units of [0, 1], for an attack with a budget.
        photographs: ``(N, C, H, W)`` in [0, 1].
        classes: ``(N,)`` int64, to be reached or to be left.
        targeted: which of the two.
        known: how many classes the network has.
    """

    attack: Any
    iterations: int
    eps: float | None
    photographs: Tensor
    classes: Tensor
    targeted: bool
    known: int

    @property
    def norm(self) -> str:
        """The norm that the attack keeps small."""
        return str(getattr(self.attack, "norm", "l2"))

    @property
    def alpha(self) -> float:
        """The length of PGD's steps."""
        counts = {"iteration": torch.tensor([0]), "iterations": torch.tensor([self.iterations])}
        return float(self.attack.length({"eps": torch.tensor([self.eps], dtype=torch.float64), **counts}))


@dataclass(frozen=True)
class Peer:
    """Another implementation of an attack.

    Attributes:
        package: that it comes from.
        name: of its class there.
        options: its arguments for a question.
        norm: that it is made for; None takes either.
        targeted: whether it can reach a class, too.
        by_class: whether it makes a backward for every class that there is.
    """

    package: str
    name: str
    options: Callable[[Question], Mapping[str, Any]]
    norm: str | None = None
    targeted: bool = True
    by_class: bool = False

    def __str__(self) -> str:
        return f"{self.package} {self.name}"

    def suits(self, question: Question) -> bool:
        """Return whether it can be asked this, in a time that can be waited for."""
        return (
            self.norm in (None, question.norm)
            and (self.targeted or not question.targeted)
            and not (self.by_class and question.known > _FEW)
        )

    def answer(self, network: nn.Module, question: Question) -> Tensor:
        """Return its adversarial examples ``(N, C, H, W)``. The global random state is put back.

        Args:
            network: images in [0, 1] -> logits, which it may keep; it may also change it.
            question: what it is asked.

        Raises:
            Exception: whatever the other package raises.
        """
        package = imported(self.package)
        ask = _foolbox if self.package == "foolbox" else _torchattacks
        pairs = zip(torch.split(question.photographs, _BATCH), torch.split(question.classes, _BATCH), strict=True)
        with random_state_preserved(network), warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            found = [ask(package, self, network, question, x.clone(), classes.clone()) for x, classes in pairs]
        return torch.cat(found).detach().to(question.photographs)


def imported(package: str) -> Any:
    """Return a package, or None where it, or what it needs, is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return import_module(package)
        except ImportError:
            return None


def peers_of(attack: Attack) -> Sequence[Peer]:
    """Return the other implementations of an attack; none of one with momentum, which they don't have."""
    return () if getattr(attack, "momentum", 0) else _PEERS.get(type(attack), ())


def _foolbox(package: Any, peer: Peer, network: nn.Module, question: Question, x: Tensor, classes: Tensor) -> Tensor:
    model = package.PyTorchModel(network, bounds=(0, 1), device=x.device)
    kinds = package.criteria
    criterion = (kinds.TargetedMisclassification if question.targeted else kinds.Misclassification)(classes)
    attack = getattr(package.attacks, peer.name)(**peer.options(question))
    _, clipped, _ = attack(model, x, criterion, epsilons=question.eps)
    return cast(Tensor, clipped)


def _torchattacks(
    package: Any, peer: Peer, network: nn.Module, question: Question, x: Tensor, classes: Tensor
) -> Tensor:
    attack = getattr(package, peer.name)(network, **peer.options(question))
    if question.targeted:
        attack.set_mode_targeted_by_label(quiet=True)
    return cast(Tensor, attack(x, classes))


# -- their arguments for ours


def _nothing(q: Question) -> Mapping[str, Any]:
    return {}


def _pgd_foolbox(q: Question) -> Mapping[str, Any]:
    return {"abs_stepsize": q.alpha, "steps": q.iterations, "random_start": q.attack.start_at_random}


def _pgd_torchattacks(q: Question) -> Mapping[str, Any]:
    return {"eps": q.eps, "alpha": q.alpha, "steps": q.iterations, "random_start": q.attack.start_at_random}


def _apgd(q: Question) -> Mapping[str, Any]:
    loss = "dlr" if type(q.attack.objective).__name__ == "DLR" else "ce"
    return {"norm": _LETTERED[q.norm], "eps": q.eps, "steps": q.iterations, "loss": loss}


def _ddn(q: Question) -> Mapping[str, Any]:
    return {"init_epsilon": q.attack.init_norm, "steps": q.iterations, "gamma": q.attack.gamma}


def _deepfool(q: Question) -> Mapping[str, Any]:
    return {"steps": q.iterations, "candidates": q.attack.classes, "overshoot": q.attack.overshoot}


def _fmn(q: Question) -> Mapping[str, Any]:
    return {"steps": q.iterations, "max_stepsize": q.attack.alpha.lr, "gamma": q.attack.gamma.lr}


def _carlini_wagner(q: Question) -> Mapping[str, Any]:
    parts = q.attack.parts.at_most
    bisection = {"binary_search_steps": parts, "steps": max(q.iterations // parts, 1)}
    return {**bisection, "stepsize": q.attack.adam.lr.lr, "initial_const": q.attack.c}


def _square(q: Question) -> Mapping[str, Any]:
    return {"norm": _LETTERED[q.norm], "eps": q.eps, "n_queries": q.iterations, "p_init": q.attack.p}


_LETTERED = {"linf": "Linf", "l2": "L2"}
_PEERS: Mapping[type[Attack], Sequence[Peer]] = {
    FGSM: (
        Peer("foolbox", "LinfFastGradientAttack", _nothing, "linf", targeted=False),
        Peer("foolbox", "L2FastGradientAttack", _nothing, "l2", targeted=False),
        Peer("torchattacks", "FGSM", lambda q: {"eps": q.eps}, "linf"),
    ),
    PGD: (
        Peer("foolbox", "LinfProjectedGradientDescentAttack", _pgd_foolbox, "linf"),
        Peer("foolbox", "L2ProjectedGradientDescentAttack", _pgd_foolbox, "l2"),
        Peer("torchattacks", "PGD", _pgd_torchattacks, "linf"),
        Peer("torchattacks", "PGDL2", _pgd_torchattacks, "l2"),
    ),
    APGD: (Peer("torchattacks", "APGD", _apgd, targeted=False),),
    DDN: (Peer("foolbox", "DDNAttack", _ddn),),
    DeepFool: (
        Peer("foolbox", "LinfDeepFoolAttack", _deepfool, "linf", targeted=False),
        Peer("foolbox", "L2DeepFoolAttack", _deepfool, "l2", targeted=False),
        Peer(
            "torchattacks",
            "DeepFool",
            lambda q: {"steps": q.iterations, "overshoot": q.attack.overshoot},
            "l2",
            targeted=False,
            by_class=True,
        ),
    ),
    FMN: (Peer("foolbox", "LInfFMNAttack", _fmn, "linf"), Peer("foolbox", "L2FMNAttack", _fmn, "l2")),
    CarliniWagner: (Peer("foolbox", "L2CarliniWagnerAttack", _carlini_wagner),),
    Square: (Peer("torchattacks", "Square", _square),),
}
