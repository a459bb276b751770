"""DeepLIFT: reused modules, functions and in-place calls against Captum on a network with one module per call."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import captum.attr
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lit_viz as lv
from lit_viz.attributions import DeepLift, attribute
from lit_viz.errors import LitVizError
from lit_viz.evidence.saliency.captum_reference import CaptumReference
from lit_viz.networks import Network
from lit_viz.networks.fast.interception import Call
from lit_viz.networks.fast.rescaling import Rescaling
from tests.support.attributions import distance
from tests.support.networks import Around


class Reused(nn.Module):
    """One in-place module for two calls, a function, and a method without its result."""

    def __init__(self, act: nn.Module | None = None, pool: nn.Module | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
            self.hidden, self.head = nn.Linear(6, 6), nn.Linear(6, 5)
        self.act, self.pool = act or nn.ReLU(inplace=True), pool or nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act(self.first(x)))
        y = self.second(x)
        y += x
        y = functional.relu(self.hidden(self.act(y).mean((2, 3))))
        z = self.head(y)
        z.clamp_(min=-0.3)
        return z


class Unshared(Reused):
    """The same function of modules that Captum supports, each called once."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ModuleList(nn.ReLU() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu[0](self.first(2 * x - 1)).clone())  # Captum ignores a pooling right after a module
        y = self.relu[1](self.second(x) + x).mean((2, 3))
        return self.relu[3](self.head(self.relu[2](self.hidden(y))) + 0.3) - 0.3


def photographs() -> Tensor:
    return torch.rand(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def wrapped(network: nn.Module) -> Network:
    return lv.load_network(network.eval(), size=12, mean=[0.5] * 3, std=[0.5] * 3)


def explained(network: nn.Module, method: DeepLift, targets: list[int]) -> tuple[Tensor, dict[str, Tensor], Network]:
    loaded = wrapped(network)
    method.bind(loaded)
    networks = {name: loaded.fast(dtype=torch.float64, backprop=name) for name in method.networks}
    return *attribute(method, networks, photographs(), targets), loaded


def test_every_call_of_a_reused_module_has_its_multiplier() -> None:
    maps, uncertainty, _ = explained(Reused(), DeepLift("random"), [4, 4])
    baselines = DeepLift("random").baseline(photographs(), [0, 1])
    x = photographs().requires_grad_()
    with pytest.warns(UserWarning, match="Setting forward, backward hooks"):
        expected = captum.attr.DeepLift(Unshared().double()).attribute(x, baselines, torch.tensor([4, 4]))
    assert maps.abs().amax((1, 2, 3)).min() > 0
    assert distance(maps, expected.detach()) < 1e-8
    assert uncertainty["completeness"].max() < 1e-12


@pytest.mark.parametrize("act", [nn.ReLU6(), nn.SiLU(inplace=True), nn.GELU(), nn.Hardswish(), nn.Sigmoid()])
@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2)])
def test_maps_are_complete(act: nn.Module, pool: nn.Module) -> None:
    maps, uncertainty, loaded = explained(Reused(act, pool), DeepLift(), [1, 4])
    with torch.no_grad():
        network = loaded.original.double()
        scores = [network(2 * x - 1)[[0, 1], [1, 4]] for x in (photographs(), 0 * photographs())]
    torch.testing.assert_close(maps.flatten(1).sum(1), scores[0] - scores[1], rtol=1e-5, atol=1e-7)  # float32 weights
    assert uncertainty["completeness"].max() < 1e-12
    assert not any("derivative" in note for note in loaded.notes)


@pytest.mark.parametrize("act", [nn.ReLU(inplace=True), nn.PReLU(6), nn.SiLU()])
def test_multipliers_of_an_image_that_equals_its_baseline_are_derivatives(act: nn.Module) -> None:
    loaded = wrapped(Reused(act, nn.AvgPool2d(2)))
    images = photographs()
    pairs = torch.stack([images, images], 1).requires_grad_()
    images.requires_grad_()
    (multipliers,) = torch.autograd.grad(loaded.fast(dtype=torch.float64, backprop="rescale")(pairs)[0].sum(), pairs)
    (gradient,) = torch.autograd.grad(loaded.fast(dtype=torch.float64)(images)[0].sum(), images)
    torch.testing.assert_close(multipliers[:, 0], gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: functional.gelu(x).mul_(1.7),
        lambda x: functional.relu6(x + 3, inplace=True).div_(6),
        lambda x: functional.relu(x, inplace=1),  # type: ignore[arg-type]
        lambda x: x.clone().add_(3).clamp_(0, 6).div_(6),
        lambda x: x.clamp_min(torch.zeros_like(x)),
    ],
)
def test_input_and_output_of_a_call_may_change_later(function: Callable[[Tensor], Tensor]) -> None:
    network = Reused(Around(nn.Identity(), lambda _, x: function(x)), nn.AvgPool2d(2))
    _, uncertainty, _ = explained(network, DeepLift(), [1, 4])
    assert uncertainty["completeness"].max() < 1e-12


