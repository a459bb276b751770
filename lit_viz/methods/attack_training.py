"""What the methods that are built around an attack share: it is their step rule, and says what is maximized."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_viz.attacks import Attack
from lit_viz.classifiers import Classifier
from lit_viz.engine.evaluation import Evaluator
from lit_viz.images.fitting import Fit
from lit_viz.methods.photographs import PhotographTraining
from lit_viz.randomness import Draws


class AttackTraining(PhotographTraining):
    """Trains what an attack moves.

    Args:
        classifier: the frozen network.
        attack: how it moves.
        views: classifier inputs an iteration; each costs one evaluation.
        fit, images: see :class:`~lit_viz.methods.photographs.PhotographTraining`.
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
            iterations=attack.iterations if iterations is None else iterations,
            slots=slots,
            log_at=log_at,
            curve_at=curve_at,
            views=views,
        )
        self.attack = attack

    def prepare(self, device: torch.device) -> None:
        """Make the fast copy of the network."""
        self._evaluator = Evaluator(
            networks={"plain": self.classifier.fast((), device, self.number)},
            decode=lambda x: x,
            look=self.shown,
            objective=self.attack.objective,
            normalize=self.classifier.normalize,
            views=self.views,
            processes=self.processes,
        )

    def shown(self, x: Tensor, draws: Draws) -> Tensor:
        """Return what the network is shown of ``x`` ``(N, C, H, W)``, a row a draw: itself."""
        return x
