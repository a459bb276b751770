"""The lab as a notebook: its blanks have instructions, and it runs with the solutions filled in."""

from __future__ import annotations

import ast
import inspect
import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import lit_viz as lv
from lit_viz.networks import Network

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOK: dict[str, Any] = json.loads((DOCS / "lab.ipynb").read_text(encoding="utf-8"))
CODE = {cell["id"]: "".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"}
BLANKS = [cell["id"] for cell in NOTEBOOK["cells"] if "blank" in cell["metadata"].get("tags", ())]


def solutions() -> dict[str, str]:
    """Return the solution of each blank by the name of its cell."""
    _, *parts = re.split(r"^# %% ", (DOCS / "lab_solutions.py").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {name: code.strip() for name, _, code in (part.partition("\n") for part in parts)}


def test_the_notebook_is_a_handout() -> None:
    ids = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(ids)) == len(ids)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in NOTEBOOK["cells"])
    headings = re.findall(r"^## (.*)", (DOCS / "lab.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    calls = [cell["source"][0].strip("# \n") for cell in NOTEBOOK["cells"] if re.fullmatch(r"q\d", cell["id"])]
    assert [line[:2] for line in calls] == [line[:2] for line in headings]
    assert calls[:-1] == headings[:-1]  # the last one is about VGG16 there, about any other network here
    for name, source in CODE.items():
        assert compile(source, name, "exec")


def test_every_blank_has_a_solution_of_the_same_name_and_arguments() -> None:
    solved = solutions()
    assert list(solved) == BLANKS
    for name in BLANKS:
        blank, solution = (ast.parse(code).body[0] for code in (CODE[name], solved[name]))
        assert type(blank) is type(solution)
        for field in ("name", "args", "targets"):
            expected = getattr(solution, field, None)
            actual = getattr(blank, field, None)
            assert [ast.dump(x) if isinstance(x, ast.AST) else x for x in _listed(actual)] == [
                ast.dump(x) if isinstance(x, ast.AST) else x for x in _listed(expected)
            ]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize("name", BLANKS)
def test_blanks_of_the_notebook_raise_an_instruction(name: str) -> None:
    scope: dict[str, Any] = {}
    if "YOUR CHOICE" in CODE[name]:
        with pytest.raises(AssertionError, match=f"^{name.upper()} must be a .+"):
            exec(CODE[name], scope)
        return
    exec(CODE[name], scope)
    required = [p for p in inspect.signature(scope[name]).parameters.values() if p.default is p.empty]
    with pytest.raises(NotImplementedError, match=f"^{name}: .{{30,}}"):
        scope[name](*[None] * len(required))


def test_a_run_shows_its_figure_and_the_maps_of_methods_of_any_kind(smooth: Network) -> None:
    photographs = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    run = lv.saliency(smooth, photographs, target=0, method=["gradient", "grad_cam"], captum="none")
    arrays = [outcome.array() for outcome in run.outcomes]
    assert [tuple(array.shape) for array in arrays if array is not None] == [(3, 16, 16)] * 2 + [(1, 16, 16)] * 2
    assert torch.equal(run.maps, torch.stack([array.abs().amax(0) for array in arrays if array is not None]))
    with pytest.raises(lv.LitVizError, match=r"run\.maps"):
        _ = run.arrays
    figure = run.figure()
    png, message = figure._repr_png_()  # type: ignore[attr-defined]
    with Image.open(BytesIO(png)) as picture:
        assert picture.width == round(figure.get_figwidth() * figure.dpi)
        assert message == {"width": round(96 * figure.get_figwidth())}


def executed(name: str, folder: Path, sources: dict[str, str]) -> Any:
    """Run a notebook in a folder, with other sources of the named cells."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(DOCS / name, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        cell.source = sources.get(cell.id, cell.source)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


@pytest.mark.slow
def test_with_its_solutions_it_runs_to_its_end(tmp_path: Path) -> None:
    notebook = executed("lab.ipynb", tmp_path, {**solutions(), "parameters": "ITERATIONS = 2"})
    pictured = {
        cell.id
        for cell in notebook.cells
        if cell.cell_type == "code" and any("image/png" in output.get("data", ()) for output in cell.outputs)
    }
    assert pictured == {name for name, source in CODE.items() if "run.figure()" in source or "axes" in source} | {
        "better"
    }
    output = "".join(o.get("text", "") for c in notebook.cells if c.cell_type == "code" for o in c.outputs)
    assert "Traceback" not in output
    assert "Egyptian cat" in output
    assert "8 bits: stingray" in output


TOUR: dict[str, Any] = json.loads((DOCS / "tour.ipynb").read_text(encoding="utf-8"))


def results(cells: list[Any]) -> dict[str, tuple[str, list[str]]]:
    """Return the printed lines, and the kinds of pictures and tables, of each cell."""
    found = {}
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        printed, kinds = "", []
        for output in cell["outputs"]:
            if output.get("name") == "stdout":
                printed += "".join(output["text"])
            if output["output_type"] == "execute_result":
                kinds += [kind for kind in ("text/html", "image/jpeg", "image/png") if kind in output["data"]]
        found[cell["id"]] = printed, ["image" if kind.startswith("image") else kind for kind in kinds]
    return found


def test_the_tour_has_outputs_without_traces_of_a_machine() -> None:
    assert (DOCS / "tour.ipynb").stat().st_size < 1_000_000
    for name, (printed, kinds) in results(TOUR["cells"]).items():
        assert printed or kinds, name
        assert not re.search(r"[\s'\"]/\w|[A-Z]:\\", printed)
    for cell in TOUR["cells"]:
        for output in cell.get("outputs", ()):
            assert output["output_type"] == "execute_result" or output["name"] == "stdout"
    links = re.findall(r"\]\(([^)#]+)", "".join("".join(cell["source"]) for cell in TOUR["cells"]))
    assert len(links) > 8
    for link in links:
        assert (DOCS / link).is_file()


@pytest.mark.slow
def test_the_tour_runs_to_its_results(tmp_path: Path) -> None:
    notebook = executed("tour.ipynb", tmp_path, {})
    written, actual = results(TOUR["cells"]), results(notebook.cells)
    number = re.compile(r"\d+(?:\.\d+)?")
    for name, (printed, kinds) in written.items():
        assert number.split(actual[name][0]) == number.split(printed)
        assert actual[name][1] == kinds
    assert not list(tmp_path.iterdir())
