from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.networks import Network
from lit_viz.networks.fast import compiling
from lit_viz.optim import Evaluation
from lit_viz.outputs import load_network
from tests.support.networks import smooth_network

COMPILE = torch.compile
# Of torch's own compiler, which hides the second from users.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of torch.compile but the compiler that writes machine code, which takes long."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", lambda network, mode: COMPILE(network, backend="aot_eager"))


def photographs(count: int) -> Tensor:
    return (torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255).round() / 255


def logits_and_gradient(frozen: Callable[..., Any], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    logits, _ = frozen(x)
    return logits.detach(), torch.autograd.grad(logits[:, 1].sum(), x)[0]


def test_a_compiled_copy_is_equal_and_compiled_once_for_all_batches(traced: None) -> None:
    network = load_network(smooth_network(), size=16)
    plain, result = network.fast(), network.fast(compiled="default")
    assert result._compiled is not None
    assert plain._compiled is None
    with torch._dynamo.config.patch(error_on_recompile=True):
        for count in (4, 1, 3, 2, 7):
            for actual, its in zip(
                logits_and_gradient(result, photographs(count)),
                logits_and_gradient(plain, photographs(count)),
                strict=True,
            ):
                torch.testing.assert_close(actual, its)


def test_a_forward_supports_two_backwards(traced: None) -> None:
    result = load_network(smooth_network(), size=16).fast(compiled="default")
    x = photographs(3).requires_grad_()
    logits, _ = result(x)
    evaluation = Evaluation(x, logits[:, 0], logits)
    first = evaluation.backward(keep=True)
    other = evaluation.backward(lambda rows: rows[:, 1], keep=True)
    assert torch.equal(evaluation.backward(lambda rows: rows[:, 0]), first)
    assert not torch.allclose(other, first)


def test_layers_are_read_uncompiled(traced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_network(smooth_network(), size=16)
    frozen = network.fast(keep=["head"], compiled="default")
    monkeypatch.setattr(frozen, "_compiled", None)
    expected = frozen(photographs(2), layers=["head"])
    monkeypatch.setattr(frozen, "_compiled", lambda x: pytest.fail("called"))
    logits, activations = frozen(photographs(2), layers=["head"])
    assert torch.equal(logits, expected[0])
    assert torch.equal(activations["head"], expected[1]["head"])


def test_a_failed_compilation_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(network: Any, mode: str) -> Any:
        raise FileNotFoundError("no compiler\nsecond line")

    monkeypatch.setattr(torch, "compile", refuse)
    classifier = load_network(smooth_network(), size=16)
    frozen = classifier.fast(compiled="default")
    assert frozen.notes[-1:] == ("Smooth is not compiled, which is slower: no compiler",)
    assert torch.equal(frozen(photographs(2))[0], classifier.fast(compiled="default")(photographs(2))[0])


def test_compiled_code_with_other_results_is_not_used(traced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    right = compiling.Compiled.__call__
    monkeypatch.setattr(compiling.Compiled, "__call__", lambda self, x: right(self, x) * 1.1)
    frozen = load_network(smooth_network(), size=16).fast(compiled="default")
    assert frozen._compiled is None
    assert "other logits" in frozen.notes[-1]


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["pgd", "deepfool", "carlini_wagner"])
def test_runs_have_the_same_outcomes(traced: None, smooth: Network, attack: str) -> None:
    runs = [
        lv.attack(
            smooth, photographs(3), attack=attack, iterations=8, slots=2, trainer={"precision": "64-true"}, compile=mode
        )
        for mode in (None, "default")
    ]
    torch.testing.assert_close(runs[1].images, runs[0].images, rtol=0, atol=1 / 255 + 1e-6)
    counts = [[(r["forwards"], r["backwards"], r["success_file"]) for r in run.records] for run in runs]
    assert counts[0] == counts[1]


def test_a_run_compiles_only_the_training_copy(traced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    steps: list[None] = []
    build = compiling.Compiled.__init__

    @functools.wraps(build)
    def init(self: Any, network: Any, mode: Any) -> None:
        made.append(mode)
        build(self, network, mode)

    monkeypatch.setattr(compiling.Compiled, "__init__", init)
    monkeypatch.setattr("torch.compiler.cudagraph_mark_step_begin", lambda: steps.append(None))
    lv.saliency(load_network(smooth_network(), size=16), photographs(2), compile="max-autotune", iterations=3)
    assert made == ["max-autotune"]
    assert steps  # required by CUDA graphs


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
def test_the_embedded_network_is_compiled(lite0: Network) -> None:
    torch._dynamo.reset()
    x = torch.rand(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    frozen = lite0.fast(compiled="default")
    assert frozen._compiled is not None
    with torch._dynamo.config.patch(error_on_recompile=True):
        for count in (3, 1):
            for actual, its in zip(
                logits_and_gradient(frozen, x[:count]), logits_and_gradient(lite0.fast(), x[:count]), strict=True
            ):
                assert (actual - its).norm() < 1e-2 * its.norm()  # at kinks the last bit decides
