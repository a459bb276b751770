"""Construction and verification of the fast copy: private, frozen, channels-last, folded, fused, with own kernels.

Each step is verified against the step before on probe images, and undone if it changes logits or gradients. What can't
be copied is evaluated as it is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lit_viz.errors import LitVizError, first_line
from lit_viz.networks import isolation
from lit_viz.networks.fast.backward import SELECTING, Backprop, nonlinearities, replace_rectifiers
from lit_viz.networks.fast.compiling import CompileMode
from lit_viz.networks.fast.convolution import fuse_activations, replace_convolutions
from lit_viz.networks.fast.folding import fold_batch_norms, foldable_pairs, freeze_batch_norms
from lit_viz.networks.fast.frozen import FrozenNetwork
from lit_viz.networks.fast.kernels import kernels_available, replace_linears
from lit_viz.networks.fast.libra import LibraNetwork, libra, nonlinear_layer
from lit_viz.networks.fast.rectifying import RectifiedNetwork, Rectifying
from lit_viz.networks.fast.rescaling import EqualHalves, RescaledNetwork, Rescaling
from lit_viz.networks.fast.residual import residual_branches, scale_branches
from lit_viz.networks.layers import hooked, layer_names, reading_all
from lit_viz.networks.outputs import LOGITS, Output
from lit_viz.networks.summaries import LOGITS_TOLERANCE, probe_images, relative_difference

# Largest relative differences:
FOLDED_TOLERANCE = 1e-9  # of logits in float64, after folding
KERNEL_TOLERANCE = 1e-3  # of logits and layers in float32, with other kernels
GRADIENT_TOLERANCE = 0.05  # of the gradient's norm; at a kink, the last bit of a forward decides on a pixel's gradient


@dataclass
class Switches:
    """Optimizations of the fast copy; each can be turned off to measure its gain."""

    folding: bool = True  # batch norms in convolutions; the others as a scale and a shift
    kernels: bool = True  # oneDNN kernels for convolutions and linear layers; required by the following
    fusion: bool = True  # activations in convolutions


#: Methods that need another backward, in errors.
_METHODS = {"guided": "guided backpropagation", "rescale": "DeepLIFT", "libra": "the rule libra"}
#: The switches of this process; copies that exist already are not changed.
SWITCHES = Switches()


class _Rejected(Exception):
    """A step failed or changed the network's function; the message completes a sentence about the network."""


class _NoRule(_Rejected):
    """The network computes something that the rule of the backward does not cover, in every layout."""


class _NonDifferentiable(_Rejected):
    """The logits have no gradient with respect to the input."""


@dataclass(frozen=True)
class _CopyOptions:
    """What a copy is made for; attributes as the arguments of :meth:`~lit_viz.networks.Network.fast`, the output of
    the network, and whether its images and weights are channels-last."""

    output: Output
    keep: frozenset[str]
    device: torch.device
    dtype: torch.dtype
    backprop: Backprop
    residual_gradient: float
    compiled: CompileMode | None
    channels_last: bool = True

    @property
    def memory_format(self) -> torch.memory_format:
        """Layout of the images."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def fuses(self) -> bool:
        """Whether activations may be fused: rules that intercept calls can't intercept fused ones."""
        return self.backprop not in ("rescale", "libra")

    @property
    def own_kernels(self) -> bool:
        """Whether lit_viz's own kernels are used."""
        computable = self.device.type == "cpu" and self.dtype == torch.float32 and kernels_available()
        return computable and self.compiled is None and self.channels_last and SWITCHES.kernels


