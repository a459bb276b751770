"""Train a captioner on drawn shapes, whose words have known places, and draw and judge its maps word by word.

python scripts/captioner.py runs/captioner               # train, judge, draw the figure of docs/answers.md
python scripts/captioner.py runs/captioner --steps 0     # judge and draw again

The folder ``network`` in it is loaded as any captioner of transformers. The figure is ``figure.png``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import lit_viz as lv
from lit_viz.cli import errors_reported
from lit_viz.networks import Network
from lit_viz.outputs import Answer

SIDE = 64  # pixels of a drawing
COLORS = {"red": (0.85, 0.2, 0.2), "green": (0.2, 0.65, 0.25), "blue": (0.2, 0.35, 0.85), "yellow": (0.9, 0.8, 0.2)}
SHAPES = ("square", "circle", "triangle")
#: Drawings from this seed on are not trained on.
UNSEEN = 1_000_000
#: Options of methods. A window of 12 pixels leaves the color of a shape visible beside it.
OPTIONS: dict[str, dict[str, Any]] = {"occlusion": {"window": 20, "stride": 4}}
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
_WORDS = (*_SPECIAL, "a", "and", *COLORS, *SHAPES)
_PAD, _START, _END = 0, 1, 2


@dataclass(frozen=True)
class Drawing:
    """Two shapes of different colors.

    Attributes:
        image: ``(3, 64, 64)``, float32 in [0, 1].
        caption: the left shape first: ``a red square and a blue circle``.
        places: the visible pixels ``(64, 64)`` of the left shape, and of the right one, as booleans.
    """

    image: Tensor
    caption: str
    places: tuple[NDArray[np.bool_], NDArray[np.bool_]]

    def place_of(self, word: int) -> NDArray[np.bool_] | None:
        """Return the pixels of the shape that a word of the caption names by color or shape; None of another word."""
        words = self.caption.split()
        if word >= len(words) or words[word] not in (*COLORS, *SHAPES):
            return None
        return self.places[0 if word < words.index("and") else 1]


def drawn_shape(shape: str, x: float, y: float, radius: float) -> NDArray[np.bool_]:
    """Return the pixels ``(64, 64)`` of a shape around a point."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    across, down = columns - x, rows - y
    if shape == "circle":
        inside: NDArray[np.bool_] = across**2 + down**2 <= radius**2
    elif shape == "square":
        inside = np.maximum(abs(across), abs(down)) <= 0.85 * radius
    else:  # its point is above, its base below
        inside = (abs(down) <= radius) & (abs(across) <= (down + radius) / 2)
    return inside


def drawing(seed: int) -> Drawing:
    """Return the drawing of a seed: sizes, places, shapes, colors and the gray ground are random."""
    random = np.random.default_rng(seed)
    colors = random.permutation(list(COLORS))[:2]
    shapes = random.permutation(SHAPES)[:2]
    radii = random.uniform(8, 12, 2)
    x = random.uniform((12, 40), (24, 52))
    y = random.uniform(12, SIDE - 12, 2)
    pixels = np.full((SIDE, SIDE, 3), random.uniform(0.3, 0.9))
    places: list[NDArray[np.bool_]] = []
    for n in range(2):
        place = drawn_shape(shapes[n], x[n], y[n], radii[n])
        pixels[place] = COLORS[colors[n]]
        places.append(place)
    pixels = (pixels + random.normal(0, 0.03, pixels.shape)).clip(0, 1)
    image = torch.from_numpy(pixels.transpose(2, 0, 1)).float().mul(255).round().div(255)
    caption = f"a {colors[0]} {shapes[0]} and a {colors[1]} {shapes[1]}"
    return Drawing(image, caption, (places[0] & ~places[1], places[1]))


