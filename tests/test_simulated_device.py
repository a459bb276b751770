"""Run every method on a simulated device, and bound the number of synchronizations per step.

Tensors of the simulated device are stored in CPU memory, but do not mix with CPU tensors, as those of a GPU. It counts
synchronizations: operations for which the CPU would wait; their number must not depend on the number of images. The
test starts this module as a program, which executes the runs on the device and prints a report as JSON: torch
can't unregister a device. Real GPUs are tested in test_gpu.py.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import traceback
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import Any

import pytest
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
from lit_viz.attributions import ATTRIBUTIONS
from lit_viz.attributions.attention import AttentionMap
from lit_viz.commands import parse_method
from lit_viz.engine import module as engine
from lit_viz.engine.module import ImageTraining
from lit_viz.launch import trainer as training
from lit_viz.launch.execute import execute
from lit_viz.launch.methods import METHODS, method_form
from lit_viz.networks import Network
from lit_viz.outputs import load_network
from lit_viz.outputs.loading import load_recorded

ROOT = Path(__file__).parents[1]


#: Largest number of synchronizations per step of eight images. A step of the ensemble runs several attacks; attacks
#: record a curve point in every iteration.
LIMITS = {
    "attack": 16,
    "attack ensemble": 24,
    "saliency": 6,
    "saliency expected_gradients": 7,
    "saliency kernel_shap": 7,
    "visualize": 10,
}


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="requires a version of torch that supports device backends in Python",
)
@pytest.mark.slow
def test_runs_on_another_device() -> None:
    program = [sys.executable, "-m", "tests.test_simulated_device"]
    process = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout.splitlines()[-1])
    assert len(report) > 25
    for name, run in report.items():
        assert "error" not in run, f"{name}: {run['error']}"
        assert set(run["statuses"]) == {"done"}, name
        steps = [after - before for before, after in pairwise(run["counts"])][:-1]  # without start and final evidence
        per_step = median_low(steps or [0])  # images that end early are saved in some steps
        assert per_step <= LIMITS.get(name, LIMITS[name.split()[0]]), f"{name}: {per_step} synchronizations per step"


# -- the program: the device


aten = torch.ops.aten


#: Operations that accept tensors of both devices. An index on the CPU is transferred.
_MIXING = {aten.copy_, aten._to_copy, aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
#: Operations whose result has a size that depends on the values.
_SIZED = {aten.nonzero, aten.masked_select, aten.repeat_interleave, aten.unique_dim, aten._unique2}

synchronizations: list[str] = []


class DeviceTensor(Tensor):
    """A tensor of the device, which wraps a CPU tensor."""

    wrapped: Tensor

    @staticmethod
    def __new__(cls, wrapped: Tensor) -> DeviceTensor:
        options = {"dtype": wrapped.dtype, "layout": wrapped.layout, "device": DEVICE}
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined, no-any-return]
            cls, wrapped.size(), strides=wrapped.stride(), storage_offset=wrapped.storage_offset(), **options
        )

    def __init__(self, wrapped: Tensor) -> None:
        self.wrapped = wrapped

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})

    def tolist(self) -> Any:
        _synchronize("read")
        return self.wrapped.tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"DeviceTensor({self.wrapped!r})"


def _synchronize(reason: str) -> None:
    frames = [f for f in traceback.extract_stack() if "/lit_viz/" in f.filename and "transfers" not in f.filename]
    synchronizations.append(
        f"{reason}: {frames[-1].filename.rpartition('/lit_viz/')[2]}:{frames[-1].lineno}" if frames else reason
    )


def _dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute an operation of the device on the CPU.

    Raises:
        RuntimeError: a GPU would reject the operation.
    """
    packet, device = func.overloadpacket, kwargs.get("device")
    to_device = None if device is None else torch.device(device).type == DEVICE.type
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    on_device = [tensor for tensor in tensors if isinstance(tensor, DeviceTensor)]
    if not on_device and not to_device:
        return func(*args, **kwargs)
    if func.namespace == "mkldnn":
        raise RuntimeError(f"{func} is an operation of the CPU")
    on_cpu = [tensor for tensor in tensors if not isinstance(tensor, DeviceTensor) and tensor.dim()]
    if on_device and on_cpu and packet not in _MIXING:
        raise RuntimeError(f"{func} mixes devices: a tensor of shape {tuple(on_cpu[0].shape)} is on the CPU")
    if kwargs.get("generator") is not None:
        raise RuntimeError(f"{func} draws on the device with a generator of the CPU")
    _count(func, args, kwargs, to_device, on_device, on_cpu)
    wrappers: dict[int, DeviceTensor] = {}

    def unwrap(leaf: Any) -> Any:
        if isinstance(leaf, DeviceTensor):
            wrappers[id(leaf.wrapped)] = leaf
            return leaf.wrapped
        return leaf

    plain = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    if "device" in plain:
        plain["device"] = torch.device("cpu")
    result = func(*tree_map(unwrap, args), **tree_map(unwrap, plain))
    if packet is aten.copy_:
        return args[0]
    if to_device is False:
        return result
    return tree_map(lambda leaf: wrappers.get(id(leaf), leaf) if id(leaf) in wrappers else _wrap(leaf), result)