def fast_copy(
    network: isolation.Original,
    *,
    keep: frozenset[str],
    device: torch.device,
    dtype: torch.dtype,
    backprop: Backprop = "plain",
    residual_gradient: float = 1.0,
    compiled: CompileMode | None = None,
) -> FrozenNetwork:
    """Return the verified fast copy of a network; its notes list the steps that were not possible.

    See :meth:`~lit_viz.networks.Network.fast` for the arguments and errors.
    """
    if backprop == "rescale":
        dtype = torch.promote_types(dtype, torch.float32)  # small differences are divided
    options = _CopyOptions(network.output, keep, device, dtype, backprop, residual_gradient, compiled)
    with (
        torch.inference_mode(False),
        isolation.full_float32(),
        isolation.random_state_preserved(network.original),
        isolation.torch_warnings_ignored(),
        isolation.network_errors_wrapped((2, network.channels, *network.size)),
    ):
        try:
            return _copy_in_any_layout(network, options)
        except _Rejected as reason:
            if backprop != "plain":
                method = _METHODS.get(backprop, backprop)
                raise LitVizError(
                    f"{method} can't be used with {network.name}: {reason}; use gradient or smoothgrad"
                ) from reason
            return _uncopied(network, reason, residual_gradient)


def _copy_in_any_layout(network: isolation.Original, options: _CopyOptions) -> FrozenNetwork:
    """Return the channels-last copy, or one in torch's default layout, which ``x.view(-1, n)`` may require."""
    try:
        return _copy(network, options)
    except _NoRule:
        raise
    except _Rejected as error:
        reason = error
    copied = _copy(network, replace(options, channels_last=False))
    copied.add_note(f"{network.name} is evaluated in torch's default memory layout, which is slower: {reason}")
    return copied


def _copy(classifier: isolation.Original, options: _CopyOptions) -> FrozenNetwork:
    """Return the copy: a plain one, its rule of backward, its optimizations, and what could not be done as notes."""
    name = classifier.name
    x, expected = classifier.probe()
    output = options.output
    plain, draws = _plain_copy(classifier.original, x, expected, options)
    unscaled: list[str] = []
    rectifies = False
    if options.backprop == "plain":
        _check_gradient(plain, x, output)
    elif options.backprop == "rescale":
        unscaled = _unscaled(plain, x, draws, output)
    elif options.backprop == "libra":
        _check_libra(plain, x, output)
    else:
        rectifies = _replace_backward(plain, x, options.backprop, output)
    branches: list[str] = []
    if options.residual_gradient != 1:
        branches = residual_branches(plain, x, output)
    if draws:
        network = _moved(plain, options)
        note = f"{name} draws random numbers in eval mode, so its batch norms are not folded"
        copied = FrozenNetwork(
            network,
            classifier.mean,
            classifier.std,
            draws=True,
            notes=[note],
            output=output,
            memory_format=options.memory_format,
        )
    else:
        copied = _optimized(classifier, plain, x, options)
        _verify(classifier, copied, options.dtype)
    if branches:
        scale_branches(copied.get_submodule("_own"), branches, options.residual_gradient)
    elif options.residual_gradient != 1:
        copied.add_note(f"{name} has no residual branches that end in a layer: residual_gradient has no effect")
    if unscaled:
        copied.add_note(f"DeepLIFT of {name} keeps the derivative of {', '.join(unscaled)}; its gap is their effect")
    if options.backprop == "rescale":
        return RescaledNetwork(copied)
    if options.backprop == "libra":
        return LibraNetwork(copied)
    if rectifies:
        return RectifiedNetwork(copied, options.backprop)
    if options.compiled is not None:
        _compile(classifier, copied, options.compiled)
    return copied


def _uncopied(network: isolation.Original, reason: _Rejected, residual_gradient: float) -> FrozenNetwork:
    """Return the original behind the interface of a copy."""
    notes = [f"{network.name} is used as it is, which is slower: {reason}"]
    if residual_gradient != 1:
        notes.append(f"{network.name} is used as it is: residual_gradient has no effect")
    return FrozenNetwork(
        network.original,
        network.mean,
        network.std,
        is_original=True,
        non_differentiable=isinstance(reason, _NonDifferentiable),
        notes=notes,
        output=network.output,
    )


