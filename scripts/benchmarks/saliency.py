"""Saliency maps: Captum, called as its documentation does and with its best batch size, against lit_viz.

fast copy    the method's bare loop on the folded copy
not folded   the same on a copy with batch norms
run          a whole run; the cross-check of its maps by Captum is timed separately
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import captum.attr as attr
import torch
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.attributions import METHODS as KINDS
from lit_viz.attributions import attribute

from .clock import evidence_apart, timed
from .material import PHOTOGRAPHS, loaded, loop, photographs, plain_module, prepared
from .running import Plan, Result, evidence, ratios, table

#: Evaluations a map, and repeats of each photograph, to amortize the start-up of a method of one evaluation.
METHODS = {"gradient": (1, 8), "smoothgrad": (32, 1), "integrated_gradients": (32, 1), "occlusion": (170, 1)}
_SIGMA = 0.15


def captum(method: str, evaluations: int, count: int, batch: int) -> Result:
    """Time Captum."""
    net = loaded()
    x, labels = photographs(net, count)
    module, targets = plain_module(net), torch.tensor(labels)
    explain = _explain(method, module, evaluations, batch)
    rows = torch.arange(count).split(batch if method == "gradient" else 1)
    for batch_rows in rows[:2]:  # warm-up
        explain(x[batch_rows], targets[batch_rows])
    return {"seconds": timed(lambda: [explain(x[batch_rows], targets[batch_rows]) for batch_rows in rows])[0]}


def _explain(method: str, module: nn.Module, evaluations: int, batch: int) -> Callable[[Tensor, Tensor], Any]:
    """Return the function from images and classes to maps."""
    together = min(batch, evaluations)
    if method == "gradient":
        return lambda x, y: attr.Saliency(module).attribute(x.requires_grad_(), y, abs=False)
    if method == "smoothgrad":
        noise: Result = {"nt_samples": evaluations, "stdevs": _SIGMA, "nt_samples_batch_size": together}
        tunnel = attr.NoiseTunnel(attr.Saliency(module))
        return lambda x, y: tunnel.attribute(x.requires_grad_(), nt_type="smoothgrad", target=y, abs=False, **noise)
    if method == "integrated_gradients":
        rule: Result = {"n_steps": evaluations, "method": "gausslegendre", "internal_batch_size": together}
        rule |= {"return_convergence_delta": True}  # the completeness error, which lit_viz records too
        return lambda x, y: attr.IntegratedGradients(module).attribute(x, target=y, **rule)
    windows: Result = {"sliding_window_shapes": (3, 32, 32), "strides": (3, 16, 16), "perturbations_per_eval": together}
    return lambda x, y: attr.Occlusion(module).attribute(x, target=y, **windows)


def run(method: str, evaluations: int, count: int, check: str) -> Result:
    """Time a whole run, without a folder."""
    net = prepared()
    x, labels = photographs(net, count)

    def start(images: int, iterations: int) -> Any:
        return lv.saliency(net, x[:images], labels[:images], method=method, iterations=iterations, check=check)

    result, done = evidence_apart(start, count, evaluations)
    assert all(record["status"] == "done" for record in done.results)
    return result


def method_alone(method: str, evaluations: int, count: int, folded: bool) -> Result:
    """Time the bare loop of the method."""
    net = prepared()
    x, labels = photographs(net, count)
    norms = [name for name, layer in net.original.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    network = net.fast() if folded else net.fast(keep=norms)

    def explain(evaluations: int) -> None:
        for rows in torch.arange(count).split(PHOTOGRAPHS):
            classes = [labels[i] for i in rows.tolist()]
            attribute(KINDS[method](), network, x[rows], classes, evaluations=evaluations)

    loop(lambda images: network(images)[0], PHOTOGRAPHS, PHOTOGRAPHS, PHOTOGRAPHS)  # warm-up
    explain(min(evaluations, 2))
    return {"seconds": timed(lambda: explain(evaluations))[0]}


def compare(plan: Plan) -> str:
    """Return the table of all methods."""
    rows = []
    for method in plan.chosen(list(METHODS)):
        evaluations, times = METHODS[method]
        evaluations, count = (min(evaluations, 2), 2) if plan.quick else (evaluations, PHOTOGRAPHS * times)
        given = {"method": method, "evaluations": evaluations, "count": count}
        best = plan.best_batch((4, 1, 8, 16), "saliency.captum", **given)
        results = plan.in_turns(
            {
                "captum": ("saliency.captum", {**given, "batch": best}),
                "folded": ("saliency.method_alone", {**given, "folded": True}),
                "plain": ("saliency.method_alone", {**given, "folded": False}),
                "run": ("saliency.run", {**given, "check": "none" if plan.quick else "captum"}),
            }
        )
        against = [ratios(results["captum"], results[name]) for name in ("folded", "plain", "run")]
        rows.append(
            [f"{method} (Captum's best batch {best})", f"{count} x {evaluations}", *against, evidence(results["run"])]
        )
    head = ["method", "evaluations", "Captum / fast copy", "Captum / not folded", "Captum / run"]
    return table([*head, "evidence (of the run's time)"], rows)
