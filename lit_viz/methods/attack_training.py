"""Base class of the methods whose step rule is an attack."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_viz.attacks import Attack, name_of
from lit_viz.classifiers import Classifier
from lit_viz.classifiers.fast import check_residual_gradient
from lit_viz.engine.evaluation import Evaluator
from lit_viz.images.fitting import Fit
from lit_viz.methods.photographs import PhotographTraining
from lit_viz.rng import Draws
from lit_viz.utils.formatting import pluralize


class AttackTraining(PhotographTraining):
    """Train images or perturbations by an attack.

    Args:
        classifier: frozen classifier.
        attack: step rule and objective.
        views: network inputs per iteration.
        fit, images: see :class:`~lit_viz.methods.photographs.PhotographTraining`.
        residual_gradient: factor in (0, 1] of the gradient through residual branches. Less than 1 improves the transfer
            to other networks (Wu et al. 2020, "Skip Connections Matter", arXiv:2002.05990) and costs iterations.
        iterations: maximum number of updates; by default that of the attack.
        slots, log_at, curve_at: see :class:`~lit_viz.engine.method.Method`.

    Raises:
        LitVizError: an argument is invalid.
    """

    def __init__(
        self,
        classifier: Classifier,
        attack: Attack,
        views: int,
        *,
        fit: Fit = "crop",
        images: Tensor | None = None,
        residual_gradient: float = 1.0,
        iterations: int | None = None,
        slots: int = 8,
        log_at: str = "geometric",
        curve_at: str = "every:1",
    ) -> None:
        super().__init__(
            classifier,
            attack,
            fit=fit,
            images=images,
            iterations=attack.iterations if iterations is None or attack.fixed else iterations,
            slots=slots,
            log_at=log_at,
            curve_at=curve_at,
            views=views,
        )
        self.attack = attack
        if attack.fixed and iterations not in (None, attack.iterations):
            count = pluralize(attack.iterations, "update")
            self.notes.append(f"{name_of(attack)} takes {count}; --iterations has no effect")
        self.notes += attack.restart_schedule.notes(self.iterations)
        self.residual_gradient = check_residual_gradient(residual_gradient)

    @property
    def backwards_per_step(self) -> float:
        """Upper bound of the mean number of backwards per step."""
        return self.attack.backwards_per_step

    def prepare(self, device: torch.device) -> None:
        """Create the fast copy of the network."""
        self._evaluator = Evaluator(
            {"plain": self.make_network((), device, residual_gradient=self.residual_gradient)},
            self.attack.objective,
            self.classifier.normalize,
            make_inputs=self.make_inputs,
            views=self.views,
            ranks=self.ranks,
        )

    def make_inputs(self, x: Tensor, draws: Draws) -> Tensor:
        """Return the network inputs of ``x`` ``(N, C, H, W)``, one row per draw; ``x`` itself by default."""
        return x
