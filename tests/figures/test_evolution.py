from typing import Any

import numpy as np
import pytest
from matplotlib import rcParams
from PIL import Image

from lit_viz.engine.snapshots import Result, Snapshot
from lit_viz.errors import LitVizError
from lit_viz.figures.evolution import evolution_figure
from lit_viz.figures.style import save_figure
from lit_viz.images.reading import to_uint8
from lit_viz.presentations.class_visualization import ClassVisualizationPresentation
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.layout import STORE
from lit_viz.runs.records import LayerImageRecord
from lit_viz.runs.segments import Contents
from lit_viz.types import Task
from tests.support.figures import evolution, picture

LONG = "jack-o'-lantern, of the $5 kind, carved from a pumpkin and put before the door in the last night of October"


def test_text_contains_class_iteration_and_probability(figures: Any):
    written = figures.texts(evolution_figure([evolution("tabby, $5", (0, 50))]))
    assert written == ["tabby, $5", "iteration 0", "p = 0.01", "iteration 50", "p = 0.26"]


@pytest.mark.parametrize("size", [224, 37])
def test_each_pixel_is_in_the_file(tmp_path, size):
    original = evolution(iterations=(0, 10, 20), size=size)
    figure = evolution_figure([original])
    with Image.open(save_figure(figure, tmp_path / "figure.png")) as file:
        drawn = np.asarray(file.convert("RGB"))
    for axes, (_, image) in zip(figure.axes, original.frames, strict=False):
        box = axes.get_window_extent()
        assert box.width >= 400
        assert box.width / size == pytest.approx(round(box.width / size))
        centres = (np.arange(size) + 0.5) * box.width / size
        rows, columns = (len(drawn) - box.y1 + centres).astype(int), (box.x0 + centres).astype(int)
        assert np.array_equal(drawn[np.ix_(rows, columns)], to_uint8(image))


def test_pdf_and_svg_contain_the_unscaled_image(tmp_path):
    figure = evolution_figure([evolution(iterations=(0,), size=37)])
    pdf = save_figure(figure, tmp_path / "figure.pdf").read_bytes()
    assert b"/Width 37" in pdf
    svg = save_figure(figure, tmp_path / "figure.svg").read_text()
    assert "image-rendering:pixelated" in svg


def test_curve_matches_the_values():
    task = evolution()
    axes = evolution_figure([task]).axes[-1]
    line = axes.lines[0]
    assert list(zip(*line.get_data(), strict=True)) == [tuple(map(float, point)) for point in task.curve]
    assert axes.get_ylim() == (0, 1)
    assert axes.get_xscale() == "linear"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "50", "100", "200"]


def test_geometric_iterations_have_a_logarithmic_axis():
    axes = evolution_figure([evolution(iterations=(0, 1, 2, 4, 8, 16, 32, 64, 128))]).axes[-1]
    assert axes.get_xscale() == "symlog"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "2", "4", "16", "32", "128"]


def test_many_tasks_become_a_sheet_of_the_last_images(figures: Any):
    figure = evolution_figure([evolution(f"class {n}") for n in range(7)])
    assert figures.texts(figure)[:2] == ["class 0", "iteration 200 · p > 0.99"]
    assert len(figure.axes) == 7


def test_matplotlib_settings_are_restored(tmp_path):
    before = dict(rcParams)
    save_figure(evolution_figure([evolution()]), tmp_path / "figure.png")
    assert dict(rcParams) == before


def test_rejects_unsupported_suffix(tmp_path):
    with pytest.raises(LitVizError, match=r"must end in \.png, \.pdf or \.svg, got .*figure\.jpg"):
        save_figure(evolution_figure([]), tmp_path / "figure.jpg")


def test_resumed_run_folder_is_drawn_completely(tmp_path, figures: Any):
    folder = FolderStorage.create(tmp_path / "run")
    task = Task(0, "tabby", seed=0)
    folder.write_start("", {}, [task])
    for k in (0, 50):
        folder.add_snapshot(Snapshot(task, k, {"probability": k / 100}, picture(k)))
    stated = folder.commit()[STORE]
    resumed = FolderStorage.open(folder.path)
    resumed.load(stated["segments"])
    resumed.restore({0: Contents(**stated["in_progress"][0])}, stated["snapshots"], ())
    resumed.add_snapshot(Snapshot(task, 100, {"probability": 1.0}, picture(100)))
    resumed.add_result(Result(task, LayerImageRecord.of(task, layer=None, channel=None), picture(100)))
    resumed.commit()
    (drawn,) = ClassVisualizationPresentation().evolutions(FolderStorage.open(folder.path).outcomes())
    assert (drawn.name, list(drawn.curve)) == ("tabby", [(0, 0.0), (50, 0.5), (100, 1.0)])
    assert figures.texts(evolution_figure([drawn]))[1::2] == ["iteration 0", "iteration 50", "iteration 100"]
