"""Where training starts: a few heads that already look somewhere useful.

Random attention takes long to find three things which small models on few samples badly need, so some heads start with
them. They remain ordinary weights that training is free to change:

- vision: a sine table of positions, and heads that look at fixed neighbours, so that the first layers act like
  convolutions (Cordonnier, Loukas and Jaggi, "On the relationship between self-attention and convolutional layers",
  ICLR 2020). With CLIP's own initialisation, a study before this stalled at 46 % of shapes;
- decoder: heads that look one token back, and heads that look at equal words: together the induction circuit
  (Olsson et al., "In-context learning and induction heads", 2022) which copying an option's letter needs;
- symbols: places along an axis that resemble their neighbours, so that those heads find what is close as well.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

_LENGTHS = (4, 6, 9, 14, 20, 28, 40, 60)  # wave lengths of the position table, in patches
_NEIGHBOURS = (
    ((-1, 0), (1, 0), (0, -1), (0, 1)),
    ((-1, -1), (1, -1), (-1, 1), (1, 1)),
    ((-2, 0), (2, 0), (0, -2), (0, 2)),
)  # per layer and head: (dx, dy) in patches
_WORD = 0.15  # standard deviation of a word embedding's entries


@torch.no_grad()
def start_vision(tower: Any, strength: float = 2.4) -> None:
    """Give a CLIPVisionModel its position table and its neighbour heads.

    The last 4 * len(_LENGTHS) channels hold sine and cosine of x, then of y. A query turned by `d` along each wave
    meets the key of the patch `d` away. Raises ValueError if a head is not exactly that wide.
    """
    width = tower.config.hidden_size
    head = width // tower.config.num_attention_heads
    if head != 4 * len(_LENGTHS):
        raise ValueError(
            f"heads of {head} channels cannot hold the {4 * len(_LENGTHS)} position channels; change width"
        )
    waves = 2 * math.pi / torch.tensor(_LENGTHS)
    grid = tower.config.image_size // tower.config.patch_size
    place = torch.arange(grid * grid)
    tower.embeddings.position_embedding.weight[1:, -head:] = 0.5 * torch.cat(
        [_sines(place % grid, waves), _sines(place // grid, waves)], 1
    )
    tower.embeddings.patch_embedding.weight[-head:] *= 0.2
    for layer, offsets in zip(tower.encoder.layers, _NEIGHBOURS, strict=False):
        for number, offset in enumerate(offsets):
            rows = slice(number * head, (number + 1) * head)
            layer.self_attn.q_proj.weight[rows, -head:] += strength * _turn(offset, waves)
            layer.self_attn.k_proj.weight[rows, -head:] += strength * torch.eye(head)


def _sines(position: Tensor, waves: Tensor) -> Tensor:
    angle = position[:, None] * waves
    return torch.stack([torch.sin(angle), torch.cos(angle)], -1).flatten(1)  # [N, 2 * waves]


def _turn(offset: tuple[int, int], waves: Tensor) -> Tensor:
    """Rotation that maps the table's entry at t to the one at t + offset: sin(t + d) = sin t cos d + cos t sin d."""
    blocks = []
    for d in offset:
        for wave in waves.tolist():
            s, c = math.sin(d * wave), math.cos(d * wave)
            blocks.append(torch.tensor([[c, s], [-s, c]]))
    return torch.block_diag(*blocks)  # type: ignore[no-untyped-call, no-any-return]


@torch.no_grad()
def start_places(table: Tensor) -> None:
    """Fill a table of places along one axis `[G, D]` so that neighbours resemble each other, sines in random directions.

    To heads that look at what resembles the query, close is then what equal words are: alike.
    """
    waves = 2 * math.pi / torch.tensor(_LENGTHS)
    directions = nn.init.orthogonal_(torch.empty(2 * len(_LENGTHS), table.shape[1]))
    table.copy_(
        _WORD * math.sqrt(table.shape[1] / len(_LENGTHS)) * _sines(torch.arange(len(table)), waves) @ directions
    )


@torch.no_grad()
def start_decoder(decoder: Any, back_layers: tuple[int, ...], match_layers: tuple[int, ...]) -> None:
    """Give a LlamaModel one look-back head in each of `back_layers` and two matching heads in each of `match_layers`.

    Both need words that are large against what layers add, so embeddings grow and output projections shrink.
    """
    nn.init.normal_(decoder.embed_tokens.weight, std=_WORD)
    for layer in decoder.layers:
        nn.init.normal_(layer.self_attn.o_proj.weight, std=0.02)
        nn.init.normal_(layer.mlp.down_proj.weight, std=0.02)
    width = decoder.config.hidden_size
    common = nn.functional.normalize(torch.randn(width), dim=0)
    decoder.embed_tokens.weight += 0.7 * _WORD * math.sqrt(width) * common
    for number in back_layers:
        _look_back(decoder.layers[number].self_attn, common, decoder.config.rope_parameters["rope_theta"])
    for number in match_layers:
        _match(decoder.layers[number].self_attn, width)


def _look_back(attention: Any, common: Tensor, theta: float, fast: int = 10) -> None:
    """Last head: query and key are constants (read off the direction common to all words) whose rotary product
    peaks where the key stands one token before the query; only the `fast` fastest rotary channels tell that apart."""
    head = attention.head_dim
    half = head // 2
    angle = theta ** (-torch.arange(half) / half)
    query, key = torch.zeros(head), torch.zeros(head)
    key[:fast] = 1.0
    query[:fast], query[half : half + fast] = torch.cos(-angle[:fast]), torch.sin(-angle[:fast])
    scale = 4.4 / math.sqrt(len(common))
    for projection, constant in ((attention.q_proj, query), (attention.k_proj, key)):
        projection.weight[-head:] *= 0.3
        projection.weight[-head:] += scale * constant[:, None] * common


def _match(attention: Any, width: int) -> None:
    """First two heads: query and key are the same random projection, so equal words attract each other; the faster
    half of the rotary channels stays empty, so that distance does not matter."""
    head = attention.head_dim
    for number in (0, 1):
        projection = 0.09 * torch.randn(head, width)
        projection[: head // 4] = 0
        projection[head // 2 : head // 2 + head // 4] = 0
        rows = slice(number * head, (number + 1) * head)
        attention.q_proj.weight[rows] = projection
        attention.k_proj.weight[rows] = projection
