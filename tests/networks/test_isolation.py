from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lit_viz.errors import NetworkError
from lit_viz.networks import Network
from lit_viz.networks.isolation import full_float32, state_preserved
from lit_viz.outputs import load_network
from tests.support.networks import Lockable, conv_net


class Counting(nn.Module):
    """Changes its buffers in eval mode too, one in place and one by assignment, and can raise or draw."""

    count: Tensor
    last: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("last", torch.zeros(3))
        self.raising = False

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.last = self.last + x.mean()
        if self.raising:
            raise ValueError("no")
        return x + 0 * torch.rand(1)


class Adapting(nn.Module):
    """Reduces its window on small inputs, permanently, as Hugging Face's Swin does; then it fails on others."""

    def __init__(self) -> None:
        super().__init__()
        self.window = 4
        self.body = conv_net()

    def forward(self, x: Tensor) -> Tensor:
        self.window = min(self.window, x.shape[-1] // 16)
        if self.window != 4 and x.shape[-1] >= 64:
            raise ValueError("the window does not fit")
        return self.body(x)


def used_network() -> nn.Sequential:
    """A network in the middle of its owner's work: mixed train modes, some frozen, gradients, hooks."""
    net = nn.Sequential(Counting(), *conv_net(), nn.Dropout(0.5)).train()
    net[2].eval()  # a batch norm that its owner keeps in eval mode
    net[1].weight.requires_grad_(False)
    for i, parameter in enumerate(net.parameters()):
        if i % 2:
            parameter.grad = torch.full_like(parameter, float(i))
    net.register_forward_hook(lambda module, args, output: output * 1)
    net[1].register_forward_pre_hook(lambda module, args: None)
    return net


def everything(net: nn.Module) -> dict[str, Any]:
    state = {f"tensor {k}": v.clone() for k, v in net.state_dict().items()}
    state |= {f"identity {k}": id(v) for k, v in [*net.named_parameters(), *net.named_buffers()]}
    state |= {f"training {k}": m.training for k, m in net.named_modules()}
    state |= {f"frozen {k}": p.requires_grad for k, p in net.named_parameters()}
    state |= {f"grad {k}": None if p.grad is None else p.grad.clone() for k, p in net.named_parameters()}
    state |= {f"hooks {k}": (dict(m._forward_hooks), dict(m._forward_pre_hooks)) for k, m in net.named_modules()}
    return state | {"random": torch.get_rng_state()}


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for key, value in before.items():
        same = torch.equal(value, after[key]) if isinstance(value, Tensor) else value == after[key]
        assert same, key


@pytest.fixture
def is_original() -> tuple[nn.Sequential, Network]:
    net = used_network()
    return net, load_network(net, size=16)


def test_attributes_adapted_to_small_inputs_are_restored() -> None:
    net = Adapting()
    network = load_network(net, size=64)
    assert not network.accepts((21, 21))
    assert network.accepts((64, 64))
    assert net.window == 4
    network.scores(torch.rand(1, 3, 32, 32))
    assert net.window == 4


def test_a_network_that_counts_its_forwards_accepts_other_sizes() -> None:
    net = conv_net()
    net.count = 0

    def count(module: Any, *_: Any) -> None:
        module.count += 1

    net.register_forward_hook(count)
    assert load_network(net, size=64).accepts((21, 21))
    assert net.count == 0


def test_loading_preserves_the_module() -> None:
    net = used_network()
    before = everything(net)
    load_network(net, size=16)
    assert_same(before, everything(net))


@pytest.mark.parametrize("use", ["logits", "fast", "forward"])
def test_calls_preserve_the_module(is_original: tuple[nn.Sequential, Network], use: str) -> None:
    net, network = is_original
    x = torch.rand(2, 3, 16, 16)
    before = everything(net)
    if use == "logits":
        network.scores(x)
    elif use == "fast":
        network.fast()
    else:
        frozen = network.fast()
        logits, _ = frozen(x.requires_grad_(), ["1"])
        logits.sum().backward()
    assert_same(before, everything(net))


def test_a_module_without_a_copy_is_preserved_by_forward_and_backward() -> None:
    net = Lockable(used_network())
    frozen = load_network(net, size=16).fast()
    x = torch.rand(2, 3, 16, 16, requires_grad=True)
    before = everything(net)
    logits, activations = frozen(x, ["inner.1"])
    (logits.sum() + activations["inner.1"].sum()).backward()
    assert x.grad is not None
    assert_same(before, everything(net))


@pytest.mark.parametrize("use", ["logits", "forward"])
def test_a_call_that_raises_preserves_the_module(use: str) -> None:
    net = Lockable(used_network())
    network = load_network(net, size=16)
    frozen = network.fast()
    net.inner[0].raising = True
    x = torch.rand(1, 3, 16, 16)
    before = everything(net)
    with pytest.raises(NetworkError, match=r"raised \w+ at \w+\.py:\d+ on images of shape \(1, 3, 16, 16\): no"):
        network.scores(x) if use == "logits" else frozen(x, ["inner.1"])
    assert_same(before, everything(net))


def test_the_module_runs_in_eval_mode_and_frozen() -> None:
    net = conv_net().train()
    with state_preserved(net) as isolated:
        assert not any(m.training for m in isolated.modules())
        assert not any(p.requires_grad for p in isolated.parameters())
    assert all(m.training for m in net.modules())


def test_train_is_not_called_because_it_may_do_more_than_set_a_flag() -> None:
    class Merging(nn.Linear):
        def train(self, mode: bool = True) -> Merging:
            raise AssertionError("merged")

    with state_preserved(Merging(2, 2)) as isolated:
        assert not isolated.training


def test_logits_equal_the_networks_own_in_eval_mode_and_also_under_inference_mode() -> None:
    net = conv_net()
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = copy.deepcopy(net)((x - 0.5) / 0.25)
    network = load_network(net.train(), size=16, mean=0.5, std=0.25)
    assert torch.equal(network.scores(x), expected)
    with torch.inference_mode():
        logits = network.scores(x.clone())
        frozen, _ = network.fast()(x.clone())
    assert torch.equal(logits, expected)
    assert torch.allclose(frozen, expected, atol=1e-5)
    logits.requires_grad_()  # no inference tensor has got out
    assert torch.equal(net.train()[1].running_mean, conv_net()[1].running_mean)


def test_the_input_is_never_changed_in_place() -> None:
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = load_network(net, size=8)
    x = torch.rand(1, 3, 8, 8) - 0.5
    before = x.clone()
    network.scores(x)
    network.fast()(x)
    assert torch.equal(x, before)


def test_gradients_changed_in_the_body_are_restored() -> None:
    net = used_network()
    before = everything(net)
    with state_preserved(net) as isolated:
        isolated.zero_grad(set_to_none=True)
        isolated[1].weight.grad = torch.ones_like(isolated[1].weight)
    assert_same(before, everything(net))


class Noisy(nn.Module):
    """Draws by whatever draws."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = conv_net()

    def forward(self, x: Tensor) -> Tensor:
        noise = random.random() + float(np.random.rand()) + torch.rand(())  # noqa: NPY002
        return self.inner(x) + noise


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="this torch has the old way only")
def test_full_float32_overrides_old_and_new_precision_settings() -> None:
    """After a use of torch's new settings, reading the old ones raises."""
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = torch.backends.fp32_precision, conv.fp32_precision, matmul.fp32_precision
    try:
        for everywhere, products, convolutions in (("ieee", "tf32", "ieee"), ("tf32", "tf32", "tf32")):
            torch.backends.fp32_precision = everywhere
            matmul.fp32_precision, conv.fp32_precision = products, convolutions
            with full_float32():
                assert (matmul.fp32_precision, conv.fp32_precision) == ("ieee", "ieee")
            assert (matmul.fp32_precision, conv.fp32_precision) == (products, convolutions)
    finally:
        torch.backends.fp32_precision, conv.fp32_precision, matmul.fp32_precision = before


class Flagged(nn.Module):
    """Sets cuDNN's flags in its forward, which reads all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.backends.cudnn.flags(enabled=False):
            return self.layer(x).mean((2, 3))


@pytest.mark.parametrize("products", ["highest", "high", "medium"])
def test_a_forward_can_read_and_set_precision_flags(products: str) -> None:
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(products)
    try:
        network = load_network(Flagged(), size=8)
        assert torch.isfinite(network.scores(torch.rand(2, 3, 8, 8))).all()
        with full_float32():
            assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == (False, "highest")
        assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == (before[0], products)
    finally:
        torch.set_float32_matmul_precision(before[1])


def test_global_random_states_are_preserved() -> None:
    def states() -> tuple[Any, ...]:
        words = np.random.get_state()[1].tolist()  # type: ignore[union-attr]  # noqa: NPY002
        return random.getstate(), words, torch.get_rng_state().tolist()

    before = states()
    network = load_network(Noisy(), size=16)
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    network.scores(x)
    network.fast()(x)
    assert states() == before