def _wrap(leaf: Any) -> Any:
    return DeviceTensor(leaf) if isinstance(leaf, Tensor) and not isinstance(leaf, DeviceTensor) else leaf


def _count(
    func: Any,
    args: Any,
    kwargs: dict[str, Any],
    to_device: bool | None,
    on_device: list[DeviceTensor],
    on_cpu: list[Tensor],
) -> None:
    packet, non_blocking = func.overloadpacket, bool(kwargs.get("non_blocking") or (len(args) > 2 and args[2] is True))
    if packet is aten._local_scalar_dense or (packet is aten._to_copy and on_device and to_device is False):
        _synchronize("read")
    elif packet is aten._to_copy and not on_device and not non_blocking:
        _synchronize("write")
    elif packet is aten.copy_ and not isinstance(args[0], DeviceTensor):
        _synchronize("read")
    elif packet is aten.copy_ and on_cpu and not non_blocking:
        _synchronize("write")
    elif packet in _SIZED and kwargs.get("output_size") is None:
        _synchronize("size")
    elif packet in _MIXING and packet not in (aten.copy_, aten._to_copy):
        indices = [index for index in args[1] if index is not None]
        if any(not isinstance(index, DeviceTensor) and index.dim() for index in indices):
            _synchronize("write")
        if any(isinstance(index, DeviceTensor) and index.dtype == torch.bool for index in indices):
            _synchronize("size")


class _InPython(TorchFunctionMode):
    """Create and index tensors from Python values, which torch does below the level of ``__torch_dispatch__``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[0], DeviceTensor):
            index = tuple(torch.tensor(i) if isinstance(i, list) else i for i in _tuple(args[1]))
            return func(args[0], index, *args[2:])
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            del kwargs["device"]
            return args[0].to(DEVICE) if isinstance(args[0], Tensor) else func(*args, **kwargs).to(DEVICE)
        if func is torch.Tensor.new_tensor and isinstance(args[0], DeviceTensor):
            return torch.tensor(args[1], **{"dtype": args[0].dtype, **kwargs}).to(DEVICE)
        if func == torch.Tensor.data.__set__ and isinstance(args[0], DeviceTensor):  # type: ignore[attr-defined]
            args[0].wrapped = args[1].wrapped
        if func is torch.unravel_index and isinstance(args[0], DeviceTensor):
            return tuple(map(DeviceTensor, torch.unravel_index(args[0].wrapped, *args[1:], **kwargs)))
        return func(*args, **kwargs)


def _tuple(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


class DeviceMode(TorchDispatchMode):
    """Context in which the device is available."""

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
    """The device as an accelerator of Lightning."""

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
        return "simulated"

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}


# -- runs on the device


def kinked_network() -> nn.Module:
    """Return a network with batch norms and rectifiers, which some methods require."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    ).eval()  # fmt: skip


#: Runs a method: arguments are the smooth network, the network with rectifiers, and the iterations.
Run = Callable[[Network, Network, int], Any]
SLOTS, ITERATIONS = 8, 6


