"""Score and gradient of images: decode, views, network, objective and priors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress

import torch
from torch import Tensor

from lit_viz.engine.ranks import InputShard, RankGroup
from lit_viz.engine.slots import Slots
from lit_viz.errors import LitVizError, check_shape
from lit_viz.images.priors import Prior
from lit_viz.networks import FrozenNetwork
from lit_viz.networks.decisions import EXCLUSIVE, DecisionRule
from lit_viz.networks.outputs import FINAL
from lit_viz.objectives import Objective, Outputs
from lit_viz.objectives.base import evaluate_objective
from lit_viz.optim import Evaluation
from lit_viz.rng import Draws
from lit_viz.utils.device import to_device


@dataclass(frozen=True)
class Evaluator:
    """Evaluation of the images in the slots.

    Attributes:
        networks: network copies by name.
        objective: objective to maximize.
        normalize: normalization of the network, for the priors.
        decode: parameters ``(N, ...)`` -> images ``(N * group, C, H, W)``.
        make_inputs: images and draws -> network inputs ``(N * views, C, h, w)``, ordered by task and view.
        priors: penalties that are subtracted from the score.
        views: network inputs per task.
        layers: layers to read in addition to the objective's.
        ranks: ranks that share the inputs.
        group: images per task.
        rule: makes the logits those of the decision on the goal of each task; by default they are the scores.
        view_goals: goals of each input that replace the goals of the tasks, as in :class:`~lit_viz.objectives.Outputs`.
    """

    networks: Mapping[str, FrozenNetwork]
    objective: Objective
    normalize: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor] = lambda x: x
    make_inputs: Callable[[Tensor, Draws], Tensor] = lambda images, draws: images
    priors: Sequence[Prior] = ()
    views: int = 1
    layers: Sequence[str] = ()
    ranks: RankGroup = field(default_factory=RankGroup)
    group: int = 1
    rule: DecisionRule = EXCLUSIVE
    view_goals: Mapping[str, Tensor] = field(default_factory=dict)

    def __call__(
        self, x: Tensor, slots: Slots, rows: Sequence[int], *, gradient: bool = True, network: str = "plain"
    ) -> Evaluation:
        """Evaluate ``x`` with the draws of its iteration, and count it; row m belongs to slot ``rows[m]``.

        Raises:
            LitVizError: the objective is not differentiable, or a prior returns a wrong shape.
        """
        shard = self.ranks.shard(len(rows), self.views)
        inputs = 2 * self.views if network == "rescale" else self.views  # a pair of an image and its baseline

        def average_views(values: Tensor) -> Tensor:
            if shard is not None:
                values = shard.mask(values)
            return values.view(len(values) // self.views, self.views, *values.shape[1:]).mean(1)

        def count_backward(computed: Sequence[bool] | None) -> None:
            counted = rows if computed is None else list(compress(rows, computed))
            slots.count_evaluations(counted, backwards=inputs)

        with torch.set_grad_enabled(gradient):
            x = x.detach().requires_grad_(gradient)
            images = self.decode(x)
            logits, activations = self._forward(images, slots, rows, network, shard)
            goals = slots.goals(rows, x.device, self.views)
            goals["members"] = to_device(self._members() * len(rows), x.device)
            goals |= self.view_goals
            final = activations.get(FINAL)
            logits = self.rule.logits(logits, goals, final)
            if final is not None:
                final = self.rule.logits(final, goals)
            outputs = Outputs(logits, activations=activations, inputs=self.views, **goals)
            scores = evaluate_objective(self.objective, outputs)
            if gradient and not scores.requires_grad:
                raise LitVizError(f"{type(self.objective).__name__} must return differentiable scores, got a constant")
            score = average_views(scores)
            metrics = {"objective": score}
            for name, penalty in self._penalties(images):
                metrics[name] = metrics.get(name, 0) + penalty
                score = score - penalty
        slots.count_evaluations(rows, forwards=inputs)
        return Evaluation(
            x,
            score,
            logits,
            final=final,
            metrics=metrics,
            activations=activations,
            average_views=average_views,
            sum_over_ranks=self.ranks.sum,
            on_backward=count_backward,
        )

    def _members(self) -> list[int]:
        """Return the index in the group of the image of each view of a task."""
        members: list[int] = []
        for member in range(self.group):
            members += [member] * (self.views // self.group)
        return members

    def _penalties(self, images: Tensor) -> list[tuple[str, Tensor]]:
        """Return the name and the mean penalty per task ``(N,)`` of each prior.

        Every rank computes all of them, so each contributes its share of the sum over the ranks.
        """
        if not self.priors:
            return []
        normalized = self.normalize(images)
        shares = 1
        if self.ranks.shares_views:
            shares = self.ranks.size
        penalties = []
        for prior in self.priors:
            penalty = prior(normalized)
            check_shape(prior, penalty, images.shape[:1], meaning="a penalty for each image")
            penalties.append((prior.name, penalty.view(-1, self.group).mean(1) / shares))
        return penalties

    def _forward(
        self, images: Tensor, slots: Slots, rows: Sequence[int], network: str, shard: InputShard | None
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return logits and activations of all inputs, with zeros for inputs of other ranks."""
        draws = slots.draws(rows, self.views, images.device)
        layers = (*self.objective.layers, *self.layers)
        if shard is None:
            return self._evaluate(self.networks[network], self.make_inputs(images, draws), layers)
        if self.views == 1:  # the ranks share the rows
            images = images[shard.inputs.to(images.device)]
        inputs = self.make_inputs(images, draws.rows(shard.inputs.tolist()))
        logits, activations = self._evaluate(self.networks[network], inputs, layers)
        return shard.scatter(logits), {name: shard.scatter(activation) for name, activation in activations.items()}

    def _evaluate(
        self, network: FrozenNetwork, inputs: Tensor, layers: Sequence[str]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return logits and activations; no logits ``(N, 0)`` if the objective reads none, after a shorter forward."""
        if self.objective.reads_logits or network.scale.dtype == torch.float16:  # whose gradients are scaled
            logits, activations = network(inputs, layers=layers)
            return logits, activations
        return inputs.new_zeros(len(inputs), 0), network.activations(inputs, layers)