def _plain_copy(module: nn.Module, x: Tensor, expected: Tensor, options: _CopyOptions) -> tuple[nn.Module, bool]:
    """Return a frozen copy in the layout of the options, without the user's hooks, and whether it draws random
    numbers."""
    try:
        with torch.no_grad():
            network = isolation.private_copy(module, isolation.memo_without_hooks(module))
        for submodule in network.modules():
            submodule.training = False
        network.requires_grad_(False)
        if options.channels_last:
            network = _channels_last(network)
    except Exception as error:  # any error of the user's modules and attributes
        raise _Rejected(f"it can't be copied ({first_line(error)})") from error
    before, calls = isolation.random_state(x.device), list[str]()
    parts: dict[str, nn.Module] = {}
    for name, part in module.named_modules():
        if not isinstance(part, torch.jit.ScriptModule):
            parts[name] = part
    kind = "without its hooks, channels-last" if options.channels_last else "without its hooks"
    with isolation.state_preserved(module), hooked(parts, lambda name, *_: calls.append(name), before=True):
        try:
            logits = options.output.without_graph(network, x.contiguous(memory_format=options.memory_format))
        except Exception as error:  # most often a view of a tensor that is not contiguous in channels-last
            raise _Rejected(f"a copy of it ({kind}) fails ({first_line(error)})") from error
        draws = not torch.equal(before, isolation.random_state(x.device))
    if calls:
        raise _Rejected("a copy of it still calls the original: an attribute or a bound method refers to it")
    if not draws and relative_difference(logits, expected) > LOGITS_TOLERANCE:
        raise _Rejected(f"a copy of it ({kind}) gives other logits")
    return network, draws


def _reject_compiled(network: nn.Module) -> None:
    if any(hasattr(module, "_orig_mod") for module in network.modules()):
        raise _Rejected("it is compiled (give it as it was before torch.compile)")


def _replace_backward(network: nn.Module, x: Tensor, backprop: Backprop, output: Output) -> bool:
    """Replace the backward of the rectifiers; check that there is no other non-linearity and the logits stay.

    Returns:
        Whether some are functions, which are intercepted where they are called.
    """
    _reject_compiled(network)
    try:
        with isolation.random_state_preserved(network):
            expected = output.without_graph(network, x)
        replace_rectifiers(network, backprop)
        functions = Rectifying(backprop)
        with isolation.random_state_preserved(network), functions:
            logits = output.with_graph(network, x)[1]
        hidden = next(nonlinearities(logits, keep=SELECTING), None)
    except Exception as error:  # any error of the user's code or its compiler
        raise _Rejected(first_line(error)) from error
    if hidden is not None:
        raise _NoRule(f"it computes {hidden}, and only ReLU and ReLU6 can be given another backward")
    if relative_difference(logits.detach(), expected) > LOGITS_TOLERANCE:
        raise _Rejected("its logits change when its rectifier modules are replaced")
    return functions.is_used


def _unscaled(network: nn.Module, x: Tensor, draws: bool, output: Output) -> list[str]:
    """Return the non-linear operations that the rescale rule does not handle."""
    _reject_compiled(network)
    try:
        with Rescaling() if draws else EqualHalves():  # random numbers differ between the halves
            _, logits = output.with_graph(network, torch.cat([x, x]))
        return list(dict.fromkeys(nonlinearities(logits)))
    except Exception as error:  # any error of the user's code
        raise _Rejected(first_line(error)) from error


def _check_libra(network: nn.Module, x: Tensor, output: Output) -> None:
    """Check that everything is linear with the rule, and that the logits stay."""
    _reject_compiled(network)
    try:
        with isolation.random_state_preserved(network):
            expected = output.without_graph(network, x)
        with isolation.random_state_preserved(network), libra(network, output):
            logits = output.with_graph(network, x)[1]
        found = nonlinear_layer(network, x, output)
    except Exception as error:  # any error of the user's code
        raise _Rejected(first_line(error)) from error
    if found is not None:
        name, kind = found
        layer = f"its layer {name!r}" if name else "it"
        functions = "softmax, attention, LayerNorm, GroupNorm, RMSNorm, GELU, SiLU, Hardswish, Mish and x * sigmoid"
        raise _NoRule(f"{layer} computes {kind}, which has no rule (of torch's functions {functions} have one)")
    if relative_difference(logits, expected) > LOGITS_TOLERANCE:
        raise _Rejected("its logits change when its activations are intercepted")


def _check_gradient(network: nn.Module, x: Tensor, output: Output) -> None:
    try:
        leaf, logits = output.with_graph(network, x)
        if logits.requires_grad and torch.autograd.grad(logits.sum(), leaf, allow_unused=True)[0] is not None:
            return
    except RuntimeError as error:  # raised by torch.autograd.grad
        raise _NonDifferentiable(first_line(error)) from error
    raise _NonDifferentiable("its forward gives no gradient")