def test_constants_may_have_a_row_for_each_image() -> None:
    act = Around(nn.Identity(), lambda _, x: x.clamp_min(torch.full_like(x, 0.1)))
    images = photographs()
    images[:, :, :6] = 0  # equal to the baseline
    loaded = wrapped(Reused(act, nn.AvgPool2d(2)))
    networks = {name: loaded.fast(dtype=torch.float64, backprop=name) for name in DeepLift.networks}
    _, uncertainty = attribute(DeepLift(), networks, images, [1, 4])
    assert uncertainty["completeness"].max() < 1e-12


def test_graphs_of_calls_in_place_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    functions = []

    class Recorded(Rescaling):
        def elementwise(self, z: Tensor, call: Call) -> Tensor:
            functions.append(weakref.ref(call.function))
            return super().elementwise(z, call)

    copied = wrapped(Reused(nn.ReLU(inplace=True))).fast(backprop="rescale")
    monkeypatch.setattr("lit_viz.networks.fast.rescaling.Rescaling", Recorded)
    pairs = torch.rand(1, 2, 3, 12, 12).requires_grad_()
    gc.disable()
    try:
        torch.autograd.grad(copied(pairs)[0].sum(), pairs)
        assert len(functions) == 4
        assert not any(function() for function in functions)
    finally:
        gc.enable()


