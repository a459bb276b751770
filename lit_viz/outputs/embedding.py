"""Embeddings: the cosine similarity to reference images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lit_viz.errors import LitVizError, require
from lit_viz.images.listing import ARRAY_PREFIX
from lit_viz.images.rasters import read_image
from lit_viz.images.reading import PACKAGED_PREFIX, Fit
from lit_viz.images.sources import image_inputs
from lit_viz.networks.decisions import Decision
from lit_viz.networks.outputs import Output
from lit_viz.utils.formatting import pluralize


class Embedding(Output):
    """Cosine similarity of an image's embedding to the embeddings of reference images, ``(N, K)``.

    Several references are classes: the nearest is the decision. With one, the similarity is a number.

    Args:
        references: files, Pillow images, arrays or tensors, or a mapping of them by name.
        select: index or key of the return value, or a function of it, that gives the embeddings ``(N, D)``; by default
            the return value itself, or what Hugging Face calls ``image_embeds`` or ``pooler_output``.
        method: method of the network that computes embeddings, such as ``get_image_features``; by default its forward.
        fit: how references are fitted to the input: ``crop``, ``squash`` or ``pad``.

    Raises:
        LitVizError: there is no reference, or one can't be read.
    """

    unit = "cosine similarity"

    def __init__(
        self,
        references: Any,
        *,
        select: int | str | Callable[..., Any] | None = None,
        method: str | None = None,
        fit: Fit = "crop",
    ) -> None:
        listed = list(references.values()) if isinstance(references, Mapping) else references
        self._references = _listed_references(listed)
        self.references, self.select, self.method, self.fit = references, select, method, fit
        self._names = self._reference_names(references)
        self.decision: Decision = "number" if len(self._references) == 1 else "exclusive"
        self._embeddings: Tensor | None = None  # (K, D), of length 1

    def _reference_names(self, references: Any) -> tuple[str, ...]:
        if isinstance(references, Mapping):
            names = tuple(map(str, references))
            got = f"{len(self._references)} for {pluralize(len(names), 'name')}"
            require(len(names) == len(self._references), "references must have one image per name", got)
            return names
        numbered = []
        for index, reference in enumerate(self._references):
            name = f"reference {index}"
            if isinstance(reference, str):
                name = Path(reference.removeprefix(PACKAGED_PREFIX)).stem
            numbered.append(name)
        return tuple(numbered)

    @property
    def names(self) -> Sequence[str]:
        return self._names

    def call(self, network: Callable[..., Any], x: Tensor) -> Any:
        return call_method(network, self.method, x)

    def prepare(self, network: nn.Module, normalize: Callable[[Tensor], Tensor], size: tuple[int, int]) -> Embedding:
        prepared = copy.copy(self)
        embeddings = []
        for reference in self._references:
            pixels = read_image(reference, size, self.bands, self.fit).pixels[None]
            embeddings.append(unit_length(embeddings_in(self.returned(network, normalize(pixels)), 1, self.select)))
        prepared._embeddings = torch.cat(embeddings)
        return prepared

    def scores(self, returned: Any, images: int) -> Tensor:
        assert self._embeddings is not None
        own = unit_length(embeddings_in(returned, images, self.select))
        return own @ self._embeddings.to(own).T


def _listed_references(references: Any) -> list[str | Tensor]:
    """Return files and pictures ``(C, H, W)`` in the order of the references."""
    if isinstance(references, list) and references and isinstance(references[0], list):  # as a configuration has them
        values = torch.tensor(references)
        references = values if values.is_floating_point() else values.byte()
    pictures, names = image_inputs(references)
    remaining = iter(pictures)
    listed: list[str | Tensor] = []
    for name in names:
        listed.append(next(remaining) if name.startswith(ARRAY_PREFIX) else name)
    return listed


def call_method(network: Callable[..., Any], method: str | None, x: Tensor) -> Any:
    """Call a method of a network, or its forward, on images.

    Raises:
        LitVizError: the network has no such method.
    """
    if method is None:
        return network(x)
    if not hasattr(network, method):
        raise LitVizError(f"the network has no method {method!r}: give method, the name of one that takes images")
    return getattr(network, method)(x)


def embeddings_in(returned: Any, images: int, select: int | str | Callable[..., Any] | None = None) -> Tensor:
    """Return the embeddings ``(N, D)`` in a network's return value.

    Raises:
        LitVizError: there are none.
    """
    embeddings = returned
    if callable(select):
        embeddings = select(returned)
    elif isinstance(select, str) and hasattr(returned, select):
        embeddings = getattr(returned, select)
    elif select is not None:
        embeddings = returned[select]
    elif not isinstance(returned, Tensor):
        for name in ("image_embeds", "pooler_output"):
            if getattr(returned, name, None) is not None:
                embeddings = getattr(returned, name)
                break
        else:
            embeddings = returned[0] if isinstance(returned, (tuple, list)) and returned else None
    if not isinstance(embeddings, Tensor) or embeddings.ndim != 2 or len(embeddings) != images:
        got = f"shape {tuple(embeddings.shape)}" if isinstance(embeddings, Tensor) else f"a {type(returned).__name__}"
        raise LitVizError(f"embeddings must be a tensor (N, D), got {got}: give select, a function of the return value")
    return embeddings


def unit_length(embeddings: Tensor) -> Tensor:
    """Return embeddings ``(N, D)`` of length 1."""
    return functional.normalize(embeddings, dim=1)
