"""Small random networks of transformers that say a text about an image, with their processors, in folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

WORDS = [
    "a",
    "the",
    "red",
    "green",
    "car",
    "cat",
    "dog",
    "sits",
    "on",
    "in",
    "of",
    "grass",
    "road",
    "two",
    "one",
    "what",
    "is",
    "this",
    "describe",
]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "<vision>", "</vision>", "<video>", "<fake>", "<global>"]
#: Rows and columns of tiles as the processors of Idefics3 name them.
TILES = [f"<row_{row}_col_{column}>" for row in range(1, 3) for column in range(1, 3)]
VOCABULARY = len(SPECIAL) + len(TILES) + len(WORDS) + 6  # and tokens that processors add
PAD, START, END, IMAGE = 0, 1, 2, 4
TEXT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
KEYS = {**TEXT, "num_key_value_heads": 2}
IDS = {"pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END}
VALUES = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}


def tokenizer(**options: Any) -> Any:
    """Return a tokenizer of words."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = [*SPECIAL, *TILES, *WORDS]
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>", **options
    )
    fast.add_special_tokens({"additional_special_tokens": [*SPECIAL[4:], *TILES]})
    return fast


def _size(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _clip_vision(side: int = 32, patch: int = 8) -> dict[str, Any]:
    return {**TEXT, "image_size": side, "patch_size": patch, "projection_dim": 16}


def _blip(t: Any) -> tuple[nn.Module, Any]:
    text = {
        **TEXT,
        "vocab_size": VOCABULARY,
        "encoder_hidden_size": 16,
        "max_position_embeddings": 64,
        "sep_token_id": END,
        **IDS,
    }
    config = t.BlipConfig(text_config=text, vision_config=_clip_vision(), projection_dim=16)
    images = t.BlipImageProcessor(size=_size(32), **VALUES)
    return t.BlipForConditionalGeneration(config), t.BlipProcessor(images, tokenizer())


def _git(t: Any) -> tuple[nn.Module, Any]:
    config = t.GitConfig(vision_config=_clip_vision(), vocab_size=VOCABULARY, max_position_embeddings=64, **TEXT, **IDS)
    images = t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=_size(32), **VALUES)
    return t.GitForCausalLM(config), t.GitProcessor(images, tokenizer())


def _trocr(t: Any) -> tuple[nn.Module, Any]:
    encoder = t.ViTConfig(image_size=32, patch_size=8, **TEXT)
    decoder = t.TrOCRConfig(
        vocab_size=VOCABULARY, d_model=16, decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=32,
        cross_attention_hidden_size=16, max_position_embeddings=64, decoder_start_token_id=END, **IDS,
    )  # fmt: skip
    network = t.VisionEncoderDecoderModel(encoder=t.ViTModel(encoder), decoder=t.TrOCRForCausalLM(decoder))
    network.config.decoder_start_token_id, network.config.pad_token_id = END, PAD
    network.generation_config.decoder_start_token_id = END
    network.generation_config.pad_token_id, network.generation_config.eos_token_id = PAD, END
    images = t.ViTImageProcessor(size=_size(32), **VALUES)
    return network, t.TrOCRProcessor(images, tokenizer())


def _donut(t: Any) -> tuple[nn.Module, Any]:
    encoder = t.DonutSwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4
    )
    decoder = t.MBartConfig(
        vocab_size=VOCABULARY, d_model=16, decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=32,
        encoder_layers=2,
        encoder_attention_heads=2, encoder_ffn_dim=32, is_decoder=True, add_cross_attention=True,
        max_position_embeddings=64, **IDS,
    )  # fmt: skip
    network = t.VisionEncoderDecoderModel(encoder=t.DonutSwinModel(encoder), decoder=t.MBartForCausalLM(decoder))
    network.config.decoder_start_token_id, network.config.pad_token_id = START, PAD
    network.generation_config.decoder_start_token_id = START
    network.generation_config.pad_token_id, network.generation_config.eos_token_id = PAD, END
    network.generation_config.forced_eos_token_id = None
    images = t.DonutImageProcessor(size=_size(32), do_align_long_axis=False, **VALUES)
    return network, t.DonutProcessor(images, tokenizer())


