"""Text recognition: whether a network that reads by CTC reads a text, or a letter of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lit_viz.errors import LitVizError, require
from lit_viz.networks.outputs import Output, text_log_odds

#: Score of what can't be read, in logits.
_IMPOSSIBLE = -1e4


class ReadText(Output):
    """Log-odds that texts are read, ``(N, K)``, by a recognizer of frames such as a CRNN (CTC: Graves et al. 2006,
    doi:10.1145/1143844.1143891).

    The probability of a text is the sum over all its alignments with the frames. Success depends on the greedy reading:
    the most probable character of each frame, repetitions joined, blanks removed.

    Args:
        texts: one text or several.
        alphabet: characters of the classes in order, as a text or a list, with the blank at its place or left out; or a
            mapping of characters to classes. Classes of no character are never read.
        blank: class of the blank.
        per: ``"text"``, a score of each text; ``"letter"``, of each letter of one text: against all other characters at
            its place, the other letters given. It is read where the greedy reading begins with the text up to it.
        time_first: whether the network returns frames as ``(T, N, C)`` instead of ``(N, T, C)``.

    Raises:
        LitVizError: a text is empty or has a character that is not in the alphabet, or the network returns no frames of
            these classes, or too few.
    """

    decision = "independent"
    unit = "log-odds"
    reads = True

    def __init__(
        self,
        texts: str | Sequence[str],
        alphabet: str | Sequence[str] | Mapping[str, int],
        *,
        blank: int = 0,
        per: Literal["text", "letter"] = "text",
        time_first: bool = False,
    ) -> None:
        self.texts = [texts] if isinstance(texts, str) else list(texts)
        require(len(self.texts) > 0, "texts must have at least one text", "none")
        require(len(set(self.texts)) == len(self.texts), "texts must be different", self.texts)
        require(blank >= 0, "blank must be a class, from 0", blank)
        is_valid = per == "text" or len(self.texts) == 1
        require(is_valid, "per letter, texts must be one text", f"{len(self.texts)} texts")
        for text in self.texts:
            require(len(text) > 0, "a text must have at least one character", repr(text))
            for character in text:
                known = character in alphabet
                require(known, "texts must have characters of the alphabet only", f"{character!r} of {text!r}")
        self.alphabet, self.blank, self.per, self.time_first = alphabet, blank, per, time_first
        self.has_parts = per == "letter"

    @property
    def names(self) -> Sequence[str]:
        if self.per == "text":
            return tuple(self.texts)
        return tuple(f"{place} {letter}" for place, letter in enumerate(self.texts[0], 1))  # letters may repeat

    def _classes_of(self, count: int) -> dict[str, int]:
        """Return the class of each character, of a network with a number of classes."""
        require(self.blank < count, f"blank must be below the number of classes, {count}", self.blank)
        if isinstance(self.alphabet, Mapping):
            classes = dict(self.alphabet)
            valid = all(0 <= index < count and index != self.blank for index in classes.values())
            require(valid, f"alphabet must map to classes from 0 to {count - 1} other than the blank", classes)
            return classes
        characters = list(self.alphabet)
        if len(characters) == count - 1:
            characters.insert(self.blank, "")
        require(len(characters) == count, f"alphabet must have {count - 1} characters or {count}", len(characters))
        del characters[self.blank]
        others = [index for index in range(count) if index != self.blank]
        return dict(zip(characters, others, strict=True))

    # -- frames

    def _all_frames(self, returned: Any, images: int) -> Tensor:
        """Return the logits of all classes in each frame ``(T, N, C)``."""
        frames = returned.logits if hasattr(returned, "logits") else returned
        if isinstance(frames, (tuple, list)) and frames:
            frames = frames[0]
        shape = tuple(frames.shape) if isinstance(frames, Tensor) else ()
        batch = 1 if self.time_first else 0
        if len(shape) != 3 or shape[batch] != images:
            form = "(T, N, C)" if self.time_first else "(N, T, C)"
            got = f"shape {shape}" if shape else f"a {type(frames).__name__}"
            raise LitVizError(f"ReadText requires a network that returns frames {form}, got {got} for {images} images")
        logits: Tensor = frames if self.time_first else frames.transpose(0, 1)
        return logits

    def _frames(self, returned: Any, images: int) -> tuple[Tensor, list[str]]:
        """Return the logits of the blank and of the characters in each frame ``(T, N, 1 + A)``, and what they are."""
        logits = self._all_frames(returned, images)
        count, _, classes = logits.shape
        for text in self.texts:
            repeated = sum(first == second for first, second in pairwise(text))
            required = len(text) + repeated
            require(required <= count, f"{text!r} requires {required} frames", f"{count} of the network")
        class_of = self._classes_of(classes)
        return logits[:, :, [self.blank, *class_of.values()]], ["", *class_of]

    def _encoded(self, characters: Sequence[str]) -> list[Tensor]:
        """Return the texts as positions ``(S,)`` among the characters of :meth:`_frames`."""
        return [torch.tensor(list(map(characters.index, text))) for text in self.texts]

    # -- scores

    def scores(self, returned: Any, images: int) -> Tensor:
        logits, characters = self._frames(returned, images)
        log_frames, texts = logits.log_softmax(2), self._encoded(characters)
        if self.per == "text":
            columns = [text_log_odds(_log_probabilities(log_frames, text[None])[:, 0]) for text in texts]
            return torch.stack(columns, 1)
        columns = []
        for place, own in enumerate(texts[0].tolist()):
            variants = texts[0].repeat(len(characters) - 1, 1)  # one per character at the place
            variants[:, place] = torch.arange(1, len(characters))
            log_p = _log_probabilities(log_frames, variants)
            others = torch.cat([log_p[:, : own - 1], log_p[:, own:]], 1)
            columns.append(log_p[:, own - 1] - others.logsumexp(1))
        return torch.stack(columns, 1)

    def final(self, returned: Any, images: int) -> Tensor:
        """Return a margin of the greedy reading ``(N, K)``, in logits: positive exactly where it is the text, or per
        letter begins with the text up to the letter.

        It is the largest over all alignments of the least over frames of the logit less the largest other one.
        """
        logits, characters = self._frames(returned, images)
        margins, texts = _margins(logits), self._encoded(characters)
        if self.per == "text":
            return torch.stack([_alignment_margin(margins, text) for text in texts], 1)
        columns = []
        for end in range(1, len(texts[0]) + 1):
            columns.append(_alignment_margin(margins, texts[0][:end], is_beginning=True))
        return torch.stack(columns, 1)

    def read(self, network: nn.Module, images: Tensor, normalize: Callable[[Tensor], Tensor]) -> list[str]:
        logits, characters = self._frames(self.returned(network, normalize(images)), len(images))
        texts = []
        for row in logits.argmax(2).T.tolist():
            text, before = "", 0
            for index in row:
                if index != before:
                    text += characters[index]
                before = index
            texts.append(text)
        return texts

    def agrees(self, text: str, index: int, *, is_said: bool) -> bool | None:
        """Return whether a text is the one of a score, or begins with it up to a letter, as the decision has it."""
        if self.per == "text":
            return (text == self.texts[index]) == is_said
        beginning = self.texts[0][:index]
        return text.startswith(beginning) and text.startswith(self.texts[0][: index + 1]) == is_said


def _log_probabilities(log_frames: Tensor, texts: Tensor) -> Tensor:
    """Return the log-probabilities ``(N, M)`` of M texts ``(M, S)``, by log-probabilities ``(T, N, 1 + A)``."""
    count, images, _ = log_frames.shape
    variants, length = texts.shape
    rows = images * variants
    repeated = log_frames.repeat_interleave(variants, 1)
    targets = texts.repeat(images, 1).to(log_frames.device)
    frames, lengths = torch.full((rows,), count), torch.full((rows,), length)
    loss = functional.ctc_loss(repeated, targets, frames, lengths, blank=0, reduction="none")
    # A text that has more repetitions than frames allow has the probability 0.
    return (-loss).clamp(min=_IMPOSSIBLE).view(images, variants)


def _margins(frames: Tensor) -> Tensor:
    """Return the logit of each class less the largest other one ``(T, N, 1 + A)``."""
    first, second = frames.topk(2, dim=2).values.unbind(2)
    is_largest = frames == first[:, :, None]
    return frames - torch.where(is_largest, second[:, :, None], first[:, :, None])


def _alignment_margin(margins: Tensor, text: Tensor, *, is_beginning: bool = False) -> Tensor:
    """Return the largest over alignments of a text ``(S,)`` of the least margin of a frame ``(N,)``.

    The recursion is that of the probability of CTC (Graves et al. 2006, equations 6 and 7) with least and largest in
    place of product and sum. With ``is_beginning``, frames after the last letter are free.
    """
    states = torch.zeros(2 * len(text) + 1, dtype=torch.int64)  # a blank before and after each letter
    states[1::2] = text
    skips = torch.zeros(len(states), dtype=torch.bool)
    skips[3::2] = text[1:] != text[:-1]  # of the blank between different letters
    states, skips = states.to(margins.device), skips.to(margins.device)
    none = margins.new_full((margins.shape[1], 1), _IMPOSSIBLE)
    best = none.repeat(1, len(states))
    best[:, :2] = margins[0][:, states[:2]]
    said = best[:, -2]
    for frame in margins[1:]:
        one_before = torch.cat([none, best[:, :-1]], 1)
        two_before = torch.cat([none, none, best[:, :-2]], 1)
        reached = torch.maximum(best, one_before)
        reached = torch.where(skips, torch.maximum(reached, two_before), reached)
        best = torch.minimum(reached, frame[:, states])
        said = torch.maximum(said, best[:, -2])
    if is_beginning:
        return said
    return torch.maximum(best[:, -1], best[:, -2])
