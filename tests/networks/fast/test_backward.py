from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_viz.errors import LitVizError
from lit_viz.networks.fast.backward import Backprop, Rectifier
from lit_viz.outputs import load_network
from tests.support.marks import slow
from tests.support.networks import Lockable, Residual, Storing, conv_net, merged, scripted, trained

BOTH: tuple[Backprop, ...] = ("guided", "deconvolution")


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def gradient(net: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    output = net(x)
    logits = output[0] if isinstance(output, tuple) else output
    return torch.autograd.grad((logits * torch.linspace(-1, 2, logits.shape[1])).sum(), x)[0]


def with_rectifiers(net: nn.Module, backprop: Backprop) -> nn.Module:
    """Every ReLU rewritten from the papers' sentences, in tensor hooks: an independent reference."""

    class Hooked(nn.Module):
        def __init__(self, top: float) -> None:
            super().__init__()
            self.top = top

        def forward(self, x: Tensor) -> Tensor:
            rectified = x.clamp(0, self.top)
            # The value is the rectified one; the gradient of the second is that of the identity.
            y = rectified if backprop == "guided" else x + (rectified - x).detach()
            y.register_hook(lambda back: torch.where(back > 0, back, 0))
            return y

    reference = copy.deepcopy(net).double().eval()
    for name, module in list(reference.named_modules(remove_duplicate=False)):
        if isinstance(module, (nn.ReLU, nn.Hardtanh)):
            reference.set_submodule(name, Hooked(getattr(module, "max_val", 1e9)))
    return reference


@pytest.mark.parametrize(
    ("activation", "backprop", "passes"),
    [
        (nn.ReLU(), "guided", [0, 0, 0, 1, 1, 1, 1, 0]),
        (nn.ReLU6(), "guided", [0, 0, 0, 1, 1, 0, 0, 0]),
        (nn.Hardtanh(0, 4), "guided", [0, 0, 0, 1, 0, 0, 0, 0]),
        (nn.ReLU6(), "deconvolution", [1, 1, 1, 1, 1, 1, 1, 0]),
    ],
)
@pytest.mark.parametrize("inplace", [False, True])
def test_the_gradient_passes_as_in_the_papers(
    activation: Any, backprop: Backprop, passes: list[int], inplace: bool
) -> None:
    activation.inplace = inplace
    x = torch.tensor([-2.0, -1e-9, 0.0, 1e-9, 4.0, 6.0, 7.0, 2.0], requires_grad=True)
    back = torch.tensor([1.0] * 7 + [-1.0])  # the last is in the linear range, but what comes back is negative
    y = Rectifier(activation, backprop)(x * 1)
    assert torch.equal(y, activation(x.detach().clone()))
    (passed,) = torch.autograd.grad(y, x, back)
    assert torch.equal(passed, torch.tensor(passes, dtype=torch.float32))


def test_outputs_can_be_changed_in_place_as_in_torch() -> None:
    gradients = []
    for activation in (nn.ReLU6(), Rectifier(nn.ReLU6(), "guided")):
        x = torch.tensor([-1.0, 3.0, 7.0], requires_grad=True)
        y = activation(x * 1)
        y.sub_(3)
        gradients.append(torch.autograd.grad(y.sum(), x)[0])
    assert torch.equal(gradients[1], gradients[0])


class Twice(nn.Module):
    """Calls one ReLU in two places, or two ReLUs once."""

    def __init__(self, shared: bool, inplace: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)
            self.head = nn.Linear(6, 4)
        self.relu1 = nn.ReLU(inplace)
        self.relu2 = self.relu1 if shared else nn.ReLU(inplace)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu2(self.second(self.relu1(self.first(x))) - 0.05)
        return self.head(x.mean((2, 3)))


class Views(nn.Module):
    """Rectifies a view in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.conv(x)[:, :8]).mean((2, 3)))


@pytest.mark.parametrize("backprop", BOTH)
@pytest.mark.parametrize("make", [conv_net, lambda: trained(Residual()), lambda: Twice(shared=True), Views])
def test_the_copy_has_the_modified_backward_and_the_same_logits(
    make: Callable[[], nn.Module], backprop: Backprop
) -> None:
    net = make().eval()
    network = load_network(net, size=16, mean=0.5, std=0.25)
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    frozen = network.fast(dtype=torch.float64, backprop=backprop)
    reference = with_rectifiers(net, backprop)
    expected = gradient(reference, (x - 0.5) / 0.25) / 0.25
    assert (gradient(frozen, x) - expected).abs().max() <= 1e-8 * expected.abs().max()
    assert torch.allclose(frozen(x)[0], network.fast(dtype=torch.float64)(x)[0], rtol=1e-10, atol=1e-12)
    plain = gradient(network.fast(dtype=torch.float64), x)
    assert (plain - expected).abs().max() > 1e-2 * expected.abs().max()


@pytest.mark.parametrize("backprop", BOTH)
def test_one_module_in_two_places_is_as_two_modules(backprop: Backprop) -> None:
    x = torch.rand(2, 3, 16, 16)
    one, two, fresh = (
        gradient(load_network(net.eval(), size=16).fast(backprop=backprop), x)
        for net in (Twice(shared=True), Twice(shared=False), Twice(shared=False, inplace=False))
    )
    assert torch.equal(one, two)
    assert torch.equal(one, fresh)


def test_batch_norms_are_folded_rectifiers_fused_and_copies_made_once() -> None:
    network = load_network(conv_net(), size=16, mean=0.5, std=0.25)
    frozen = network.fast(backprop="guided")
    assert (*merged(frozen, network.original), frozen.notes, network.notes) == (2, 2, (), ())
    assert network.fast(backprop="guided") is frozen
    assert network.fast(backprop="deconvolution") is not frozen


def test_a_stored_activation_is_copied() -> None:
    net = Storing()
    assert merged(load_network(net, size=16).fast(backprop="guided"), net)[0] == 2


def test_the_activation_inside_a_batch_norm_of_timm_is_reached() -> None:
    net = timm.create_model("efficientnet_lite0", pretrained=False, num_classes=4).eval()
    frozen = load_network(net, size=32).fast(backprop="guided")
    assert merged(frozen, net) == (49, 33)


def test_the_module_is_preserved() -> None:
    net = conv_net().train()
    before = {name: type(module) for name, module in net.named_modules()}
    state = copy.deepcopy(net.state_dict())
    load_network(net, size=16).fast(backprop="guided")(torch.rand(1, 3, 16, 16, requires_grad=True))[0].sum().backward()
    assert before == {name: type(module) for name, module in net.named_modules()}
    assert all(module.training and not module._forward_hooks for module in net.modules())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


class By(nn.Module):
    """A convolution and whatever comes after it."""

    def __init__(self, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.conv(x)).mean((2, 3)))


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return F.scaled_dot_product_attention(tokens, tokens, tokens).transpose(1, 2).view_as(x)


class _Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class ViewBackward0(_Own):
    """Named as if it were one of torch's own."""


class Capped(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0, 4)


def slice_in_place(x: Tensor) -> Tensor:
    x = x + 0
    F.relu(x[:, :2], inplace=True)
    return x


@pytest.mark.parametrize(
    ("net", "found"),
    [
        (By(lambda x: x.clamp(min=0)), "clamp"),
        (By(lambda x: torch.maximum(x, torch.zeros(()))), "maximum"),
        (By(lambda x: torch.where(x > 0, x, 0)), "where"),
        (By(lambda x: x * x), "a product of activations"),
        (By(lambda x: x.square()), "pow"),
        (By(slice_in_place), "copyslices"),
        (By(nn.GELU()), "gelu"),
        (By(nn.SiLU(inplace=True)), "silu"),
        (By(nn.Hardswish()), "hardswish"),
        (By(nn.LeakyReLU()), "leakyrelu"),
        (By(nn.Hardtanh()), "hardtanh"),
        (By(nn.ELU()), "elu"),
        (By(nn.Softplus()), "softplus"),
        (By(nn.PReLU()), "prelukernel"),
        (By(nn.Sigmoid()), "sigmoid"),
        (By(nn.Softmax(1)), "softmax"),
        (By(Capped()), "clamp"),
        (By(Attention()), "(attention|a product of activations)"),
        (By(_Own.apply), "_own"),
        (By(ViewBackward0.apply), "viewbackward0"),
    ],
)
def test_other_nonlinearities_are_rejected(net: nn.Module, found: str) -> None:
    network = load_network(net.eval(), size=16)
    network.fast()
    expected = (
        f"^guided backpropagation can't be used with {type(net).__name__}: it computes {found}, and only "
        "ReLU and ReLU6 can be given another backward; use gradient or smoothgrad$"
    )
    with pytest.raises(LitVizError, match=expected):
        network.fast(backprop="guided")


@pytest.mark.parametrize("whole", [slow(True), False])
def test_a_compiled_network_is_rejected(whole: bool) -> None:
    net: Any = conv_net()
    if whole:
        net = torch.compile(net, backend="eager")
    else:
        net[2] = torch.compile(net[2], backend="eager")
    with pytest.raises(LitVizError, match=r"it is compiled \(give it as it was before torch\.compile\); use gradient"):
        load_network(net, size=16).fast(backprop="guided")


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # the compiler's own
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.slow
def test_a_compiled_function_is_rejected() -> None:
    net = By(torch.compile(lambda x: F.relu(x) * 2, backend="aot_eager")).eval()
    with pytest.raises(LitVizError, match=r"compiledfunction, and only ReLU"):
        load_network(net, size=16).fast(backprop="guided")


class Functions(nn.Module):
    """A ReLU by a function in place, one of a view, and one that is capped."""

    def __init__(self, relu: Any, relu6: Any) -> None:
        super().__init__()
        self.conv, self.second, self.relu, self.relu6 = nn.Conv2d(3, 6, 3), nn.Linear(6 * 49, 8), relu, relu6
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.relu(self.conv(x)), 2)
        return self.head(self.relu6(20 * self.second(x.view(-1, 6 * 49))))


