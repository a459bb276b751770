"""Several images of one task, told apart: what else is there that the channel, or the class, looks for?"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.objectives.base import Outputs
from lit_viz.objectives.layers import LayerObjective
from lit_viz.utils.device import to_list


class Diversity(LayerObjective):
    """Minus the likeness of the images of a group: the mean cosine similarity of their activations' Gram matrices, over
    all pairs (Olah, Mordvintsev and Schubert 2017, "Feature Visualization", section Diversity).

    With ``a`` ``(C, P)`` the activation of an image at P places, ``a a^T`` says which channels go together: the style
    of the image. Views of the same number are compared. Use it beside an objective: ``Channel(layer) +
    Diversity(layer)``.

    Args:
        layer, axis: see :class:`~lit_viz.objectives.layers.LayerObjective`.
    """

    couples = True

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return for each input minus its mean likeness to the others of its group ``(M,)``, in [-1, 1].

        Raises:
            LitVizError: a task owns one image only.
        """
        members: list[int] = [] if outputs.members is None else to_list(outputs.members)
        if not any(members):
            raise LitVizError("Diversity tells the images of a group apart: give --model.group 2 or more.")
        group, views = max(members) + 1, members.index(1)
        a = self.maps(outputs).flatten(2)
        gram = torch.nn.functional.normalize((a @ a.transpose(1, 2)).flatten(1), dim=1)
        gram = gram.view(-1, group, views, gram.shape[1])
        likeness = torch.einsum("tgvi,thvi->tghv", gram, gram)
        others = likeness.sum(2) - likeness.diagonal(dim1=1, dim2=2).movedim(-1, 1)
        return (others / (1 - group)).flatten()
