"""The comparisons of scripts/benchmark.py, one per file."""

from __future__ import annotations

#: Other tools that each comparison runs.
COMPARISONS = {
    "floor": (),
    "saliency": ("captum", "foolbox"),  # Foolbox for its photographs
    "attacks": ("torchattacks", "foolbox"),
    "classes": ("torch-lucent", "kornia", "horama"),
    "units": ("torch-lucent", "kornia"),
    "strength": ("torchattacks", "foolbox"),
    "memory": (),
    "profile": (),
    "devices": (),
    "functional": (),
}
GROUPS = {"peers": ("saliency", "attacks", "classes", "units"), "all": tuple(COMPARISONS)}
#: Environment variable with a folder of photographs, which the processes of the sides inherit.
FOLDER = "LIT_VIZ_BENCHMARK_PHOTOGRAPHS"
