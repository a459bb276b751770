"""Letters and attacks of the CRNN of captcha-whisperer, judged by the package's own recognizer of the saved files."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from PIL import Image, ImageDraw, ImageFont
from torch import nn

import lit_viz as lv
from lit_viz.networks.onnx_file import read_onnx
from lit_viz.outputs import ReadText
from tests.support.networks import Around
from tests.support.readers import attacked_file, letter_columns

WORDS = ("2CWK", "7XP3", "KT4M", "HELLO")
START, STEP = 8, 30  # columns of the first letter, and from letter to letter
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence"),  # of onnx2torch's Slice
]


@pytest.fixture(scope="module")
def whisperer() -> Any:
    for name in ("onnx2torch", "onnxruntime", "captcha_whisperer"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    import captcha_whisperer

    return captcha_whisperer


@pytest.fixture(scope="module")
def recognizer(whisperer: Any) -> nn.Module:
    return Around(read_onnx(whisperer.default_model_path()), lambda net, x: net(x.flip(1))).eval()  # it takes BGR


def load(network: nn.Module, whisperer: Any, texts: Any, **options: Any) -> lv.Network:
    letters = {letter: index for index, letter in enumerate(whisperer.LABELS) if letter not in "0_"}
    output = ReadText(texts, letters, blank=whisperer.BLANK_INDEX, time_first=True, **options)
    return lv.load_network(network, output=output, size=(60, 160), mean=0.0, std=1 / 255)


def rendered(word: str) -> Image.Image:
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf"), 40)
    picture = Image.new("RGB", (160, 60), (240, 238, 235))
    for place, letter in enumerate(word):
        ImageDraw.Draw(picture).text((START + STEP * place, 6), letter, font=font, fill=(40, 60, 120))
    return picture


def test_it_reads_as_the_package_does(recognizer: nn.Module, whisperer: Any) -> None:
    net = load(recognizer, whisperer, list(WORDS))
    for word in WORDS:
        file = io.BytesIO()
        rendered(word).save(file, "PNG")
        assert lv.read(net, rendered(word)) == [word] == [whisperer.recognize(file.getvalue())]


def test_each_letter_is_explained_by_its_own_pixels(recognizer: nn.Module, whisperer: Any) -> None:
    right = 0
    for word in WORDS:
        net = load(recognizer, whisperer, word, per="letter")
        for place, columns in enumerate(letter_columns(net, rendered(word), word)):
            sums = [float(columns[START + STEP * n :][:STEP].sum()) for n in range(len(word))]
            right += sums.index(max(sums)) == place
    assert right >= 15  # of 17


def test_an_attack_is_read_as_another_word_by_the_package(
    recognizer: nn.Module, whisperer: Any, tmp_path: Path
) -> None:
    net = load(recognizer, whisperer, ["2CWK", "2CAT"])
    file = attacked_file(net, rendered("2CWK"), "2CWK", "2CAT", tmp_path / "run")
    assert whisperer.recognize(file) == "2CAT"
