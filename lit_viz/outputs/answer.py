"""Text about an image: whether a network of images and text says an answer, or a token of it."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lit_viz.errors import LitVizError, first_line, require
from lit_viz.networks.decisions import Decision, rule_of
from lit_viz.networks.outputs import Output, text_log_odds
from lit_viz.networks.processors import messages_hidden, network_processor
from lit_viz.utils.sequences import as_list

#: Tokens that are generated at most, unless an answer is longer.
_MOST_TOKENS = 64
#: Generated tokens by which teacher forcing is compared with generation, and the largest difference of their logits,
#: relative to the largest logit.
_COMPARED_TOKENS, _TOLERANCE = 4, 1e-3
#: Settings of ``generation_config`` that change the greedy text, and their values without an effect.
_SETTINGS: Mapping[str, Any] = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "min_length": 0,
    "min_new_tokens": None,
    "exponential_decay_length_penalty": None,
    "guidance_scale": 1.0,
}  # fmt: skip
#: Marks of tokens that begin a word, and of those that continue one.
_BEGINNINGS, _CONTINUATION = ("▁", "Ġ"), "##"
#: Last parts of the names of submodules that process the image, the most specific first.
_VISION = ("vision_tower", "vision_model", "visual", "image_encoder", "vision_encoder", "encoder")


@dataclass(frozen=True)
class _Forced:
    """Logits ``(M, T, V)`` of an answer on some images, by teacher forcing."""

    rows: tuple[int, ...]
    logits: Tensor

    def of_all(self, scores: Tensor, images: int) -> Tensor:
        """Return scores ``(M, K)`` as those of all images ``(N, K)``; the others are ``-inf``."""
        if len(self.rows) == images:
            return scores
        rows = torch.tensor(self.rows, device=scores.device)
        return scores.new_full((images, scores.shape[1]), -torch.inf).index_put((rows,), scores)


class Answer(Output):
    """Log-odds that a network says answers about an image, ``(N, K)``, by teacher forcing.

    The network is one of transformers that takes images and gives text: captioners, readers and vision-language models.
    Its processor takes images in [0, 1]; it resizes and normalizes. The probability of an answer is the product of
    those of its tokens, each given the ones before it. Success depends on greedy decoding. Teacher forcing is compared
    with generation when the network is loaded.

    Args:
        answers: one text or several, with the spaces that the network says; None for what it says of each photograph,
            which is then scored on that text alone, and for the texts that are targets.
        prompt: text before the answer. A chat template of the processor is applied unless the prompt contains the place
            of the image.
        processor: processor of the network, its folder or its name; by default that of the network.
        per: ``"answer"``, a score of each answer; ``"token"``, of each token of each answer: against all other tokens
            at its place, the tokens before it given. It is said where the text begins with the answer up to it. Its
            name is ``3 car``, or of the second of several answers ``2.3 car``.
        decision: ``"independent"``, or ``"exclusive"``: the scores are mean log-probabilities of the tokens, and say
            which answer is more probable, not what is said.
        end: whether the answer ends the text; if not, the text begins with it.
        pixels: function from images ``(N, 3, H, W)`` in [0, 1] to the arguments of the network, in place of the
            image processor.
        start: token before the first one; by default as in generation.

    Raises:
        LitVizError: an answer has no token or contains the place of an image, the network says no text, its processor
            gives no gradient or can't be found, or teacher forcing does not reproduce generation.
    """

    unit = "log-odds"
    reads = True
    auto_class = "AutoModelForImageTextToText"
    preprocesses = True

    def __init__(
        self,
        answers: str | Sequence[str] | None = None,
        prompt: str | None = None,
        *,
        processor: Any = None,
        per: Literal["answer", "token"] = "answer",
        decision: Literal["independent", "exclusive"] = "independent",
        end: bool = True,
        pixels: Callable[[Tensor], Mapping[str, Tensor]] | None = None,
        start: int | None = None,
    ) -> None:
        self.answers: list[str] | None = None
        if answers is not None:
            self.answers = [answers] if isinstance(answers, str) else list(answers)
            require(len(self.answers) > 0, "answers must have at least one text", "none")
            require(len(set(self.answers)) == len(self.answers), "answers must be different", self.answers)
        if per == "token":
            require(decision == "independent", "per token, decision must be independent", decision)
        self.prompt, self.processor, self.per, self.end = prompt, processor, per, end
        self.has_parts = per == "token"
        self.pixels, self.start = pixels, start
        self.decision: Decision = decision
        if rule_of(decision).is_exclusive:
            self.unit = "mean log-probability of a token"
        self._size: tuple[int, int] | None = None
        self._ids: list[Tensor] = []  # tokens of each answer ``(T,)``
        self._ends: list[int] = []  # tokens that end a text
        self._prefix = torch.empty(0)  # tokens before the answer ``(1, P)``
        self._forced = 0  # tokens among them that generation adds
        self._text: dict[str, Tensor] = {}  # arguments of the network that are not of the image
        self._options: dict[str, Any] = {}  # of generation
        self._token_type = 0  # of the answer
        self._is_encoder_decoder = False
        self._accepted: set[str] = set()  # arguments of the network
        self._dtype = torch.float32
        self._columns: Sequence[int] | None = None  # that are scored, of each image or for all

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments by name; a processor that was read from a folder or the Hub is its name."""
        arguments = super().arguments
        name = getattr(_tokenizer_of(self.processor), "name_or_path", None)
        if name:
            arguments["processor"] = str(name)
        return arguments

    @property
    def is_open(self) -> bool:
        return self.answers is None

    def with_answers(self, answers: Sequence[str]) -> Answer:
        """Return the output with other answers."""
        given = {**super().arguments, "answers": list(answers), "processor": self.processor}
        return type(self)(**given)

    @property
    def names(self) -> Sequence[str] | None:
        if self.answers is None:
            return ("nothing",)
        if self.per == "answer":
            return tuple(self.answers)
        names: list[str] = []
        for number, ids in enumerate(self._ids, 1):
            answer = f"{number}." if len(self._ids) > 1 else ""
            pieces = readable_pieces(_tokenizer_of(self.processor).convert_ids_to_tokens(ids.tolist()))
            for place, piece in enumerate(pieces, 1):
                names.append(f"{answer}{place} {piece}")  # tokens may repeat
        return tuple(names)

    def scores_of(self, answer: int) -> range:
        """Return the indices of the scores of an answer: one, or per token one for each."""
        if self.per == "answer":
            return range(answer, answer + 1)
        first = sum(len(ids) for ids in self._ids[:answer])
        return range(first, first + len(self._ids[answer]))

    def place_of(self, index: int) -> int | None:
        return self._answer_and_place(index)[1] + 1 if self.per == "token" else None

    def _answer_and_place(self, index: int) -> tuple[int, int]:
        """Return the answer of a score, and the place of its last token in it."""
        if self.per == "answer":
            return index, len(self._ids[index]) - 1
        answer = 0
        while index >= len(self._ids[answer]):
            index -= len(self._ids[answer])
            answer += 1
        return answer, index

    # -- preparation

    def with_processor(self, network: nn.Module, processor: Any) -> Answer:
        """Return the output with the processor of a network."""
        own = copy.copy(self)
        given = self.processor if processor is None else processor
        if given is None or isinstance(given, str):
            given = network_processor(network, given)
        own.processor = given
        return own

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width of the images that the processor makes; None if they depend on the photograph."""
        processor = getattr(self.processor, "image_processor", None)
        options = vars(processor) if processor is not None else {}
        for name in ("image_grid_pinpoints", "max_image_size", "do_image_splitting", "max_patches"):
            if options.get(name):
                return None
        for name in ("crop_size", "size"):
            size = dict(options.get(name) or {})
            if name == "crop_size" and not options.get("do_center_crop", True):
                continue
            if size.get("height") and size.get("width"):
                return size["height"], size["width"]
        return None

    def prepare(self, network: nn.Module, normalize: Callable[[Tensor], Tensor], size: tuple[int, int]) -> Answer:
        if not hasattr(network, "generate") or not hasattr(network, "config"):
            raise LitVizError(
                f"Answer requires a network of transformers that says a text, got {type(network).__name__}"
            )
        own = self.with_processor(network, None)
        own._size, own._is_encoder_decoder = size, is_encoder_decoder(network)
        own._accepted = accepted_arguments(network)
        own.backbone, own.note = _vision_module(network), _settings_note(network)
        own._ids = [own._encoded(text, network) for text in self.answers or [""]]
        image = normalize(torch.full((1, self.bands.channels, *size), 0.5))
        own._dtype = image.dtype
        try:
            own._set_text(network, image)
            own._check_teacher_forcing(network, image)
        except LitVizError:
            raise
        except Exception as error:  # of the network or its processor, of any kind
            raise LitVizError(
                f"{type(network).__name__} says no text about an image of {size[0]} x {size[1]} with this prompt "
                f"({type(error).__name__}: {first_line(error)})"
            ) from error
        return own

    def _encoded(self, text: str, network: nn.Module) -> Tensor:
        """Return the tokens of an answer ``(T,)``, with the end where it ends the text."""
        tokenizer = _tokenizer_of(self.processor)
        ids = list(tokenizer(text, add_special_tokens=False).input_ids)
        require(
            len(ids) > 0 or self.answers is None,
            "an answer must have at least one token",
            repr(text),
            is_argument=False,
        )
        places = image_tokens(network, self.processor)
        require(
            not places & set(ids), "an answer must not contain the place of an image", repr(text), is_argument=False
        )
        self._ends = end_tokens(network, tokenizer)
        if self.end or not ids:
            ids.append(self._ends[0])
        return torch.tensor(ids)

    def _set_text(self, network: nn.Module, image: Tensor) -> None:
        """Set the arguments of the network that are not of the image, and the tokens before the answer."""
        self._options = {}
        self._text = self._text_arguments(image)
        if self.start is not None and self._is_encoder_decoder:
            self._options["decoder_start_token_id"] = self.start
        elif self.start is not None and not self._text:
            self._text = {"input_ids": torch.tensor([[self.start]], device=image.device)}
        # With a forced first token, the second one is the first that the network decides on.
        forced = getattr(getattr(network, "generation_config", None), "forced_bos_token_id", None)
        count = 1 if forced is None else 2
        generated = self._generate(network, image, min_new_tokens=count, max_new_tokens=count)
        self._prefix = generated.sequences[:, :-1]
        self._forced = count - 1

    def _text_arguments(self, image: Tensor) -> dict[str, Tensor]:
        """Return the arguments of the network for the prompt; an image ``(1, C, H, W)`` determines the number of its
        places."""
        prompt = self._prompt_text()
        if prompt is None:
            return {}
        from torchvision.transforms.functional import to_pil_image  # takes a second to import

        picture = to_pil_image(image[0].mul(255).round().byte().cpu())  # some processors take no tensor with a text
        with _quiet():
            encoded = self.processor(images=[[picture]], text=[prompt], return_tensors="pt")
        of_image = self._arguments_of_images(image)
        arguments: dict[str, Tensor] = {}
        for name, value in encoded.items():
            if name not in of_image and name in self._accepted and name != "labels" and isinstance(value, Tensor):
                arguments[name] = value.to(image.device)
        return arguments

    def _prompt_text(self) -> str | None:
        """Return the prompt as the processor takes it; None without one."""
        processor = self.processor
        place = getattr(processor, "image_token", None)
        has_place = bool(place) and self.prompt is not None and str(place) in self.prompt
        if has_place or not getattr(processor, "chat_template", None):
            return self.prompt
        content: list[dict[str, str]] = [{"type": "image"}]
        if self.prompt:
            content.append({"type": "text", "text": self.prompt})
        messages = [{"role": "user", "content": content}]
        text: str = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return text

    def _check_teacher_forcing(self, network: nn.Module, image: Tensor) -> None:
        """Compare the logits of teacher forcing with those of generation, and find the type of the answer's tokens.

        Raises:
            LitVizError: they differ.
        """
        count = self._forced + _COMPARED_TOKENS
        places = sorted(image_tokens(network, self.processor)) or None
        generated = self._generate(
            network, image, min_new_tokens=count, max_new_tokens=count, suppress_tokens=places, output_logits=True
        )
        tokens = generated.sequences[0, self._prefix.shape[1] :]
        expected = torch.cat(generated.logits)[self._forced :].to(tokens.device)
        pixels = self._arguments_of_images(image)
        difference = torch.inf
        for self._token_type in (0, 1):
            logits, _ = self._forced_logits(network, pixels, tokens, 1, None)
            difference = float((logits[0] - expected).abs().max() / expected.abs().max().clamp(min=1))
            if difference <= _TOLERANCE:
                return
            if "token_type_ids" not in self._text:
                break
        raise LitVizError(
            f"teacher forcing must reproduce what {type(network).__name__} generates, and its logits differ by "
            f"{difference:.1g} of the largest one: give start or another prompt"
        )

    def _generate(self, network: nn.Module, image: Tensor, **options: Any) -> Any:
        """Generate a text about one image ``(1, C, H, W)`` in [0, 1] greedily, by the arguments of :meth:`call`."""
        arguments = {**self._arguments_of_images(image), **self._text}
        return _generated(network, arguments, {**self._options, **options})

    # -- evaluation

    def _arguments_of_images(self, images: Tensor) -> dict[str, Tensor]:
        """Return the arguments of the network for images ``(N, C, H, W)`` in [0, 1], or of uint8.

        Raises:
            LitVizError: they have no gradient.
        """
        if self.pixels is not None:
            made = self.pixels(images)
        else:
            processor = self.processor
            if self._prompt_text() is not None or not callable(processor):
                processor = getattr(processor, "image_processor", processor)
            nested = [[image] for image in images]  # a flat list is one sample of several images
            options = {} if images.dtype == torch.uint8 else {"do_rescale": False}
            with _quiet():
                made = processor(images=nested, return_tensors="pt", **options)
            made = {name: value for name, value in made.items() if name in self._accepted}
        arguments: dict[str, Tensor] = {}
        for name, value in made.items():
            if isinstance(value, Tensor):
                value = value.to(images.device)
                arguments[name] = value.to(self._dtype) if value.is_floating_point() else value
        is_differentiable = any(value.requires_grad for value in arguments.values())
        if torch.is_grad_enabled() and images.requires_grad and not is_differentiable:
            import transformers

            raise LitVizError(
                f"{type(self.processor).__name__} of transformers {transformers.__version__} gives no gradient: "
                "install transformers 5.1 or later, or give pixels"
            )
        return arguments

    def call(self, network: Callable[..., Any], x: Tensor) -> Any:
        size = tuple(x.shape[-2:])
        if size != self._size:
            raise LitVizError(f"Answer was prepared for images of {self._size}, got {size}: load the network with size")
        self._dtype = x.dtype
        answers_by_rows: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for answer, rows in enumerate(self._rows_of_answers(len(x))):
            answers_by_rows[rows].append(answer)
        returned: list[_Forced] = [_Forced((), torch.empty(0))] * len(self._ids)
        for rows, answers in answers_by_rows.items():
            if not rows:
                continue
            images = x if len(rows) == len(x) else x[list(rows)]
            arguments = self._arguments_of_images(images)
            encoded: Any = None
            of_vision: list[Any] = []
            for answer in answers:
                ids = self._ids[answer].to(x.device)
                with _outputs_reused(network, self.backbone, of_vision):
                    logits, encoded = self._forced_logits(network, arguments, ids, len(images), encoded)
                returned[answer] = _Forced(rows, logits)
        return returned

    @contextmanager
    def about(self, columns: Sequence[int] | None) -> Iterator[None]:
        before = self._columns
        self._columns = None if rule_of(self.decision).is_exclusive else columns
        try:
            yield
        finally:
            self._columns = before

    def _rows_of_answers(self, images: int) -> list[tuple[int, ...]]:
        """Return the images that each answer is scored on: all, unless :meth:`about` determines them."""
        if self._columns is None or len(self._columns) not in (1, images):
            return [tuple(range(images))] * len(self._ids)
        rows: list[tuple[int, ...]] = [()] * len(self._ids)
        for row in range(images):
            column = self._columns[row % len(self._columns)]
            answer, _ = self._answer_and_place(column)
            rows[answer] += (row,)
        return rows

    def _forced_logits(
        self, network: Callable[..., Any], arguments: Mapping[str, Tensor], ids: Tensor, images: int, encoded: Any
    ) -> tuple[Tensor, Any]:
        """Return the logits ``(N, T, V)`` at the places of an answer ``(T,)``, and the outputs of an encoder.

        Args:
            network: the network.
            arguments: its arguments of the images.
            ids: tokens of the answer.
            images: N.
            encoded: outputs of the encoder for another answer; None if there are none.
        """
        prefix = self._prefix.to(ids.device).expand(images, -1)
        tokens = torch.cat([prefix, ids.expand(images, -1)], 1)
        given: dict[str, Any] = dict(arguments)
        if self._is_encoder_decoder:
            for name, value in self._text.items():
                given[name] = _repeated(value, images).to(ids.device)
            given["decoder_input_ids"] = tokens[:, :-1]
            if encoded is not None:
                given["encoder_outputs"] = encoded
        else:
            given |= self._extended_text(tokens, images)
        returned = network(**given, use_cache=False)
        logits: Tensor = returned.logits[:, -len(ids) :]
        hidden = getattr(returned, "encoder_last_hidden_state", None)
        if self._is_encoder_decoder and hidden is not None:
            from transformers.modeling_outputs import BaseModelOutput

            return logits, BaseModelOutput(last_hidden_state=hidden)
        return logits, None

    def _extended_text(self, tokens: Tensor, images: int) -> dict[str, Tensor]:
        """Return the arguments of a decoder for the prompt and an answer ``(N, P + T)`` without its last token."""
        tokens = tokens[:, :-1]
        before = self._prefix.shape[1]
        extended: dict[str, Tensor] = {"input_ids": tokens}
        length = self._text["input_ids"].shape[1] if "input_ids" in self._text else 0
        for name, value in self._text.items():
            value = _repeated(value, images).to(tokens.device)
            if name == "input_ids":
                continue
            rest = tokens.shape[1] - min(before, length)
            if value.ndim > 2 and value.shape[1] == length:  # a mask of the images, the same for all later tokens
                later = value[:, -1:].expand(-1, rest, *value.shape[2:])
                value = torch.cat([value[:, :before], later], 1)
            elif value.ndim == 2 and value.shape[1] == length:
                fill = 1 if name == "attention_mask" else 0
                if name == "token_type_ids":
                    fill = self._token_type
                value = torch.cat([value[:, :before], value.new_full((images, rest), fill)], 1)
            extended[name] = value
        return extended

    def scores(self, returned: Any, images: int) -> Tensor:
        return self._by_answer(returned, images, self._scores_of)

    def _by_answer(
        self, returned: Sequence[_Forced], images: int, compute: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Return what is computed of the logits and the tokens of each answer, side by side ``(N, K)``; ``-inf`` of
        the images that it is not scored on."""
        scored = next(forced.logits for forced in returned if forced.rows)
        columns: list[Tensor] = []
        for forced, ids in zip(returned, self._ids, strict=True):
            if forced.rows:
                columns.append(forced.of_all(compute(forced.logits, ids), images))
            else:
                columns.append(scored.new_full((images, len(ids) if self.per == "token" else 1), -torch.inf))
        return torch.cat(columns, 1)

    def _scores_of(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Return the scores ``(N, 1)`` of an answer, or ``(N, T)`` of its tokens."""
        own, others = self._own_and_others(logits, ids, torch.logsumexp)
        log_odds = own - others
        if self.per == "token":
            return log_odds
        log_p = functional.logsigmoid(log_odds)
        if rule_of(self.decision).is_exclusive:
            return log_p.mean(1, keepdim=True)
        return text_log_odds(log_p.sum(1, keepdim=True))

    def final(self, returned: Any, images: int) -> Tensor:
        """Return the least over tokens of the logit less the largest other one ``(N, K)``.

        It is positive exactly where greedy decoding says the answer; per token, where the text begins with the answer
        up to the token. Exclusive scores decide by themselves.
        """
        if rule_of(self.decision).is_exclusive:
            return self.scores(returned, images)
        return self._by_answer(returned, images, self._margins_of)

    def _margins_of(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Return the final scores ``(N, 1)`` of an answer, or ``(N, T)`` of its tokens."""
        own, others = self._own_and_others(logits, ids, torch.amax)
        margins = own - others
        if self.per == "token":
            return margins.cummin(1).values
        return margins.amin(1, keepdim=True)

    def _own_and_others(self, logits: Tensor, ids: Tensor, reduce: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        """Return the logits ``(N, T)`` of the tokens of an answer, and of all others, reduced; all tokens that end a
        text are one."""
        is_own = torch.zeros(len(ids), logits.shape[2], dtype=torch.bool, device=logits.device)
        is_own[torch.arange(len(ids)), ids.to(logits.device)] = True
        if int(ids[-1]) in self._ends:
            is_own[-1, self._ends] = True
        own = reduce(logits.masked_fill(~is_own, -torch.inf), 2)
        return own, reduce(logits.masked_fill(is_own, -torch.inf), 2)

    # -- text

    def read(self, network: nn.Module, images: Tensor, normalize: Callable[[Tensor], Tensor]) -> list[str]:
        levels = normalize(images).mul(255).round().clamp(0, 255).byte()
        longest = max([len(ids) for ids in self._ids]) + self._forced + 1
        tokens = max(_MOST_TOKENS, longest)
        places = token_places(network)
        if places is not None:  # the text with its end is an answer later
            tokens = max(min(tokens, places - self._prefix.shape[1]), 1)
        texts = []
        for n in range(len(levels)):
            generated = self._generate(network, levels[n : n + 1], max_new_tokens=tokens)
            texts.append(self._decoded(generated.sequences[0, self._prefix.shape[1] :]))
        return texts

    def agrees(self, text: str, index: int, *, is_said: bool) -> bool | None:
        """Return whether a text is the answer of a score, or begins with it up to a token, as the decision has it."""
        if rule_of(self.decision).is_exclusive:
            return None
        answer_index, place = self._answer_and_place(index)
        ids = self._ids[answer_index]
        if self.per == "token":
            before, ids = ids[:place], ids[: place + 1]
            if not text.startswith(self._decoded(before)):
                return False
        answer = self._decoded(ids)
        ends = int(ids[-1]) in self._ends
        return (text == answer if ends else text.startswith(answer)) == is_said

    def _decoded(self, ids: Tensor) -> str:
        text: str = _tokenizer_of(self.processor).decode(ids.tolist(), skip_special_tokens=True)
        return text


def _vision_module(network: nn.Module) -> str | None:
    """Return the name of the submodule that processes the image; None without one."""
    for last_part in _VISION:
        names: list[str] = [name for name, _ in network.named_modules() if name.rpartition(".")[2] == last_part]
        if names:
            return min(names, key=len)
    return None


def _settings_note(network: nn.Module) -> str | None:
    """Return the settings of generation that change the greedy text; None without any."""
    config = getattr(network, "generation_config", None)
    changed: list[str] = []
    for name, neutral in _SETTINGS.items():
        value = getattr(config, name, neutral)
        if value is not None and value != neutral:
            changed.append(f"{name}={value}")
    return f"settings of generation change the text: {', '.join(changed)}" if changed else None


def readable_pieces(pieces: Sequence[str]) -> list[str]:
    """Return the tokens of a text without the marks of tokenizers; a piece that continues a word begins with ``-``.

    Byte-level tokenizers and SentencePiece mark the beginning of a word, WordPiece its continuation.
    """
    marks_beginnings = any(piece.startswith(_BEGINNINGS) for piece in pieces)
    readable: list[str] = []
    for place, piece in enumerate(pieces):
        continues = piece.startswith(_CONTINUATION)
        if marks_beginnings and place > 0:
            continues = piece[:1].isalnum() and not piece.startswith(_BEGINNINGS)
        text = piece.removeprefix(_CONTINUATION).lstrip("".join(_BEGINNINGS))
        readable.append(f"-{text}" if continues else text or piece)
    return readable


def _tokenizer_of(processor: Any) -> Any:
    return getattr(processor, "tokenizer", processor)


def _repeated(value: Tensor, count: int) -> Tensor:
    """Return an argument of one image for several."""
    return value.expand(count, *value.shape[1:])


def is_encoder_decoder(network: nn.Module) -> bool:
    """Return whether a network takes answers as ``decoder_input_ids``, which of BLIP-2 depends on its text network."""
    config: Any = network.config
    has_encoder = config.is_encoder_decoder or getattr(
        getattr(config, "text_config", None), "is_encoder_decoder", False
    )
    return has_encoder and "decoder_input_ids" in inspect.signature(network.forward).parameters


def accepted_arguments(network: Any) -> set[str]:
    """Return the names of the arguments of a network; processors return further values."""
    of_generation = inspect.signature(network.prepare_inputs_for_generation).parameters
    return {*of_generation, *inspect.signature(network.forward).parameters}


def image_tokens(network: nn.Module, processor: Any) -> set[int]:
    """Return the tokens that are replaced by an image or a video."""
    found: set[int] = set()
    for owner in (network.config, processor):
        for name in ("image_token_id", "image_token_index", "video_token_id"):
            value = getattr(owner, name, None)
            if isinstance(value, int):
                found.add(value)
    return found


def token_places(network: Any) -> int | None:
    """Return how many tokens a text network has places for; None if there is no limit."""
    places = getattr(_text_config(network), "max_position_embeddings", None)
    return places if isinstance(places, int) else None


def _text_config(network: Any) -> Any:
    config = network.config
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def end_tokens(network: nn.Module, tokenizer: Any) -> list[int]:
    """Return the tokens at which generation ends; that of the tokenizer is the first.

    Raises:
        LitVizError: there is none.
    """
    config: Any = network.config
    text_config = _text_config(network)
    ends = getattr(getattr(network, "generation_config", None), "eos_token_id", None)
    if getattr(config, "model_type", None) == "blip":  # which ends at another token than its configuration names
        ends = text_config.sep_token_id
    if ends is None:
        ends = getattr(text_config, "eos_token_id", None)
    if ends is None:
        ends = tokenizer.eos_token_id
    if ends is None:
        raise LitVizError(f"{type(network).__name__} has no token that ends a text")
    return sorted(as_list(ends), key=lambda token: token != tokenizer.eos_token_id)


def _generated(network: nn.Module, arguments: Mapping[str, Tensor], options: Mapping[str, Any]) -> Any:
    """Generate greedily; networks may change their arguments."""
    own = {name: value.clone() for name, value in arguments.items()}
    given = {"do_sample": False, "num_beams": 1, "return_dict_in_generate": True, **options}
    with torch.no_grad(), _quiet():
        return network.generate(**own, **given)  # type: ignore[operator]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide messages and warnings of transformers in the body."""
    with messages_hidden(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _outputs_reused(network: Any, name: str | None, outputs: list[Any]) -> Iterator[None]:
    """Return outputs of earlier calls of a submodule in the body, in their order; those of further calls are appended.

    Without a name, or of a network that is no module, nothing is reused.
    """
    if name is None or not isinstance(network, nn.Module):
        yield
        return
    module = network.get_submodule(name)
    compute, earlier = module.forward, iter(list(outputs))
    is_of_instance = "forward" in vars(module)

    def forward(*arguments: Any, **options: Any) -> Any:
        for output in earlier:
            return copy.copy(output)  # some networks assign to its fields
        output = compute(*arguments, **options)
        outputs.append(copy.copy(output))
        return output

    module.forward = forward
    try:
        yield
    finally:
        if is_of_instance:
            module.forward = compute
        else:
            del module.forward