def network_and_processor() -> tuple[Any, Any]:
    """Return an untrained captioner, a vision transformer with a decoder of text, and its processor."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(_WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    images = transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    encoder = transformers.ViTConfig(
        image_size=SIDE, patch_size=8, hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=128, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    decoder = transformers.TrOCRConfig(
        vocab_size=len(_WORDS), d_model=64, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=128,
        cross_attention_hidden_size=64, max_position_embeddings=16, decoder_start_token_id=_START, dropout=0.0,
        pad_token_id=_PAD, bos_token_id=_START, eos_token_id=_END,
    )  # fmt: skip
    network = transformers.VisionEncoderDecoderModel(
        encoder=transformers.ViTModel(encoder, add_pooling_layer=False), decoder=transformers.TrOCRForCausalLM(decoder)
    )
    for config in (network.config, network.generation_config):
        config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = _START, _PAD, _END
    return network, transformers.TrOCRProcessor(images, tokenizer)


def train(folder: Path, steps: int, batch: int = 64, rate: float = 1e-3) -> None:
    """Train a captioner on new drawings in each step, and save it with its processor."""
    torch.manual_seed(0)
    network, processor = network_and_processor()
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        drawings = [drawing(step * batch + n) for n in range(batch)]
        labels = processor.tokenizer([f"{made.caption} </s>" for made in drawings], return_tensors="pt").input_ids
        pixels = torch.stack([made.image for made in drawings]) * 2 - 1  # as the processor normalizes
        loss = network(pixel_values=pixels, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)


def load(folder: Path) -> Network:
    """Load the captioner: a map for each word of what it says."""
    return lv.load_network(str(folder), output=Answer(per="token"))


@dataclass(frozen=True)
class Verdict:
    """Maps of words that name a color or a shape, held against the places of their shapes.

    Attributes:
        maps: number of maps.
        maximum_inside: share of maps whose maximum is in their own shape.
        own_mass: mean share of a map in its own shape.
        other_mass: mean share of a map in the other shape.
        more_in_own: share of maps with more in their own shape than in the other one.
        area: mean share of the own shape in the area, which a map without information has.
    """

    maps: int
    maximum_inside: float
    own_mass: float
    other_mass: float
    more_in_own: float
    area: float


def verdict(drawings: Sequence[Drawing], words: Sequence[tuple[int, int]], maps: Sequence[Any]) -> Verdict:
    """Judge maps by the places of words.

    Args:
        drawings: the explained drawings.
        words: the index of the drawing, and of the word in its caption, of each map.
        maps: ``(64, 64)`` of each word, not negative.
    """
    rows: list[tuple[float, ...]] = []
    for (number, word), word_map in zip(words, maps, strict=True):
        explained = drawings[number]
        own = explained.place_of(word)
        if own is None:
            continue
        other = (explained.places[0] | explained.places[1]) & ~own
        values = np.asarray(word_map, float).clip(min=0)
        values = values / max(values.sum(), 1e-12)
        own_mass, other_mass = float(values[own].sum()), float(values[other].sum())
        has_maximum = bool(own[np.unravel_index(values.argmax(), values.shape)])
        rows.append((has_maximum, own_mass, other_mass, own_mass > other_mass, float(own.mean())))
    means = np.mean(rows, axis=0).tolist()
    return Verdict(len(rows), *means)


def judge(net: Network, method: str, count: int) -> Verdict:
    """Judge the maps of a method of unseen drawings whose caption the network says."""
    drawings = [drawing(UNSEEN + n) for n in range(count)]
    images = torch.stack([made.image for made in drawings])
    said = lv.read(net, images)
    right = [n for n in range(count) if said[n] == drawings[n].caption]
    print(f"{len(right)} of {count} captions are right")
    run = lv.saliency(net, images[right], method=method, captum="none", progress=False, **OPTIONS.get(method, {}))
    words: list[tuple[int, int]] = []
    number = -1
    records: Sequence[Any] = run.records
    for record in records:
        place = int(record.place) - 1
        number += place == 0
        words.append((right[number], place))
    return verdict(drawings, words, list(run.maps))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the network and the figure")
    parser.add_argument("--steps", type=int, default=1500, help="steps of training; 0 for none")
    parser.add_argument("--count", type=int, default=100, help="drawings that are judged")
    parser.add_argument("--methods", nargs="+", default=["gradient", "occlusion"], help="methods to judge")
    parser.add_argument("--figure", default="occlusion", help="method of the figure")
    given = parser.parse_args(arguments)
    with errors_reported("captioner"):
        folder = given.out / "network"
        if given.steps:
            train(folder, given.steps)
        net = load(folder)
        for method in given.methods:
            print(method, judge(net, method, given.count))
        options = OPTIONS.get(given.figure, {})
        run = lv.saliency(net, drawing(UNSEEN).image[None], method=given.figure, captum="none", **options)
        run.figure().savefig(given.out / "figure.png", dpi=200)


if __name__ == "__main__":
    main()
