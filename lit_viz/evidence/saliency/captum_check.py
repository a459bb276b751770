"""The cross-check of saliency maps by Captum: two gates a map, with negative controls."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lit_viz.attributions import Attribution, attribute
from lit_viz.classifiers import Classifier, FrozenNetwork, load_classifier
from lit_viz.errors import LitVizError
from lit_viz.evidence.saliency.agreement import UNDECIDED, Agreement, Similarity, largest_difference, random_map
from lit_viz.evidence.saliency.captum_reference import Question, captum_map, fewer, formula_rounding
from lit_viz.evidence.saliency.randomization import randomize_layer
from lit_viz.optim.evaluation import Network

#: Float32 maps that Captum makes besides its own, with the last bits of photograph and weights drawn anew; and how many
#: more where those don't allow the delivered one, with more bits, since the errors of many layers add up: a kink that
#: is met once in ten maps may be met in the delivered one alone.
_REDRAWN, _MORE, _MORE_STEPS = 2, 8, 16
#: What is added to a photograph, at most, where equal neighbours may tie: then rounding chooses between them in
#: float64, too, and the formula can only be told beside.
_UNTIED = 1e-3
#: The formula is the same for any number of evaluations, and float64 is slow.
_FORMULA_EVALUATIONS = 16


def check_map(
    method: Attribution,
    classifier: Classifier,
    photograph: Tensor,
    target: int,
    seed: int,
    delivered: Tensor,
    n: int,
    untrained: Callable[[], Classifier] | None = None,
) -> tuple[Agreement, Tensor] | None:
    """Hold a delivered map against Captum, elementwise.

    The formula is proven in float64, ours against Captum's on the original network. The delivered map is held against
    Captum's in float64, and may be off by twice what Captum's own float32 maps are: as it is, and with last bits drawn
    anew (at the kinks of a ReLU the last bit decides whether a pixel's gradient passes). Where the formula seems to
    differ, it is told from the photograph with a little noise: equal neighbours tie in a max-pooling.

    Args:
        method: how the map was made; bound to the classifier.
        classifier: the network.
        photograph: ``(C, H, W)`` in [0, 1], as the network saw it.
        target: class index.
        seed: of the task.
        delivered: the map, float32 ``(C, H, W)`` or ``(1, H, W)``.
        n: evaluations that were made.
        untrained: returns the classifier :func:`randomized`, for a control; it is made unless given.

    Returns:
        the verdict and Captum's map in float64; None where Captum has no such method.

    Raises:
        LitVizError: Captum's own float32 maps differ so much that they decide nothing; the method can't be asked.
    """
    if classifier.fast().draws:
        raise LitVizError("not checked, as the network draws random numbers, so that no two of its maps are alike")
    photograph = photograph.to(classifier.device)
    exact = Question(method, classifier, photograph[None].double(), target, seed, n)
    reference = captum_map(exact)
    if reference is None:
        return None
    single = replace(exact, x=photograph[None].float())
    own = [captum_map(question) for question in (single, *(single.redrawn(k) for k in range(1, 1 + _REDRAWN)))]
    few = fewer(exact, _FORMULA_EVALUATIONS)
    networks = _networks(few)
    agreement = Agreement(
        formula=_formula(few, networks, reference if few.evaluations == n else None),
        delivered=largest_difference(delivered[None], reference),
        captum_float32=max(largest_difference(one, reference) for one in own if one is not None),
        similarity=Similarity.of(delivered, reference[0]),
        controls=_controls(exact, reference[0], untrained or partial(randomized, classifier)),
        rounding=formula_rounding(few),
    )
    if not agreement.formula_passed:
        untied = replace(few, x=(few.x + _UNTIED * (_noise(few.x) - 0.5)).clamp(0, 1))
        agreement = replace(agreement, formula=_formula(untied, networks, None))
    if not agreement.delivered_passed and agreement.delivered < UNDECIDED:
        more = [captum_map(single.redrawn(k, _MORE_STEPS)) for k in range(1 + _REDRAWN, 1 + _REDRAWN + _MORE)]
        largest = max(largest_difference(one, reference) for one in more if one is not None)
        agreement = replace(agreement, captum_float32=max(agreement.captum_float32, largest))
    if not agreement.decided:
        raise LitVizError(
            f"not decided, as Captum's own float32 maps differ by {agreement.captum_float32:.0%} (flat areas, kinks)"
        )
    return agreement, reference[0]


def _noise(like: Tensor) -> Tensor:
    return torch.rand(like.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like)


def _formula(question: Question, networks: Mapping[str, Network], theirs: Tensor | None) -> float:
    """Return by how much our formula differs from Captum's map, which is made unless it is known."""
    theirs = captum_map(question) if theirs is None else theirs
    ours, _ = attribute(
        question.method,
        networks,
        question.x,
        [question.target],
        evaluations=question.evaluations,
        seeds=[question.seed],
    )
    assert theirs is not None
    return largest_difference(ours.cpu(), theirs)


def _networks(question: Question) -> Mapping[str, Network]:
    """Return our copies in float64, which keep the layers that the method reads; the one that Captum
    is shown where the network can't be copied by us, and is used as it is."""
    method, classifier = question.method, question.classifier
    copies: dict[str, Network] = {
        name: classifier.fast(method.layers, dtype=torch.float64, backprop=name) for name in method.networks
    }
    plain = copies.get("plain")
    if not isinstance(plain, FrozenNetwork) or plain.scale.dtype == torch.float64 or method.layers:
        return copies
    return {**copies, "plain": lambda x, layers=(): (question.network(x), {})}


def _controls(question: Question, reference: Tensor, untrained: Callable[[], Classifier]) -> dict[str, Similarity]:
    """Return how alike maps are that must not agree: one of another class, of a randomized network, and noise."""
    other = (question.target + question.classifier.num_classes // 2) % question.classifier.num_classes
    cheap = fewer(replace(question, x=question.x.float()), 8)
    another = captum_map(replace(cheap, target=other))
    found = {
        "another class": another,
        "randomized network": captum_map(replace(cheap, classifier=untrained())),
        "random map": random_map(reference[None]),
    }
    return {name: Similarity.of(found_map[0], reference) for name, found_map in found.items() if found_map is not None}


def randomized(classifier: Classifier) -> Classifier:
    """Return the classifier with weights that know nothing: each drawn anew, with the mean and spread of the old."""
    network = copy.deepcopy(classifier.original)
    for name, layer in network.named_modules():
        randomize_layer(layer, name, seed=0)
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
