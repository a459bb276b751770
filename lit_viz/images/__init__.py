"""Images: photographs, parameterizations, robustness transforms and priors."""

from lit_viz.images.canvas import Canvas
from lit_viz.images.parameterizations import MACO, Fourier, Parameterization, Pixels, encoding_error
from lit_viz.images.priors import L2, Clamp, GaussianBlur, Prior, Projection, SquaredL2, TotalVariation
from lit_viz.images.reading import Photograph, read_photograph, to_uint8
from lit_viz.images.transforms import (
    Blur,
    ColorShift,
    Compose,
    DiverseInput,
    ExponentialColorShift,
    Flip,
    GeometricTransform,
    Jitter,
    Noise,
    RandomCrop,
    Roll,
    Rotate,
    Saturation,
    Scale,
    Shear,
    Transform,
)
from lit_viz.utils.files import packaged_photograph

#: Parameterizations by name.
PARAMETERIZATIONS: dict[str, type[Parameterization]] = {"pixels": Pixels, "fourier": Fourier, "maco": MACO}

__all__ = [
    "L2",
    "MACO",
    "PARAMETERIZATIONS",
    "Blur",
    "Canvas",
    "Clamp",
    "ColorShift",
    "Compose",
    "DiverseInput",
    "ExponentialColorShift",
    "Flip",
    "Fourier",
    "GaussianBlur",
    "GeometricTransform",
    "Jitter",
    "Noise",
    "Parameterization",
    "Photograph",
    "Pixels",
    "Prior",
    "Projection",
    "RandomCrop",
    "Roll",
    "Rotate",
    "Saturation",
    "Scale",
    "Shear",
    "SquaredL2",
    "TotalVariation",
    "Transform",
    "encoding_error",
    "packaged_photograph",
    "read_photograph",
    "to_uint8",
]
