"""From what is trained to its score and gradient: decode, views, network, objective, priors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lit_viz.classifiers import FrozenNetwork
from lit_viz.engine.distributed import Part, RankGroup
from lit_viz.engine.slots import Slots
from lit_viz.errors import LitVizError, check_shape
from lit_viz.images.priors import Prior
from lit_viz.objectives import Objective, Outputs
from lit_viz.objectives.base import evaluate_objective
from lit_viz.optim import Evaluation
from lit_viz.rng import Draws
from lit_viz.utils.device import to_device


@dataclass(frozen=True)
class Evaluator:
    """Scores the images in the slots.

    Attributes:
        networks: the frozen classifier's copies by name; ``plain`` is the one that is asked unless another is named.
        decode: ``(N, ...)`` trained -> images ``(N, C, H, W)``.
        look: images and draws -> ``(N * views, C, h, w)`` classifier inputs; rows n * views ... belong to image n.
        objective: what is maximized.
        normalize: images -> images as the classifier sees them, for the priors.
        priors: what is subtracted from the score.
        views: classifier inputs a task and evaluation: views of one image, or of each image of its group.
        layers: whose activations are read besides those that the objective reads.
        ranks: who evaluate the same images together, a part of the inputs each.
        group: images that a task owns; ``decode`` gives them as rows.
    """

    networks: Mapping[str, FrozenNetwork]
    decode: Callable[[Tensor], Tensor]
    look: Callable[[Tensor, Draws], Tensor]
    objective: Objective
    normalize: Callable[[Tensor], Tensor]
    priors: Sequence[Prior] = ()
    views: int = 1
    layers: Sequence[str] = ()
    ranks: RankGroup = field(default_factory=RankGroup)
    group: int = 1

    def __call__(
        self, x: Tensor, slots: Slots, rows: Sequence[int], *, gradient: bool = True, network: str = "plain"
    ) -> Evaluation:
        """Evaluate ``x``, row m of which belongs to slot ``rows[m]``, with the draws of its iteration, and count it.

        Returns:
            Score, mean logits, activations and the named terms of the score; with ``gradient`` the slopes, too.
        """
        part = self.ranks.part(len(rows), self.views)
        with torch.set_grad_enabled(gradient):
            x = x.detach().requires_grad_(gradient)
            images = self.decode(x)
            logits, activations = self._ask(images, slots, rows, network, part)
            each = self.views // self.group
            members = to_device([m for _ in rows for m in range(self.group) for _ in range(each)], x.device)
            goals = {**slots.goals(rows, x.device, self.views), "members": members}

            def over_views(inputs: Tensor) -> Tensor:
                return self._over_views(inputs if part is None else part.only_counted(inputs))

            scores = evaluate_objective(
                self.objective, Outputs(logits, activations=activations, inputs=self.views, **goals)
            )
            if gradient and not scores.requires_grad:
                raise LitVizError(f"the scores of {type(self.objective).__name__} have no gradient: don't detach them")
            score = objective = over_views(scores)
            terms = {"objective": objective}
            if self.priors:
                normalized = self.normalize(images)
                for prior in self.priors:  # every process knows them; the sum over all counts each once
                    penalties = prior(normalized)
                    check_shape(prior, penalties, images.shape[:1], meaning="a penalty for each image")
                    term = penalties.view(-1, self.group).mean(1) / self._sharers
                    terms[prior.name] = terms.get(prior.name, 0) + term  # there may be two of a name
                    score = score - term
        slots.count_evaluations(rows, forwards=self.views)

        def pay(asked: Sequence[bool] | None) -> None:
            paid = rows if asked is None else [n for n, wanted in zip(rows, asked, strict=True) if wanted]
            slots.count_evaluations(paid, backwards=self.views)

        return Evaluation(
            x,
            score,
            logits,
            metrics=terms,
            activations=activations,
            over_views=over_views,
            over_processes=self.ranks.sum,
            pay=pay,
        )

    @property
    def _sharers(self) -> int:
        return self.ranks.size if self.ranks.shares_views else 1

    def _ask(
        self, images: Tensor, slots: Slots, rows: Sequence[int], network: str, part: Part | None
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return logits and activations of all inputs; zeros for those that another process evaluates."""
        draws = slots.draws(rows, self.views, images.device)
        layers = (*self.objective.layers, *self.layers)
        if part is not None:
            images = images if self.views > 1 else images[part.inputs.to(images.device)]
            draws = draws.rows(part.inputs.tolist())
        logits, activations = self.networks[network](self.look(images, draws), layers=layers)
        if part is None:
            return logits, activations
        return part.placed(logits), {name: part.placed(activation) for name, activation in activations.items()}

    def _over_views(self, rows: Tensor) -> Tensor:
        return rows.view(-1, self.views, *rows.shape[1:]).mean(1)