def runs() -> dict[str, Run]:
    """Return the runs by name, each with SLOTS images at once."""
    x = (torch.rand(SLOTS, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255).round() / 255
    common: dict[str, Any] = {"slots": SLOTS, "wandb": "disabled", "log_at": "last"}

    def attack(name: str) -> Run:
        how: dict[str, Any] = {"attack": name}
        if name in ("pgd", "apgd", "square", "ensemble"):
            how["eps"] = 1e-4
        return lambda smooth, kinked, k: lv.attack(smooth, x, iterations=k, curve_at="every:1", **how, **common)

    def saliency(name: str) -> Run:
        method: Any = ATTRIBUTIONS[name](window=8) if name == "occlusion" else name
        return lambda smooth, kinked, k: lv.saliency(
            kinked, x, method=method, iterations=k, captum="none", curve_at="last", batch=SLOTS, **common
        )

    def class_images(how: dict[str, Any]) -> Run:
        targets = [n % 5 for n in range(SLOTS)]
        return lambda smooth, kinked, k: lv.visualize(
            smooth, targets, iterations=k, views=2, curve_at="last", **how, **common
        )

    def command_line(words: str) -> Run:
        """Return a run of a command line, which loads the network itself."""
        command = METHODS[words.split()[0]]
        of_network = "--network tests.support.networks:smooth_network --network.size 16"
        options = f"{words} {of_network} --wandb disabled --log-at last --curve-at last"

        def run(smooth: Network, kinked: Network, k: int) -> lv.Run:
            values = parse_method(command, [*options.split()[1:], "--iterations", str(k)])
            form = method_form(command, values)
            module, tasks = form.build(load_recorded(form.network))
            return execute(module, tasks, form.options(), moves_network=True)

        return run

    rules = ("Adam", "NAdam", "SGD")
    return {
        **{f"attack {name}": attack(name) for name in ATTACKS},
        **{
            f"saliency {name}": saliency(name)
            for name, kind in ATTRIBUTIONS.items()
            if not issubclass(kind, AttentionMap)
            and name != "shapley_interactions"  # the steps of kernel_shap, with more evaluations than these runs have
        },
        **{f"visualize {rule}": class_images({"step_rule": rule.lower()}) for rule in rules},
        "visualize maco": class_images({"config": "maco"}),
        "attack by name": command_line("attack packaged:chelsea packaged:coffee --attack pgd --attack.eps 1e-4"),
        "saliency by name": command_line("saliency packaged:chelsea --method smoothgrad --captum none"),
        "visualize by name": command_line("visualize 1 2 --config small"),
        "visualize channels": lambda smooth, kinked, k: lv.visualize(
            kinked, layer="0", channel="all", config="channels", iterations=k, curve_at="last", **common
        ),
    }


def main() -> None:
    """Execute all runs."""
    from tests.support.networks import smooth_network

    trainer_options = training.trainer_options

    def device_options(options: Any) -> dict[str, Any]:
        strategy = SingleDeviceStrategy(device=DEVICE, accelerator=_Accelerator())
        return {**trainer_options(options), "accelerator": "auto", "strategy": strategy}

    def counting_step(module: ImageTraining, batch: int, batch_idx: int) -> dict[str, Any]:
        outputs = training_step(module, batch, batch_idx)
        counts.append(len(synchronizations))
        return outputs

    engine._SECONDS_BETWEEN_LOGS = math.inf  # a slow step logs its means: synchronizations that depend on the machine
    training_step = ImageTraining.training_step
    training.trainer_options, ImageTraining.training_step = device_options, counting_step  # type: ignore[method-assign]
    report: dict[str, Any] = {}
    counts: list[int] = []  # synchronizations until the end of each step
    with DeviceMode():
        smooth, kinked = load_network(smooth_network(), size=16), load_network(kinked_network(), size=16)
        for name, run in runs().items():
            synchronizations.clear()
            counts.clear()
            try:
                outcome = run(smooth, kinked, ITERATIONS)
            except Exception:
                report[name] = {"error": traceback.format_exc()}
                continue
            statuses = [record["status"] for record in outcome.records]
            report[name] = {"statuses": statuses, "counts": list(counts), "where": list(synchronizations)}
    print(json.dumps(report))


def register_device() -> torch.device:
    """Register the device with torch, which can't unregister it."""

    class Backend(backend_registration._DummyBackendModule):  # type: ignore[misc]
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.float16, torch.bfloat16]

    backend_registration._setup_privateuseone_for_python_backend("simulated", Backend())
    return torch.device("simulated", 0)


if __name__ == "__main__":
    DEVICE = register_device()
    pl.seed_everything(0)
    main()
    sys.exit(0)
