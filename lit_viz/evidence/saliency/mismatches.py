"""Comparison of the records of saliency maps with what is computed from the maps and their photographs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from lit_viz.attributions import Attribution
from lit_viz.attributions.base import Estimator
from lit_viz.attributions.reducers import reduce_channels
from lit_viz.evidence.comparison import (
    Scored,
    are_close,
    different_class,
    different_fields,
    different_iterations,
    different_metric,
    different_probability,
    different_rank,
    different_ranking,
    different_region,
    goal_task,
)
from lit_viz.evidence.saliency.errors import different_errors
from lit_viz.methods import SaliencyMap
from lit_viz.methods.photographs import contrast_fields, resolve
from lit_viz.runs.records import SaliencyRecord
from lit_viz.runs.tar_store import is_reduced
from lit_viz.types import Task
from lit_viz.utils.parts import settings_of

_TOLERANCE = 1e-6  # relative, of a sum in another order
_OF_HALF = 2**-10  # relative, of a map that is stored in float16
#: Settings that the evaluations of a map determine.
_OF_THE_MAP = ("interactions", "places")


def map_mismatches(
    record: SaliencyRecord,
    task: Task,
    module: SaliencyMap,
    attribution: Tensor,
    scored: Scored | None,
) -> Iterator[str]:
    """Yield the differences of a record from what is computed, beyond what another machine explains.

    Args:
        record: of a map.
        task: its task in the queue.
        module: the method.
        attribution: the map ``(C, H, W)`` as it is stored.
        scored: scores of the photograph by the original network; None if it is missing.
    """
    method = module.methods[record.method]
    yield from _method_mismatches(record, module, method)
    yield from _attribution_mismatches(record, module, method, attribution)
    evaluations = module.last_iteration(task)
    yield from different_iterations(record, evaluations, fewest=evaluations if _makes_all(method) else 0)
    if not is_reduced(record):
        yield from different_errors(record, method, attribution)
    if scored is not None:
        resolved = module.resolve_task(goal_task(module, task, record), scored.logits)
        yield from _goal_mismatches(record, resolved, module, scored)
        yield from _prediction_mismatches(record, resolved, module, scored)


def _method_mismatches(record: SaliencyRecord, module: SaliencyMap, method: Attribution) -> Iterator[str]:
    """Yield where method, reducer and output are others than those of the run."""
    output = module.network.output
    expected: dict[str, Any] = {
        "reducer": module.reducer or method.reducer,
        "place": None,
    }
    if record.text is not None and record.target is not None:
        expected["place"] = output.place_of(record.target)
    yield from different_fields(expected, vars(record))
    yield from different_region(record, output)
    settings = settings_of(method) | method.record_fields()
    recorded = {name: value for name, value in record.settings.items() if name not in _OF_THE_MAP}
    yield from different_fields(dict.fromkeys(recorded) | settings, recorded)


def _attribution_mismatches(
    record: SaliencyRecord, module: SaliencyMap, method: Attribution, attribution: Tensor
) -> Iterator[str]:
    """Yield where the maximum, the values of the bands and the signs are not those of the map.

    The channels of a map that is stored reduced are unknown.
    """
    is_half = is_reduced(record)
    has_lost_channels = is_half and not method.spatial and module.network.channels > 1
    if not has_lost_channels or record.reducer == "max_abs":
        maximum = float(reduce_channels(attribution.float(), "max_abs").max())
        tolerance = _OF_HALF if is_half else _TOLERANCE
        yield from different_metric(record, "maximum", maximum, tolerance * abs(maximum))
    if has_lost_channels:
        if record.signed is not None:
            yield f"signed None, recorded {record.signed}"
        return
    fields = module.attribution_fields(method, attribution, record.no_data)
    if fields["signed"] != record.signed:
        yield f"signed {fields['signed']}, recorded {record.signed}"
    if not _are_same_bands(fields["bands"], record.bands, float(attribution.abs().double().sum())):
        yield f"bands {fields['bands']}, recorded {record.bands}"


def _makes_all(method: Attribution) -> bool:
    """Return whether a method makes all of its evaluations, whatever it finds."""
    if method.tolerance is not None or not isinstance(method, Estimator):
        return False
    return type(method).converged is Estimator.converged or method.evaluations == 1


def _are_same_bands(computed: Mapping[str, float] | None, recorded: Mapping[str, float] | None, size: float) -> bool:
    if computed is None or recorded is None:
        return computed is recorded
    if list(computed) != list(recorded):
        return False
    return all(math.isclose(computed[name], recorded[name], abs_tol=_TOLERANCE * size) for name in computed)


def _goal_mismatches(record: SaliencyRecord, task: Task, module: SaliencyMap, scored: Scored) -> Iterator[str]:
    """Yield where the explained class and the label are not those of the task and the prediction."""
    contrast = contrast_fields(task, module.methods[record.method].objective)
    classes = {"label": task.label, "target": task.target, "against": contrast.get("against")}
    for name, index in classes.items():
        recorded = getattr(record, name)
        if recorded != index and not are_close(scored, index, recorded):
            yield f"{name} {index}, recorded {recorded}"
    labels = module.network.labels
    named = resolve(replace(task, target=record.target, against=record.against), None, labels)
    expected: dict[str, Any] = {
        "label_source": task.label_source,
        "target_name": named.target_name,
        "gamma": contrast.get("gamma"),
    }
    yield from different_fields(expected, vars(record))


def _prediction_mismatches(record: SaliencyRecord, task: Task, module: SaliencyMap, scored: Scored) -> Iterator[str]:
    """Yield where the prediction of the photograph is another one."""
    network = module.network
    if record.target is not None:
        yield from different_probability(record, scored, record.target, network)
        if network.rule.has_prediction:
            yield from different_metric(record, "logit", float(scored.logits[record.target]), scored.tolerance)
            yield from different_rank(record, scored, record.target)
    yield from different_ranking(record, scored, network)
    expected: dict[str, Any] = {"label_name": None, "correct": None}
    if network.decision != "exclusive":
        expected |= {"predicted": None, "predicted_name": None}
    else:
        yield from different_class(record, scored, network)
        if task.has_given_label and task.label is not None:
            expected = {"label_name": network.labels[task.label], "correct": record.predicted == task.label}
    yield from different_fields(expected, vars(record))
