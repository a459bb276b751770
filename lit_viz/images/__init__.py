"""Images: photographs, parameterizations, robustness transforms and priors."""

from lit_viz.images.fourier import Fourier
from lit_viz.images.geometric import DiverseInput, Flip, Jitter, RandomCrop, Roll, Rotate, Scale, Shear
from lit_viz.images.maco import MACO
from lit_viz.images.parameterizations import Canvas, Parameterization, Pixels, encoding_error
from lit_viz.images.photometric import Blur, ColorShift, ExponentialColorShift, Noise, Saturation
from lit_viz.images.priors import L2, Clamp, GaussianBlur, Prior, Projection, SquaredL2, TotalVariation
from lit_viz.images.reading import Photograph, packaged_photograph, read_photograph, to_uint8
from lit_viz.images.transforms import Compose, GeometricTransform, Transform

__all__ = [
    "L2",
    "MACO",
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
