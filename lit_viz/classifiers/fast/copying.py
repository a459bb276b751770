"""The fast copy of a network (private, frozen, channels-last, batch norm folded, activations fused) and its proof."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lit_viz.classifiers.fast.chunking import chunk_bottlenecks, fit_chunks, restore
from lit_viz.classifiers.fast.compiling import CompileMode
from lit_viz.classifiers.fast.convolution import find_chains, replace_convolutions
from lit_viz.classifiers.fast.folding import fold_batch_norms, foldable_pairs, freeze_batch_norms
from lit_viz.classifiers.fast.frozen import FrozenNetwork
from lit_viz.classifiers.fast.fusing import can_fuse, fuse_activations
from lit_viz.classifiers.fast.linear import replace_linears
from lit_viz.classifiers.fast.rectifiers import Backprop, hidden_nonlinearity, replace_rectifiers
from lit_viz.classifiers.fast.residual import residual_branches
from lit_viz.classifiers.isolation import (
    cast,
    dtype_of,
    full_float32,
    memo_without_hooks,
    private_copy,
    random_state,
    random_state_preserved,
    state_preserved,
    torch_warnings_ignored,
)
from lit_viz.classifiers.layers import layer_names, reading_all
from lit_viz.classifiers.outputs import traced
from lit_viz.classifiers.probe import LOGITS_TOLERANCE, logits_without_graph, probe, probe_images, relative_difference
from lit_viz.errors import LitVizError, first_line

if TYPE_CHECKING:
    from lit_viz.classifiers.classifier import Classifier

FOLDED_TOLERANCE = 1e-9  # in float64
FUSED_TOLERANCE = 1e-3  # in float32
ALTERED_TOLERANCE = 1e-3  # in float32; a layer that differs by more gives something else than the original's
_NOT_DAMPED = "residual_gradient has no effect"


class _Refused(Exception):
    """A step couldn't be carried out, or changed what the network computes; the message ends a sentence."""


class _Blind(_Refused):
    """Its logits don't depend on its input by anything that has a gradient."""


def fast_copy(
    classifier: Classifier,
    keep: frozenset[str],
    device: torch.device,
    dtype: torch.dtype,
    backprop: Backprop = "plain",
    residual_gradient: float = 1.0,
    compiled: CompileMode | None = None,
) -> FrozenNetwork:
    """Return the fast copy of ``classifier.original``; see :meth:`Classifier.fast`.

    What can't be copied is used as it is, under the guest contract; what can't be folded or fused stays as it was. The
    notes of the result say so. Another backward than the plain one is refused where it can't be had.
    """
    name, mean, std = classifier.name, classifier.mean, classifier.std
    with (
        torch.inference_mode(False),
        full_float32(),
        random_state_preserved(classifier.original),
        torch_warnings_ignored(),
    ):
        x, expected = probe(
            classifier.original, classifier.mean, classifier.std, classifier.size, classifier.num_classes
        )
        try:
            plain, draws = _private_copy(classifier.original, x, expected)
            if backprop != "plain":
                _rectify(plain, x, backprop)
            elif not _has_gradient(plain, x):  # its own code may run without
                raise _Blind("its forward gives no gradient")
        except _Refused as reason:
            if backprop != "plain":
                method = "guided backpropagation" if backprop == "guided" else backprop
                raise LitVizError(
                    f"{method} can't be used with {name}: {reason}; use gradient or smoothgrad"
                ) from reason
            return _as_it_is(classifier, reason, residual_gradient)
        branches = residual_branches(plain, x) if residual_gradient != 1 else []
        if draws:
            note = f"{name} draws random numbers in eval mode, so its batch norms are not folded"
            plain = _moved(plain, device, dtype)
            copied = FrozenNetwork(plain, mean, std, draws=True, notes=[note])
        else:
            try:
                copied = _folded_and_fused(classifier, plain, x, keep, device, dtype, own_kernels=compiled is None)
                _prove(copied, classifier, dtype)
            except _Refused as reason:
                return _as_it_is(classifier, reason, residual_gradient)
        if branches:
            copied.damp(branches, residual_gradient)
        elif residual_gradient != 1:
            copied.notes = (*copied.notes, f"{name} having no residual branches that end in a layer, {_NOT_DAMPED}")
        if compiled is not None:
            copied.notes = (*copied.notes, *_compile(copied, classifier, compiled))
        return copied


