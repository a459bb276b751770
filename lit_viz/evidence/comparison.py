"""Does an attack find what other people's implementations of it find, on the same photographs?"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from lit_viz.attacks import Attack, Ensemble, name_of
from lit_viz.attacks.norms import Norm
from lit_viz.attacks.rounding.lattice import LEVELS, LatticeBall, levels_of
from lit_viz.classifiers import Classifier, FrozenNetwork
from lit_viz.errors import LitVizError, first_line
from lit_viz.evidence.peers import INSTALL, Peer, Question, imported, peers_of
from lit_viz.evidence.tables import text_table
from lit_viz.runs.results import Outcome
from lit_viz.utils.formatting import Notify, format_distance

_ROUNDING = 1e-5  # of a radius: by so much float32 may be beyond it


@dataclass(frozen=True)
class Compared:
    """A peer's adversarial examples beside ours.

    Attributes:
        peer: who it is.
        eps: the radius, in units of [0, 1]; None for an attack without one.
        norm: in which the norms are.
        images: that both were given.
        floats, rounded: of the peer's, how many lie in the ball and fool the original network as floats, and rounded to
            8 bits.
        ours: of ours, how many fool in the file.
        theirs_norm, ours_norm: medians over the images that fool on both sides, the peer's as floats and ours in the
            file, in units of [0, 1]; None where there is none.
        error: what the peer said instead.
    """

    peer: str
    eps: float | None
    norm: str
    images: int
    floats: int = 0
    rounded: int = 0
    ours: int = 0
    theirs_norm: float | None = None
    ours_norm: float | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """Who it is, and at which radius."""
        return self.peer if self.eps is None else f"{self.peer}, eps {format_distance(self.eps, self.norm)}"

    @property
    def ratio(self) -> float | None:
        """Ours over theirs: below 1 where ours is smaller."""
        if self.ours_norm is None or not self.theirs_norm:
            return None
        return self.ours_norm / self.theirs_norm

    def as_record(self) -> dict[str, Any]:
        """Return everything in plain values, as in ``evidence.json``."""
        return {**vars(self), "ratio": self.ratio}

    def row(self) -> dict[str, str]:
        """Return the row of a table, by column."""
        norm = {"linf": "Linf", "l2": "L2"}[self.norm]
        return {
            "peer": self.name,
            "as floats": f"{self.floats} of {self.images}",
            "in 8 bits": f"{self.rounded} of {self.images}",
            "our files": f"{self.ours} of {self.images}",
            f"median {norm}": format_distance(self.theirs_norm, self.norm),
            "ours": format_distance(self.ours_norm, self.norm),
            "ratio": "-" if self.ratio is None else f"{self.ratio:.3f}",
        }


def compare(
    outcomes: Sequence[Outcome],
    classifier: Classifier,
    attack: Attack,
    iterations: int,
    notify: Notify = lambda line: None,
) -> list[Compared]:
    """Ask the installed peers of an attack what it was asked: photographs, classes, radius and iterations.

    They attack a copy of the network. Each has its own step and draws, and one start: peers without early stop or
    restarts spend all iterations at once.

    Args:
        outcomes: of the attack's run.
        classifier: that was attacked, and says what fools.
        attack: as it was run.
        iterations: updates an image.
        notify: is told what it will cost, or why nobody can be asked.

    Raises:
        LitVizError: the network can't be copied.
    """
    questions = _questions(outcomes, attack, iterations, classifier)
    suited = [(peer, q, mine) for q, mine in questions for peer in peers_of(attack) if peer.suits(q)]
    packages = dict.fromkeys(peer.package for peer, *_ in suited)
    if not questions:
        notify("peers: there is nothing to ask, for no photograph was attacked")
    elif not suited:
        members = "; its members can be asked in runs of their own" if isinstance(attack, Ensemble) else ""
        notify(f"peers: {' and '.join(INSTALL)} have no {name_of(attack)} with these options{members}")
    missing = [package for package in packages if imported(package) is None]
    if missing:
        notify(
            f"peers: {' and '.join(missing)} can't be imported: {', '.join(INSTALL[package] for package in missing)}"
        )
    asked = [(peer, q, mine) for peer, q, mine in suited if peer.package not in missing]
    if asked:
        evaluations = sum(len(mine) for *_, mine in asked) * iterations
        notify(f"peers: {', '.join(dict.fromkeys(str(peer) for peer, *_ in asked))}: about {evaluations} evaluations")
    return [_compared(peer, q, mine, classifier) for peer, q, mine in asked]


def table(found: Sequence[Compared]) -> str:
    """Return a row a peer and radius, and what those said that broke."""
    rows = [one.row() for one in found if one.error is None]
    broken = [f"{one.name} broke: {one.error}" for one in found if one.error is not None]
    return "\n".join([*([text_table(rows, words=1)] if rows else []), *broken])


def _questions(
    outcomes: Sequence[Outcome], attack: Attack, iterations: int, classifier: Classifier
) -> list[tuple[Question, list[Outcome]]]:
    """Return what was asked, and the outcomes that answer it."""
    groups: dict[tuple[float | None, bool], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.record["status"] == "done" and outcome.source() is not None:
            groups[outcome.record.get("eps"), outcome.record["target"] is not None].append(outcome)
    return [
        (
            Question(
                attack,
                iterations,
                eps,
                torch.stack([source for o in mine if (source := o.source()) is not None]).to(classifier.device),
                torch.tensor([o.record["target" if targeted else "label"] for o in mine], device=classifier.device),
                targeted,
                classifier.num_classes,
            ),
            mine,
        )
        for (eps, targeted), mine in groups.items()
    ]


def _compared(peer: Peer, question: Question, mine: Sequence[Outcome], classifier: Classifier) -> Compared:
    base = Compared(str(peer), question.eps, question.norm, len(mine))
    lent = _lent(classifier)
    try:
        theirs = peer.answer(lent, question)
    except Exception as error:  # whatever another package raises; the row tells it
        return replace(base, error=first_line(error))
    change = (theirs - question.photographs).double().flatten(1)
    norms = change.abs().amax(1) if question.norm == "linf" else change.norm(dim=1)
    success = _fools(classifier, question, theirs)
    if question.eps is not None:
        success &= norms <= question.eps * (1 + _ROUNDING)
    rounded = (theirs.clamp(0, 1) * LEVELS).round() / LEVELS
    in_files = _fools(classifier, question, rounded) & _in_ball(question, rounded).to(success.device)
    files = torch.tensor([bool(o.record["success_file"]) for o in mine], device=success.device)
    both = success & files
    ours = [float(o.record[question.norm]) for o, counts in zip(mine, both.tolist(), strict=True) if counts]
    return replace(
        base,
        floats=int(success.sum()),
        rounded=int(in_files.sum()),
        ours=int(files.sum()),
        theirs_norm=median(norms[both].tolist()) if ours else None,
        ours_norm=median(ours) if ours else None,
    )


def _fools(classifier: Classifier, question: Question, images: Tensor) -> Tensor:
    """Return whether the original network sees what was asked for ``(N,)`` bool."""
    seen = torch.cat([classifier.logits(some).argmax(1) for some in torch.split(images, 8)])
    return (seen == question.classes) == question.targeted


def _in_ball(question: Question, images: Tensor) -> Tensor:
    """Return whether images on the lattice may be given as an answer ``(N,)`` bool."""
    norm: Norm | None = None if question.eps is None else "linf" if question.norm == "linf" else "l2"
    balls = [LatticeBall(photograph, norm, question.eps) for photograph in question.photographs]
    return torch.tensor([ball.contains(levels_of(image)) for ball, image in zip(balls, images, strict=True)])


class _Lent(nn.Module):
    """A copy of a network, as peers want it: images in [0, 1] -> logits."""

    def __init__(self, network: FrozenNetwork) -> None:
        super().__init__()
        self.network = network
        # torchattacks asks the first parameter where the network is; a network may have none.
        self.here = nn.Parameter(torch.zeros(0, device=network.scale.device), requires_grad=False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        if x.requires_grad:
            # torchattacks takes slopes for channels-first, and they come channels-last.
            x.register_hook(torch.Tensor.contiguous)  # type: ignore[no-untyped-call]
        logits: Tensor = self.network(x)[0]
        return logits


def _lent(classifier: Classifier) -> _Lent:
    try:
        return _Lent(copy.deepcopy(classifier.fast()))
    except Exception as error:  # whatever the owner's modules raise
        raise LitVizError(f"{classifier.name} can't be copied, and is not lent itself: leave out --peers.") from error
