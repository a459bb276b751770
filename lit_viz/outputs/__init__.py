"""Ready outputs of networks that are no classifiers, one per file, and :func:`load_network`."""

from __future__ import annotations

from typing import Any

from lit_viz.errors import LitVizError
from lit_viz.networks.loading import load
from lit_viz.networks.network import Network
from lit_viz.networks.outputs import LOGITS, Decision, Logits, Output
from lit_viz.networks.sources import import_object
from lit_viz.outputs.detection import Detection
from lit_viz.outputs.embedding import Embedding
from lit_viz.outputs.keypoint import Keypoint
from lit_viz.outputs.region import Region, Share
from lit_viz.outputs.regression import Regression
from lit_viz.outputs.zero_shot import ZeroShot
from lit_viz.utils.formatting import remark

#: Outputs by name.
OUTPUTS: dict[str, type[Output]] = {
    "logits": Logits,
    "region": Region,
    "share": Share,
    "detection": Detection,
    "embedding": Embedding,
    "zero_shot": ZeroShot,
    "regression": Regression,
    "keypoint": Keypoint,
}


def load_network(network: Any, *, output: Any = "logits", **options: Any) -> Network:
    """Load any trained vision network; log what was assumed about it.

    Args:
        network: a module, or a name as of :func:`~lit_viz.networks.load_network`.
        output: what of its return value is scored: an :class:`~lit_viz.networks.outputs.Output`, a name of
            :data:`OUTPUTS` or ``module:function``, a function of the return value, or an index or key of it. The last
            three give numbers (:class:`Regression`).
        options: other arguments of :func:`~lit_viz.networks.load_network`; ``labels`` name the scores.

    Returns:
        The network, whose scores stand in place of logits everywhere.

    Raises:
        LitVizError: as :func:`~lit_viz.networks.load_network`, or the output fails on the network.
    """
    loaded = load(network, output=as_output(output), **options)
    loaded.log_notes(remark)
    return loaded


def as_output(output: Any) -> Output:
    """Return an output that is given as in :func:`load_network`.

    Raises:
        LitVizError: it is neither, or there is no output of the name.
    """
    if isinstance(output, Output):
        return output
    if isinstance(output, type) and issubclass(output, Output):
        return _with_defaults(output)
    if isinstance(output, bool) or not (isinstance(output, (int, str)) or callable(output)):
        raise LitVizError(
            f"output must be an Output, a name, a function of the return value, an index or a key, got {output!r}"
        )
    if not isinstance(output, str):
        return Regression(output)
    if ":" in output:
        return as_output(import_object(output, "output"))
    if output.lower() in OUTPUTS:
        return _with_defaults(OUTPUTS[output.lower()])
    return Regression(output)


def configured_output(value: Any) -> Output:
    """Return the output of a configuration: a name or key, ``class_path`` and ``init_args``, or None for the logits.

    Raises:
        LitVizError: it can't be made.
    """
    if value is None:
        return LOGITS
    if isinstance(value, str):
        return as_output(value)
    path = str(value.get("class_path", ""))
    module, _, name = path.rpartition(".")
    kind = OUTPUTS.get(path.lower()) if not module else import_object(f"{module}:{name}", "output")
    if not (isinstance(kind, type) and issubclass(kind, Output)):
        raise LitVizError(f"class_path of output must be an Output, got {path!r}")
    try:
        return kind(**(value.get("init_args") or {}))
    except TypeError as error:
        raise LitVizError(f"{name or path}: {error}") from error


def _with_defaults(kind: type[Output]) -> Output:
    try:
        return kind()
    except TypeError as error:
        raise LitVizError(f"{kind.__name__} requires arguments: give an instance of it") from error


__all__ = [
    "LOGITS",
    "OUTPUTS",
    "Decision",
    "Detection",
    "Embedding",
    "Keypoint",
    "Logits",
    "Output",
    "Region",
    "Regression",
    "Share",
    "ZeroShot",
    "as_output",
    "configured_output",
    "load_network",
]
