"""Where does the time of an evaluation go? A run of each method, taken apart, against the bare network.

python scripts/profile_step.py
python scripts/profile_step.py --iterations 64 --slots 8

Each method runs without a folder on EfficientNet-Lite0 and packaged photographs. The clock stands between the parts,
which do not overlap: the network's forward; backwards, which also go back through views and parameterization; views and
parameterization forwards; looks at images for logging; verifying what is saved; the rest of the step (rule, state,
slots); and what is outside the steps (start-up, Lightning, callbacks, judges). The floor is the fast copy in a bare
loop of as many inputs a batch. In milliseconds an evaluation; on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lit_viz.allocator import tune_allocator

tune_allocator()  # before torch takes its first memory

import torch  # noqa: E402

import lit_viz as lv  # noqa: E402
from lit_viz.classifiers import Classifier, FrozenNetwork  # noqa: E402
from lit_viz.engine.evaluation import Evaluator  # noqa: E402
from lit_viz.engine.module import ImageTraining  # noqa: E402
from lit_viz.images.reading import PACKAGED, read_photograph  # noqa: E402
from lit_viz.methods import adversarial_example  # noqa: E402

PARTS = ("forward", "backward", "views", "looks", "verifying", "rest of the step", "outside")


class Clock:
    """Counts each moment for the innermost part that is under way."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._parts = ["outside"]
        self._since = time.perf_counter()

    def switch(self) -> None:
        """Count what went by since the last switch."""
        now = time.perf_counter()
        self.seconds[self._parts[-1]] += now - self._since
        self._since = now

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time counted for the part."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.switch()
            self._parts.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.switch()
                self._parts.pop()

        return timed


@contextmanager
def taken_apart(clock: Clock) -> Iterator[None]:
    """Time the parts of every run in the body."""
    places = [
        (ImageTraining, "training_step", "rest of the step"),
        (ImageTraining, "_looks", "looks"),
        (Evaluator, "__call__", "views"),
        (FrozenNetwork, "forward", "forward"),
        (torch.autograd, "grad", "backward"),
        (adversarial_example, "save_and_verify", "verifying"),
    ]
    before = [getattr(owner, name) for owner, name, _ in places]
    for (owner, name, part), function in zip(places, before, strict=True):
        setattr(owner, name, clock.around(part, function))
    try:
        yield
    finally:
        for (owner, name, _), function in zip(places, before, strict=True):
            setattr(owner, name, function)


def floor(net: Classifier, inputs: int) -> tuple[float, float]:
    """Return the milliseconds of a forward and backward, and of a forward, of the fast copy, an input of a batch."""
    fast = net.fast()
    x = torch.rand(inputs, 3, *net.size)

    def both() -> None:
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(fast(leaf)[0].sum(), leaf)

    def forward() -> None:
        with torch.no_grad():
            fast(x)

    found = []
    for action in (both, forward):
        action()
        times = []
        for _ in range(20):
            began = time.perf_counter()
            action()
            times.append(time.perf_counter() - began)
        found.append(1000 * statistics.mean(times) / inputs)
    return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--slots", type=int, default=8)
    options = parser.parse_args()
    net = lv.load_classifier("efficientnet_lite0")
    pictures = [read_photograph(f"packaged:{name}", net.size).pixels for name in PACKAGED]
    x = torch.stack((pictures * options.slots)[: options.slots])
    labels = net.logits(x).argmax(1).tolist()
    given: dict[str, Any] = {"iterations": options.iterations, "slots": options.slots}
    photographs: dict[str, Any] = {"log_at": "last", "curve_at": "last", **given}
    pgd = {"pgd": {"early_stop": False}}
    runs: dict[str, tuple[int, Callable[[], Any]]] = {
        "class images, 4 views": (4, lambda: lv.visualize(net, list(range(options.slots)), log_at="every:20", **given)),
        "fooling": (1, lambda: lv.attack(net, x, labels, 6, **photographs)),
        "PGD, no stop": (1, lambda: lv.attack(net, x, labels, attack=pgd, eps=4 / 255, **photographs)),
        "DDN": (1, lambda: lv.attack(net, x, labels, attack="ddn", **photographs)),
        "SmoothGrad": (1, lambda: lv.saliency(net, x, labels, method="smoothgrad", check="none", **photographs)),
        "integrated gradients": (
            1,
            lambda: lv.saliency(net, x, labels, method="integrated_gradients", check="none", **photographs),
        ),
        "RISE (forwards)": (1, lambda: lv.saliency(net, x, labels, method="rise", check="none", **photographs)),
    }
    print(f"| run | evaluations | floor | all | {' | '.join(PARTS)} |\n|---|---|---|---|{'---|' * len(PARTS)}")
    for name, (views, run) in runs.items():
        both, forward = floor(net, options.slots * views)
        clock = Clock()
        with taken_apart(clock):
            done = run()
            clock.switch()
        forwards = sum(record["forwards"] for record in done.results)
        backwards = sum(record["backwards"] for record in done.results)
        least = (backwards * both + (forwards - backwards) * forward) / forwards
        cells = [1000 * clock.seconds[part] / forwards for part in PARTS]
        print(f"| {name} | {forwards} F, {backwards} B | {least:.1f} | {sum(cells):.1f} |", end="")
        print("".join(f" {cell:.2f} |" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
