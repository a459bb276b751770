"""Networks in ONNX files."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_viz.errors import LitVizError
from lit_viz.networks import onnx_file
from lit_viz.outputs import load_network
from tests.support.networks import Around, conv_net

has_onnx = pytest.mark.skipif(
    not (importlib.util.find_spec("onnx2torch") and importlib.util.find_spec("onnx")), reason="needs onnx2torch"
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            conv_net(), (torch.rand(1, 3, 32, 32),), str(path), dynamo=False, opset_version=17,
            dynamic_axes={"x": {0: "n"}}, input_names=["x"],
        )  # fmt: skip
    return path


@has_onnx
def test_a_file_gives_the_logits_of_the_exported_network(file: Path) -> None:
    loaded = load_network(str(file), size=32, mean=0.5, std=0.5)
    x = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        expected = conv_net()((x - 0.5) / 0.5)
    assert torch.allclose(loaded.scores(x), expected, rtol=1e-4, atol=1e-5)
    assert torch.allclose(loaded.fast()(x)[0], expected, rtol=1e-3, atol=1e-5)


@has_onnx
def test_a_file_of_one_image_is_evaluated_on_each_image(tmp_path: Path) -> None:
    path = str(tmp_path / "one.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flat = Around(conv_net(), lambda net, x: net(x.reshape(1, 3, 32, 32))).eval()  # which fixes the batch size
        torch.onnx.export(flat, (torch.rand(1, 3, 32, 32),), path, dynamo=False, opset_version=17)
    x = torch.rand(3, 3, 32, 32)
    with pytest.raises(LitVizError, match="it accepts one image, but batches of several are required: give each_image"):
        load_network(path, size=32, mean=0.5, std=0.5)
    loaded = load_network(path, size=32, mean=0.5, std=0.5, each_image=True)
    with torch.no_grad():
        expected = conv_net()((x - 0.5) / 0.5)
    assert torch.allclose(loaded.scores(x), expected, rtol=1e-4, atol=1e-5)


@has_onnx
def test_constants_become_initializers(file: Path) -> None:
    import onnx

    model = onnx.load(str(file))
    tensor = onnx.numpy_helper.from_array(torch.ones(1).numpy(), "")
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["one"], value=tensor))
    onnx_file._constants_to_initializers(onnx, model)
    assert "Constant" not in {node.op_type for node in model.graph.node}
    assert "one" in {initializer.name for initializer in model.graph.initializer}


@has_onnx
def test_another_output_than_that_of_onnxruntime_is_rejected(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    import onnx2torch

    convert = onnx2torch.convert

    def wrong(model: Any) -> Any:
        return torch.nn.Sequential(convert(model), torch.nn.Softplus())

    monkeypatch.setattr(onnx2torch, "convert", wrong)
    with pytest.raises(LitVizError, match="differs from onnxruntime"):
        load_network(str(file), size=32, mean=0.5, std=0.5)


@has_onnx
def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    damaged = tmp_path / "net.onnx"
    damaged.write_bytes(b"no network")
    with pytest.raises(LitVizError, match="can't be read as an ONNX file"):
        load_network(str(damaged), size=32)


def test_a_missing_file_and_missing_packages_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LitVizError, match=r"no ONNX file 'net\.onnx'"):
        load_network("net.onnx", size=32)
    present = tmp_path / "net.onnx"
    present.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(LitVizError, match=r"pip install 'lit-viz\[onnx\]'"):
        load_network(str(present), size=32)
