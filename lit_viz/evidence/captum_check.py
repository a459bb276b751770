"""The cross-check of saliency maps by Captum: two gates a map, with negative controls."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lit_viz.attributions import Attribution, attribute
from lit_viz.classifiers import Classifier, load_classifier
from lit_viz.evidence.agreement import Agreement, Similarity, largest_difference, random_map
from lit_viz.evidence.captum_reference import Question, captum_map, fewer, formula_rounding
from lit_viz.evidence.randomization import draw_anew
from lit_viz.optim.bare import Network

#: Float32 maps that Captum makes besides its own, with the last bits of photograph and weights drawn anew.
_REDRAWN = 2
#: The formula is the same for any number of evaluations, and float64 is slow.
_FORMULA_EVALUATIONS = 16


def check_map(
    method: Attribution, classifier: Classifier, photograph: Tensor, target: int, seed: int, delivered: Tensor, n: int
) -> tuple[Agreement, Tensor] | None:
    """Hold a delivered map against Captum, elementwise.

    The formula is proven in float64, ours against Captum's on the original network. The delivered map is held against
    Captum's in float64, and may be off by twice what Captum's own float32 maps are: as it is, and with last bits drawn
    anew (at the kinks of a ReLU the last bit decides whether a pixel's gradient passes).

    Args:
        method: how the map was made; bound to the classifier.
        classifier: the network.
        photograph: ``(C, H, W)`` in [0, 1], as the network saw it.
        target: class index.
        seed: of the task.
        delivered: the map, float32 ``(C, H, W)`` or ``(1, H, W)``.
        n: evaluations that were made.

    Returns:
        the verdict and Captum's map in float64; None where Captum has no such method.
    """
    photograph = photograph.to(classifier.device)
    exact = Question(method, classifier, photograph[None].double(), target, seed, n)
    reference = captum_map(exact)
    if reference is None:
        return None
    single = replace(exact, x=photograph[None].float())
    own = [captum_map(question) for question in (single, *(single.redrawn(k) for k in range(1, 1 + _REDRAWN)))]
    few = fewer(exact, _FORMULA_EVALUATIONS)
    theirs = reference if few.evaluations == n else captum_map(few)
    ours, _ = attribute(
        method, _networks(method, classifier), exact.x, [target], evaluations=few.evaluations, seeds=[seed]
    )
    assert theirs is not None
    agreement = Agreement(
        formula=largest_difference(ours.cpu(), theirs),
        delivered=largest_difference(delivered[None], reference),
        captum_float32=max(largest_difference(one, reference) for one in own if one is not None),
        similarity=Similarity.of(delivered, reference[0]),
        controls=_controls(exact, delivered, reference[0]),
        rounding=formula_rounding(few),
    )
    return agreement, reference[0]


def _networks(method: Attribution, classifier: Classifier) -> Mapping[str, Network]:
    """Return our copies in float64, of which the plain one keeps the layers that the method reads."""
    return {
        name: classifier.fast(method.layers if name == "plain" else (), dtype=torch.float64, backprop=name)
        for name in method.networks
    }


def _controls(question: Question, delivered: Tensor, reference: Tensor) -> dict[str, Similarity]:
    """Return how alike maps are that must not agree: one of another class, of a randomized network, and noise."""
    other = (question.target + question.classifier.num_classes // 2) % question.classifier.num_classes
    cheap = fewer(replace(question, x=question.x.float()), 8)
    another = captum_map(replace(cheap, target=other))
    untrained = captum_map(replace(cheap, classifier=_randomized(question.classifier)))
    found = {"another class": another, "randomized network": untrained, "random map": random_map(reference[None])}
    return {name: Similarity.of(found_map[0], reference) for name, found_map in found.items() if found_map is not None}


def _randomized(classifier: Classifier) -> Classifier:
    """Return the classifier with weights that know nothing: each drawn anew, with the mean and spread of the old."""
    network = copy.deepcopy(classifier.original)
    for name, layer in network.named_modules():
        draw_anew(layer, name, seed=0)
    return load_classifier(
        network,
        labels=list(classifier.labels),
        mean=list(classifier.mean),
        std=list(classifier.std),
        size=classifier.size,
    )


def as_record(agreement: Agreement) -> dict[str, Any]:
    """Return the verdict in plain values, as in ``evidence.json``."""
    return {
        "passed": agreement.passed,
        "formula": {"difference": agreement.formula, "passed": agreement.formula_passed},
        "delivered": {
            "difference": agreement.delivered,
            "allowed": agreement.allowed,
            "captum_float32": agreement.captum_float32,
            "passed": agreement.delivered_passed,
        },
        "similarity": vars(agreement.similarity),
        "controls": {name: vars(similarity) for name, similarity in agreement.controls.items()},
    }
