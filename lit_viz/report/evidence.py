"""The evidence of a run in words: what ``evidence.json`` holds, and what held-out networks said."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from lit_viz.figures.scales import number
from lit_viz.report.markup import Markup, element, joined
from lit_viz.utils.formatting import format_distance, label_with_lr

_ROWS = 100  # of a table; all are in evidence.json
_SIGNS = {True: ("✓", "good", "passed"), False: ("✗", "bad", "failed"), None: ("·", "open", "no verdict")}
_MOST_NAMES = 10

Evidence = Mapping[str, Any]


def evidence_section(evidence: Evidence, records: Sequence[Mapping[str, Any]], *pictures: Markup | None) -> Markup:
    """Return all that speaks for the pictures of a run, or against them.

    Args:
        evidence: as in ``evidence.json``.
        records: of the run.
        pictures: figures of the evidence.
    """
    lines = [line for name, of in evidence.items() for line in _KNOWN.get(name, _unknown(name))(of)]
    lines += _judges(records)
    if not lines:
        lines = [_line(None, "Nothing has been looked for yet: lit-viz check does, given this run's folder.")]
    return element("section", element("h2", "Evidence"), *lines, *pictures, id="evidence")


def _line(passed: bool | None, said: str, *more: Markup) -> Markup:
    sign, kind, word = _SIGNS[passed]
    mark = element("span", sign, class_=f"sign {kind}", role="img", aria_label=word)
    return element("div", element("p", mark, said), *more, class_="evidence")


def _table(rows: Sequence[Mapping[str, str]]) -> Markup:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    head = element("tr", *(element("th", column, scope="col") for column in columns))
    lines = [element("tr", *(element("td", row.get(c, "")) for c in columns)) for row in rows[:_ROWS]]
    cut = [element("p", f"{len(rows) - _ROWS} more are in evidence.json.", class_="note")] if len(rows) > _ROWS else []
    return joined(
        element("div", element("table", element("thead", head), element("tbody", *lines)), class_="wide"), *cut
    )


def _files(of: Mapping[str, Any]) -> Iterator[Markup]:
    wrong = of["wrong"]
    if not of["read"] and not wrong:
        yield _line(None, "There was no file to look at again.")
        return
    more = f" and {len(wrong) - _MOST_NAMES} more" if len(wrong) > _MOST_NAMES else ""
    verdict = f"Not as recorded: {', '.join(wrong[:_MOST_NAMES])}{more}." if wrong else "All is as recorded."
    fooled = f": {of['fooled']} of them fool it" if "fooled" in of else ""
    files = "1 file was" if of["read"] == 1 else f"{of['read']} files were"
    read = f"{files} read back from the disk and shown to the original network{fooled}."
    yield _line(not wrong, f"{read} {verdict}")


def _pictures(of: Mapping[str, Any]) -> Iterator[Markup]:
    if not of["read"]:
        yield _line(None, "There was no picture to look at again.")
        return
    said = f"{of['same']} of {of['read']} files, read back, are seen by the original network as their records say."
    yield _line(of["same"] == of["read"], said)


def _trust(of: Mapping[str, Any]) -> Iterator[Markup]:
    looked = f"Looked at: {', '.join(of['tried'])}."
    if not of["tried"]:
        yield _line(None, "Nothing was attacked.")
    elif of["reasons"]:
        yield _line(False, f"Do not trust what resisted: {'; '.join(of['reasons'])}. {looked}")
    else:
        yield _line(True, f"Nothing says that the attack itself was at fault where it failed. {looked}")


def _survivors(of: Sequence[Mapping[str, Any]]) -> Iterator[Markup]:
    parts = [f"{one['member']} fooled {one['fooled']} of {one['tried']}, {one['left']} left" for one in of]
    yield _line(None, f"The attacks one after another: {'; '.join(parts)}.")


def _transfer(of: Mapping[str, Any]) -> Iterator[Markup]:
    rows = [
        {
            "network": name,
            "right on the photograph": str(counts["right"]),
            "fooled by the file": str(counts["fooled"]),
            "fooled by the mirrored change": str(counts["mirrored"]),
            "left out, wrong before": str(counts["wrong"]),
        }
        for name, counts in of["judges"].items()
    ]
    if rows:
        yield _line(None, "What other networks see in the files that fool this one.", _table(rows))
    else:
        yield _line(None, "No other network was asked: none that knows these classes is installed, or no file fools.")


def _universal(of: Mapping[str, Any]) -> Iterator[Markup]:
    for name, rates in of.items():
        yield _line(None, f"{name} {', and '.join(rates)}." if rates else f"{name} was tried on no photograph.")


def _robustness(of: Mapping[str, Any]) -> Iterator[Markup]:
    rows = [
        {
            "eps": one["eps"],
            of["what"]: f"{one['share']:.0%}",
            "95 % (Wilson)": f"{one['low']:.0%} to {one['high']:.0%}",
        }
        for one in of["points"]
    ]
    norm = {"linf": "largest value", "l2": "Euclidean length"}[of["norm"]]
    yield _line(None, f"How many images resist, by the {norm} of the change.", _table(rows))


def _peers(of: Sequence[Mapping[str, Any]]) -> Iterator[Markup]:
    rows = [
        {
            "implementation": one["peer"],
            **({"eps": format_distance(one["eps"], one["norm"])} if one["eps"] is not None else {}),
            "fooled as floats": f"{one['floats']} of {one['images']}",
            "in 8 bits": f"{one['rounded']} of {one['images']}",
            "our files": f"{one['ours']} of {one['images']}",
            "size, ours over theirs": "-" if one["ratio"] is None else f"{one['ratio']:.3f}",
            **({"broke": one["error"]} if one["error"] else {}),
        }
        for one in of
    ]
    if rows:
        yield _line(None, "What other implementations of the attack made of the same photographs.", _table(rows))


def _captum(of: Mapping[str, Any]) -> Iterator[Markup]:
    maps, unchecked = of["maps"], of["unchecked"]
    reasons = Counter(one["unchecked"] for one in unchecked)
    left = "".join(f" {count}: {why}." for why, count in reasons.items())
    if not maps:
        yield _line(None, f"No map was held against Captum.{left}")
        return
    passed = sum(one["passed"] for one in maps)
    said = f"{passed} of {len(maps)} maps that were held against Captum {of['version']} agree with it.{left}"
    yield _line(passed == len(maps), said, _table([_gates(one) for one in maps]))


def _gates(of: Mapping[str, Any]) -> dict[str, str]:
    """Return a row: both gates, and the likeness beside that of the control that comes nearest."""
    nearest = max((_known(control["spearman"]) for control in of["controls"].values()), default=math.nan)
    return {
        "map": f"{of['name']}, {of['target_name'] or '-'}",
        "method": of["method"],
        "verdict": "passed" if of["passed"] else "failed",
        "formula in float64, off by": number(_known(of["formula"]["difference"])),
        "map as delivered, off by": number(_known(of["delivered"]["difference"])),
        "allowed": number(_known(of["delivered"]["allowed"])),
        "Spearman": f"{_known(of['similarity']['spearman']):.4f}",
        "of the likest control": f"{nearest:.4f}",
    }


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _faithfulness(of: Mapping[str, Any]) -> Iterator[Markup]:
    rows = [
        {
            "map": f"{one['name']}, {one['target_name'] or '-'}",
            "method": one["method"],
            **{f"deletion ↓ {name}".strip(): _three(area) for name, area in _areas(one["deletion"])},
            **{f"insertion ↑ {name}".strip(): _three(area) for name, area in _areas(one["insertion"])},
            "sensitivity ↓": _three(one["max_sensitivity"]),
        }
        for one in of["maps"]
    ]
    remarks = [element("p", remark, class_="note") for one in of["maps"] for remark in one["remarks"]]
    said = "Mean probability of the class while pixels are replaced, the most salient first; beside it for controls."
    yield _line(None, said, *([_table(rows)] if rows else []), *remarks[:_ROWS])


def _areas(of: Mapping[str, Any]) -> list[tuple[str, float | None]]:
    return [("" if name == "area" else name, area) for name, area in of.items() if name != "curve"]


def _three(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _localization(of: Mapping[str, Any]) -> Iterator[Markup]:
    known = [one for one in of["maps"] if one["iou"] is not None]
    right = sum(one["iou"] >= of["right_from_iou"] for one in known)
    found = sum(one["box"] is not None for one in of["maps"])
    said = f"A box was found from {found} of {len(of['maps'])} maps."
    if known:
        overlap = median(one["iou"] for one in known)
        said += (
            f" {right} of {len(known)} overlap a true box by at least {of['right_from_iou']:g} (median {overlap:.2f})."
        )
    yield _line(None, said)


def _judges(records: Sequence[Mapping[str, Any]]) -> list[Markup]:
    judged = [record for record in records if record.get("judges")]
    if not judged:
        return []
    rows = [
        {
            "class": label_with_lr(f"{record['index']} {record['target_name']}", record),
            "this network": _seen(record),
            **{name: _seen(said) for name, said in record["judges"].items()},
        }
        for record in judged
    ]
    names = list(dict.fromkeys(name for record in judged for name in record["judges"]))
    seen = {name: sum(record["judges"].get(name, {}).get("rank") == 1 for record in judged) for name in names}
    counts = ", ".join(f"{name} sees the class in {count} of {len(judged)}" for name, count in seen.items())
    return [_line(None, f"Networks that took no part in it: {counts}.", _table(rows))]


def _seen(verdict: Mapping[str, Any]) -> str:
    sure = verdict["probability"]
    return "-" if sure is None else f"{sure:.2f} (rank {verdict['rank']})"


def _unknown(name: str) -> Callable[[Any], Iterator[Markup]]:
    return lambda of: iter([_line(None, f"More is in evidence.json: {name}.")])


_KNOWN: Mapping[str, Callable[[Any], Iterator[Markup]]] = {
    "files": _files,
    "pictures": _pictures,
    "trust": _trust,
    "survivors": _survivors,
    "robustness": _robustness,
    "universal": _universal,
    "transfer": _transfer,
    "peers": _peers,
    "captum": _captum,
    "faithfulness": _faithfulness,
    "localization": _localization,
}