def test_products_keep_their_derivative_and_are_named() -> None:
    class Gated(Reused):
        def forward(self, x: Tensor) -> Tensor:
            y = self.act(self.first(x))
            return self.head((y * y.mean((2, 3), keepdim=True).sigmoid()).mean((2, 3)))

    _, uncertainty, loaded = explained(Gated(), DeepLift(), [1, 4])
    assert any("keeps the derivative of a product of activations" in note for note in loaded.notes)
    assert uncertainty["completeness"].min() > 1e-4


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.LayerNorm([6, 12, 12]), "layernorm"),
        (nn.GroupNorm(2, 6), "groupnorm"),
        (nn.InstanceNorm2d(6), "instancenorm"),
    ],
)
def test_normalizations_keep_their_derivative_and_are_named(layer: nn.Module, name: str) -> None:
    network = nn.Sequential(Reused().first, nn.ReLU(), nn.MaxPool2d(3, 1, 1), layer, nn.Flatten(), nn.LazyLinear(5))
    network(photographs().float())
    maps, uncertainty, loaded = explained(network, DeepLift("random"), [1, 4])
    assert any(f"keeps the derivative of {name}; its gap" in note for note in loaded.notes)
    assert uncertainty["completeness"].max() > 1e-6
    reference = CaptumReference(DeepLift("random"), loaded, photographs()[:1], target=1, seed=0, evaluations=1)
    assert distance(maps[:1], reference.compute()) < 1e-8


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "max_pool1d": lambda x: functional.max_pool1d(x.flatten(2), 3, 2, 1),
    "max_pool2d, indices": lambda x: functional.max_pool2d(x, 3, 2, 1, 2, return_indices=True)[0],
    "max_pool2d, ceiling": lambda x: functional.max_pool2d(x, (3, 5), ceil_mode=True),
    "max_pool3d": lambda x: functional.max_pool3d(x.unflatten(1, (2, 3)), (2, 3, 3), 2),
    "adaptive_max_pool1d": lambda x: functional.adaptive_max_pool1d(x.flatten(2), 5),
    "adaptive_max_pool2d": lambda x: functional.adaptive_max_pool2d(x, (5, 3)),
    "adaptive_max_pool3d": lambda x: functional.adaptive_max_pool3d(x.unflatten(1, (2, 3)), (2, 5, 5)),
    "amax": lambda x: x.amax((2, 3)),
    "amax, kept": lambda x: torch.amax(x, dim=(-1, 1), keepdim=True),
    "amin": lambda x: x.amin(-1),
    "max": lambda x: x.flatten(2).max(-1)[0],
    "max, kept": lambda x: torch.max(x, dim=1, keepdim=True).values,
    "min": lambda x: x.min(dim=2).values,
    "maxout": lambda x: x.unflatten(1, (3, 2)).max(2)[0],
    "maximum": lambda x: torch.maximum(x[:, :3], x[:, 3:]),
    "maximum with a constant": lambda x: torch.maximum(torch.tensor(0.1), x),
    "max of two": lambda x: torch.max(x, 0.5 * x.flip(1)),
    "minimum": lambda x: torch.minimum(x[:, :3], x[:, 3:]),
    "lp_pool2d": lambda x: functional.lp_pool2d(x, 2, 3, 2),
    "lp_pool2d, 3": lambda x: functional.lp_pool2d(x.relu(), 3, (2, 3), ceil_mode=True),
    "lp_pool1d": lambda x: functional.lp_pool1d(x.flatten(2), 2, 3),
    "logsumexp": lambda x: x.logsumexp((2, 3)),
    "logsumexp, far": lambda x: torch.logsumexp(300 * x, dim=1, keepdim=True),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_maxima_and_sums_of_exponentials_are_complete_for_a_baseline_of_noise(name: str) -> None:
    class Chosen(Reused):
        def forward(self, x: Tensor) -> Tensor:
            y = FUNCTIONS[name](self.first(x)).flatten(1)
            return functional.leaky_relu(functional.adaptive_avg_pool1d(y, 5) - 0.1)

    maps, uncertainty, loaded = explained(Chosen(), DeepLift("random"), [1, 4])
    assert not any("derivative" in note for note in loaded.notes)
    assert uncertainty["completeness"].max() < 1e-10
    assert maps.abs().amax((1, 2, 3)).min() > 1e-6
    reference = CaptumReference(DeepLift("random"), loaded, photographs()[:1], target=1, seed=0, evaluations=1)
    assert distance(maps[:1], reference.compute()) < 1e-7


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_of_replaced_functions_are_unchanged(name: str) -> None:
    x = torch.rand(4, 6, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    expected = FUNCTIONS[name](x)
    with Rescaling():
        torch.testing.assert_close(FUNCTIONS[name](x), expected, rtol=1e-12, atol=1e-12)


def test_places_of_maxima_are_returned() -> None:
    x = torch.rand(4, 6, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    with Rescaling():
        largest, smallest = x.max(1, keepdim=True), torch.min(x, dim=-1)
    assert torch.equal(largest.indices, x.max(1, keepdim=True).indices)
    assert torch.equal(smallest.indices, x.min(-1).indices)


def test_maxima_in_closed_form() -> None:
    """Of the difference of the maxima, the place of the larger one of both has all."""

    class Largest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.amax((2, 3)))

    network = Largest()
    maps, _, _ = explained(network, DeepLift("random"), [2, 4])
    weight = network.head.weight.detach().double()
    x = photographs()
    baselines = DeepLift("random").baseline(x, [0, 1])
    expected = torch.zeros_like(x)
    for n, target in enumerate([2, 4]):
        for channel in range(3):
            rows, starts = x[n, channel].flatten(), baselines[n, channel].flatten()
            difference = rows.max() - starts.max()
            place = rows.argmax() if difference > 0 else starts.argmax()
            expected[n, channel].view(-1)[place] = 2 * weight[target, channel] * difference
    torch.testing.assert_close(maps, expected, rtol=1e-6, atol=1e-9)


def test_one_rectifier_in_closed_form() -> None:
    """``relu(w x - t)``: the multiplier is w times the ratio of the differences of output and input."""

    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(432, 5)

        def forward(self, x: Tensor) -> Tensor:
            return functional.relu(self.linear(x.flatten(1)))

    network = Single()
    maps, _, _ = explained(network, DeepLift(0.25), [2, 2])
    weight, bias = network.linear.weight[2].detach().double(), network.linear.bias[2].detach().double()
    x = photographs().flatten(1)
    start, end = ((2 * values - 1) @ weight + bias for values in (torch.full_like(x, 0.25), x))
    ratio = (end.relu() - start.relu()) / (end - start)
    expected = (x - 0.25) * 2 * weight * ratio[:, None]
    torch.testing.assert_close(maps.flatten(1), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("size", [2, 3])
def test_tokens_as_first_dimension_are_rejected(batch_first: bool, size: int) -> None:
    class Sequence(Reused):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.TransformerEncoderLayer(6, 2, 8, batch_first=batch_first)

        def forward(self, x: Tensor) -> Tensor:
            tokens = functional.adaptive_avg_pool2d(self.first(x), size).flatten(2)
            tokens = self.block(tokens.permute((0, 2, 1) if batch_first else (2, 0, 1)))
            return self.head(tokens.mean(1 if batch_first else 0))

    if batch_first:
        DeepLift().bind(wrapped(Sequence()))
    else:
        with pytest.raises(LitVizError, match="its activations don't have images as their first dimension"):
            DeepLift().bind(wrapped(Sequence()))


def test_half_precision_is_evaluated_in_float32() -> None:
    copied = wrapped(Reused()).fast(dtype=torch.bfloat16, backprop="rescale")
    assert {parameter.dtype for parameter in copied.parameters()} == {torch.float32}


def test_compiled_networks_are_rejected() -> None:
    class Compiled(Reused):
        _orig_mod = None

    with pytest.raises(LitVizError, match=r"DeepLIFT can't be used with Compiled: it is compiled"):
        DeepLift().bind(wrapped(Compiled()))
