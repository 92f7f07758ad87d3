"""One run: neighbouring decoder layers between two cuts, which share one length."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from simignore.splice.cache import Group
from simignore.types import PAD


@dataclass
class Run:
    """The layers from ``group.first`` to the next cut: what this call's sequence looks like there.

    rows: [B, Q] the places among the caller's tokens that are left, -1 = padding. within, base: [B, Q] the same as places
    of the previous run and of the first one. closed: [B, Q] how far each position has closed up (``reindex``).
    group: the ledger's entry, this call's tokens included. ready: tensors made once per call. whole: True if every token of
    this call is in it, in its place.
    """

    rows: Tensor
    within: Tensor
    base: Tensor
    closed: Tensor
    group: Group
    ready: dict[Any, Any] = field(default_factory=dict)
    whole: bool = False


def given_tokens(kwargs: dict[str, Any]) -> Tensor:
    """What the decoder was given a row for each token of: embeddings [B, T, D], or ids [B, T]."""
    embeds: Tensor | None = kwargs.get("inputs_embeds")
    return kwargs.get("input_ids") if embeds is None else embeds  # type: ignore[return-value]


def inverse(rows: Tensor, length: int) -> Tensor:
    """[B, length] for each place of the caller's sequence its place in a run (0 where it is not there)."""
    rows = rows.cpu()
    places = torch.arange(rows.shape[1]).expand_as(rows)
    full = torch.zeros(rows.shape[0], length + 1, dtype=torch.long)
    return full.scatter(1, torch.where(rows == PAD, length, rows), places)[:, :length]
