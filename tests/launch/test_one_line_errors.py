"""Invalid command lines: one line on stderr, exit status 1, and no run folder, so that the corrected command starts."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from lit_viz.objectives import Objective, Outputs


class Brightest(Objective):
    """The largest logit."""

    def __call__(self, outputs: Outputs) -> Tensor:
        return outputs.logits.amax(1)


OF_A_LAYER = "'{class_path: lit_viz.objectives.Layer, init_args: {layer: features.0}}'"
#: Messages by command line; the network is the default one, or given.
ERRORS = {
    "visualise tarantula": "did you mean 'visualize'",
    "visualize tarantulla": "tarantula",
    "visualize crane": "134",
    "visualize --layer blocks.3.2 --channel 0 --neuron -1,-1": "or center, got -1,-1",
    "visualize tarantula --wandb.mode offline": "unrecognized option --wandb.mode; did you mean --wandb?",
    "visualize tarantula --trainer.device 2": "--trainer.device; did you mean --trainer.devices?",
    "visualize tarantula --trainer.devicez 2": "--trainer.devicez; did you mean --trainer.devices?",
    "visualize tarantula --itrations 3": "did you mean --iterations",
    "visualize tarantula --iterations x": "--iterations must be a whole number or a list of them, got 'x'",
    "visualize tarantula --trainer.max_steps 3": "use --iterations",
    "visualize tarantula --config nope.yaml": "there is no configuration nope.yaml",
    "visualize tarantula --config tarantla": "no configuration tarantla; did you mean 'tarantula'?",
    "visualize tarantula --trainer.accelerator tpu": "accelerator=tpu with devices=1 is not available",
    "visualize tarantula --step_rule Adm": "there is no step_rule 'Adm'; did you mean 'adam'",
    "visualize tarantula --step_rule torch.optim.NAdam": "--step-rule must be an instance of StepRule",
    "visualize tarantula --step_rule.lr x": "there is no lr 'x': choose one of Constant, Cosine",
    "visualize tarantula --step_rule.lrr 3": "--step_rule.lrr; did you mean --step-rule.lr?",
    "visualize tarantula --priors x": "there is no priors 'x': choose one of L2, ",
    "visualize tarantula --trainer.precision bf16_mixed": "got 'bf16_mixed'; did you mean 'bf16",
    "visualize tarantula --slots=": "--slots must be a whole number, got ''",
    "visualize tarantula --slots --overwrite": "--slots expects a value",
    "visualize tarantula --config --slots 3": "--config expects a value",
    "visualize tarantula --overwrte": "unrecognized option --overwrte; did you mean --overwrite?",
    "visualize tarantula --checkpoint-every 0": "--checkpoint-every must be at least 1, got 0",
    "visualize 0 --iterations 99999999999999999999 --count": "--iterations must have at most 18 digits",
    "visualize 1 --objective Gradient": "there is no objective 'Gradient': choose one of logit, ",
    "visualize tarantula --network nonet": "nonet",
    "visualize 1 --network tests.support.networks:smooth_network --network.size 16 --network.weights pipe": (
        "pipe' is no regular file"
    ),
    "saliency p0.png --method gradient --method.sigma 3": "unrecognized option --method.sigma",
    "saliency x.png --method smoothgrad --method.sigam 3": "--method.sigam; did you mean --method.sigma?",
    "saliency packaged:chelsea --method gradient,smoothgrad --method.smoothgrad.sigma -1": (
        "sigma of SmoothGrad must be positive and at most 10, for images in [0, 1], got -1: "
    ),
    "saliency x --method gradient,smoothgrad --method.smoothgrad.sigam 1": "did you mean --method.smoothgrad.sigma",
    f"saliency {'x' * 300}": "is not accessible (File name too long)",
    "saliency caf\udce9.png": "is not UTF-8 text: rename the file",
    "attack p0.png --attack pgd --attack.objective DRL": "there is no objective 'DRL'; did you mean 'DLR'?",
    "attack p0.png --attack pgd --eps": "--eps expects a value",
    "attack packaged:chelsea --attack pgd --eps 8": "must be at most 1, got 8",
    "resume nowhere": "nowhere is not a lit_viz run",
    "log --to csv": "lit-viz log requires FOLDER: see lit-viz log --help",
    "classes xyzzyx": "no class",
    "layers torch.nn:Identity": "size",
    "visualize 1 --network torch.nn:Identity": "size",
    "saliency --steps 3": "lit-viz: --steps is not available: use --iterations",
    "attack --epsilon=4/255": "lit-viz: --epsilon is not available: use --eps",
    "visualize --batch-size 2": "lit-viz: --batch-size is not available: use --slots",
    "saliency --methods gradient": "lit-viz: unrecognized option --methods; did you mean --method?",
    "attack --attack pgd --lr 0.1": "lit-viz: --lr is not available: use --alpha",
    "saliency --method.smoothgrad.sigma 0.2": "option --method.smoothgrad.sigma; did you mean --method?",
    "visualize 1 --parameterization.decy 0.5": "--parameterization.decy; did you mean --parameterization.decay?",
    "visualize bag --network zoo/fashion_cnn --lr -1": "--lr must be positive and finite, got -1",
    "visualize bag --network zoo/fashion_cnn --lr a,b": "--lr must be numbers, got 'a'",
    "visualize bag --network zoo/fashion_cnn --decay nan": "--decay of Fourier must be finite, got nan",
    "visualize bag --network zoo/fashion_cnn --size 99999999": "--size must be at most 16384, got 99999999 x 99999999",
    "saliency zoo:fashion/bag_18 --network zoo/fashion_cnn --network.std 0": "--network.std must be positive, got 0",
    "saliency zoo:fashion/bag_18 --network zoo/fashion_cnn --network.size 99999999": (
        "--network.size must be at most 16384 pixels, got 99999999"
    ),
    "saliency zoo:fashion/bag_18 --network zoo/fashion_cnn --tile abc": (
        "--tile must be network or a side in pixels, got 'abc'"
    ),
    "saliency zoo:fashion/bag_18 --network zoo/fashion_cnn --store-arrays": (
        "--store-arrays requires store=tar, got store=files"
    ),
    "saliency zoo:fashion/bag_18 --network zoo/fashion_cnn --boxes missing.json": (
        "--boxes must be an existing COCO file"
    ),
    "status . --stale -5": "--stale must be a positive number of seconds, got -5",
}

#: Those of a small network of five classes.
SMALL_NETWORK_ERRORS = {
    "visualize 5": "class index must be between 0 and 4, got 5",
    "visualize -1": "class index must be between 0 and 4, got -1",
    "visualize 1 --iterations 0": "--iterations must be at least 1, got 0",
    "visualize 1 --iterations -5": "--iterations must be at least 1, got -5",
    "visualize 1 --picture.size 0": "size must be at least 1 x 1",
    "visualize 1 --init nope.jpg": "nope.jpg",
    "visualize 1 --init deep.yaml": "deep.yaml",
    "visualize 1 --log-at often": "or last, got 'often'",
    "visualize 1 --config pipe": "pipe must be a regular file, got a FIFO",
    "visualize 1 --config .": "must be a regular file, got a folder",
    "visualize 1 --config ./deep.yaml": "(maximum recursion depth exceeded",
    "visualize --layer fetures.3 --channel 1": "did you mean 'features",
    "visualize --layer features.3 --channel 12": "must be between 0 and 11, got 12",
    "visualize --layer features.3 --channel a-b": "--channel must be numbers and ranges",
    "visualize --layer features.3 --channel 5-3": "write 3-5",
    "visualize --layer features.3 --channel 1 --neuron 9,9 --size 16": "must be between 0,0 and 3,3, got 9,9",
    "visualize --layer features.3 --channel 1 --neuron left": "or center, got left",
    "visualize --layer features.3 --neuron 1,1": "--neuron requires a channel",
    "visualize --layer features.3 --channel 1 --axis feature": "axis requires a layer of tokens",
    "visualize --layer head --channel 1 --neuron center": "neuron requires a layer with positions",
    "visualize tarantula --layer features.3 --channel 1": "a run must have classes or a layer",
    "visualize --neuron 1,1 --channel 1": "neuron and axis require a layer",
    "visualize --channel 1 0": "--channel applies to objectives such as Channel",
    f"visualize --layer features.3 --objective {__name__}.Brightest": (
        "--objective must read a layer where a layer is given, got Brightest"
    ),
    f"visualize --layer features.3 --channel 1 --objective {OF_A_LAYER}": (
        "--channel applies to objectives such as Channel, got Layer"
    ),
    f"visualize --layer features.3 --channel 1 --neuron center --objective {OF_A_LAYER}": (
        "requires an objective with a Channel"
    ),
    "visualize 0 --vary '{seed: [1]}'": "of iterations and lr, got seed",
    "visualize 0 --vary '{lr: [0]}'": "takes positive values",
    "visualize 0 --vary '{lr: []}'": "takes positive values",
    "visualize 0 --vary '{lr: [1, 0.5, 1.0]}'": "--vary must have different values",
    "visualize 0 --vary '{iterations: [2.5]}'": "--vary must have whole numbers of iterations, got [2.5]",
    "visualize 0 --vary '{lr: [x]}'": "vary",
    "visualize 0 --step-rule lit_viz.attacks.PGD": "--step-rule must be an optimizer, got PGD: it is a part of Adv",
    "visualize 0 --step-rule lit_viz.attacks.Square": "must be an optimizer, got Square: it is a part of Adv",
    "visualize 0 --step-rule lit_viz.attributions.Gradient": "must be an optimizer, got Gradient: it is a part of Sal",
    "visualize 0 --step-rule lit_viz.attributions.RISE": "must be an optimizer, got RISE: it is a part of SaliencyMap",
    "saliency nowhere.jpg": "there is no photograph or folder 'nowhere.jpg'",
    "saliency --config ./empty.yaml": "--images must be given, got none: try lit-viz saliency packaged:chelsea",
    "saliency p0.png --method smothgrad": "did you mean 'smoothgrad'",
    "saliency p0.png --target bananna": "unknown class 'bananna'",
    "saliency p0.png --label folder": "got 'folder'",
    "saliency p0.png --method.sigma -1 --method smoothgrad": "sigma",
    "saliency p0.png --tolerance 0": "--tolerance must be positive, got 0",
    "saliency p0.png --method occlusion --method.window 20": "must be at most the input",
    "saliency p0.png --method guided_backprop": "gradient or smoothgrad",
    "saliency p0.png --method grad_cam --method.layer features.9": "features.",
    "attack p0.png --attack pgdd": "did you mean 'pgd'",
    "attack p0.png --attack pgd --eps 0": "--eps must be positive, got 0",
    "attack p0.png --attack pgd --eps -1": "eps",
    "attack p0.png --attack pgd --norm l3": "linf",
    "attack p0.png --target 7": "7",
    "attack p0.png --attack ddn --attack.gama 1": "gama",
    "attack p0.png --attack ddn --eps 1/255": "DDN minimizes the perturbation: leave out eps",
    "attack p0.png --attack ddn --eps 1/255,2/255": "minimizes the perturbation: leave out eps",
    "attack p0.png --eps 1/255": "NormalizedAscentAttack has no budget: leave out eps",
    "attack p0.png p1.png --attack pgd --eps=-8/255,4/255": "must be 0 or more and finite, got -0.0313725",
    "attack p0.png p1.png --attack pgd --eps=4/255,4": "must be at most 1, got 4: write 4/255",
    "attack p0.png p1.png --attack pgd --eps=4/255,x": "got '4/255,x'",
    "attack p0.png p1.png --attack pgd --eps=4/255,": "got '4/255,'",
    "attack p0.png p1.png --attack pgd --eps=1/255,4/255,1/255": (
        "--eps must have different radii, got 1/255, 4/255, 1/255"
    ),
    "attack p0.png p1.png --attack universal --eps=-8/255,4/255": "must be 0 or more and finite, got -0.0313725",
    "attack p0.png p1.png --attack universal --eps=4/255,4": "must be at most 1, got 4: write 4/255",
    "attack p0.png p1.png --attack universal --eps=4/255,x": "got '4/255,x'",
    "attack p0.png p1.png --attack universal --eps=4/255,": "got '4/255,'",
    "attack p0.png p1.png --attack universal --eps=1/255,4/255,1/255": (
        "--eps must have different radii, got 1/255, 4/255, 1/255"
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two photographs, an empty configuration, one of 3000 brackets, and a FIFO."""
    path = tmp_path_factory.mktemp("folder")
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"p{index}.png")
    (path / "empty.yaml").write_text("module: {}\n")
    (path / "deep.yaml").write_text("[" * 1000)
    os.mkfifo(path / "pipe")
    return path


@pytest.mark.parametrize(("line", "message"), [*ERRORS.items(), *SMALL_NETWORK_ERRORS.items()])
def test_an_invalid_command_line_gives_a_one_line_error(
    line: str,
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lit_viz: Any,
    sentence: Any,
    small_options: Any,
) -> None:
    monkeypatch.chdir(folder)
    words = shlex.split(line)
    if line in SMALL_NETWORK_ERRORS:
        words += small_options
    elif words[0] in ("visualize", "saliency", "attack"):
        words += ["--wandb", "disabled"]
    if words[0] in ("visualize", "saliency", "attack"):
        words += ["--out", "run"]
    lit_viz(*words, expect=1)
    assert message in sentence(capsys)
    assert not Path("run").exists()
