"""lit_viz against the tools that its users come from: Captum, torchattacks, Foolbox.

pip install --no-deps --target peers foolbox torchattacks eagerpy GitPython gitdb smmap
python scripts/benchmark_peers.py saliency
python scripts/benchmark_peers.py attack --peers peers
python scripts/benchmark_peers.py strength --peers peers

Peers are installed beside the project, not into it: some would downgrade what it runs on. Every side runs in a process
of its own, the sides take turns, and both get the same 16 photographs and classes (those that come with Foolbox, else
parts of scikit-image's). Loading is not timed. A peer is called as its documentation does, with the module as a user
hands it over (contiguous, not frozen, default allocator) and the best of several batch sizes.

  saliency   gradient, SmoothGrad (32 samples), integrated gradients (32 nodes): Captum against the methods on the fast
             copy, on a copy that is not folded, and against a whole run (which costs a quarter of a second to begin);
             then the peak memory of a run
  attack     PGD (40 steps, 4/255, no early stop) against torchattacks and Foolbox; DDN (100 steps) against Foolbox,
             with median norms and what is true in the file; 64 image-target pairs in slots against one at a time
  strength   APGD against torchattacks' APGD (untargeted, cross-entropy, 64 images: four crops of each photograph) and
             PGD (64 image-target pairs): robust accuracy at 8 radii, twenty steps, the best of three seeds, as the
             module that was handed over sees the images; nothing is timed
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

COUNT = 16
EPS = 4 / 255


def photographs(count: int = COUNT) -> tuple[Any, list[int]]:
    """Return images ``(count, 3, 224, 224)`` in [0, 1] on the 8-bit lattice, and the classes that lite0 sees."""
    from importlib.util import find_spec

    import torch

    from lit_viz.images.reading import PACKAGED, read_photograph

    found = find_spec("foolbox")
    if found is not None and found.submodule_search_locations:
        files = sorted(Path(found.submodule_search_locations[0], "data").glob("imagenet_*"))
        images = [read_photograph(file, (224, 224)).pixels for file in files]
    else:
        large = [read_photograph(f"packaged:{name}", (300, 300)).pixels for name in PACKAGED]
        images = [image[:, y : y + 224, x : x + 224] for image in large for y in (0, 76) for x in (0, 76)]
    x = torch.stack((images * (count // len(images) + 1))[:count])
    return x, classifier().logits(x).argmax(1).tolist()


@cache
def classifier() -> Any:
    """Return the classifier."""
    from lit_viz.classifiers import load_classifier

    return load_classifier("efficientnet_lite0")


def as_handed() -> Any:
    """Return the module as a user hands it to a peer: images in [0, 1] -> logits."""
    import torch

    net = classifier()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (net.mean, net.std))

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = net.original.eval().requires_grad_(True)

        def forward(self, x: Any) -> Any:
            return self.network((x - mean) / std)

    return Module().eval()


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = action()
    return time.perf_counter() - began, result


# -- saliency

METHODS = {"gradient": 1, "smoothgrad": 32, "integrated_gradients": 32}


def captum(method: str, batch: int) -> dict[str, Any]:
    """Time Captum."""
    import captum.attr as attr
    import torch

    x, labels = photographs()
    module, targets = as_handed(), torch.tensor(labels)
    module(x[:batch])

    def explain() -> None:
        if method == "gradient":
            for i in range(0, len(x), batch):
                attr.Saliency(module).attribute(x[i : i + batch].requires_grad_(), targets[i : i + batch], abs=False)
        elif method == "smoothgrad":
            tunnel = attr.NoiseTunnel(attr.Saliency(module))
            for i in range(len(x)):
                tunnel.attribute(
                    x[i : i + 1].requires_grad_(), nt_type="smoothgrad", nt_samples=32, stdevs=0.15,
                    nt_samples_batch_size=min(batch, 32), target=labels[i], abs=False,
                )  # fmt: skip
        else:
            for i in range(len(x)):
                attr.IntegratedGradients(module).attribute(
                    x[i : i + 1], target=labels[i], n_steps=32, method="gausslegendre", internal_batch_size=batch
                )

    return {"seconds": timed(explain)[0]}


def ours(method: str, **options: Any) -> dict[str, Any]:
    """Time a whole run, without a folder."""
    from lit_viz.allocator import tune_allocator

    tune_allocator()
    import lit_viz as lv

    x, labels = photographs()
    net = classifier()
    lv.saliency(net, x[:8], labels[:8], method=method, iterations=1, check="none")
    run = lambda: lv.saliency(net, x, labels, method=method, iterations=METHODS[method], check="none", **options)  # noqa: E731
    seconds, done = timed(run)
    assert all(r["status"] == "done" for r in done.results)
    return {"seconds": seconds}


def loop(method: str, folded: bool) -> dict[str, Any]:
    """Time the bare loop of the method, on the fast copy or on a frozen copy that is not folded."""
    from lit_viz.allocator import tune_allocator

    tune_allocator()
    import torch

    from lit_viz.attributions import METHODS as KINDS
    from lit_viz.attributions import attribute

    x, labels = photographs()
    net = classifier()
    plain = net.original.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    fast = net.fast()

    def network(images: Any, layers: Any = ()) -> tuple[Any, Any]:
        if folded:
            return fast(images)
        return plain(net.normalize(images).contiguous(memory_format=torch.channels_last)), {}

    kind = KINDS[method]()
    attribute(kind, network, x, labels, evaluations=1)

    def explain() -> None:
        attribute(kind, network, x, labels, evaluations=METHODS[method])

    return {"seconds": timed(explain)[0]}


def saliency_memory(images: int, samples: int) -> dict[str, Any]:
    """Return the peak memory of a SmoothGrad run."""
    import lit_viz as lv

    x, labels = photographs(images)
    lv.saliency(classifier(), x, labels, method="smoothgrad", iterations=samples, check="none", log_at="last")
    return {"MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def saliency(rounds: int, peers: str | None) -> None:
    print("| method | evaluations | Captum / fast copy | Captum / not folded | Captum / run |\n|---|---|---|---|---|")
    for method, count in METHODS.items():
        batches = {b: call(peers, "captum", method=method, batch=b)["seconds"] for b in (1, 4, 8, 16)}
        best = min(batches, key=lambda b: batches[b])
        fast, plain, whole = [], [], []
        for _ in range(rounds):
            theirs = call(peers, "captum", method=method, batch=best)["seconds"]
            fast.append(theirs / call(peers, "loop", method=method, folded=True)["seconds"])
            plain.append(theirs / call(peers, "loop", method=method, folded=False)["seconds"])
            whole.append(theirs / call(peers, "ours", method=method)["seconds"])
        cells = " | ".join(map(spread, (fast, plain, whole)))
        print(f"| {method} (Captum's best batch {best}) | {count * COUNT} | {cells} |", flush=True)
    few, samples, images = (
        call(peers, "saliency_memory", images=i, samples=s)["MiB"] for i, s in ((16, 16), (16, 64), (64, 16))
    )
    print(f"peak memory: 16 images x 16 samples {few:.0f} MiB, x 64 samples {samples:.0f}, 64 images x 16 {images:.0f}")


# -- attacks


def pgd(tool: str) -> dict[str, Any]:
    """Time PGD, and return how many of the images are fooled as floats."""
    import torch

    x, labels = photographs()
    if tool == "ours" or tool == "ours_stopping":
        from lit_viz.allocator import tune_allocator

        tune_allocator()
        import lit_viz as lv

        net = classifier()
        net.fast()
        options = {"random_start": False, "alpha": EPS / 10, "early_stop": tool == "ours_stopping"}
        run = lambda: lv.attack(  # noqa: E731
            net, x, labels, attack={"pgd": options}, eps=EPS, norm="linf", iterations=40, log_at="last", curve_at="last"
        )
        seconds, done = timed(run)
        return {"seconds": seconds, "fooled": sum(r["success_float"] for r in done.results)}
    module, y = as_handed(), torch.tensor(labels)
    module(x[:8])
    if tool == "torchattacks":
        import torchattacks

        attack = torchattacks.PGD(module, eps=EPS, alpha=EPS / 10, steps=40, random_start=False)
        seconds, fooled = timed(lambda: attack(x, y))
    else:
        import foolbox

        model = foolbox.PyTorchModel(module, bounds=(0, 1))
        attack = foolbox.attacks.LinfPGD(abs_stepsize=EPS / 10, steps=40, random_start=False)
        seconds, (_, fooled, _) = timed(lambda: attack(model, x, y, epsilons=EPS))
    return {"seconds": seconds, "fooled": int((module(fooled).argmax(1) != y).sum())}


def ddn(tool: str) -> dict[str, Any]:
    """Time DDN; return the median L2 norm as floats, and the successes in the 8-bit file."""
    import torch

    x, labels = photographs()
    y = torch.tensor(labels)
    if tool == "ours":
        from lit_viz.allocator import tune_allocator

        tune_allocator()
        import lit_viz as lv

        net = classifier()
        net.fast()
        run = lambda: lv.attack(net, x, labels, attack="ddn", iterations=100, log_at="last", curve_at="last")  # noqa: E731
        seconds, done = timed(run)
        norms, files = [r["l2"] for r in done.results], sum(r["success_file"] for r in done.results)
        return {"seconds": seconds, "l2": statistics.median(norms), "files": files}
    if tool == "ours_unrounded":
        from lit_viz.attacks import DDN, run_attack

        fast = classifier().fast()
        found, state = run_attack(DDN(quantize=False), lambda images: fast(images)[0], x, labels, iterations=100)
        assert bool(state["fooled"].all())
        return {"l2": float((found - x).flatten(1).norm(dim=1).median())}
    import foolbox

    module = as_handed()
    module(x[:8])
    model = foolbox.PyTorchModel(module, bounds=(0, 1))
    attack = foolbox.attacks.DDNAttack(steps=100)
    seconds, (found, _, _) = timed(lambda: attack(model, x, y, epsilons=None))
    norms = (found - x).flatten(1).norm(dim=1)
    rounded = (found * 255).round() / 255
    return {
        "seconds": seconds,
        "l2": float(norms.median()),
        "files": int((module(rounded).argmax(1) != y).sum()),
    }


def fooling(slots: int) -> dict[str, Any]:
    """Time the fooling recipe on 64 image-target pairs."""
    from lit_viz.allocator import tune_allocator

    tune_allocator()
    import lit_viz as lv

    x, labels = photographs()
    net = classifier()
    net.fast()
    targets = [(label + step) % 1000 for step in (111, 333, 555, 777) for label in labels]
    run = lambda: lv.attack(  # noqa: E731
        net, x.repeat(4, 1, 1, 1), labels * 4, targets, slots=slots, log_at="last", curve_at="last"
    )
    seconds, done = timed(run)
    exact = all(
        r["forwards"] == r["iterations"] + 1 and r["backwards"] == r["iterations"]
        for r in done.results
        if r["success_float"]
    )
    fooled = sum(r["success_file"] for r in done.results)
    return {"seconds": seconds, "exact": exact, "fooled": fooled, "updates": sum(r["iterations"] for r in done.results)}


def attack(rounds: int, peers: str | None) -> None:
    for _ in range(rounds):
        mine, stopping = call(peers, "pgd", tool="ours"), call(peers, "pgd", tool="ours_stopping")
        for tool in ("torchattacks", "foolbox"):
            its = call(peers, "pgd", tool=tool)
            print(
                f"PGD: {tool} / lit_viz {its['seconds'] / mine['seconds']:.2f} (fooled {its['fooled']}, "
                f"{mine['fooled']} of {COUNT}); stopping in slots {its['seconds'] / stopping['seconds']:.2f}",
                flush=True,
            )
        mine, its = call(peers, "ddn", tool="ours"), call(peers, "ddn", tool="foolbox")
        floats = call(peers, "ddn", tool="ours_unrounded")["l2"] / its["l2"]
        print(
            f"DDN: Foolbox / lit_viz {its['seconds'] / mine['seconds']:.2f}; median L2 {floats:.3f} of Foolbox's as "
            f"floats, {mine['l2'] / its['l2']:.3f} in the file; true in the file {mine['files']} against "
            f"{its['files']} of {COUNT}",
            flush=True,
        )
        together, alone = call(peers, "fooling", slots=16), call(peers, "fooling", slots=1)
        print(
            f"fooling, 64 pairs: one at a time / in slots {alone['seconds'] / together['seconds']:.2f}; counts exact: "
            f"{together['exact']}; true in the file {together['fooled']}; {together['updates']} updates",
            flush=True,
        )


# -- strength

RADII = {
    "apgd": (0.02, 0.04, 0.06, 0.08, 0.11, 0.15, 0.2, 0.3),  # /255
    "pgd": (0.3, 0.5, 0.7, 0.9, 1.1, 1.4, 1.8, 2.4),
}
SEEDS, STEPS = 3, 20


def crops() -> tuple[Any, list[int]]:
    """Return 64 images, four crops of each photograph, and the classes that are seen in them."""
    import torch

    x, _ = photographs()
    large = torch.nn.functional.interpolate(x, 248, mode="bilinear", align_corners=False)
    images = torch.cat([large[..., i : i + 224, j : j + 224] for i in (0, 24) for j in (0, 24)])
    images = (images * 255).round() / 255
    net = classifier()
    return images, torch.cat([net.logits(some) for some in images.split(16)]).argmax(1).tolist()


def robust(tool: str, against: str) -> dict[str, Any]:
    """Return how many of 64 images resist at each radius, the best of the seeds."""
    import torch

    x, labels = crops()
    y = torch.tensor(labels)
    targets = (
        None
        if against == "apgd"
        else torch.tensor([(label + 111 * (1 + i // 16)) % 1000 for i, label in enumerate(labels)])
    )
    module = as_handed()
    fooled_by = lambda images, goal: (module(images).argmax(1) == goal) == (targets is not None)  # noqa: E731
    left = []
    for radius in RADII[against]:
        resists = torch.ones(len(x), dtype=torch.bool)
        for seed in range(SEEDS):
            for rows in torch.arange(len(x)).split(16):
                with torch.enable_grad():
                    images = _attacked(
                        tool,
                        against,
                        module,
                        x[rows],
                        y[rows],
                        None if targets is None else targets[rows],
                        radius / 255,
                        seed,
                    )
                with torch.no_grad():
                    resists[rows] &= ~fooled_by(images, y[rows] if targets is None else targets[rows])
        left.append(int(resists.sum()))
    return {"left": left}


def _attacked(tool: str, against: str, module: Any, x: Any, y: Any, targets: Any, eps: float, seed: int) -> Any:
    import torch

    if tool == "ours":
        from lit_viz.attacks import APGD, run_attack

        fast = classifier().fast()
        attack = APGD(eps=eps, norm="linf", loss="ce")
        goals = None if targets is None else targets.tolist()
        seeds = [seed * len(x) + i for i in range(len(x))]
        network = lambda images: fast(images)[0]  # noqa: E731
        return run_attack(attack, network, x, y.tolist(), goals, iterations=STEPS, seeds=seeds)[0]
    import torchattacks

    if against == "apgd":
        return torchattacks.APGD(module, eps=eps, steps=STEPS, seed=seed)(x, y)
    torch.manual_seed(seed)
    attack = torchattacks.PGD(module, eps=eps, alpha=eps / 4, steps=STEPS)
    attack.set_mode_targeted_by_label(quiet=True)
    return attack(x, targets)


def strength(rounds: int, peers: str | None) -> None:
    for against, radii in RADII.items():
        mine, its = (call(peers, "robust", tool=tool, against=against)["left"] for tool in ("ours", "torchattacks"))
        print(f"| radius / 255 | {' | '.join(map(str, radii))} |\n|---|{'---|' * len(radii)}")
        print(f"| APGD, lit_viz | {' | '.join(f'{left / 64:.0%}' for left in mine)} |")
        print(f"| {against.upper()}, torchattacks | {' | '.join(f'{left / 64:.0%}' for left in its)} |", flush=True)


# -- running


def call(peers: str | None, side: str, **arguments: Any) -> dict[str, Any]:
    """Run a side in a process of its own."""
    words = [sys.executable, "-W", "ignore", __file__, side, "--side", json.dumps(arguments)]
    done = subprocess.run(words + (["--peers", peers] if peers else []), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def spread(ratios: list[float]) -> str:
    return f"{min(ratios):.2f} / **{statistics.median(ratios):.2f}** / {max(ratios):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", help="saliency, attack or strength")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", help="folder that the peers were installed to")
    parser.add_argument("--side", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peers:
        sys.path.insert(0, options.peers)
    warnings.simplefilter("ignore")
    if options.side is not None:
        print(json.dumps(globals()[options.what](**options.side)))
        return
    import torch

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}")
    {"saliency": saliency, "attack": attack, "strength": strength}[options.what](options.rounds, options.peers)


if __name__ == "__main__":
    main()