@pytest.mark.parametrize("backprop", BOTH)
@pytest.mark.parametrize("relu", [F.relu, torch.relu, torch.relu_, Tensor.relu, lambda x: F.relu(x, inplace=True)])
def test_functions_have_the_backward_of_modules(backprop: Backprop, relu: Any) -> None:
    functions = Functions(relu, F.relu6).eval()
    modules = Functions(nn.ReLU(), nn.ReLU6()).eval()
    modules.load_state_dict(functions.state_dict())
    x = torch.rand(2, 3, 16, 16)
    actual, expected, plain = (
        gradient(load_network(net, size=16).fast(backprop=rule), x)
        for net, rule in [(functions, backprop), (modules, backprop), (functions, "plain")]
    )
    assert torch.allclose(actual, expected, atol=1e-6 * float(expected.abs().max()))
    assert (actual - plain).abs().max() > 0.1 * plain.abs().max()


class Both(nn.Module):
    """Uses a tensor that a ReLU has rectified in place through a view, so that the place matters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.relu(x[:, :4])
        return self.head(x.mean((2, 3)))


def test_changed_logits_are_rejected() -> None:
    with pytest.raises(LitVizError, match="its logits change when its rectifier modules are replaced; use"):
        load_network(Both().eval(), size=16).fast(backprop="guided")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_code_is_rejected() -> None:
    net = conv_net()
    net[5] = scripted(nn.ReLU6())
    with pytest.raises(LitVizError, match=r"computes hardtanh, and only ReLU"):
        load_network(net, size=16).fast(backprop="guided")


def test_networks_that_can_not_be_copied_are_rejected() -> None:
    network = load_network(Lockable(conv_net()), size=16)
    with pytest.raises(LitVizError, match=r"^deconvolution can't be used with Lockable: it can't be copied \(cannot"):
        network.fast(backprop="deconvolution")


def test_logits_without_a_gradient_are_rejected() -> None:
    with pytest.raises(LitVizError, match="its logits have no gradient; use gradient"):
        load_network(By(torch.detach).eval(), size=16).fast(backprop="guided")


def test_without_any_nonlinearity_it_is_the_gradient() -> None:
    network = load_network(By(nn.MaxPool2d(2)).eval(), size=16)
    x = torch.rand(1, 3, 16, 16)
    assert torch.allclose(gradient(network.fast(backprop="guided"), x), gradient(network.fast(), x))


class Kinks(nn.Module):
    """Everything that is harmless."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.group, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.BatchNorm2d(8)
        self.transposed, self.layer = nn.ConvTranspose2d(8, 8, 2, 2), nn.LayerNorm(8)
        self.relu, self.head, self.drop = nn.ReLU(inplace=True), nn.Linear(16, 4), nn.Dropout()
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.shuffle, self.weights = nn.PixelShuffle(2), nn.Parameter(torch.rand(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(F.pad(self.conv(x), (1, 1, 1, 1), "reflect"))) * self.scale
        x = 1 - self.group(x) / 2 - x.roll(1, 2).flip(3)
        a, b = x.chunk(2, 1)
        x = torch.cat([F.max_pool2d(b, 2), F.avg_pool2d(a, 2)], 1)
        x = self.relu(self.transposed(x))
        x = F.interpolate(x, scale_factor=0.5, mode="bilinear") + F.interpolate(x, scale_factor=0.5)
        x = self.layer(x.permute(0, 2, 3, 1)).movedim(3, 1)
        x = torch.einsum("nchw,cd->ndhw", x, self.weights) + torch.stack([x, x]).sum(0).repeat(1, 1, 1, 1)
        x = torch.cat([F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)], 1).flatten(1)
        return (
            self.head(self.drop(x)) + self.shuffle(x[:, :4, None, None]).amax((1, 2, 3))[:, None] + x.max(1)[0][:, None]
        )


def test_linear_and_normalizing_steps_are_accepted() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_network(trained(Kinks()), size=16).fast(backprop="guided")
