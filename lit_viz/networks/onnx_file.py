"""Networks in ONNX files, converted to PyTorch by onnx2torch and compared with onnxruntime."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lit_viz.errors import LitVizError, first_line
from lit_viz.networks.summaries import probe_images
from lit_viz.utils.imports import required

#: Largest difference from onnxruntime, relative to the largest output.
_TOLERANCE = 1e-4
_ROUNDING = 1e-5  # absolute, for outputs that are nearly zero
#: Side in pixels at which a network of any size is compared.
_SIDE = 224


def read_onnx(path: str | Path) -> nn.Module:
    """Return the network of an ONNX file in eval mode; compared with onnxruntime, if that is installed.

    Args:
        path: file with images ``(N, C, H, W)`` as the first input.

    Raises:
        LitVizError: onnx2torch is missing, the file can't be read or converted, or the converted network returns
            something else.
    """
    onnx, onnx2torch = _packages()
    try:
        model = onnx.load(str(path))
        session_bytes = model.SerializeToString()
        _constants_to_initializers(onnx, model)
    except Exception as error:  # of any kind: onnx checks little
        raise LitVizError(f"{path} can't be read as an ONNX file ({first_line(error)}): export it again") from error
    try:
        network: nn.Module = onnx2torch.convert(model)
    except Exception as error:  # an operation without a converter
        raise LitVizError(
            f"{path} can't be converted by onnx2torch ({first_line(error)}): give the network that was exported"
        ) from error
    network.eval()
    if find_spec("onnxruntime"):
        _compare(network, model, session_bytes, path)
    return network


def _packages() -> tuple[Any, Any]:
    with required("onnx 1.16 to 1.23 and onnx2torch 1.5", "an ONNX file", extra="onnx"):
        return importlib.import_module("onnx"), importlib.import_module("onnx2torch")


def _constants_to_initializers(onnx: Any, model: Any) -> None:
    """Replace nodes that are constants by initializers, which onnx2torch reads as parameters of other nodes."""
    nodes = []
    for node in model.graph.node:
        tensor = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
        if node.op_type != "Constant" or tensor is None:
            nodes.append(node)
            continue
        initializer = onnx.TensorProto.FromString(tensor.SerializeToString())
        initializer.name = node.output[0]
        model.graph.initializer.append(initializer)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _compare(network: nn.Module, model: Any, session_bytes: bytes, path: str | Path) -> None:
    """Compare the network with onnxruntime on probe images.

    Raises:
        LitVizError: an output differs.
    """
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(session_bytes, providers=["CPUExecutionProvider"])
    first = session.get_inputs()[0]
    _, channels, height, width = [value if isinstance(value, int) else None for value in first.shape]
    images = probe_images(channels or 3, (height or _SIDE, width or _SIDE))[:1]
    expected = session.run(None, {first.name: images.numpy()})[0]
    with torch.no_grad():
        returned = network(images)
    actual = returned[0] if isinstance(returned, (tuple, list)) else returned
    largest = float(np.abs(expected).max())
    difference = float(np.abs(actual.numpy() - expected).max()) if actual.shape == expected.shape else float("inf")
    if not difference <= _TOLERANCE * largest + _ROUNDING:
        raise LitVizError(
            f"{path}: the converted network differs from onnxruntime by {difference:.1e}: give the network that was "
            "exported"
        )
