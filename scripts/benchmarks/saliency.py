"""Saliency maps: Captum, called as its documentation does and with its best batch size, against lit_viz.

fast copy    the method's bare loop on the folded copy
not folded   the same on a copy with batch norms
run          a whole run, without a cross-check
evidence     time of the cross-check of another run of up to four maps by Captum
formula      largest difference of whole maps in float64, relative to the maximum
delivered    the same of the float32 map or its terms, and the largest one allowed, of the map closest to failing
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import captum.attr as attr
import torch
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.attributions import ATTRIBUTIONS as KINDS
from lit_viz.attributions import attribute
from lit_viz.attributions.segments import Segments
from lit_viz.evidence.saliency.captum_reference import counterpart_of
from lit_viz.networks import Network

from .clock import evidence_apart, timed
from .material import PHOTOGRAPHS, loaded, loop, photographs, plain_module, prepared
from .running import Plan, Result, evidence, ratios, table

#: Evaluations a map, and number of maps: some five seconds of Captum. Photographs repeat, to amortize the start-up of a
#: method of one evaluation.
ATTRIBUTIONS = {
    "gradient": (1, 128),
    "input_x_gradient": (1, 128),
    "smoothgrad": (16, 16),
    "smoothgrad_squared": (16, 16),
    "vargrad": (16, 16),
    "integrated_gradients": (16, 16),
    "gradient_shap": (16, 16),
    "deep_lift": (1, 64),
    "guided_backprop": (1, 128),
    "deconvolution": (1, 128),
    "grad_cam": (1, 128),
    "guided_grad_cam": (1, 64),
    "occlusion": (170, 4),
    "feature_ablation": (51, 8),
    "kernel_shap": (200, 2),
}
_CHECKED = 4  # maps
_SIGMA = 0.15


def captum(method: str, evaluations: int, count: int, batch: int) -> Result:
    """Time Captum."""
    net = loaded()
    x, labels = photographs(net, count)
    targets = torch.tensor(labels)
    explain = _explain(method, net, evaluations, batch)
    rows = torch.arange(count).split(batch if ATTRIBUTIONS[method][0] == 1 else 1)

    def run(batches: Sequence[Tensor]) -> None:
        for batch_rows in batches:  # no map is kept: those of Grad-CAM hold the activations of their batch
            explain(x[batch_rows], targets[batch_rows])

    run(rows[:2])  # warm-up
    return {"seconds": timed(lambda: run(rows))[0]}


def _explain(method: str, net: Network, evaluations: int, batch: int) -> Callable[[Tensor, Tensor], Any]:
    """Return the function from images and classes to maps."""
    module, together, explained = plain_module(net), min(batch, evaluations), KINDS[method]()
    explained.bind(net)
    layer = net.original.get_submodule(explained.layers[0] if explained.layers else "")
    tunnel, shap = attr.NoiseTunnel(attr.Saliency(module)), attr.GradientShap(module)
    noise: Result = {"nt_samples": evaluations, "stdevs": _SIGMA, "nt_samples_batch_size": together, "abs": False}
    rule: Result = {"n_steps": evaluations, "method": "gausslegendre", "internal_batch_size": together}
    windows: Result = {"sliding_window_shapes": (3, 32, 32), "strides": (3, 16, 16), "perturbations_per_eval": together}
    delta = {"return_convergence_delta": True}  # the completeness error, which lit_viz records too
    baselines = torch.tensor([0, 0.5, 1]).view(-1, 1, 1, 1).expand(-1, 3, *net.size)

    def shap_of_batches(x: Tensor, y: Tensor) -> Tensor:
        maps = [shap.attribute(x, baselines, n_samples=together, target=y) for _ in range(0, evaluations, together)]
        return torch.stack(maps).mean(0)

    def superpixels(x: Tensor) -> Result:
        baseline = x.mean((2, 3), keepdim=True).expand_as(x)
        return {"baselines": baseline, "feature_mask": Segments(50)(x), "perturbations_per_eval": together}

    calls: dict[str, Callable[[Tensor, Tensor], Any]] = {
        "gradient": lambda x, y: attr.Saliency(module).attribute(x, y, abs=False),
        "input_x_gradient": lambda x, y: attr.InputXGradient(module).attribute(x, y),
        "smoothgrad": lambda x, y: tunnel.attribute(x, nt_type="smoothgrad", target=y, **noise),
        "smoothgrad_squared": lambda x, y: tunnel.attribute(x, nt_type="smoothgrad_sq", target=y, **noise),
        "vargrad": lambda x, y: tunnel.attribute(x, nt_type="vargrad", target=y, **noise),
        "integrated_gradients": lambda x, y: attr.IntegratedGradients(module).attribute(x, target=y, **rule, **delta),
        "gradient_shap": shap_of_batches,
        "deep_lift": lambda x, y: attr.DeepLift(module).attribute(x, torch.zeros_like(x), y, **delta),
        "guided_backprop": lambda x, y: attr.GuidedBackprop(module).attribute(x, y),
        "deconvolution": lambda x, y: attr.Deconvolution(module).attribute(x, y),
        "grad_cam": lambda x, y: attr.LayerGradCam(module, layer).attribute(x, y, relu_attributions=True),
        "guided_grad_cam": lambda x, y: attr.GuidedGradCam(module, layer).attribute(x, y),
        "occlusion": lambda x, y: attr.Occlusion(module).attribute(x, target=y, **windows),
        "feature_ablation": lambda x, y: attr.FeatureAblation(module).attribute(x, target=y, **superpixels(x)),
        "kernel_shap": lambda x, y: attr.KernelShap(module).attribute(
            x, target=y, n_samples=evaluations, **superpixels(x)
        ),
    }
    return calls[method]


def run(method: str, evaluations: int, count: int, check: str) -> Result:
    """Time a whole run, without a folder; with a check, also return the errors of its maps."""
    net = prepared()
    x, labels = photographs(net, count)

    def start(images: int, iterations: int) -> Any:
        return lv.saliency(net, x[:images], target=labels[:images], method=method, iterations=iterations, captum=check)

    result, done = evidence_apart(start, count, evaluations)
    assert all(record["status"] == "done" for record in done.records)
    if check != "none":
        done.check()  # of whole maps with their formulas; at its end, a run compares recorded terms
    comparison = done.evidence.captum
    if comparison is not None and comparison.maps:
        formulas, gates = [], []
        for compared in comparison.maps:
            gates.append(compared.delivered)
            if compared.formula is not None:  # of whole maps
                formulas.append(compared.formula.difference)
        if formulas:
            result["formula"] = max(formulas)
        closest = max(gates, key=lambda gate: gate.difference / gate.allowed)
        result |= {"delivered": closest.difference, "allowed": closest.allowed}
    return result


def method_alone(method: str, evaluations: int, count: int, folded: bool) -> Result:
    """Time the bare loop of the method."""
    net = prepared()
    x, labels = photographs(net, count)
    explained = KINDS[method]()
    explained.bind(net)
    norms = [name for name, layer in net.original.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    kept = [*explained.layers, *([] if folded else norms)]
    networks = {name: net.fast(kept, backprop=name) for name in explained.networks}

    def explain(evaluations: int) -> None:
        for rows in torch.arange(count).split(PHOTOGRAPHS):
            classes = [labels[i] for i in rows.tolist()]
            attribute(explained, networks, x[rows], classes, evaluations=evaluations)

    network = next(iter(networks.values()))
    loop(lambda images: network(images)[0], PHOTOGRAPHS, PHOTOGRAPHS, PHOTOGRAPHS)  # warm-up
    explain(min(evaluations, 2))
    return {"seconds": timed(lambda: explain(evaluations))[0]}


def compare(plan: Plan) -> str:
    """Return the table of all methods."""
    rows = []
    for method in plan.chosen(list(ATTRIBUTIONS)):
        evaluations, count = (min(ATTRIBUTIONS[method][0], 2), 2) if plan.quick else ATTRIBUTIONS[method]
        given = {"method": method, "evaluations": evaluations, "count": count}
        few = {**given, "count": -(-count // 8)}
        best = plan.best_batch((4, 1, 8, 16), "saliency.captum", "captum", **few)
        results = plan.in_turns(
            {
                "captum": ("saliency.captum", {**given, "batch": best}),
                "folded": ("saliency.method_alone", {**given, "folded": True}),
                "plain": ("saliency.method_alone", {**given, "folded": False}),
                "run": ("saliency.run", {**given, "check": "none"}),
            },
            keep=True,
        )
        few = {**given, "count": min(count, _CHECKED), "check": "none" if plan.quick else "captum"}
        checked = plan.side("saliency.run", "run", **few)
        counterpart = counterpart_of(KINDS[method]())
        assert counterpart is not None
        rows.append(
            [
                method,
                f"{counterpart.name} (best batch {best})",
                f"{count} x {evaluations}",
                ratios(results["captum"], results["folded"]),
                ratios(results["captum"], results["plain"]),
                ratios(results["captum"], results["run"]),
                *errors(checked),
                evidence([checked]),
            ]
        )
    head = ["method", "Captum", "evaluations", "Captum / fast copy", "Captum / not folded", "Captum / run"]
    return table([*head, "formula", "delivered", "evidence (of the run's time)"], rows)


def errors(result: Result) -> list[str]:
    """Return the largest difference of the formula, and the delivered map with its limit; dashes without a verdict."""
    formula = delivered = "-"
    if "formula" in result:
        formula = f"{result['formula']:.0e}"
    if "delivered" in result:
        delivered = f"{result['delivered']:.0e} ≤ {result['allowed']:.0e}"
    return [formula, delivered]
