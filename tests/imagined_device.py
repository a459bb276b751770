"""A device that is only imagined: its tensors lie in the processor's memory and mix with the processor's as little as a
GPU's do. It counts how often somebody waits for it.

Run as a program, it makes runs on it and prints what came of them as JSON (see test_imagined_device.py), since torch
knows the device as long as the process lives.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import lit_viz as lv
from lit_viz.attacks import ATTACKS
from lit_viz.attributions import METHODS
from lit_viz.classifiers import Classifier, load_classifier
from lit_viz.launch import trainer as training
from lit_viz.launch.argv import rewrite_arguments
from lit_viz.launch.commands import COMMANDS
from lit_viz.launch.config import MethodCLI, with_config_first
from lit_viz.launch.execute import execute
from tests.conftest import smooth_network

aten = torch.ops.aten


class _Backend(backend_registration._DummyBackendModule):  # type: ignore[misc]
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


backend_registration._setup_privateuseone_for_python_backend("imagined", _Backend())
DEVICE = torch.device("imagined", 0)

#: Operations that take tensors of both; an index may be the processor's, but then it is sent.
_MIXING = {aten.copy_, aten._to_copy, aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
#: Operations whose result has a size that the values decide.
_SIZED = {aten.nonzero, aten.masked_select, aten.repeat_interleave, aten.unique_dim, aten._unique2}

waits: list[str] = []


class Imagined(Tensor):
    """A tensor there, around one here."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Imagined:
        how = {"dtype": here.dtype, "layout": here.layout, "device": DEVICE}
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined, no-any-return]
            cls, here.size(), strides=here.stride(), storage_offset=here.storage_offset(), **how
        )

    def __init__(self, here: Tensor) -> None:
        self.here = here

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})

    def tolist(self) -> Any:
        _wait("read")
        return self.here.tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Imagined({self.here!r})"


def _wait(why: str) -> None:
    frames = [f for f in traceback.extract_stack() if "/lit_viz/" in f.filename and "transfers" not in f.filename]
    waits.append(f"{why}: {frames[-1].filename.rpartition('/lit_viz/')[2]}:{frames[-1].lineno}" if frames else why)


def _dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute here what is asked for there; refuse what a GPU would."""
    packet, device = func.overloadpacket, kwargs.get("device")
    going = None if device is None else torch.device(device).type == DEVICE.type
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Imagined)]
    if not there and not going:
        return func(*args, **kwargs)
    if func.namespace == "mkldnn":
        raise RuntimeError(f"{func} is an operation of the processor's")
    strangers = [tensor for tensor in tensors if not isinstance(tensor, Imagined) and tensor.dim()]
    if there and strangers and packet not in _MIXING:
        raise RuntimeError(f"{func} mixes devices: a tensor of shape {tuple(strangers[0].shape)} is the processor's")
    if kwargs.get("generator") is not None:
        raise RuntimeError(f"{func} draws there with a generator of the processor's")
    _count(func, args, kwargs, going, there, strangers)
    known: dict[int, Imagined] = {}

    def here(leaf: Any) -> Any:
        if isinstance(leaf, Imagined):
            known[id(leaf.here)] = leaf
            return leaf.here
        return leaf

    plain = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    if "device" in plain:
        plain["device"] = torch.device("cpu")
    result = func(*tree_map(here, args), **tree_map(here, plain))
    if packet is aten.copy_:
        return args[0]
    if going is False:
        return result
    return tree_map(lambda leaf: known.get(id(leaf), leaf) if id(leaf) in known else _imagined(leaf), result)


def _imagined(leaf: Any) -> Any:
    return Imagined(leaf) if isinstance(leaf, Tensor) and not isinstance(leaf, Imagined) else leaf


def _count(
    func: Any, args: Any, kwargs: dict[str, Any], going: bool | None, there: list[Imagined], strangers: list[Tensor]
) -> None:
    packet, hurries = func.overloadpacket, bool(kwargs.get("non_blocking") or (len(args) > 2 and args[2] is True))
    if packet is aten._local_scalar_dense or (packet is aten._to_copy and there and going is False):
        _wait("read")
    elif packet is aten._to_copy and not there and not hurries:
        _wait("sent")
    elif packet is aten.copy_ and not isinstance(args[0], Imagined):
        _wait("read")
    elif packet is aten.copy_ and strangers and not hurries:
        _wait("sent")
    elif packet in _SIZED and kwargs.get("output_size") is None:
        _wait("size")
    elif packet in _MIXING and packet not in (aten.copy_, aten._to_copy):
        indices = [index for index in args[1] if index is not None]
        if any(not isinstance(index, Imagined) and index.dim() for index in indices):
            _wait("sent")
        if any(isinstance(index, Imagined) and index.dtype == torch.bool for index in indices):
            _wait("size")


class _InPython(TorchFunctionMode):
    """What torch makes below the level at which a device can be imagined: tensors of Python's numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[0], Imagined):
            index = tuple(torch.tensor(i) if isinstance(i, list) else i for i in _tuple(args[1]))
            return func(args[0], index, *args[2:])
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            del kwargs["device"]
            return args[0].to(DEVICE) if isinstance(args[0], Tensor) else func(*args, **kwargs).to(DEVICE)
        if func is torch.Tensor.new_tensor and isinstance(args[0], Imagined):
            return torch.tensor(args[1], **{"dtype": args[0].dtype, **kwargs}).to(DEVICE)
        if func == torch.Tensor.data.__set__ and isinstance(args[0], Imagined):  # type: ignore[attr-defined]
            args[0].here = args[1].here
        if func is torch.unravel_index and isinstance(args[0], Imagined):
            return tuple(map(Imagined, torch.unravel_index(args[0].here, *args[1:], **kwargs)))
        return func(*args, **kwargs)