def _optimized(classifier: isolation.Original, plain: nn.Module, x: Tensor, options: _CopyOptions) -> FrozenNetwork:
    """Return the folded, moved and fused network."""
    notes: list[str] = []
    keep, dtype, output = options.keep, options.dtype, options.output
    outputs = _layer_outputs(plain, x, output)
    try:
        network = _folded(plain, x, keep, output)
        # Rounded once to the dtype of the copy, also if the original is in half precision.
        network = isolation.cast(network.to(x.device), torch.promote_types(x.dtype, dtype))
    except _Rejected as reason:
        network = copy.deepcopy(plain)
        notes.append(f"the batch norms of {classifier.name} are not folded, which is slower: {reason}")
    if not options.own_kernels:
        modified = _modified_layers(network, x.to(isolation.dtype_of(network)), outputs, output)
    network = _moved(network, options)
    images = x.to(options.device, dtype, memory_format=options.memory_format)
    try:
        output.without_graph(network, images)
    except Exception as error:  # most often a cast in the user's code
        raise _Rejected(f"a copy of it in {str(dtype).removeprefix('torch.')} fails ({first_line(error)})") from error
    if options.own_kernels:
        try:
            network = _with_kernels(network, images, options)
        except _Rejected as reason:
            notes.append(f"the activations of {classifier.name} are not fused, which is slower: {reason}")
        modified = _modified_layers(network, images, outputs, output)
    inside = _layers_inside(modified & keep, plain)
    if not inside <= keep:
        return _optimized(classifier, plain, x, replace(options, keep=keep | inside))
    return FrozenNetwork(
        network,
        classifier.mean,
        classifier.std,
        modified_layers=modified,
        kept=keep,
        notes=notes,
        output=output,
        memory_format=options.memory_format,
    )


def _layers_inside(containers: Collection[str], network: nn.Module) -> set[str]:
    """Return the layers inside modified containers: one of them was folded or fused, and has to be kept as well."""
    prefixes = tuple(f"{container}." for container in containers)
    return {name for name in layer_names(network) if name.startswith(prefixes)}


def _folded(plain: nn.Module, x: Tensor, keep: Collection[str], output: Output) -> nn.Module:
    """Return the folded network in float64, verified."""
    if not SWITCHES.folding or not any(isinstance(m, nn.BatchNorm2d) for m in plain.modules()):
        return copy.deepcopy(plain)
    device = torch.device("cpu") if x.device.type == "mps" else x.device  # MPS has no float64
    try:
        network, exact_x = isolation.cast(copy.deepcopy(plain).to(device), torch.float64), x.to(device, torch.float64)
        expected = output.without_graph(network, exact_x)
        pairs = foldable_pairs(plain, x, keep, output)  # in the network's own dtype, which is faster
        fold_batch_norms(network, pairs)
        logits = output.without_graph(network, exact_x)
    except Exception as error:  # any error of the user's code in float64
        raise _Rejected(f"it doesn't run in float64, in which folding is verified ({first_line(error)})") from error
    difference = relative_difference(logits, expected)
    if difference > FOLDED_TOLERANCE:
        raise _Rejected(f"in float64 the folded logits differ by {difference:.1e} of the largest")
    return network


def _with_kernels(network: nn.Module, x: Tensor, options: _CopyOptions) -> nn.Module:
    """Return the network with own kernels and, if the options fuse, fused activations, verified."""
    keep, fuses, output = options.keep, options.fuses, options.output
    candidate = copy.deepcopy(network)
    if SWITCHES.fusion and fuses:
        fuse_activations(candidate, x, keep, output)
    replace_convolutions(candidate, keep)
    replace_linears(candidate)
    if SWITCHES.folding:
        freeze_batch_norms(candidate)
    if fuses:
        replace_rectifiers(candidate, "plain")
    expected = _logits_and_gradient(network, x, output)
    difference = _difference(candidate, x, expected, KERNEL_TOLERANCE, GRADIENT_TOLERANCE, output)
    if difference is not None:
        raise _Rejected(difference)
    return candidate


