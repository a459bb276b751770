"""LeGrad: gradient of every block's class score at its attention map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_viz.attributions.attention import AttentionMap
from lit_viz.attributions.tokens import TokenGrid
from lit_viz.errors import require
from lit_viz.networks import Network
from lit_viz.networks.layers import block_logits_of, layouts
from lit_viz.objectives import Logit, Outputs
from lit_viz.optim import Evaluate


class LeGrad(AttentionMap):
    """``sum over l of relu(d s_l / d A_l)``, averaged over heads and queries.
    Bousselham et al. 2024, arXiv:2404.03214, section 3.

    ``A_l`` is the attention map of block l, and ``s_l`` the score of its mean token: the final norm and the head are
    applied to the mean over all tokens of its output. The map is not normalized.

    Args:
        grid: see :class:`~lit_viz.attributions.attention.AttentionMap`.
    """

    title = "LeGrad"

    def __init__(self, grid: TokenGrid = None) -> None:
        super().__init__(grid)
        self.objective: _BlockLogits = _BlockLogits(())

    def bind(self, network: Network) -> None:
        super().bind(network)
        layouts_by_name = layouts(network)
        for block in self.blocks:
            shape: Sequence[int] = ()
            if block in layouts_by_name:
                shape = layouts_by_name[block].shape
            got = f"{shape or 'no output'} from block {block!r} of {network.name}"
            valid = len(shape) == 2 and shape[0] == self._tokens
            require(valid, f"LeGrad requires blocks of {self._tokens} tokens", got, hint="use attention_gradient")
        logits = tuple(map(block_logits_of, self.blocks))
        self.layers = (*self.attention, *logits)
        self.objective = _BlockLogits(logits, self.objective.gamma)

    def relevance(self, x: Tensor, slots: Tensor, evaluate: Evaluate) -> Tensor:
        gradients = evaluate(x, slots=slots).gradients_at(self.attention)
        relevances = [gradient.to(x.dtype).relu().mean((1, 2)) for gradient in gradients.values()]
        return torch.stack(relevances).sum(0)


class _BlockLogits(Logit):
    """Sum over blocks of the logit of the class. Gradients stay within a block."""

    def __init__(self, layers: Sequence[str], gamma: float = 1.0) -> None:
        super().__init__(gamma=gamma)
        self.layers = tuple(layers)

    def __call__(self, outputs: Outputs) -> Tensor:
        logits = torch.stack([outputs.activations[layer] for layer in self.layers]).sum(0)
        return self._pick(logits, outputs)
