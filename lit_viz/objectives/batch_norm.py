"""What batch norms remember of the training images, as something to come near to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_viz.classifiers import Classifier
from lit_viz.classifiers.layers import statistics_of
from lit_viz.classifiers.layouts import layouts
from lit_viz.errors import LitVizError
from lit_viz.objectives.base import Objective, Outputs


class BatchNormStatistics(Objective):
    """Minus the distance of a task's inputs from the training images, as the network's batch norms know them
    (DeepInversion, Yin et al. 2020, arXiv:1912.08795, R_feature):

        - sum_l w_l (||mean_l - running_mean_l||_2 + ||variance_l - running_var_l||_2)

    with mean and variance of what batch norm l is given, by channel, over all places and all inputs of the task; no
    other task's. It is a term beside an objective, small enough to be worth a few logits: how large the distance is
    depends on the network (EfficientNet-Lite0: 6000 for eight photographs together, 10000 for one of them, 20000 for
    noise), as in ``Logit() + 0.001 * BatchNormStatistics()``.

    Statistics over a few views are far from those over many images whatever the views show, and then the term may do
    harm: give it many (``--model.views``). A batch norm that is watched isn't folded, and its input is passed over
    twice more, so that an evaluation takes half as long again.

    Args:
        first: weight of the first batch norm; the others have 1.
    """

    couples = True

    def __init__(self, first: float = 10.0) -> None:
        if not first >= 0:
            raise LitVizError(f"the weight of the first batch norm is 0 or more, not {first}")
        self.first = first
        self._kept: dict[str, Tensor] = {}

    def bind(self, classifier: Classifier) -> None:
        """Take over what the batch norms that a forward calls have kept, in the order of the forward.

        Raises:
            LitVizError: the network has none.
        """
        norms = _called_batch_norms(classifier)
        if not norms:
            raise LitVizError(
                f"{classifier.name} has no batch norms that keep statistics: leave BatchNormStatistics out, "
                "or take another classifier such as efficientnet_lite0"
            )
        self._kept = {statistics_of(name): kept for name, kept in norms.items()}
        self.layers = tuple(self._kept)

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return minus the distance of its task for each input ``(M,)``, at most 0."""
        distances = torch.stack([self._distances(outputs, name) for name in self.layers])
        weights = torch.ones_like(distances[:, :1])
        weights[0] = self.first
        return -(weights * distances).sum(0).repeat_interleave(outputs.inputs)

    def _distances(self, outputs: Outputs, name: str) -> Tensor:
        """Return ``||mean - running_mean|| + ||variance - running_var||`` of each task ``(M / inputs,)``."""
        moments = outputs.activations[name]
        means, variances = moments.view(-1, outputs.inputs, *moments.shape[1:]).unbind(2)
        mean, spread = means.mean(1), means.var(1, correction=0)
        seen = torch.stack([mean, variances.mean(1) + spread], dim=1)
        distances: Tensor = torch.linalg.vector_norm(seen - self._kept[name].to(seen), dim=2).sum(1)
        return distances


def _called_batch_norms(classifier: Classifier) -> dict[str, Tensor]:
    """Return the running mean and variance ``(2, C)`` of the batch norms by name, in the order in which a forward calls
    them."""
    modules = {name: classifier.original.get_submodule(name) for name in layouts(classifier)}
    return {
        name: torch.stack([module.running_mean, module.running_var]).detach().clone()
        for name, module in modules.items()
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None
    }
