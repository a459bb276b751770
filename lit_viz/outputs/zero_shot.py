"""Zero-shot classification: the similarity of an image to texts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lit_viz.errors import LitVizError, require
from lit_viz.networks.outputs import Output
from lit_viz.outputs.embedding import call_method, embeddings_in, unit_length

#: Methods that compute embeddings of images and of texts: of transformers, of open_clip.
_METHODS = (("get_image_features", "get_text_features"), ("encode_image", "encode_text"))


class ZeroShot(Output):
    """Logits of texts for an image, ``(N, K)``: the scaled cosine similarity of their embeddings (CLIP: Radford et al.
    2021, arXiv:2103.00020; SigLIP adds a bias: Zhai et al. 2023, arXiv:2303.15343).

    The network is a CLIP or SigLIP of transformers or open_clip; its scale and bias are read from ``logit_scale`` and
    ``logit_bias``.

    Args:
        classes: K names of the classes.
        tokenizer: function of a list of texts, as of transformers (returns a mapping of tensors) or open_clip (returns
            a tensor).
        templates: prompts with ``{}`` for the name; the embeddings of several are averaged.
        text_embeddings: embeddings ``(K, D)`` of the classes, instead of a tokenizer.
        method: method of the network that computes embeddings of images; found by default.
        scale: factor of the similarity, if the network has none; 100 by default.

    Raises:
        LitVizError: neither a tokenizer nor embeddings are given, or their number is not that of the classes.
    """

    unit = "logit"

    def __init__(
        self,
        classes: Sequence[str],
        *,
        tokenizer: Callable[..., Any] | None = None,
        templates: Sequence[str] = ("a photo of a {}.",),
        text_embeddings: Any = None,
        method: str | None = None,
        scale: float | None = None,
    ) -> None:
        require(len(classes) >= 2, "ZeroShot must have at least 2 classes", len(classes))
        if (tokenizer is None) == (text_embeddings is None):
            raise LitVizError("ZeroShot requires a tokenizer or text_embeddings, one of them")
        require(templates and all("{}" in text for text in templates), "templates must contain {}", list(templates))
        self.classes, self.tokenizer, self.templates = tuple(classes), tokenizer, tuple(templates)
        self.text_embeddings, self.method, self.scale = text_embeddings, method, scale
        self._embeddings: Tensor | None = None  # (K, D), of length 1

    @property
    def names(self) -> Sequence[str]:
        return self.classes

    def call(self, network: Callable[..., Any], x: Tensor) -> Any:
        method = self.method or next((image for image, _ in _METHODS if hasattr(network, image)), None)
        scale = getattr(network, "logit_scale", None)
        bias = getattr(network, "logit_bias", None)
        return call_method(network, method, x), scale, bias

    def prepare(self, network: nn.Module, normalize: Callable[[Tensor], Tensor], size: tuple[int, int]) -> ZeroShot:
        prepared = copy.copy(self)
        if self.text_embeddings is not None:
            embeddings = torch.as_tensor(self.text_embeddings)
            valid = embeddings.ndim == 2 and len(embeddings) == len(self.classes)
            require(valid, f"text_embeddings must be ({len(self.classes)}, D)", tuple(embeddings.shape))
            prepared._embeddings = unit_length(embeddings.detach())
        else:
            prepared._embeddings = self._embed_classes(network, normalize)
        return prepared

    def _embed_classes(self, network: nn.Module, normalize: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the mean embeddings of the prompts of each class ``(K, D)``, of length 1."""
        assert self.tokenizer is not None
        embed = next((getattr(network, text) for _, text in _METHODS if hasattr(network, text)), None)
        if embed is None:
            raise LitVizError("the network can't embed texts: give text_embeddings")
        device = next(network.parameters()).device
        means = []
        for name in self.classes:
            prompts = [template.format(name) for template in self.templates]
            tokens = _tokens(self.tokenizer, prompts, device)
            returned = embed(**tokens) if isinstance(tokens, dict) else embed(tokens)
            embeddings = unit_length(embeddings_in(returned, len(prompts)))
            means.append(embeddings.mean(0))
        return unit_length(torch.stack(means))

    def scores(self, returned: Any, images: int) -> Tensor:
        assert self._embeddings is not None
        features, scale, bias = returned
        own = unit_length(embeddings_in(features, images))
        factor: float | Tensor = 100.0 if self.scale is None else self.scale
        if self.scale is None and scale is not None:
            factor = torch.as_tensor(scale).detach().exp().to(own)
        logits = factor * (own @ self._embeddings.to(own).T)
        return logits if bias is None else logits + torch.as_tensor(bias).detach().to(own)


def _tokens(tokenizer: Callable[..., Any], prompts: Sequence[str], device: torch.device) -> Any:
    """Return the tokens of prompts on a device: a mapping for transformers, a tensor for open_clip."""
    try:
        tokens = tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt")
    except TypeError:  # open_clip's takes the texts alone
        tokens = tokenizer(list(prompts))
    if isinstance(tokens, Tensor):
        return tokens.to(device)
    return {name: torch.as_tensor(value).to(device) for name, value in dict(tokens).items()}