def _pix2struct(t: Any) -> tuple[nn.Module, Any]:
    text = {
        "vocab_size": VOCABULARY, "hidden_size": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2,
        "decoder_start_token_id": PAD, **IDS,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "patch_embed_hidden_size": 3 * 8 * 8, "d_ff": 32, "d_kv": 8, "num_hidden_layers": 2,
        "num_attention_heads": 2, "seq_len": 64,
    }  # fmt: skip
    config = t.Pix2StructConfig(text_config=text, vision_config=vision, is_vqa=False, **IDS)
    images = t.Pix2StructImageProcessor(patch_size=_size(8), max_patches=16)
    network = t.Pix2StructForConditionalGeneration(config)
    network.generation_config.decoder_start_token_id = PAD
    return network, t.Pix2StructProcessor(images, tokenizer())


def _florence2(t: Any) -> tuple[nn.Module, Any]:
    text = {
        "vocab_size": VOCABULARY, "d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 128,
        **IDS,
    }  # fmt: skip
    vision = {
        "in_channels": 3, "depths": [1], "patch_size": [7], "patch_stride": [4], "patch_padding": [3],
        "patch_prenorm": [False], "embed_dim": [16], "num_heads": [2], "num_groups": [2], "window_size": 4,
        "projection_dim": 16, "max_temporal_embeddings": 4, "max_position_embeddings": 16,
    }  # fmt: skip
    config = t.Florence2Config(
        text_config={"model_type": "bart", **text}, vision_config=vision, image_token_id=IMAGE, **IDS
    )
    network = t.Florence2ForConditionalGeneration(config)
    network.generation_config.decoder_start_token_id = END
    network.generation_config.forced_bos_token_id = network.generation_config.forced_eos_token_id = None
    images = t.CLIPImageProcessor(size=_size(32), crop_size=_size(32), do_center_crop=False, **VALUES)
    images.image_seq_length = 65
    words = tokenizer(extra_special_tokens={"image_token": "<image>"})
    return network, t.Florence2Processor(images, words)


