"""What is shown of the outcomes of each method: tables, captions, figures and evidence, one method per file."""

from lit_viz.presentations.adversarial_example import AdversarialExamplePresentation
from lit_viz.presentations.base import Presentation
from lit_viz.presentations.class_visualization import ClassVisualizationPresentation
from lit_viz.presentations.saliency_map import SaliencyMapPresentation
from lit_viz.presentations.universal_perturbation import UniversalPerturbationPresentation

PRESENTATIONS: tuple[type[Presentation], ...] = (
    ClassVisualizationPresentation,
    SaliencyMapPresentation,
    AdversarialExamplePresentation,
    UniversalPerturbationPresentation,
)
#: Patterns of the files that only runs of some methods contain.
METHOD_FILES = tuple(pattern for kind in PRESENTATIONS for pattern in kind.files)
