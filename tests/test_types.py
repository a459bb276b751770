"""Records are read by name: the order of the keys of a line has no meaning."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lit_viz.engine.snapshots import PerturbedImageRecord
from lit_viz.methods.records import AdversarialRecord, LayerImageRecord, SaliencyRecord
from lit_viz.runs.evidence import Evidence, FileEvidence, LocalizationEvidence, RobustnessEvidence, RobustnessPoint
from lit_viz.runs.validation import find_wrong
from lit_viz.types import Record, Task
from lit_viz.utils.files import json_line

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))


def unpack(value: Any) -> Any:
    """Return a result of the golden test, whose mappings are stored as pairs."""
    if isinstance(value, dict):
        return {key: unpack(item) for key, item in value["pairs"]} if "pairs" in value else value
    return [unpack(item) for item in value] if isinstance(value, list) else value


def lines(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the recorded lines of ``results.jsonl`` in a result of the golden test."""
    if isinstance(value, dict):
        for name in ("results", "results.jsonl"):
            yield from value.get(name, ())
    elif isinstance(value, list):
        for item in value:
            yield from lines(item)


LINES = [
    *(line for name, result in GOLDEN.items() if name.startswith("command") for line in lines(unpack(result))),
    Record.of(Task(0, "broken", 7), status="failed", error="no picture").to_dict(),
    {**Record.of(Task(0, "broken", 7), status="failed").to_dict(), "iou": None},
]


def shuffled(values: dict[str, Any]) -> dict[str, Any]:
    keys = list(values)
    random.Random(3).shuffle(keys)
    return {key: values[key] for key in keys}


ORDERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "sorted": lambda values: dict(sorted(values.items())),
    "reversed": lambda values: dict(reversed(values.items())),
    "shuffled": shuffled,
}


def content(record: Record) -> tuple[type, dict[str, Any]]:
    return type(record), vars(record)


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_of_the_keys_has_no_meaning(order: str) -> None:
    kinds = set()
    for line in LINES:
        record, reordered = Record.read(line), Record.read(ORDERS[order](line))
        assert content(reordered) == content(record)
        assert reordered.without_evidence() == record.without_evidence()
        kinds.add(type(record))
    assert kinds == {Record, *Record.kinds}


def test_a_line_is_written_with_the_keys_that_were_read() -> None:
    for line in LINES:
        assert json_line(Record.read(line).to_dict()) == json_line(line)


def test_metrics_and_settings_are_distinguished_by_name() -> None:
    values: dict[str, Any] = {"index": 0, "name": "cat", "method": "grad_cam", "reducer": "mean", "top5": []}
    values |= {"relative_error": 0.25, "layer": "features.3", "novel": 2.0, "probability": 0.5}
    record = SaliencyRecord.from_dict(dict(sorted(values.items())))
    assert record.relative_error == 0.25
    assert record.settings == {"layer": "features.3"}
    assert record.metrics == {"relative_error": 0.25, "novel": 2.0, "probability": 0.5}
    assert record.extra == {}
    assert math.isnan(record.amend(metrics={"relative_error": None}).relative_error or 0.0)


def test_layers_of_images_and_of_maps_are_different_names() -> None:
    values: dict[str, Any] = {"index": 0, "name": "a", "top5": [], "layer": "blocks.3", "channel": 1, "objective": 2.0}
    record = Record.read(dict(sorted(values.items())))
    assert isinstance(record, LayerImageRecord)
    assert (record.layer, record.metrics) == ("blocks.3", {"objective": 2.0})


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (SaliencyRecord, {"layer", "grid", "mask_sha256", "baselines_sha256", "norm", "eps"}),
        (AdversarialRecord, {"norm", "eps", "by", "tried", "fewest"}),
    ],
)
def test_a_record_lists_the_names_of_its_settings(kind: type[Record], names: set[str]) -> None:
    homes, rest = kind._homes()
    assert {name for name, home in homes.items() if home == "settings"} == names
    assert rest == "metrics"


def test_an_ensemble_records_declared_settings() -> None:
    line = next(line for line in LINES if line.get("attack") == "ensemble")
    record = Record.read(ORDERS["sorted"](line))
    assert isinstance(record, AdversarialRecord)
    assert record.settings.keys() == {"norm", "eps", "by", "tried", "fewest"}
    assert record.tried == line["tried"]


def test_a_null_is_kept_and_an_absent_key_is_not_added() -> None:
    line = {"index": 0, "name": "cat", "attack": "ddn", "success_file": None}
    record = Record.read(line)
    assert record.to_dict()["success_file"] is None
    assert "success_jpeg95" not in record.to_dict()


def test_rows_without_metrics_keep_unknown_keys_apart() -> None:
    values: dict[str, Any] = {"novel": 1, "index": 0, "name": "cat"}
    assert PerturbedImageRecord.from_dict(values).extra == {"novel": 1}
    assert Evidence.from_dict({"novel": 1}).extra == {"novel": 1}


def test_seeds_of_a_localization_are_its_unknown_keys() -> None:
    values: dict[str, Any] = {"quantile": 0.9, "right_from_iou": 0.5, "opencv": "4", "corloc": {}, "maps": []}
    evidence = LocalizationEvidence.from_dict(dict(sorted(values.items())))
    assert (evidence.seeds, evidence.opencv) == ({"quantile": 0.9}, "4")


def test_recorded_lines_are_valid() -> None:
    for line in LINES:
        values = json.loads(json.dumps(line).replace('"volatile"', "null").replace('"inf"', "null"))  # as in a file
        assert find_wrong(values, Record.kind_of(line)) is None


def test_the_text_of_a_record_has_the_values_that_are_there() -> None:
    record = SaliencyRecord.of(
        Task(3, "cat", seed=5, target=281, target_name="tabby"),
        method="gradient",
        reducer="max_abs",
        top5=[("tabby", 0.987654), ("lynx", 0.01)],
        metrics={"probability": 0.987654},
        settings={"sigma": 0.2},
    )
    assert repr(record) == "\n".join(
        [
            "SaliencyRecord",
            "  index: 3",
            "  name: cat",
            "  status: done",
            "  target: 281",
            "  target_name: tabby",
            "  seed: 5",
            "  probability: 0.9877",
            "  method: gradient",
            "  sigma: 0.2",
            "  reducer: max_abs",
            "  top5: tabby, 0.9877, lynx, 0.01",
        ]
    )


def test_the_text_of_evidence_is_one_line_per_part() -> None:
    files = FileEvidence(read=2, tasks=3, wrong=[])
    point = RobustnessPoint(eps="1/255", robust=1, photographs=2, share=0.5, low=0.1, high=0.9)
    robustness = RobustnessEvidence(what="robust accuracy", norm="linf", points=[point])
    assert repr(Evidence(files=files, robustness=robustness)) == "\n".join(
        [
            "Evidence",
            "  files: read 2, tasks 3, wrong none",
            "  robustness: what robust accuracy, norm linf, points 1 value",
        ]
    )
    assert repr(Evidence()) == "Evidence (empty)"