def _llava(t: Any) -> tuple[nn.Module, Any]:
    text = {"model_type": "llama", "vocab_size": VOCABULARY, **KEYS, **IDS}
    vision = {"model_type": "clip_vision_model", **_clip_vision()}
    config = t.LlavaConfig(text_config=text, vision_config=vision, image_token_index=IMAGE)
    images = t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=_size(32), **VALUES)
    processor = t.LlavaProcessor(
        images, tokenizer(extra_special_tokens={"image_token": "<image>"}), patch_size=8,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    return t.LlavaForConditionalGeneration(config), processor


def _llava_next(t: Any) -> tuple[nn.Module, Any]:
    text = {"model_type": "llama", "vocab_size": VOCABULARY, **KEYS, **IDS}
    vision = {"model_type": "clip_vision_model", **_clip_vision()}
    grid = [[32, 64], [64, 32], [64, 64]]
    config = t.LlavaNextConfig(
        text_config=text, vision_config=vision, image_token_index=IMAGE, image_grid_pinpoints=grid
    )
    images = t.LlavaNextImageProcessor(
        size={"shortest_edge": 32}, crop_size=_size(32), image_grid_pinpoints=grid, **VALUES
    )
    processor = t.LlavaNextProcessor(
        images, tokenizer(extra_special_tokens={"image_token": "<image>"}), patch_size=8,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    return t.LlavaNextForConditionalGeneration(config), processor


def _qwen(t: Any, vision: dict[str, Any], kind: str) -> tuple[nn.Module, Any]:
    rope = {"rope_type": "default", "type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = {"vocab_size": VOCABULARY, **KEYS, **IDS, "rope_parameters": rope}
    places = {"image_token_id": IMAGE, "video_token_id": 7, "vision_start_token_id": 5, "vision_end_token_id": 6}
    config = getattr(t, f"{kind}Config")(text_config=text, vision_config=vision, **places, **IDS)
    pixels = {"shortest_edge": 16 * 16, "longest_edge": 32 * 32}
    images = t.Qwen2VLImageProcessor(size=pixels, patch_size=8, temporal_patch_size=2, merge_size=2, **VALUES)
    words = tokenizer(extra_special_tokens={"image_token": "<image>", "video_token": "<video>"})
    videos = t.Qwen2VLVideoProcessor(patch_size=8, temporal_patch_size=2, merge_size=2)
    name = {"Qwen2VL": "Qwen2VLProcessor", "Qwen2_5_VL": "Qwen2_5_VLProcessor"}[kind]
    network = getattr(t, f"{kind}ForConditionalGeneration")(config)
    return network, getattr(t, name)(images, words, video_processor=videos)


def _qwen2_vl(t: Any) -> tuple[nn.Module, Any]:
    vision = {
        "depth": 2, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2, "patch_size": 8,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3,
    }  # fmt: skip
    return _qwen(t, vision, "Qwen2VL")


def _qwen2_5_vl(t: Any) -> tuple[nn.Module, Any]:
    vision = {
        "depth": 2, "hidden_size": 16, "out_hidden_size": 16, "num_heads": 2, "intermediate_size": 32, "patch_size": 8,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 32, "fullatt_block_indexes": [1],
        "in_channels": 3,
    }  # fmt: skip
    return _qwen(t, vision, "Qwen2_5_VL")


def _idefics3(t: Any) -> tuple[nn.Module, Any]:
    return _of_tiles(t, "Idefics3")


def _smolvlm(t: Any) -> tuple[nn.Module, Any]:
    return _of_tiles(t, "SmolVLM")


def _of_tiles(t: Any, kind: str) -> tuple[nn.Module, Any]:
    text = {"model_type": "llama", "vocab_size": VOCABULARY, **KEYS, **IDS}
    vision = {**TEXT, "image_size": 32, "patch_size": 8}
    config = getattr(t, f"{kind}Config")(
        text_config=text, vision_config=vision, image_token_id=IMAGE, scale_factor=2, pad_token_id=PAD
    )
    images = getattr(t, f"{kind}ImageProcessor")(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, **VALUES
    )
    names = {
        "image_token": "<image>",
        "fake_image_token": "<fake>",
        "global_image_token": "<global>",
        "end_of_utterance_token": "</s>",
    }
    words = tokenizer(extra_special_tokens=names)
    if kind == "SmolVLM":
        pytest.importorskip("num2words")
        videos = t.SmolVLMVideoProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
        processor = t.SmolVLMProcessor(images, words, videos, image_seq_len=4)
    else:
        processor = t.Idefics3Processor(images, words, image_seq_len=4)
    return getattr(t, f"{kind}ForConditionalGeneration")(config), processor


def _paligemma(t: Any) -> tuple[nn.Module, Any]:
    text = {"model_type": "gemma", "vocab_size": VOCABULARY, **KEYS, "head_dim": 8, **IDS}
    vision = {**TEXT, "model_type": "siglip_vision_model", "image_size": 32, "patch_size": 8, "projection_dim": 16}
    config = t.PaliGemmaConfig(
        text_config=text, vision_config=vision, image_token_index=IMAGE, projection_dim=16, hidden_size=16, **IDS
    )
    images = t.SiglipImageProcessor(size=_size(32), **VALUES)
    images.image_seq_length = 16
    words = tokenizer(extra_special_tokens={"image_token": "<image>"})
    return t.PaliGemmaForConditionalGeneration(config), t.PaliGemmaProcessor(images, words)


def _blip2(t: Any) -> tuple[nn.Module, Any]:
    text = {
        "model_type": "opt", "vocab_size": VOCABULARY, "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 128, **IDS,
    }  # fmt: skip
    return _of_queries(t, text)


def _blip2_t5(t: Any) -> tuple[nn.Module, Any]:
    text = {
        "model_type": "t5", "vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2,
        "num_heads": 2, "decoder_start_token_id": PAD, **IDS,
    }  # fmt: skip
    network, processor = _of_queries(t, text)
    network.generation_config.decoder_start_token_id = PAD
    return network, processor


def _of_queries(t: Any, text: dict[str, Any]) -> tuple[nn.Module, Any]:
    queries = {**TEXT, "vocab_size": VOCABULARY, "encoder_hidden_size": 16, "cross_attention_frequency": 1}
    config = t.Blip2Config(
        vision_config=_clip_vision(), qformer_config=queries, text_config=text, num_query_tokens=4,
        image_token_index=IMAGE,
    )  # fmt: skip
    images = t.BlipImageProcessor(size=_size(32), **VALUES)
    return t.Blip2ForConditionalGeneration(config), t.Blip2Processor(images, tokenizer(), num_query_tokens=4)


def _internvl(t: Any) -> tuple[nn.Module, Any]:
    text = {"model_type": "qwen2", "vocab_size": VOCABULARY, **KEYS, **IDS}
    vision = {**TEXT, "image_size": [32, 32], "patch_size": [8, 8]}
    config = t.InternVLConfig(
        text_config=text, vision_config=vision, image_token_id=IMAGE, downsample_ratio=0.5, image_seq_length=4
    )
    names = {
        "start_image_token": "<vision>",
        "end_image_token": "</vision>",
        "context_image_token": "<image>",
        "video_token": "<video>",
    }
    images = t.GotOcr2ImageProcessor(size=_size(32), crop_to_patches=False, **VALUES)
    words = tokenizer(extra_special_tokens=names)
    processor = t.InternVLProcessor(images, words, t.InternVLVideoProcessor(), image_seq_length=4)
    return t.InternVLForConditionalGeneration(config), processor


def _mllama(t: Any) -> tuple[nn.Module, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    text = {"vocab_size": VOCABULARY, **KEYS, "cross_attention_layers": [1], "rope_parameters": rope, **IDS}
    ratios = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]
    vision = {
        "hidden_size": 16, "attention_heads": 2, "num_hidden_layers": 2, "num_global_layers": 1,
        "intermediate_size": 32, "image_size": 32, "patch_size": 8, "max_num_tiles": 4, "vision_output_dim": 32,
        "intermediate_layers_indices": [0], "supported_aspect_ratios": ratios,
    }  # fmt: skip
    config = t.MllamaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
    network = t.MllamaForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "gate" in name:  # they are closed at first
                parameter.fill_(0.5)
    images = t.MllamaImageProcessor(size=_size(32), max_image_tiles=4, **VALUES)
    return network, t.MllamaProcessor(images, tokenizer(extra_special_tokens={"image_token": "<image>"}))


_FAMILIES: dict[str, Callable[[Any], tuple[nn.Module, Any]]] = {
    "blip": _blip,
    "git": _git,
    "trocr": _trocr,
    "donut": _donut,
    "pix2struct": _pix2struct,
    "florence2": _florence2,
    "llava": _llava,
    "llava_next": _llava_next,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "paligemma": _paligemma,
    "blip2": _blip2,
    "blip2_t5": _blip2_t5,
    "internvl": _internvl,
    "mllama": _mllama,
}
FAMILIES = tuple(_FAMILIES)
#: What is asked; None of captioners and readers. Those of Hub's language models have the place of the image.
PROMPTS = {
    "blip": None,
    "git": None,
    "trocr": None,
    "donut": None,
    "pix2struct": None,
    "florence2": "describe",
    "llava": "<image> what is this",
    "llava_next": "<image> what is this",
    "qwen2_vl": "<vision> <image> </vision> what is this",
    "qwen2_5_vl": "<vision> <image> </vision> what is this",
    "idefics3": "<image> what is this",
    "smolvlm": "<image> what is this",
    "paligemma": "<image> what is this",
    "blip2": "what is this",
    "blip2_t5": "what is this",
    "internvl": "<image> what is this",
    "mllama": "<image> what is this",
}


def save(family: str, folder: Path) -> None:
    """Save a network with random weights, which is sharp enough to say more than one word, and its processor."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    network, processor = _FAMILIES[family](transformers)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.4 if parameter.ndim == 2 else 0.1)
    network.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
