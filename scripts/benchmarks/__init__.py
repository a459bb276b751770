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
        photographs: whether it reads photographs.
    """

    once: float
    round: float = 0
    rounds: int = 1
    peers: tuple[str, ...] = ()
    page: str = "speed.md"
    photographs: bool = True

    def minutes(self, rounds: int) -> float:
        """Return the estimated minutes of a number of rounds."""
        return self.once + rounds * self.round


MAX_MINUTES = 40
COMPARISONS = {
    "floor": Comparison(0, 16),
    "floor_resnet50": Comparison(0, 8),
    "saliency": Comparison(9, 9, 1, ("captum", "foolbox")),  # Foolbox for its photographs
    "attacks": Comparison(3, 9, 1, ("torchattacks", "foolbox")),
    "classes": Comparison(1, 27, 1, ("torch-lucent", "kornia", "horama"), photographs=False),
    "units": Comparison(1, 3, 1, ("torch-lucent", "kornia"), photographs=False),
    "strength": Comparison(8, peers=("torchattacks", "foolbox")),
    "memory": Comparison(4),
    "profile": Comparison(4),
    "devices": Comparison(0, 1.5, 1, photographs=False),
    "functional": Comparison(0, 2.5, 2, page="scale.md"),
    "scale": Comparison(0, 14, 1, page="scale.md", photographs=False),
    "paper": Comparison(10, peers=("captum", "torchattacks", "foolbox", "torch-lucent", "kornia"), page="paper.md"),
}
GROUPS = {"peers": ("saliency", "attacks", "classes", "units"), "all": tuple(COMPARISONS)}
#: Environment variable with a folder of photographs, which the processes of the sides inherit.
FOLDER = "LIT_VIZ_BENCHMARK_PHOTOGRAPHS"
