"""Edits by hand: a user changes, damages, exchanges or deletes files of a finished run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .folders import Change, Edit

# -- changes of files; a pattern names the first file that it matches


def first(run: Path, pattern: str) -> Path:
    """Return the first file of a pattern."""
    return sorted(run.glob(pattern))[0]


def on_content(pattern: str, change: Callable[[bytes], bytes]) -> Change:
    """Return the change of a file's content."""

    def edit(run: Path) -> None:
        path = first(run, pattern)
        content = path.read_bytes()
        changed = change(content)
        if changed == content:
            raise AssertionError(f"the edit of {path} changes nothing")
        path.write_bytes(changed)

    return edit


def replace(pattern: str, old: str, new: str) -> Change:
    """Replace the first match of a regular expression."""
    return on_content(pattern, lambda content: re.sub(old.encode(), new.encode(), content, count=1))


def append(pattern: str, text: str) -> Change:
    """Append a text."""
    return on_content(pattern, lambda content: content + text.encode())


def flip(pattern: str) -> Change:
    """Change a bit in the middle."""

    def changed(content: bytes) -> bytes:
        middle = len(content) // 2
        return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]

    return on_content(pattern, changed)


def cut(pattern: str, size: int | None = None) -> Change:
    """Keep the first bytes, by default half of them."""
    return on_content(pattern, lambda content: content[: len(content) // 2 if size is None else size])


def empty(pattern: str) -> Change:
    """Remove the content."""
    return on_content(pattern, lambda content: b"")


def unlink(pattern: str) -> Change:
    """Delete the first file of a pattern."""
    return lambda run: first(run, pattern).unlink()


def unlink_all(pattern: str) -> Change:
    """Delete all files of a pattern."""

    def edit(run: Path) -> None:
        for path in run.glob(pattern):
            path.unlink()

    return edit


def exchange(pattern: str) -> Change:
    """Exchange the first two files of a pattern."""

    def edit(run: Path) -> None:
        one, two, *_ = sorted(run.glob(pattern))
        contents = one.read_bytes(), two.read_bytes()
        one.write_bytes(contents[1])
        two.write_bytes(contents[0])

    return edit


def add_copy(pattern: str, name: str) -> Change:
    """Copy a file to another name in its folder."""

    def edit(run: Path) -> None:
        path = first(run, pattern)
        path.with_name(name).write_bytes(path.read_bytes())

    return edit


def rename(pattern: str, name: str) -> Change:
    """Rename a file."""

    def edit(run: Path) -> None:
        path = first(run, pattern)
        path.rename(path.with_name(name))

    return edit


def on_lines(pattern: str, change: Callable[[list[bytes]], list[bytes]]) -> Change:
    """Return the change of a file's lines."""
    return on_content(pattern, lambda content: b"".join(change(content.splitlines(keepends=True))))


def scale_array(run: Path) -> None:
    """Multiply a map by 1.01."""
    path = first(run, "arrays/*")
    np.save(path, np.load(path) * np.float32(1.01))


def pickle_array(run: Path) -> None:
    """Write an array that contains a Python object."""
    np.save(first(run, "arrays/*"), np.array([{}], dtype=object), allow_pickle=True)


# -- the edits


def edits() -> list[Edit]:
    """Return all edits."""
    listed = [*_of_records(), *_of_metrics(), *_of_files(), *_of_derived(), *_of_bookkeeping()]
    return [Edit(name, sample, change, kind) for kind, sample, name, change in listed]


_Listed = list[tuple[str, str, str, Change]]
_RESULTS, _METRICS = "records/*.jsonl", "metrics.csv"
#: Values in the records of the attack: the key, its pattern, and the edited value.
_VALUES = {
    "status": ('"status": "done"', '"status": "skipped"'),
    "success in the file": ('"success_file": true', '"success_file": false'),
    "success as floats": ('"success_float": true', '"success_float": false'),
    "distance": ('"linf": 0', '"linf": 1'),
    "length": ('"l2": ', '"l2": 1'),
    "probability": ('"probability": 0', '"probability": 1'),
    "prediction": ('"predicted": \\d', '"predicted": 4'),
    "name of the prediction": ('"predicted_name": "class', '"predicted_name": "clash'),
    "label": ('"label": \\d', '"label": 9'),
    "iterations": ('"iterations": ', '"iterations": 1'),
    "evaluations": ('"forwards": ', '"forwards": 1'),
    "seconds": ('"seconds": ', '"seconds": 1'),
    "seed": ('"seed": ', '"seed": 1'),
    "radius": ('"eps": 0', '"eps": 1'),
    "attack": ('"attack": "pgd"', '"attack": "ddn"'),
    "photograph": ('"source": "packaged:', '"source": "packed:'),
    "file": ('"file": "\\w+', '"file": "masks'),
    "index": ('"index": 0', '"index": 2'),
    "index out of range": ('"index": 0', '"index": 7'),
    "additional key": ('"index": 0', '"remark": "text", "index": 0'),
    "space": ('"index": 0', '"index":  0'),
}


def _of_records() -> _Listed:
    listed: _Listed = []
    changes: dict[str, Change] = {f"record: {name}": replace(_RESULTS, *texts) for name, texts in _VALUES.items()}
    changes |= {
        "records: first line deleted": on_lines(_RESULTS, lambda lines: lines[1:]),
        "records: last line deleted": on_lines(_RESULTS, lambda lines: lines[:-1]),
        "records: all lines deleted": empty(_RESULTS),
        "records: file deleted": unlink(_RESULTS),
        "records: file copied": add_copy(_RESULTS, "000099.jsonl"),
        "records: line doubled": on_lines(_RESULTS, lambda lines: [*lines, lines[0]]),
        "records: line appended": append(_RESULTS, '{"index": 7, "name": "extra", "status": "done"}\n'),
        "records: torn line appended": append(_RESULTS, '{"index": 2, "na'),
        "records: empty line": append(_RESULTS, "\n"),
        "records: byte order mark": on_content(_RESULTS, lambda content: b"\xef\xbb\xbf" + content),
        "records: Windows line breaks": on_content(_RESULTS, lambda content: content.replace(b"\n", b"\r\n")),
        "records: last line break": cut(_RESULTS, -1),
    }
    for sample in ("files", "tar", "merged"):
        for name, change in changes.items():
            listed.append(("fact", sample, name, change))
    for sample in ("images", "merged_tars"):
        listed.append(("fact", sample, "records: two segments exchanged", exchange(_RESULTS)))
    listed.append(("fact", "tar", "record: offset", replace(_RESULTS, '"offset": ', '"offset": 1')))
    listed.append(("fact", "merged_tars", "record: scale", replace(_RESULTS, '"scale": ', '"scale": 1')))
    listed.append(("fact", "images", "record: judge", replace(_RESULTS, '"rank": ', '"rank": 1')))
    listed.append(("fact", "maps", "record: box", replace(_RESULTS, '"box": \\[', '"box": [1')))
    listed.append(("fact", "maps", "record: method", replace(_RESULTS, '"method": "smooth', '"method": "rough')))
    listed.append(("fact", "universal", "record: rate", replace(_RESULTS, '"fooling_rate": ', '"fooling_rate": 1')))
    return listed


def _of_metrics() -> _Listed:
    changes: dict[str, Change] = {
        "value": replace(_METRICS, ",probability,0", ",probability,1"),
        "word": replace(_METRICS, ",probability,0[.]\\d+", ",probability,high"),
        "no number": replace(_METRICS, ",probability,0[.]\\d+", ",probability,nan"),
        "iteration": replace(_METRICS, "0000_\\w+,1,", "0000_class_0,9,"),
        "negative iteration": replace(_METRICS, ",1,", ",-1,"),
        "task": replace(_METRICS, "\n0000_", "\n0001_"),
        "name of a metric": replace(_METRICS, ",probability,", ",chance,"),
        "header": on_lines(_METRICS, lambda lines: lines[1:]),
        "row deleted": on_lines(_METRICS, lambda lines: [*lines[:3], *lines[4:]]),
        "rows doubled": on_lines(_METRICS, lambda lines: [*lines, *lines[1:]]),
        "rows reversed": on_lines(_METRICS, lambda lines: [lines[0], *lines[:0:-1]]),
        "row appended": append(_METRICS, "0000_class_0,99,probability,1\n"),
        "torn row appended": append(_METRICS, "0000_class_0,99,proba"),
        "cut": cut(_METRICS, 700),
        "emptied": empty(_METRICS),
        "deleted": unlink(_METRICS),
    }
    return [("derived", "images", f"metrics: {name}", change) for name, change in changes.items()]


def _of_files() -> _Listed:
    listed: _Listed = []
    places = {"images/*": "images", "frames/*/*": "images", "sources/*": "files", "arrays/*": "maps"}
    places |= {"masks/*": "maps", "photographs/*/*.png": "universal", "photographs/*.jsonl": "universal"}
    ways = {"changed": flip, "cut": cut, "emptied": empty, "deleted": unlink}
    for pattern, sample in [*places.items(), ("images/*", "merged"), ("tars/*", "tar"), ("tars/*", "merged_tars")]:
        for name, way in ways.items():
            listed.append(("fact", sample, f"{pattern} {name}", way(pattern)))
    changes: dict[tuple[str, str], Change] = {
        ("images", "two images exchanged"): exchange("images/*"),
        ("merged_tars", "two tars exchanged"): exchange("tars/*"),
        ("tar", "bytes appended to the tar"): append("tars/*", "text"),
        ("tar", "tar added"): add_copy("tars/*", "000099.tar"),
        ("images", "image added"): add_copy("images/*", "0000_mine.png"),
        ("images", "frame added"): add_copy("frames/*/*", "iter_000099.png"),
        ("images", "frame renamed"): rename("frames/*/*", "iter_000099.png"),
        ("files", "two photographs exchanged"): exchange("sources/*"),
        ("maps", "map scaled"): scale_array,
        ("maps", "map with an object"): pickle_array,
        ("maps", "two maps exchanged"): exchange("arrays/*"),
        ("maps", "mask added"): add_copy("masks/*", "0000_mine.png"),
        ("universal", "all photographs deleted"): unlink_all("photographs/*/*.png"),
        ("universal", "photograph's record"): replace(
            "photographs/*.jsonl", '"success_file": \\w+', '"success_file": 1'
        ),
        ("universal", "photograph's line"): on_lines("photographs/*.jsonl", lambda lines: lines[1:]),
    }
    left = ("tar added", "image added", "frame added")
    for (sample, name), change in changes.items():
        listed.append(("added" if name in left else "fact", sample, name, change))
    return listed


def _of_derived() -> _Listed:
    listed: _Listed = []
    files = {"figure.png": "images", "evolution.gif": "images", "report.html": "files", "evidence.json": "files"}
    files |= {"evidence.png": "maps", "localization.png": "maps"}
    ways = {"changed": flip, "cut": cut, "emptied": empty, "deleted": unlink}
    for file, sample in files.items():
        for name, way in ways.items():
            listed.append(("derived", sample, f"{file} {name}", way(file)))
    listed.append(("derived", "files", "evidence: count", replace("evidence.json", '"fooled": ', '"fooled": 9')))
    listed.append(
        ("derived", "maps", "evidence: verdict", replace("evidence.json", '"passed": true', '"passed": false'))
    )
    listed.append(("derived", "maps", "evidence: type", replace("evidence.json", '"maps": \\[', '"maps": 5, "x": [')))
    listed.append(("derived", "files", "report: text", replace("report.html", "fool the", "fooled no")))
    return listed


def _of_bookkeeping() -> _Listed:
    changes: dict[str, tuple[str, Change]] = {
        "queue: target": ("fixed", replace("queue.jsonl", '"target": \\d', '"target": 4')),
        "queue: line deleted": ("fixed", on_lines("queue.jsonl", lambda lines: lines[:-1])),
        "queue: deleted": ("fixed", unlink("queue.jsonl")),
        "configuration: option": ("fixed", replace("config.yaml", "iterations: 4", "iterations: 5")),
        "configuration: version": ("fixed", replace("config.yaml", "python: ", "python: 1")),
        "configuration: weights": ("fixed", replace("config.yaml", "weights_sha256: ", "weights_sha256: a")),
        "configuration: comment": ("fixed", append("config.yaml", "# comment\n")),
        "configuration: cut": ("fixed", cut("config.yaml")),
        "configuration: emptied": ("fixed", empty("config.yaml")),
        "configuration: deleted": ("fixed", unlink("config.yaml")),
        "manifest: deleted": ("fact", unlink("manifest.json")),
        "manifest: cut": ("fact", cut("manifest.json")),
        "manifest: emptied": ("fact", empty("manifest.json")),
        "manifest: not complete": ("fact", replace("manifest.json", '"complete": true', '"complete": false')),
        "manifest: size": ("fact", replace("manifest.json", '(000000.jsonl": {\\s*"size": )', "\\g<1>1")),
        "manifest: name of a file": ("fact", replace("manifest.json", "records/000000", "records/000009")),
        "checkpoint: deleted": ("free", unlink("checkpoints/last.ckpt")),
        "checkpoint: cut": ("free", cut("checkpoints/last.ckpt")),
        "checkpoint: changed": ("free", flip("checkpoints/last.ckpt")),
    }
    return [(kind, "images", name, change) for name, (kind, change) in changes.items()]
