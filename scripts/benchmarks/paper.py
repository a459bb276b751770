"""The claims of docs/paper.md, in at most ten minutes on two cores, and its figures.

A claim is a row of the table: with ``--write`` its value, otherwise the value of the paper beside the one measured
here. The other tools have the batch size that is best in the tables of docs/speed.md. lucent's images take most of the
time, so that it makes two of the eight.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile

from .material import CLASSES, PHOTOGRAPHS
from .running import ROOT, Plan, Result, table
from .saliency import errors

PAGE = ROOT / "docs" / "paper.md"
_BATCHES = {"torchattacks": 16, "foolbox": 16, "captum": 8}
_LUCENT_CLASSES = 2
_ROW = re.compile(r"^\| (.+) \| (.+) \|$", re.MULTILINE)


def compare(plan: Plan) -> str:
    """Return the table of the claims; make the figures if there is a folder for them."""
    claims = [*_attacks(plan), *_saliency(plan), *_class_images(plan)]
    folder = plan.images or plan.out
    if folder is not None:
        words = [sys.executable, str(ROOT / "scripts" / "gallery.py"), str(PAGE), "--out", str(folder)]
        subprocess.run(words, check=True)
    if plan.images is not None:
        return table(["claim", "value"], claims)
    published = dict(_ROW.findall(PAGE.read_text(encoding="utf-8")))
    rows = []
    for claim, value in claims:
        rows.append([claim, published.get(claim, "-"), value])
    return table(["claim", "paper", "here"], rows)


def _attacks(plan: Plan) -> list[list[str]]:
    given = {"attack": "pgd", "steps": 2 if plan.quick else 40, "count": 2 if plan.quick else PHOTOGRAPHS}
    own = plan.side("attacks.lit_viz", **given)
    title = "PGD, 40 steps, 16 photographs"
    claims, fooled = [], [str(own["floats"])]
    for tool in ("torchattacks", "foolbox"):
        peer = plan.side("attacks.peer", tool=tool, batch=_BATCHES[tool], **given)
        claims.append([f"{title}: time, relative to {tool}", f"{own['seconds'] / peer['seconds']:.2f}"])
        fooled.append(str(peer["floats"]))
    claims.append([f"{title}: fooled by lit_viz, torchattacks, foolbox", ", ".join(fooled)])
    return claims


def _saliency(plan: Plan) -> list[list[str]]:
    evaluations, count, checked = (2, 2, 1) if plan.quick else (16, 16, 4)
    given = {"method": "smoothgrad", "evaluations": evaluations}
    own = plan.side("saliency.run", "run", count=count, check="none", **given)
    compared = plan.side("saliency.run", "run", count=checked, check="captum", **given)
    captum = plan.side("saliency.captum", count=count, batch=_BATCHES["captum"], **given)
    formula, _ = errors(compared)
    title = "SmoothGrad, 16 photographs of 16 samples"
    return [
        [f"{title}: time, relative to Captum", f"{own['seconds'] / captum['seconds']:.2f}"],
        [f"{title}: largest difference from Captum's formula in float64", formula],
    ]


def _class_images(plan: Plan) -> list[list[str]]:
    sides = {"lit_viz": (228, CLASSES), "lucent": (512, CLASSES[:_LUCENT_CLASSES])}
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory() as root:
        for tool, (steps, classes) in sides.items():
            given: Result = {"tool": tool, "config": "tarantula", "steps": 2 if plan.quick else steps, "seed": 0}
            classes = classes[:_LUCENT_CLASSES] if plan.quick else classes
            results[tool] = plan.side("classes.made", classes=classes, folder=f"{root}/{tool}", **given)
        folders = [f"{root}/{tool}" for tool in sides]
        verdicts = plan.side("classes.judged", judges=list(plan.judges), classes=CLASSES, folders=folders)
    probabilities, predicted = [], []
    for folder in folders:
        both: list[tuple[float, bool]] = []
        for images in verdicts[folder].values():
            both += images[:_LUCENT_CLASSES]
        probabilities.append(f"{statistics.mean(probability for probability, _ in both):.2f}")
        predicted.append(f"{sum(is_predicted for _, is_predicted in both)} of {len(both)}")
    own, other = results["lit_viz"]["seconds"], results["lucent"]["seconds"]
    title = "Class image, default recipe"
    return [
        [f"{title}: seconds each, of eight at once", f"{own:.1f}"],
        [f"{title}: time, relative to lucent with 512 steps", f"{own / other:.2f}"],
        [f"{title}, two classes: mean held-out probability, lit_viz, lucent", ", ".join(probabilities)],
        [f"{title}, two classes: recognized by held-out networks, lit_viz, lucent", ", ".join(predicted)],
    ]
