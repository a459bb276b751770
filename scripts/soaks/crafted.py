"""Crafted run folders: files that no version has written, confirmed by their manifest."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lit_viz.engine.lightning import AtomicCheckpointIO

from .edits import append, first, replace
from .folders import Change, Edit, reseal

#: JSON values of other types and sizes than expected, as text.
VALUES = {
    "a word": '"x"',
    "empty text": '""',
    "a negative number": "-1",
    "an enormous number": "9" * 400,
    "infinity": "1e999",
    "no number": "NaN",
    "null": "null",
    "true": "true",
    "a list": "[]",
    "nested lists": "[[[1]]]",
    "deep nesting": "[" * 3000 + "]" * 3000,
    "an object": '{"a": 1}',
    "a path": '"../../../etc/passwd"',
    "an escape sequence": '"\\u001b[31mred"',
    "a long text": json.dumps("x" * 100_000),
}
_MARK = "@value@"


def crafted() -> list[Edit]:
    """Return all crafted folders."""
    listed = [*_of_records(), *_of_tables(), *_of_configurations(), *_of_checkpoints(), *_of_entries(), *_of_images()]
    return [Edit(name, sample, change, "crafted") for sample, name, change in listed]


_Listed = Iterator[tuple[str, str, Change]]


def with_value(pattern: str, keys: tuple[str, ...], value: str, *, line: int = 0) -> Change:
    """Return the change of a value in a line of JSON, which the digests confirm."""

    def edit(run: Path) -> None:
        path = first(run, pattern)
        lines = path.read_text().splitlines()
        whole = json.loads(lines[line]) if path.suffix == ".jsonl" else json.loads(path.read_text())
        part = whole
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = _MARK
        text = json.dumps(whole).replace(json.dumps(_MARK), value)
        if path.suffix == ".jsonl":
            lines[line] = text
            text = "\n".join(lines)
        path.write_text(text + "\n")
        if pattern != "manifest.json":
            reseal(run)

    return edit


def then_reseal(change: Change) -> Change:
    """Return a change after which the folder confirms itself."""

    def edit(run: Path) -> None:
        change(run)
        reseal(run)

    return edit


def _of_records() -> _Listed:
    keys = {
        "images": (
            "kind", "index", "name", "status", "target", "seconds", "file", "metrics", "metrics.probability", "top5",
            "judges",
        ),
        "files": (
            "source", "label", "settings", "settings.norm", "settings.eps", "success_file", "predicted",
            "original_box", "metrics.l2", "attack",
        ),
        "maps": (
            "method", "reducer", "original_size", "box", "metrics.maximum", "metrics.relative_error", "array",
        ),
        "universal": ("metrics.fooling_rate", "photographs", "magnified"),
        "merged_tars": ("array", "offset", "scale", "source_sha256"),
    }  # fmt: skip
    for sample, names in keys.items():
        for key in names:
            for about, value in VALUES.items():
                change = with_value("records/*.jsonl", ("record", *key.split(".")), value)
                yield sample, f"record: {key} is {about}", change
    for key in ("index", "run", "rows", "files"):
        for about, value in VALUES.items():
            yield "images", f"line: {key} is {about}", with_value("records/*.jsonl", (key,), value)
    for key in ("index", "name", "file", "original", "predicted_name"):
        for about in ("a word", "an enormous number", "a list", "a path"):
            change = with_value("photographs/*.jsonl", (key,), VALUES[about])
            yield "universal", f"photograph: {key} is {about}", change


def _of_tables() -> _Listed:
    for key in ("index", "name", "seed", "target", "method"):
        for about, value in VALUES.items():
            yield "images", f"task: {key} is {about}", with_value("queue.jsonl", (key,), value)
    for part in ("files", "trust"):
        for about, value in VALUES.items():
            yield "files", f"evidence: {part} is {about}", with_value("evidence.json", (part,), value)
    for keys in (("captum", "maps"), ("captum", "passed"), ("localization", "maps"), ("localization", "corloc")):
        for about in ("a word", "a list", "an object", "deep nesting", "null"):
            yield "maps", f"evidence: {'.'.join(keys)} is {about}", with_value("evidence.json", keys, VALUES[about])
    for key in ("complete", "files"):
        for about, value in VALUES.items():
            yield "images", f"manifest: {key} is {about}", with_value("manifest.json", (key,), value)
    for line in ("", "null", "[]", "{}", '{"index": 0}', "[" * 3000, "\x00" * 100, "{" + '"a":' * 3000):
        yield "images", f"queue.jsonl: line {line[:10]!r}", then_reseal(append("queue.jsonl", line + "\n"))


def _of_configurations() -> _Listed:
    values = ["5", "[a, b]", "{a: 1}", "null", "x", "''", "9" * 400, ".inf", "2026-99-99", "&a [*a]", "!!python/none"]
    keys = ("module", "presentation", "weights_sha256", "probe_logits", "multi_label", "format")
    for key in keys:
        for value in values:
            change = replace("config.yaml", rf"\n  {key}:.*(\n  +-.*|\n    .*)*", rf"\n  {key}: {value}")
            yield "images", f"recorded: {key} is {value[:10]}", then_reseal(change)
    keys = ("network", "module", "parameterization", "transforms", "iterations", "slots", "log_at", "tasks", "seed")
    for key in (*keys, "run", "figure", "trainer", "logger", "tags"):
        for value in values:
            change = replace("config.yaml", rf"\n( *){key}:.*(\n\1[ -].*)*", rf"\n\1{key}: {value}")
            yield "images", f"option: {key} is {value[:10]}", then_reseal(change)


def _of_checkpoints() -> _Listed:
    def mutate(change: Callable[[dict[str, Any]], object]) -> Change:
        def edit(run: Path) -> None:
            path, files = run / "checkpoints" / "last.ckpt", AtomicCheckpointIO()
            checkpoint = files.load_checkpoint(path)
            change(checkpoint)
            files.save_checkpoint(checkpoint, path)
            (run / "manifest.json").unlink()

        return edit

    for about, value in {
        "a word": "x",
        "none": None,
        "a list": [1],
        "a number": 10**30,
        "a tensor": torch.ones(2),
    }.items():
        for key in ("lit_viz", "store", "state_dict", "loops", "callbacks", "global_step"):
            yield "images", f"checkpoint: {key} is {about}", mutate(lambda c, k=key, v=value: c.__setitem__(k, v))
        for part, keys in {
            "lit_viz": ("format", "slots", "sums"),
            "store": ("segments", "in_progress", "snapshots"),
        }.items():
            for key in keys:
                change = mutate(lambda c, p=part, k=key, v=value: c[p].__setitem__(k, v))
                yield "images", f"checkpoint: {key} is {about}", change
        slot = {"task": 0, "state": {"iteration": value}}
        yield (
            "images",
            f"slot: iteration is {about}",
            mutate(lambda c, s=slot: c["lit_viz"].update(slots=[s], finished={})),
        )
        slot = {"task": value}
        yield "images", f"slot: task is {about}", mutate(lambda c, s=slot: c["lit_viz"].update(slots=[s], finished={}))
    yield "images", "checkpoint: no state", mutate(lambda c: c.clear())


def _of_entries() -> _Listed:
    """Yield folders with an entry of another kind."""
    ways: dict[str, Callable[[Path], object]] = {
        "a FIFO": os.mkfifo,
        "a link to a device": lambda path: path.symlink_to("/dev/zero"),
        "a link out of the folder": lambda path: path.symlink_to("/etc/passwd"),
        "a link to itself": lambda path: path.symlink_to(path.name),
        "a folder": Path.mkdir,
        "a socket": _bind,
        "a sparse file of a terabyte": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
    }
    names = [
        "config.yaml", "queue.jsonl", "results.jsonl", "metrics.csv", "manifest.json", "evidence.json", "figure.png",
        "report.html", "checkpoints/last.ckpt", "wandb/run_id.txt", "wandb/offline-run-1", "csv", "masks", ".lock",
        "images/0000_class_0.png", "frames/0000_class_0/iter_000002.png", "records/000000.jsonl",
    ]  # fmt: skip
    for about, make in ways.items():
        for name in names:
            yield "images", f"{name} is {about}", partial(_make, name=name, make=make)
        yield "tar", f"tars/000000.tar is {about}", partial(_make, name="tars/000000.tar", make=make)


def _make(run: Path, name: str, make: Callable[[Path], object]) -> None:
    path = run / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    make(path)


def _bind(path: Path) -> None:
    """Make a socket; its name may be too long for the system."""
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(before)


def _of_images() -> _Listed:
    contents = {"text": b"no image", "half": None, "a header only": b"\x89PNG\r\n\x1a\n", "zeros": bytes(500)}
    for pattern, sample in {
        "images/*": "images",
        "frames/*/*": "images",
        "sources/*": "files",
        "arrays/*": "maps",
    }.items():
        for about, content in contents.items():
            change = partial(_write, pattern=pattern, content=content)
            yield sample, f"{pattern} is {about}", then_reseal(change)
        yield sample, f"{pattern} is another image", then_reseal(partial(_draw, pattern=pattern, size=(7, 5)))
        yield sample, f"{pattern} is a large image", then_reseal(partial(_draw, pattern=pattern, size=(9000, 9000)))
    for text in ("x", "[1]", '[["a"]]', '[["a", "b"]]', "[" * 3000, '{"a": 1}', '[["a", 1e999]]'):
        yield "images", f"frame: top5 is {text[:10]}", then_reseal(partial(_write_top5, text=text))


def _write(run: Path, pattern: str, content: bytes | None) -> None:
    path = first(run, pattern)
    path.write_bytes(path.read_bytes()[:60] if content is None else content)


def _draw(run: Path, pattern: str, size: tuple[int, int]) -> None:
    path = first(run, pattern)
    Image.new("RGB", size).save(path, "PNG")


def _write_top5(run: Path, text: str) -> None:
    path = first(run, "frames/*/*")
    info = PngInfo()
    info.add_itxt("top5", text)
    with Image.open(path) as image:
        copied = image.copy()
    copied.save(path, pnginfo=info)