def _as_it_is(classifier: Classifier, reason: _Refused, residual_gradient: float) -> FrozenNetwork:
    """Return the original under the guest contract, and say why."""
    notes = [f"{classifier.name} is used as it is, which is slower: {reason}"]
    notes += [f"{classifier.name} being used as it is, {_NOT_DAMPED}"] if residual_gradient != 1 else []
    return classifier.original_network(non_differentiable=isinstance(reason, _Blind), notes=notes)


def _prove(copied: FrozenNetwork, classifier: Classifier, dtype: torch.dtype) -> None:
    """Hold the copy against the original at its full size, in which it may take other ways than in a part of it."""
    if dtype not in (torch.float32, torch.float64):
        return  # it is asked what nobody believes before the original has confirmed it
    x = probe_images(classifier.channels, classifier.size)[1:].to(classifier.device)
    allowed = max(FUSED_TOLERANCE, math.sqrt(torch.finfo(dtype_of(classifier.original)).eps))
    with torch.no_grad():
        if relative_difference(copied(x)[0], classifier.logits(x)) > allowed:
            raise _Refused("a fast copy of it gives other logits")


def _compile(copied: FrozenNetwork, classifier: Classifier, mode: CompileMode) -> list[str]:
    """Compile the copy if it gives the same then, and return what is to be said of it."""
    dtype = copied.scale.dtype
    x = probe_images(classifier.channels, classifier.size).to(copied.scale.device, dtype)
    whole = _answer_and_gradient(copied, x)
    try:
        copied.compile_as(mode)
        departure = _departure(copied, x, whole, max(FUSED_TOLERANCE, math.sqrt(torch.finfo(dtype).eps)), 0.05)
    except Exception as error:  # whatever torch.compile raises, of the network's code or of compilers that are missing
        departure = first_line(error)
    if departure is not None:
        copied.compile_as(None)
        return [f"{classifier.name} is not compiled, which is slower: {departure}"]
    slower = "on a processor it is slower than lit_viz's own kernels, whose place it takes (leave out --compile)"
    return [f"{classifier.name} is compiled: {slower}"] if x.device.type == "cpu" else []


