"""What identifies a run: its tasks, and the arguments that determine their results."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from lit_viz.runs.segments import digest
from lit_viz.types import Task
from lit_viz.utils.files import json_line

#: Arguments of the module that a resume may change; those of the run may change except for the precision.
CHANGEABLE = ("slots", "compile", "devices_mode")


def run_digest(config: Mapping[str, Any], weights: str | None, queue: str) -> str:
    """Return the digest that the lines of a run have.

    Args:
        config: content of ``config.yaml``.
        weights: SHA-256 of the weights of the network.
        queue: SHA-256 of ``queue.jsonl`` with the whole queue.
    """
    module = dict(config.get("module") or {})
    arguments = dict(module.get("init_args") or {})
    for name in CHANGEABLE:
        arguments.pop(name, None)
    module["init_args"] = arguments
    trainer = (config.get("run") or {}).get("trainer") or {}
    values = {
        "network": config.get("network"),
        "weights": weights,
        "module": module,
        "tasks": config.get("tasks"),
        "precision": trainer.get("precision"),
        "queue": queue,
    }
    return digest(json_line(values))


def queue_digest(tasks: Iterable[Task]) -> str:
    """Return the SHA-256 of ``queue.jsonl`` with a whole queue, without the digests of the photographs: a shard reads
    its own ones only."""
    sha256 = hashlib.sha256()
    for task in tasks:
        sha256.update(json_line(task.amend(source_digest=None).to_dict()).encode())
    return sha256.hexdigest()
