"""The context of a computation: gradients, and failures as errors of one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from lit_viz.engine.method import Method
from lit_viz.errors import LitVizError, NetworkError, is_out_of_gpu_memory, is_out_of_memory


@contextmanager
def gradients_enabled() -> Iterator[None]:
    """Enable gradients, also inside an evaluation loop of Lightning."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def failures_reported(module: Method, resume: Callable[[], str] = str) -> Iterator[None]:
    """Translate failures of the network and exhausted memory into a :class:`~lit_viz.errors.LitVizError`.

    Args:
        module: the method.
        resume: returns the end of the message, how to continue.
    """
    batch = " and a smaller batch" if hasattr(module, "batch") else ""
    fewer = f"fewer slots (now {module.capacity}){batch}"
    try:
        yield
    except NetworkError as error:
        raise LitVizError(f"{error}; use {fewer} if the batch is too large{resume()}") from error
    except SystemExit as error:
        raise LitVizError(f"the network's code exited with status {error.code}{resume()}") from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        device = "GPU" if is_out_of_gpu_memory(error) else "CPU"
        hint = resume()
        if hint:
            hint = f"; finished images are kept{hint} and fewer slots"
        raise LitVizError(f"out of {device} memory: use {fewer}, fewer views or smaller images{hint}") from error
