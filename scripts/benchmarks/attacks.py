"""Attacks: torchattacks and Foolbox with their best batch size, against runs.

PGD makes 40 steps in 4/255 without stopping, DDN 100. The verification of files is evidence and timed separately; the
other tools have none. The final rows compare 64 image-target pairs in slots with the same pairs one at a time: in a
plain loop on the network as users write it (frozen, channels-last), and in a run of one slot.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.attacks import DDN, PGD, NormalizedAscentAttack, run_attack
from lit_viz.networks import Network

from .clock import evidence_apart, timed
from .material import EPS, PHOTOGRAPHS, WARM, bare, loaded, photographs, plain_module, prepared
from .references import Problem, references_of
from .running import Plan, Result, evidence, ratios, table

_PGD: dict[str, Any] = {"norm": "linf", "eps": EPS, "alpha": EPS / 10, "random_start": False}
_NAMES = {"pgd": "PGD", "stopping": "PGD, stopping in slots", "ddn": "DDN"}


def peer(tool: str, attack: str, steps: int, count: int, batch: int) -> Result:
    """Time an attack of another tool; return the successes as floats and in files, and the median L2 norm as floats.

    Args:
        tool: ``torchattacks`` or ``foolbox``.
        attack: ``pgd`` or ``ddn``.
        steps: iterations an image.
        count: number of photographs.
        batch: batch size.
    """
    net = loaded()
    x, labels = photographs(net, count)
    module, y = plain_module(net), torch.tensor(labels)
    attack_batch = _attacked(tool, attack, module, steps)
    _attacked(tool, attack, module, min(steps, WARM))(x[:batch], y[:batch])
    rows = torch.arange(count).split(batch)
    seconds, parts = timed(lambda: [attack_batch(x[batch_rows], y[batch_rows]) for batch_rows in rows])
    examples = torch.cat(parts).detach()
    with torch.no_grad():
        floats = module(examples).argmax(1) != y
        files = module((examples * 255).round() / 255).argmax(1) != y
    l2 = float((examples - x).flatten(1).norm(dim=1).median())
    return {"seconds": seconds, "floats": int(floats.sum()), "files": int(files.sum()), "l2": l2}


def _attacked(tool: str, attack: str, module: Any, steps: int) -> Any:
    """Return a function from images and classes to adversarial examples."""
    options, eps = (DDN(), None) if attack == "ddn" else (PGD("linf", EPS, EPS / 10, random_start=False), EPS)

    def run(x: Tensor, y: Tensor) -> Tensor:
        problem = Problem(options, steps, eps, x, y, targeted=False, num_classes=1000)
        reference = next(r for r in references_of(options) if r.package == tool and r.supports(problem))
        return reference.run(module, problem, batch=len(x))

    return run


def lit_viz(attack: str, steps: int, count: int) -> Result:
    """Time a run of ``pgd``, ``stopping`` (PGD that stops at the first success) or ``ddn``."""
    net = prepared()
    x, labels = photographs(net, count)
    chosen = DDN() if attack == "ddn" else PGD(**_PGD, early_stop=attack == "stopping")
    given: Result = {"attack": chosen, "log_at": "last", "curve_at": "last"}
    result, done = evidence_apart(
        lambda n, k: lv.attack(net, x[:n], label=labels[:n], iterations=k, **given), count, steps
    )
    result |= {"floats": 0, "files": 0}
    lengths = []
    for record in done.records:
        result["floats"] += record["success_float"]
        result["files"] += record["success_file"]
        lengths.append(record["l2"])
    result["l2"] = statistics.median(lengths)
    return result


def unrounded(steps: int, count: int) -> Result:
    """Return the median L2 norm of DDN as floats."""
    net = prepared()
    x, labels = photographs(net, count)
    fast = net.fast()
    examples, _ = run_attack(DDN(quantize=False), lambda images: fast(images)[0], x, labels, iterations=steps)
    return {"l2": float((examples - x).flatten(1).norm(dim=1).median())}


def fooling(slots: int, steps: int, count: int) -> Result:
    """Time the fooling recipe, four targets an image; ``exact``: whether the counted evaluations are exact."""
    net = prepared()
    x, labels, targets = _pairs(net, count)
    given: Result = {"slots": slots, "log_at": "last", "curve_at": "last"}

    def start(images: int, iterations: int) -> Any:
        return lv.attack(
            net, x[:images], label=labels[:images], target=targets[:images], iterations=iterations, **given
        )

    result, done = evidence_apart(start, len(x), steps)
    result |= {"exact": True, "files": 0, "pairs": len(x)}
    for record in done.records:
        iterations = record["iterations"]
        if record["success_float"] and (record["forwards"], record["backwards"]) != (iterations + 1, iterations):
            result["exact"] = False
        result["files"] += record["success_file"]
    return result


def fooling_alone(steps: int, count: int) -> Result:
    """Time a bare loop of the fooling recipe, one pair at a time."""
    net = loaded()
    plain, pairs = bare(net), _pairs(net, count)

    def attack_pair(images: Tensor, label: int, target: int) -> None:
        run_attack(NormalizedAscentAttack(), plain, images[None], [label], [target], iterations=steps)

    attack_pair(pairs[0][0], pairs[1][0], pairs[2][0])
    return {"seconds": timed(lambda: [attack_pair(*pair) for pair in zip(*pairs, strict=True)])[0]}


def _pairs(net: Network, count: int) -> tuple[Tensor, list[int], list[int]]:
    """Return photographs, their classes, and target classes, four for each photograph."""
    x, labels = photographs(net, count)
    targets: list[int] = []
    for step in (111, 333, 555, 777):
        targets += [(label + step) % 1000 for label in labels]
    return x.repeat(4, 1, 1, 1), labels * 4, targets


def compare(plan: Plan) -> str:
    """Return the table of all attacks."""
    count = 2 if plan.quick else PHOTOGRAPHS
    rows = []
    for attack, tools, steps in (("pgd", ("torchattacks", "foolbox"), 40), ("ddn", ("foolbox",), 100)):
        given = {"steps": 2 if plan.quick else steps, "count": count}
        runs = ("pgd", "stopping") if attack == "pgd" else ("ddn",)
        turns: dict[str, tuple[str, dict[str, Any]]] = {}
        for name in runs:
            turns[name] = "attacks.lit_viz", dict(given, attack=name)
        best: dict[str, int] = {}
        for tool in tools:
            best[tool] = plan.best_batch((4, 8, 16), "attacks.peer", tool=tool, attack=attack, steps=5, count=count)
            turns[tool] = "attacks.peer", dict(given, tool=tool, attack=attack, batch=best[tool])
        results = plan.in_turns(turns)
        for name in runs:
            for tool in tools:
                title = f"{_NAMES[name]}: {tool} (batch {best[tool]})"
                rows.append(_row(title, results[tool], results[name], count))
    floats = plan.side("attacks.unrounded", **given)["l2"] / results["foolbox"][-1]["l2"]
    rows[-1][-1] += f"; median L2 {floats:.3f} of Foolbox's as floats"
    turns = {}
    for slots in (16, 1):
        turns[str(slots)] = "attacks.fooling", dict(given, slots=slots)
    turns["bare"] = "attacks.fooling_alone", given
    sides = plan.in_turns(turns)
    together, pairs = sides["16"], sides["16"][-1]["pairs"]
    last = f"{together[-1]['files']} of {pairs} true in the file, counts exact: {together[-1]['exact']}"
    for alone, name in (("bare", "by a bare loop"), ("1", "by a run of one slot")):
        times = ratios(sides[alone], together), ratios(sides[alone], together, "evidence")
        rows.append([f"fooling, {pairs} pairs in 16 slots: one at a time {name}", *times, evidence(together), last])
    head = ["attack: peer", "peer / run", "peer / run with its evidence", "evidence (of the run's time)"]
    return table([*head, "fooled: peer, lit_viz; true in the file"], rows)


def _row(name: str, peers: list[Result], runs: list[Result], count: int) -> list[str]:
    other, own = peers[-1], runs[-1]
    fooled = f"{other['floats']}, {own['floats']} of {count}; {other['files']}, {own['files']}"
    return [name, ratios(peers, runs), ratios(peers, runs, "evidence"), evidence(runs), fooled]