def _verify(network: isolation.Original, copied: FrozenNetwork, dtype: torch.dtype) -> None:
    """Compare the copy with the original at the full input size, for which other kernels may be selected."""
    if dtype not in (torch.float32, torch.float64):
        return  # searches in half precision are verified by the original
    x = probe_images(network.channels, network.size)[1:].to(network.device)
    tolerance = max(KERNEL_TOLERANCE, math.sqrt(torch.finfo(isolation.dtype_of(network.original)).eps))
    with torch.no_grad():
        logits = copied(x)[0]
    if relative_difference(logits, network.scores(x)) > tolerance:
        raise _Rejected("a fast copy of it gives other logits")


def _compile(network: isolation.Original, copied: FrozenNetwork, mode: CompileMode) -> None:
    """Compile the copy, unless that fails or changes its results; add a note."""
    name, dtype, device = network.name, copied.scale.dtype, copied.scale.device
    x = probe_images(network.channels, network.size).to(device, dtype)
    expected = _logits_and_gradient(copied, x, LOGITS)
    tolerance = max(KERNEL_TOLERANCE, math.sqrt(torch.finfo(dtype).eps))
    try:
        copied.compile_as(mode)
        difference = _difference(copied, x, expected, tolerance, GRADIENT_TOLERANCE, LOGITS)
    except Exception as error:  # any error of torch.compile or of a missing compiler
        difference = first_line(error)
    if difference is not None:
        copied.compile_as(None)
        copied.add_note(f"{name} is not compiled, which is slower: {difference}")
    elif device.type == "cpu":
        slower = "on a CPU this is slower than lit_viz's own kernels, which it replaces (omit compile=)"
        copied.add_note(f"{name} is compiled: {slower}")


def _moved(network: nn.Module, options: _CopyOptions) -> nn.Module:
    """Convert a network to the device, dtype and layout of the options."""
    moved = isolation.cast(network.to(options.device), options.dtype)
    return _channels_last(moved) if options.channels_last else moved


def _channels_last(network: nn.Module) -> nn.Module:
    """Convert a network to channels-last, except one with kernels of three dimensions, for which PyTorch has none."""
    for parameter in network.parameters():
        if parameter.ndim == 5:
            return network
    converted: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return converted


def _logits_and_gradient(network: nn.Module, x: Tensor, output: Output) -> tuple[Tensor, Tensor]:
    leaf, logits = output.with_graph(network, x)
    (gradient,) = torch.autograd.grad(logits[:, ::2].sum(), leaf)
    return logits.detach(), gradient


def _difference(
    network: nn.Module,
    x: Tensor,
    expected: tuple[Tensor, Tensor],
    logits_tolerance: float,
    gradient_tolerance: float,
    output: Output,
) -> str | None:
    """Return a description of how logits or gradient differ from the expected ones; None if they do not."""
    try:
        logits, gradient = _logits_and_gradient(network, x, output)
    except (RuntimeError, IndexError) as error:  # a saved tensor is changed in place, or no kernel exists
        return first_line(error)
    if relative_difference(logits, expected[0]) > logits_tolerance:
        return "another kernel gives other logits"
    if not (gradient - expected[1]).norm() <= gradient_tolerance * expected[1].norm():
        return "another kernel gives other gradients"
    return None


def _layer_outputs(network: nn.Module, x: Tensor, output: Output) -> dict[str, Tensor]:
    try:
        with torch.no_grad(), reading_all(network) as outputs:
            output.returned(network, x.clone())
    except Exception as error:  # tensors that can't leave their layer (vmap)
        raise _Rejected(f"its layers can't be read ({first_line(error)})") from error
    return outputs


def _modified_layers(network: nn.Module, x: Tensor, outputs: dict[str, Tensor], output: Output) -> set[str]:
    """Return the layers with other outputs than in the plain copy."""
    current = _layer_outputs(network, x, output)
    modified = set()
    for name, expected in outputs.items():
        if name not in current or relative_difference(current[name], expected) > KERNEL_TOLERANCE:
            modified.add(name)
    return modified
