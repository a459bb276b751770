"""What the methods that are built around an attack share: it is their step rule, and says what is maximized."""

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
    """Trains what an attack moves.

    Args:
        classifier: the frozen network.
        attack: how it moves.
        views: classifier inputs an iteration; each costs one evaluation.
        fit, images: see :class:`~lit_viz.methods.photographs.PhotographTraining`.
        residual_gradient: of the gradient that comes back through the network's residual branches so much is kept. Less
            than 1 makes examples that fool more of other networks (Wu et al. 2020, "Skip Connections Matter",
            arXiv:2002.05990), and costs iterations.
        iterations: updates at most; the attack's own number unless given.
        slots, log_at, curve_at: see :class:`~lit_viz.engine.method.Method`.

    Raises:
        LitVizError: for values that make no run, in one sentence.
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
            own = pluralize(attack.iterations, "update")
            self.notes += [
                f"{name_of(attack)} takes its {own}: --iterations is for attacks that may take more or fewer"
            ]
        self.notes += attack.restart_schedule.notes(self.iterations)
        self.residual_gradient = check_residual_gradient(residual_gradient)

    @property
    def backwards_per_step(self) -> float:
        """How many backwards an update makes on the mean, at most."""
        return self.attack.backwards_per_step

    def prepare(self, device: torch.device) -> None:
        """Make the fast copy of the network."""
        network = self.frozen((), device, residual_gradient=self.residual_gradient)
        self._evaluator = Evaluator(
            networks={"plain": network},
            decode=lambda x: x,
            look=self.shown,
            objective=self.attack.objective,
            normalize=self.classifier.normalize,
            views=self.views,
            ranks=self.ranks,
        )

    def shown(self, x: Tensor, draws: Draws) -> Tensor:
        """Return what the network is shown of ``x`` ``(N, C, H, W)``, a row a draw: itself."""
        return x
