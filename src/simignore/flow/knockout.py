"""Attention knockout: cut a way in a few neighbouring layers, and see what the answer loses.

Why: attention shows where a model looks, not what it takes from there. If the answer is as likely with a way cut, nothing that
it needed went that way in those layers. Source: Geva et al., arXiv 2304.14767; for image tokens Zhang et al., arXiv 2411.18620.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from simignore.families import UnsupportedModelError
from simignore.flow.capture import evaluating
from simignore.flow.copies import TOKENS, Forced, forced, log_probability
from simignore.flow.report import Knockout
from simignore.flow.severed import Ways, severed
from simignore.parts import Parts

Window = tuple[int, int]
ROUTES = ("image to question", "image to last", "question to last")
WINDOWS = 8  # at most so many by default


def knockout(
    model: nn.Module,
    inputs: Mapping[str, Any],
    answer: Tensor,
    image: Tensor,
    question: Tensor,
    *,
    window: int | None = None,
    stride: int | None = None,
    tokens: int = TOKENS,
) -> tuple[Knockout, ...]:
    """What each route carries to the answer, by window of layers: one result for each of ``ROUTES``.

    "a to b": the tokens of b cannot look at those of a in the window's layers; they still can in all others, and what b
    learnt elsewhere stays. A token can always look at itself. Layers without attention (see :func:`without_attention`) have
    nothing to cut: what passes through their state passes on. A window of such layers alone has no change (not a number).

    inputs: what the processor returned for one prompt, on the model's device. answer: [A] token ids. image, question: places
    of their tokens in the prompt. window: layers that are cut at once; default a third of them. stride: from one window to
    the next, default the smallest that makes 8 windows or fewer; the last window ends with the last layer in any case.
    tokens: how many may be in the decoder at once.
    Raises ValueError for places outside the prompt or for none, windows that do not fit, and as
    :func:`~simignore.flow.copies.forced` does; UnsupportedModelError where attention cannot be cut: call
    ``model.set_attn_implementation("sdpa")`` under flash or flex attention.
    """
    prompt = forced(model, inputs, answer)
    spans = {
        "image": _places("image", image, prompt),
        "question": _places("question", question, prompt),
        "last": torch.zeros(prompt.length, dtype=torch.bool).index_fill(0, prompt.last, True),
    }
    places = windows(len(prompt.parts.layers), window, stride)
    found = _changes(prompt, spans, [*places, (0, len(prompt.parts.layers) - 1)], tokens)
    return tuple(
        Knockout(route, tuple(places), own[:-1].numpy(), float(own[-1]))
        for route, own in zip(ROUTES, found, strict=True)
    )


def windows(layers: int, window: int | None = None, stride: int | None = None) -> list[Window]:
    """(first, last) layer of each window, ends included; see :func:`knockout`. Raises ValueError if they do not fit."""
    window = max(1, round(layers / 3)) if window is None else window
    if not 1 <= window <= layers:
        raise ValueError(f"window={window}: a window has 1 to {layers} layers, as many as the decoder has")
    room = layers - window
    stride = max(1, ceil(room / (WINDOWS - 1))) if stride is None else stride
    if stride < 1:
        raise ValueError(f"stride={stride}: the next window begins 1 layer later or more")
    starts = sorted({*range(0, room + 1, stride), room})
    return [(start, start + window - 1) for start in starts]


def without_attention(parts: Parts) -> tuple[int, ...]:
    """Decoder layers that mix tokens otherwise (linear attention, convolution), in which nothing can be cut."""
    return tuple(layer for layer, module in enumerate(parts.attentions) if module is None)


def _changes(prompt: Forced, spans: Mapping[str, Tensor], places: Sequence[Window], tokens: int) -> Tensor:
    """[3, W] how the answer's mean log-probability changes with each route cut in each window, float64."""
    lacking = set(without_attention(prompt.parts))
    layers = [frozenset(range(first, last + 1)) - lacking for first, last in places]
    if not layers[-1]:
        raise UnsupportedModelError("no layer of this decoder has attention, so there is none to cut")
    ends = [route.split(" to ") for route in ROUTES]
    ways = [Ways(spans[query], spans[key], own) for key, query in ends for own in layers]
    nothing = torch.zeros(prompt.length, dtype=torch.bool)
    # the run with nothing cut goes the same way through the same kernels, so that only the cut makes a difference
    whole = Ways(nothing, nothing, layers[-1])
    found = []
    size = max(1, tokens // prompt.length)
    with evaluating(prompt.parts.model):
        for start in range(0, len(ways) + 1, size):
            some = [whole, *ways][start : start + size]
            with severed(prompt.parts, some):
                found.append(log_probability(prompt, len(some)))
    likely = torch.cat(found).double()  # [1 + 3 * W]
    change = (likely[1:] - likely[0]).view(len(ROUTES), len(places))
    return change.masked_fill(torch.tensor([not own for own in layers]), np.nan)


def _places(name: str, places: Tensor, prompt: Forced) -> Tensor:
    """[T] True at the places of a span."""
    places = torch.as_tensor(places).cpu().long()
    if places.dim() != 1 or not len(places) or int(places.min()) < 0 or int(places.max()) >= prompt.prompt:
        told = f"{int(places.min())} to {int(places.max())}" if places.numel() else "none"
        raise ValueError(
            f"the places of the {name} are {told} (shape {tuple(places.shape)}), and the prompt has places 0 to "
            f"{prompt.prompt - 1}; pass a row of one or more of them"
        )
    return torch.zeros(prompt.length, dtype=torch.bool).index_fill(0, places, True)


__all__ = ["ROUTES", "knockout", "windows", "without_attention"]
