"""The comparisons of scripts/benchmark.py, one per file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """A table of the documentation.

    Attributes:
        once: estimated minutes of what is measured once, on two idle cores of a Xeon (see docs/speed.md).
        round: estimated minutes of a round.
        rounds: number of rounds, which take at most :data:`MAX_MINUTES`.
        peers: other tools that it runs.
        page: file in docs.
    """

    once: float
    round: float = 0
    rounds: int = 1
    peers: tuple[str, ...] = ()
    page: str = "speed.md"

    def minutes(self, rounds: int) -> float:
        """Return the estimated minutes of a number of rounds."""
        return self.once + rounds * self.round


MAX_MINUTES = 40
COMPARISONS = {
    "floor": Comparison(0, 35),
    "floor_resnet50": Comparison(0, 25),
    "saliency": Comparison(12, 9, 2, ("captum", "foolbox")),  # Foolbox for its photographs
    "attacks": Comparison(3, 9, 3, ("torchattacks", "foolbox")),
    "classes": Comparison(1, 33, 1, ("torch-lucent", "kornia", "horama")),
    "units": Comparison(1, 3, 3, ("torch-lucent", "kornia")),
    "strength": Comparison(8, peers=("torchattacks", "foolbox")),
    "memory": Comparison(4),
    "profile": Comparison(4),
    "devices": Comparison(0, 1.5, 3),
    "functional": Comparison(0, 1.5, 3),
    "scale": Comparison(0, 14, 2, page="scale.md"),
    "paper": Comparison(10, peers=("captum", "torchattacks", "foolbox", "torch-lucent", "kornia"), page="paper.md"),
}
GROUPS = {"peers": ("saliency", "attacks", "classes", "units"), "all": tuple(COMPARISONS)}
#: Environment variable with a folder of photographs, which the processes of the sides inherit.
FOLDER = "LIT_VIZ_BENCHMARK_PHOTOGRAPHS"
