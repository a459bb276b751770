"""Images of the zoo as files, named ``fashion/ankle_boot_0`` and ``planted/cross_5``.

Fashion-MNIST: the first six test images of each class; the number is the index among all test images. Planted
evidence: image n is that of ``planted_images([n])``, which also returns the mask of its glyph.
"""

from __future__ import annotations

from pathlib import Path

from lit_viz.errors import LitVizError, did_you_mean

#: Folder of the images.
PHOTOGRAPHS = Path(__file__).parent / "photographs"


def photograph_names(name: str) -> list[str]:
    """Return the names of an image, or of all images of ``fashion`` or ``planted``, by class and number.

    Raises:
        LitVizError: unknown; similar names are listed.
    """
    names = [f"{file.parent.name}/{file.stem}" for file in PHOTOGRAPHS.glob("*/*.png")]
    if name in names:
        return [name]
    group = [other for other in names if other.startswith(f"{name}/")]
    if not group:
        hint = did_you_mean(name, names) or ": give fashion, planted, or one of their images, such as fashion/bag_18"
        raise LitVizError(f"no image of the zoo is called {name!r}{hint}")
    return sorted(group, key=_by_class_and_number)


def photograph_file(name: str) -> Path:
    """Return the path of an image; errors as in :func:`photograph_names`."""
    names = photograph_names(name)
    if names != [name]:
        raise LitVizError(f"{name} has {len(names)} images: give one of them, such as {names[0]}")
    return PHOTOGRAPHS / f"{name}.png"


def class_of_photograph(name: str) -> str:
    """Return the class in the name of an image, such as ``ankle_boot``."""
    return Path(name).name.rpartition("_")[0]


def _by_class_and_number(name: str) -> tuple[str, int]:
    return class_of_photograph(name), int(name.rpartition("_")[2])
