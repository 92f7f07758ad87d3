"""Image tokens that gather attention whatever is asked: found by asking again, with the question's words in another order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from simignore.families import UnsupportedModelError
from simignore.flow.capture import evaluating
from simignore.flow.hypothesis import rank_correlation
from simignore.flow.report import Sinks
from simignore.observe import AttentionRow
from simignore.parts import Parts, parts
from simignore.splice.reading import read
from simignore.types import PAD

Array = NDArray[Any]
THRESHOLD = 5.0
UNSHUFFLED = "sinks were not looked for: the question's words are all the same, so there is no other order to ask in"


def sinks(
    model: nn.Module,
    inputs: Mapping[str, Any],
    question_places: Tensor | Array,
    tokenizer: Any,
    *,
    seed: int = 0,
    threshold: float = THRESHOLD,
) -> Sinks | None:
    """Which image tokens the last token of the prompt attends to with the question as asked and with its words shuffled.

    The shuffled prompt has the same tokens at the same number of places, so what differs is what the question says. Each word
    moves (a random cycle, Sattolo 1986); a question of one word has its tokens moved instead. Attention is read beside the
    model's own, one row for each layer.

    inputs: what the processor returned for one prompt, on the model's device. question_places: [Q] of the question's tokens.
    threshold: from how many times the image tokens' average a token is a sink.
    None where no order differs from the asked one, in a question of one token or of one repeated; :data:`UNSHUFFLED` says so.
    Raises ValueError for a batch, a prompt without images, places that are not text of the prompt, a threshold not above 0;
    UnsupportedModelError for a decoder without attention, and RuntimeError for one whose attention cannot be read.
    """
    p = parts(model)
    places, image, last = _checked(p, inputs, torch.as_tensor(question_places), threshold)
    ids = inputs["input_ids"]
    order = _another_order(ids[0, places].tolist(), tokenizer, seed)
    if order is None:
        return None
    shuffled = ids.clone()
    shuffled[0, places] = ids[0, places[order]]
    with evaluating(model):
        asked, other = (_relative(_row(p, {**inputs, "input_ids": own}, last)[image]) for own in (ids, shuffled))
    gathered = np.flatnonzero((asked >= threshold) & (other >= threshold))
    said = str(tokenizer.decode(shuffled[0, places].tolist())).strip()
    return Sinks(said, asked, other, threshold, tuple(gathered.tolist()), rank_correlation(asked, other))


def _checked(p: Parts, inputs: Mapping[str, Any], places: Tensor, threshold: float) -> tuple[Tensor, Array, int]:
    """The question's places, those of the image tokens, and the last place that is no padding."""
    if not threshold > 0:
        raise ValueError(
            f"threshold={threshold}: every token gathers that much; pass a number above 0, such as {THRESHOLD}"
        )
    ids = inputs.get("input_ids")
    if ids is None or ids.shape[0] != 1:
        got = "no input_ids" if ids is None else f"{ids.shape[0]} prompts"
        raise ValueError(f"sinks are looked for in one prompt, got {got}; pass input_ids of batch 1")
    found = read(p, inputs)
    if found is None or not found.counts[0]:
        raise ValueError("this prompt holds no image tokens, so none can be a sink; ask about at least one image")
    places = places.long().cpu()
    inside = places[(places >= 0) & (places < found.length)]
    if places.dim() != 1 or len(inside) != len(places) or bool(found.placeholders[0, inside].any()):
        raise ValueError(f"question_places {places.tolist()} are not all text of a prompt of {found.length} tokens")
    image = found.image[0]
    return places.to(ids.device), image[image != PAD].numpy(), int(found.attended[0].nonzero()[-1])


def _another_order(ids: Sequence[int], tokenizer: Any, seed: int) -> Tensor | None:
    """[Q] an order in which each word of the question has moved, tokens of a word together; None where none differs."""
    for units in (_words(ids, tokenizer), [[n] for n in range(len(ids))]):
        generator, cycle = np.random.default_rng(seed), list(range(len(units)))
        for i in range(len(units) - 1, 0, -1):
            j = int(generator.integers(0, i))
            cycle[i], cycle[j] = cycle[j], cycle[i]
        order = [n for unit in cycle for n in units[unit]]
        if [ids[n] for n in order] != list(ids):
            return torch.tensor(order)
    return None


def _words(ids: Sequence[int], tokenizer: Any) -> list[list[int]]:
    """Numbers of the tokens of each word: a word begins where the text gains a blank."""
    found: list[list[int]] = []
    before = ""
    for n in range(len(ids)):
        text = str(tokenizer.decode(list(ids[: n + 1])))
        gained = text[len(before) :] if text.startswith(before) else " "
        if not found or gained[:1].isspace() or before[-1:].isspace():
            found.append([])
        found[-1].append(n)
        before = text
    return found


def _row(p: Parts, inputs: Mapping[str, Any], last: int) -> Array:
    """[T] what the token at a place attends to, mean over heads and over the layers that attend."""
    observers = [AttentionRow(attention) for attention in p.attentions if attention is not None]
    if not observers:
        raise UnsupportedModelError(
            f"no layer of {type(p.decoder).__name__} attends to tokens, so there is no attention to gather; leave sinks out"
        )
    given = {name: value for name, value in inputs.items() if name != "labels"}
    place, whole = torch.tensor([[last]]), torch.ones(1, 1)
    installed = []
    try:
        for observer in observers:
            observer.install()
            installed.append(observer)
            observer.ask([(place, whole)])
        with torch.no_grad():
            p.model(**given, use_cache=False, logits_to_keep=1)
        rows = torch.stack([observer.row()[0].cpu() for observer in observers])  # [L, T]
    finally:
        for observer in installed:
            observer.remove()
    return rows.double().mean(0).numpy()


def _relative(row: Array) -> Array:
    """[N] attention to each image token as a multiple of their average; 0 where none is attended to."""
    mean = row.mean()
    relative: Array = row / mean if mean > 0 else np.zeros_like(row)
    return relative
