"""Compare the reported error of sampled saliency maps with the measured error to a map of many other samples.

    python scripts/calibrate_saliency_error.py photographs/*.jpg packaged:chelsea --method smoothgrad

The measured error is the L2 distance of both maps over the norm of the map of many samples, both corrected for the
noise of the latter. The table has the median over the photographs of both errors, and the range of their ratio.
"""

from __future__ import annotations

import argparse
import math
from statistics import median

import lit_viz as lv
from lit_viz.attributions import METHODS, Sampling, attribute
from lit_viz.images.reading import read_photograph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", nargs="+", help="files or packaged:NAME")
    names = [name for name, kind in METHODS.items() if issubclass(kind, Sampling)]
    parser.add_argument("--method", choices=names, default="smoothgrad")
    parser.add_argument("--samples", type=int, nargs="+", default=[4, 8, 16, 32, 64, 128, 256])
    parser.add_argument("--reference", type=int, default=512, help="samples of the reference map")
    parser.add_argument("--classifier", default="efficientnet_lite0")
    options = parser.parse_args()

    classifier = lv.load_classifier(options.classifier)
    method, network = METHODS[options.method](), classifier.fast()
    assert isinstance(method, Sampling)
    rows: dict[int, list[tuple[float, float]]] = {count: [] for count in options.samples}
    for path in options.photographs:
        x = read_photograph(path, classifier.size).pixels.float()[None]
        target = classifier.logits(x).argmax(1)
        reference, uncertainty = attribute(method, network, x, target, evaluations=options.reference, seeds=[1])
        noise = float(uncertainty["standard_error"]) ** 2
        power = float(method.pattern(reference).square().mean()) - noise
        for count in options.samples:
            map_, uncertainty = attribute(method, network, x, target, evaluations=count, seeds=[0])
            distance = float(method.pattern(map_ - reference).square().mean()) - noise
            reported = float(uncertainty["error"])
            measured = math.sqrt(max(distance, 0) / power) if power > 0 else math.inf
            rows[count].append((reported, measured))
            print(f"{path}: {count} samples, reported {reported:.0%}, measured {measured:.0%}", flush=True)
    print("| samples | reported | measured | reported / measured | not resolved |\n|---|---|---|---|---|")
    for count, pairs in rows.items():
        resolved = [pair for pair in pairs if math.isfinite(pair[0])]
        ratios = [reported / measured for reported, measured in resolved]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "-"
        typical = f"{median(reported for reported, _ in resolved):.0%}" if resolved else "-"
        errors = median(measured for _, measured in pairs)
        print(f"| {count} | {typical} | {errors:.0%} | {spread} | {len(pairs) - len(resolved)} of {len(pairs)} |")


if __name__ == "__main__":
    main()