def _tuple(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


class Imagining(TorchDispatchMode):
    """While it lasts, the device is there."""

    def __enter__(self) -> Any:
        self.python = _InPython()
        self.python.__enter__()
        return super().__enter__()

    def __exit__(self, *how: Any) -> None:
        super().__exit__(*how)
        self.python.__exit__(*how)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


class _Accelerator(Accelerator):
    """It, as Lightning knows accelerators."""

    def setup_device(self, device: torch.device) -> None: ...
    def teardown(self) -> None: ...

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return [DEVICE]

    @staticmethod
    def get_parallel_devices(devices: Any) -> Any:
        return [DEVICE]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "imagined"

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}


# -- runs on it


def kinked_network() -> nn.Module:
    """Return a network with batch norms and rectifiers, for methods that want these."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    ).eval()  # fmt: skip


#: Makes a run of so many iterations, with a smooth network or one with kinks.
Run = Callable[[Classifier, Classifier, int], Any]
SLOTS, ITERATIONS = 8, (4, 8)


def runs() -> dict[str, Run]:
    """Return runs of SLOTS images at once by name."""
    x = (torch.rand(SLOTS, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255).round() / 255
    many: dict[str, Any] = {"slots": SLOTS, "wandb": "disabled"}

    def attack(name: str) -> Run:
        how = {"attack": {name: {"eps": 1e-4}} if name in ("pgd", "apgd", "square", "ensemble") else name}
        return lambda smooth, kinked, k: lv.attack(smooth, x, iterations=k, curve_at="every:1", **how, **many)

    def saliency(name: str) -> Run:
        method: Any = {name: {"window": 8}} if name == "occlusion" else name
        return lambda smooth, kinked, k: lv.saliency(
            kinked, x, method=method, iterations=k, check="none", curve_at="last", model__batch=SLOTS, **many
        )

    def class_images(how: dict[str, Any]) -> Run:
        targets = [n % 5 for n in range(SLOTS)]
        return lambda smooth, kinked, k: lv.visualize(
            smooth, targets, iterations=k, model__views=2, curve_at="last", **how, **many
        )

    def by_its_name(words: str) -> Run:
        """Of a network that the run itself loads, onto the device."""
        command = COMMANDS[words.split()[0]]
        small = "--classifier tests.conftest:smooth_network --classifier.size 16 --wandb disabled --curve-at last"
        given = rewrite_arguments([*words.split()[1:], *small.split()], command)
        return lambda smooth, kinked, k: execute(
            MethodCLI(command, [*with_config_first(command, given), "--iterations", str(k)])
        )

    rules = ("Adam", "NAdam", "SGD")
    return {
        **{f"attack {name}": attack(name) for name in ATTACKS},
        **{f"saliency {name}": saliency(name) for name in METHODS},
        **{f"visualize {rule}": class_images({"model__step_rule": f"lit_viz.optim.{rule}"}) for rule in rules},
        "visualize maco": class_images({"config": "maco"}),
        "attack by name": by_its_name("attack packaged:chelsea packaged:coffee --attack pgd --attack.eps 1e-4"),
        "saliency by name": by_its_name("saliency packaged:chelsea --method smoothgrad --check none"),
        "visualize by name": by_its_name("visualize 1 2 --config small"),
        "visualize channels": lambda smooth, kinked, k: lv.visualize(
            kinked, layer="0", channel="all", config="channels", iterations=k, curve_at="last", **many
        ),
    }


def main() -> None:
    trainer_options = training.trainer_options

    def there(options: Any) -> dict[str, Any]:
        strategy = SingleDeviceStrategy(device=DEVICE, accelerator=_Accelerator())
        return {**trainer_options(options), "accelerator": "auto", "strategy": strategy}

    training.trainer_options = there
    told: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with Imagining():
        smooth, kinked = load_classifier(smooth_network(), size=16), load_classifier(kinked_network(), size=16)
        for name, run in runs().items():
            for iterations in ITERATIONS:
                waits.clear()
                try:
                    outcome = run(smooth, kinked, iterations)
                except Exception:
                    told[name].append({"error": traceback.format_exc()})
                    continue
                records = [{key: record[key] for key in ("status", "iterations")} for record in outcome.results]
                told[name].append({"records": records, "waits": list(waits)})
    print(json.dumps({"steps": ITERATIONS[1] - ITERATIONS[0], "runs": told}))


if __name__ == "__main__":
    pl.seed_everything(0)
    main()
    sys.exit(0)