def _moved(network: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    moved: nn.Module = cast(network.to(device), dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def _has_gradient(network: nn.Module, x: Tensor) -> bool:
    try:
        leaf, logits = traced(network, x)
        return logits.requires_grad and torch.autograd.grad(logits.sum(), leaf, allow_unused=True)[0] is not None
    except RuntimeError as error:  # a forward that can't be gone back by torch.autograd.grad
        raise _Blind(first_line(error)) from error


def _private_copy(module: nn.Module, x: Tensor, expected: Tensor) -> tuple[nn.Module, bool]:
    """Return a frozen copy in eval mode and channels-last, without the owner's hooks, and whether it draws random
    numbers."""
    try:
        with torch.no_grad():
            network = private_copy(module, memo_without_hooks(module))
        for submodule in network.modules():
            submodule.training = False
        network.requires_grad_(False)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    except Exception as error:  # whatever the owner's modules and attributes raise; the note tells it
        raise _Refused(f"it can't be copied ({first_line(error)})") from error
    before = random_state(x.device)
    with state_preserved(module):
        try:
            with _called_of(module) as called:
                answer = logits_without_graph(network, x.contiguous(memory_format=torch.channels_last))
        except Exception as error:  # a view of what lies contiguous otherwise, most often
            raise _Refused(f"a copy of it (without its hooks, channels-last) fails ({first_line(error)})") from error
        draws = not torch.equal(before, random_state(x.device))
    if called:
        raise _Refused("a copy of it goes on asking it: a function in its place, or a bound method, holds on to it")
    if not draws and relative_difference(answer, expected) > LOGITS_TOLERANCE:
        raise _Refused("a copy of it (without its hooks, channels-last) gives other logits")
    return network, draws


@contextmanager
def _called_of(module: nn.Module) -> Iterator[list[nn.Module]]:
    """Give a list that fills with the parts of ``module`` that are called."""
    called: list[nn.Module] = []
    parts = [part for part in module.modules() if not isinstance(part, torch.jit.ScriptModule)]
    handles = [part.register_forward_pre_hook(lambda part, args: called.append(part)) for part in parts]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


def _rectify(network: nn.Module, x: Tensor, backprop: Backprop) -> None:
    """Give the rectifiers of a private copy another backward; prove that they are all and the logits stay."""
    if any(hasattr(module, "_orig_mod") for module in network.modules()):
        raise _Refused("it is compiled (give it as it was before torch.compile)")
    try:
        with random_state_preserved(network):
            expected = logits_without_graph(network, x)
        replace_rectifiers(network, backprop)
        with random_state_preserved(network):
            answer = logits_without_graph(network, x)
        hidden = hidden_nonlinearity(network, x)
    except Exception as error:  # whatever the owner's code, or a compiler of it, raises
        raise _Refused(first_line(error)) from error
    if hidden is not None:
        raise _Refused(f"{hidden}, and only nn.ReLU and nn.ReLU6 modules can be given another backward")
    if relative_difference(answer, expected) > LOGITS_TOLERANCE:
        raise _Refused("other rectifier modules in the place of its own give other logits")


def _folded_and_fused(
    classifier: Classifier,
    plain: nn.Module,
    x: Tensor,
    keep: Collection[str],
    device: torch.device,
    dtype: torch.dtype,
    own_kernels: bool,
) -> FrozenNetwork:
    notes: list[str] = []
    folded = fused = 0
    outputs = _outputs(plain, x)
    try:
        network, folded = _fold(plain, x, keep)
        # Rounded once, to what the copy has: also that of a network in half precision holds what was folded.
        x = x.to(torch.promote_types(x.dtype, dtype))
        network = cast(network.to(x.device), x.dtype)
    except _Refused as reason:
        network = copy.deepcopy(plain)
        notes.append(f"the batch norms of {classifier.name} are not folded, which is slower: {reason}")
    modified_layers = _altered(network, x.to(dtype_of(network)), outputs)
    network = _moved(network, device, dtype)
    try:
        logits_without_graph(network, x.to(device, dtype, memory_format=torch.channels_last))
    except Exception as error:  # what the owner's code casts by itself doesn't go with it, most often
        raise _Refused(f"a copy of it in {str(dtype).removeprefix('torch.')} fails ({first_line(error)})") from error
    if own_kernels and device.type == "cpu" and dtype == torch.float32 and can_fuse():
        try:
            network, fused = _fuse(network, x.to(device, dtype, memory_format=torch.channels_last), keep)
        except _Refused as reason:
            notes.append(f"the activations of {classifier.name} are not fused, which is slower: {reason}")
        _chunk(network, x.to(device, dtype, memory_format=torch.channels_last), keep)
        modified_layers = _altered(network, x.to(device, dtype), outputs)
    fit_chunks(network)
    # A kept container may end in a layer that was folded or fused: what it holds is kept as well.
    inside = {n for n in layer_names(plain) for k in modified_layers & set(keep) if n.startswith(k + ".")}
    if not inside <= set(keep):
        return _folded_and_fused(classifier, plain, x, {*keep, *inside}, device, dtype, own_kernels)
    mean, std = classifier.mean, classifier.std
    return FrozenNetwork(
        network, mean, std, modified_layers=modified_layers, kept=keep, notes=notes, folded=folded, fused=fused
    )


def _fold(plain: nn.Module, x: Tensor, keep: Collection[str]) -> tuple[nn.Module, int]:
    """Return the folded network, proven and still in float64, and how many batch norms are gone."""
    if not any(isinstance(m, nn.BatchNorm2d) for m in plain.modules()):
        return copy.deepcopy(plain), 0
    device = torch.device("cpu") if x.device.type == "mps" else x.device  # which has no float64
    try:
        network, exact_x = cast(copy.deepcopy(plain).to(device), torch.float64), x.to(device, torch.float64)
        expected = logits_without_graph(network, exact_x)
        pairs = foldable_pairs(plain, x, keep)  # in the network's own dtype, which is faster
        fold_batch_norms(network, pairs)
        answer = logits_without_graph(network, exact_x)
    except Exception as error:  # whatever the network's code raises in float64; the note tells it
        raise _Refused(f"it doesn't run in float64, in which folding is proven ({first_line(error)})") from error
    difference = relative_difference(answer, expected)
    if difference > FOLDED_TOLERANCE:
        raise _Refused(f"in float64 the folded logits differ by {difference:.1e} of the largest")
    return network, len(pairs)


def _fuse(network: nn.Module, x: Tensor, keep: Collection[str]) -> tuple[nn.Module, int]:
    """Return the fused network, compared with ``network`` in logits and gradient, and how many activations went."""
    candidate = copy.deepcopy(network)
    pairs = fuse_activations(candidate, x, keep)
    replaced = replace_convolutions(candidate, keep) + replace_linears(candidate) + freeze_batch_norms(candidate)
    if not replaced and not pairs:
        return network, 0
    replace_rectifiers(candidate, "plain")
    # In the mean, because at a kink the last bit of a forward decides whether a pixel's gradient passes.
    departure = _departure(candidate, x, _answer_and_gradient(network, x), FUSED_TOLERANCE, 0.05)
    if departure is not None:
        raise _Refused(departure)
    find_chains(candidate, x, keep)
    return candidate, len(pairs)


def _chunk(network: nn.Module, x: Tensor, keep: Collection[str]) -> None:
    """Compute the wide parts of ``network`` in chunks, if one image at a time they give the same as all at once."""
    parts = chunk_bottlenecks(network, x, keep)
    if not parts:
        return
    fit_chunks(network, math.inf)
    whole = _answer_and_gradient(network, x)
    fit_chunks(network, 0)
    if _departure(network, x, whole, LOGITS_TOLERANCE, FUSED_TOLERANCE) is not None:
        restore(network, parts)


def _answer_and_gradient(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf, logits = traced(network, x)
    (gradient,) = torch.autograd.grad(logits[:, ::2].sum(), leaf)
    return logits.detach(), gradient


def _departure(
    network: nn.Module, x: Tensor, expected: tuple[Tensor, Tensor], of_logits: float, of_gradient: float
) -> str | None:
    """Return in words how logits or gradient depart from what is expected by more than these parts of it; or None."""
    try:
        answer, gradient = _answer_and_gradient(network, x)
    except (RuntimeError, IndexError) as error:  # what a backward needs is changed in place, or no kernel takes it
        return first_line(error)
    if relative_difference(answer, expected[0]) > of_logits:
        return "another kernel gives other logits"
    if not (gradient - expected[1]).norm() <= of_gradient * expected[1].norm():
        return "another kernel gives other gradients"
    return None


def _outputs(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    try:
        with torch.no_grad(), reading_all(network) as outputs:
            network(x.clone())
    except Exception as error:  # tensors that may not leave their layer (vmap)
        raise _Refused(f"its layers can't be read ({first_line(error)})") from error
    return outputs


def _altered(network: nn.Module, x: Tensor, outputs: dict[str, Tensor]) -> set[str]:
    """Return the layers whose output is not (any more) what it is in the plain copy."""
    ours = _outputs(network, x)
    same = {n for n, y in outputs.items() if n in ours and relative_difference(ours[n], y) <= ALTERED_TOLERANCE}
    return set(outputs) - same
