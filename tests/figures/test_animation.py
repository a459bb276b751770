import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from skimage import data
from torch.nn.functional import avg_pool2d

from lit_viz.figures.evolution import Evolution, save_evolution


def evolution(name="tabby", iterations=(0, 10, 20), channels=3, size=64):
    """A picture that becomes brighter."""
    return Evolution(name, [(k, torch.full((channels, size, size), 0.1 + k / 50)) for k in iterations])


def read(path):
    with Image.open(path) as file:
        frames = [(frame.info["duration"], np.asarray(frame.convert("RGB"))) for frame in ImageSequence.Iterator(file)]
        return file.info.get("loop"), frames


def test_repeats_and_holds_the_last_frame(tmp_path):
    loop, frames = read(save_evolution([evolution()], tmp_path / "evolution.gif"))
    assert loop == 0
    assert [duration for duration, _ in frames] == [600, 600, 2500]


def test_frames_show_images_and_iterations(tmp_path):
    _, frames = read(save_evolution([evolution()], tmp_path / "evolution.gif"))
    height = frames[0][1].shape[0]
    for k, (_, frame) in zip((0, 10, 20), frames, strict=True):
        assert abs(frame[height // 2, 100].mean() - 255 * (0.1 + k / 50)) < 6
    stamps = [frame[-20:] for _, frame in frames]
    assert all(stamp.min() < 160 for stamp in stamps)
    assert not np.array_equal(stamps[0], stamps[1])


def test_a_tile_shows_the_latest_frame_of_its_task(tmp_path):
    tasks = [evolution(), evolution("early", (0, 10)), Evolution("none", [])]
    _, frames = read(save_evolution(tasks, tmp_path / "evolution.gif"))
    last = frames[-1][1]
    middle, width = last.shape[0] // 2, last.shape[1]
    assert abs(last[middle, width // 4].mean() - 255 * 0.5) < 6
    assert abs(last[middle, 3 * width // 4].mean() - 255 * 0.3) < 6


def test_palette_preserves_the_colors_of_a_photograph(tmp_path):
    cat = torch.from_numpy(data.chelsea()[30:254, 100:324].copy()).permute(2, 0, 1) / 255
    _, ((_, frame),) = read(save_evolution([Evolution("tabby", [(0, cat)])], tmp_path / "evolution.gif"))
    box = np.flatnonzero((frame != 255).any(-1).sum(1) > 200)[:224], np.arange(8, 232)
    shown = torch.from_numpy(frame[np.ix_(*box)].astype(np.float32)).permute(2, 0, 1) / 255
    # Dithering is right over a neighbourhood, not in a pixel; median cut, the usual palette, loses the eyes' green.
    error = (avg_pool2d(shown, 7) - avg_pool2d(cat, 7)).square().mean().sqrt().item()
    assert error * 255 < 0.7


@pytest.mark.parametrize(("count", "channels"), [(1, 1), (5, 3), (20, 3)])
def test_any_number_of_tasks(tmp_path, count, channels):
    name = "a class name that is much too long for a tile of this size"
    _, frames = read(save_evolution([evolution(name, channels=channels)] * count, tmp_path / "evolution.gif"))
    assert max(frames[0][1].shape) < 1000
    assert len(frames) == 3


def test_iterations_are_subsampled_with_both_ends(tmp_path):
    path = save_evolution([evolution(iterations=range(0, 20))], tmp_path / "evolution.gif", most_frames=4)
    _, frames = read(path)
    assert len(frames) == 4
    assert abs(frames[-1][1][150, 100].mean() - 255 * 0.48) < 6


def test_animated_tasks_take_precedence(tmp_path):
    still = [evolution("still", (0, 20))] * 16  # as a map of one evaluation, before and after
    _, frames = read(save_evolution([*still, evolution("moving")], tmp_path / "evolution.gif"))
    assert len(frames) == 3


def test_no_frames(tmp_path):
    assert save_evolution([], tmp_path / "evolution.gif") is None
    assert not (tmp_path / "evolution.gif").exists()
