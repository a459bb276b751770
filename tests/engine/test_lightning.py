"""Adaptations of Lightning."""

from __future__ import annotations

import logging

from lit_viz.engine.lightning import messages_ignored


def test_the_levels_of_loggers_are_restored_after_simultaneous_runs() -> None:
    logger = logging.getLogger("lightning_fabric")
    level = logger.level
    first, second = messages_ignored(), messages_ignored()
    for context in (first, second):
        context.__enter__()
    first.__exit__(None, None, None)
    assert logger.level == logging.WARNING
    second.__exit__(None, None, None)
    assert logger.level == level != logging.WARNING
