"""The shortened sequence, run by run: neighbouring decoder layers between two cuts share one length, and so one set of
positions, rotary angles and mask. Each is made once per forward, when the first layer asks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from simignore.families import Parts
from simignore.splice.cache import Group, Ledger, UnsupportedCallError
from simignore.splice.tensors import count_before, cut_mask, like_tuple, pack, put, shift, take
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


class Runs:
    """The runs of one decoder forward, and the arguments that the decoder and its layers get in each.

    kwargs: what the decoder was called with, at full length. past: the cache's ledger before this call.
    """

    def __init__(self, parts: Parts, kwargs: dict[str, Any], past: Ledger) -> None:
        self.parts, self.kwargs, self.past = parts, kwargs, past
        embeds: Tensor = kwargs["inputs_embeds"]
        self.batch, self.length, self.device = embeds.shape[0], embeds.shape[1], embeds.device
        self.mask: Tensor | None = kwargs.get("attention_mask")
        self.flash = parts.attention_implementation.startswith("flash")
        self.all: list[Run] = []

    @property
    def last(self) -> Run:
        """The run that the layers are in now."""
        return self.all[-1]

    def start(self, number: int, left: Tensor, shown: Tensor, closing: Tensor) -> Run:
        """Begin a run at decoder layer ``number``: places that are left, seen, and closed up, each [B, T] on the host."""
        rows = pack(left)  # [B, Q]
        first = self.all[0] if self.all else None
        real = rows != PAD
        within = base = rows.clamp(min=0)
        if first is not None:
            within = _inverse(self.last.rows, self.length).gather(1, base)
            base = _inverse(first.rows, self.length).gather(1, base)
        old, old_base = self.past.group(number), self.past.groups[0]
        width = old_base.columns.shape[1]
        columns = base + (self.past.length if number == 0 else width)
        held = old.columns
        if number > 0 and old.first == 0:  # the layers part company only now: their past is what the first group holds
            held = torch.arange(width, device=self.device).expand(self.batch, width)
        seen = shown.gather(1, rows.clamp(min=0)) & real
        group = Group(
            first=number,
            columns=torch.cat([held, torch.where(real, columns, PAD).to(self.device)], 1),
            seen=torch.cat([old.seen, seen.to(self.device)], 1),
            dense=old.dense and bool(seen.all()),
            gone=old.gone + closing.sum(1, keepdim=True),
        )
        closed = old.gone + count_before(closing).gather(1, rows.clamp(min=0))
        whole = rows.shape[1] == self.length and bool((rows == torch.arange(self.length)).all())
        rows, within, base = (places.to(self.device) for places in (rows, within, base))
        self.all.append(Run(rows, within, base, closed, group, whole=whole))
        return self.last

    def go_on(self, number: int) -> Run:
        """Begin a run in which every token of this call stays and is seen: a decoding step. Nothing waits for the device."""
        old, width = self.past.group(number), self.past.groups[0].columns.shape[1]
        rows = torch.arange(self.length, device=self.device).expand(self.batch, -1)  # [B, Q]
        columns = rows + (self.past.length if number == 0 else width)
        group = Group(
            first=number,
            columns=torch.cat([old.columns, columns], 1),
            seen=torch.cat([old.seen, old.seen.new_ones(self.batch, self.length)], 1),
            dense=old.dense,
            gone=old.gone,
        )
        self.all.append(Run(rows, rows, rows, old.gone.expand(-1, self.length), group, whole=True))
        return self.last

    def slots(self, places: Tensor) -> Tensor:
        """[B, X] where the caller's places are in the sequence as it is now; all places before the first run."""
        if not self.all:
            return places
        return _inverse(self.last.rows, self.length).gather(1, places)

    def decoder_kwargs(self, run: Run) -> dict[str, Any]:
        """What the decoder gets instead of ``kwargs``."""
        return {
            **self.kwargs,
            "inputs_embeds": self.kwargs["inputs_embeds"]
            if run.whole
            else take(self.kwargs["inputs_embeds"], run.rows),
            "position_ids": self._positions(run),
            "attention_mask": self._first_mask(run),
        }

    def _positions(self, run: Run) -> Tensor:
        """[B, Q] position ids of a run."""
        given = self.kwargs.get("position_ids")
        if given is None:
            given = torch.arange(self.length, device=self.device)[None] + self.past.length
        if run.whole and not bool(run.closed.any()):
            return given
        return shift(take(given, run.rows), run.closed)

    def _first_mask(self, run: Run) -> Tensor | None:
        """What the decoder gets as attention mask; never None, or gaps in the positions would pass for packed sequences."""
        group = run.group
        if self.mask is not None:  # looked at in every step: the caller may have hidden more than at the prefill
            return cut_mask(self.mask.to(self.device), run.rows, group.columns, group.seen, dense=False)
        given = self.kwargs.get("position_ids")
        if given is not None and self.length > 1 and bool((given[..., 1:] < given[..., :-1]).any()):
            raise UnsupportedCallError(
                "position_ids start again within a row and there is no attention_mask, so the row holds packed sequences, "
                "which a shortened prompt could not keep apart. Pass them as rows of a batch, or with a 4-D attention_mask."
            )
        return group.seen.long()

    def untouched(self) -> bool:
        """Whether the layers of this run get just what the decoder hands them."""
        return self.last.group.first == 0 and not self.flash

    def layer_kwargs(self, run: Run, kwargs: dict[str, Any], hidden: Tensor) -> dict[str, Any]:
        """What a layer of this run gets instead of ``kwargs``; ``hidden`` is its input, for type and device."""
        short = dict(kwargs)
        if self.flash and "position_embeddings" in kwargs:
            short["position_ids"] = None  # flash attention would read gaps in them as the ends of packed sequences
        elif run.group.first and kwargs.get("position_ids") is not None:
            short["position_ids"] = self._once(run, "positions", None, lambda: self._positions(run))
        if run.group.first == 0:
            return short
        mask = kwargs.get("attention_mask")
        short["attention_mask"] = self._once(run, "mask", mask, lambda: self._layer_mask(run, mask))
        if (rotary := kwargs.get("position_embeddings")) is not None:
            short["position_embeddings"] = self._once(run, "rotary", rotary, lambda: self._rotary(run, rotary, hidden))
        return short

    def _layer_mask(self, run: Run, mask: Any) -> Tensor | None:
        group, width = run.group, self.all[0].group.columns.shape[1]
        if mask is None and self.parts.attention_implementation.startswith("flash"):
            return (
                None if group.dense else group.seen
            )  # flash attention takes padding as [B, P] and is causal by itself
        if mask is not None and (not isinstance(mask, Tensor) or mask.shape[-1] != width):
            raise UnsupportedCallError(
                f"the decoder's attention mask is a {type(mask).__name__} that does not have a column for each of the {width} "
                "tokens (flex attention, or a sliding window shorter than the prompt). Cut before the decoder instead."
            )
        return cut_mask(mask, run.base, group.columns, group.seen, group.dense)

    def _rotary(self, run: Run, rotary: Any, hidden: Tensor) -> Any:
        """Rotary (cos, sin) of a run: those of the tokens that are left, or new ones where positions closed up."""
        base = self.all[0].closed.gather(1, run.base.cpu())
        if run.closed.equal(base):
            return like_tuple(rotary, lambda part: take(part, run.base))
        if self.parts.rotary is None:
            raise ValueError(
                'positions="reindex" inside the decoder needs a rotary module, and this one has none; use "keep"'
            )
        return self.parts.rotary(hidden, position_ids=self._positions(run))

    @staticmethod
    def _once(run: Run, name: str, source: Any, make: Any) -> Any:
        """Make a tensor at the first layer that needs it; layers with another source (another mask) get their own."""
        key = name, id(source)
        if key not in run.ready:
            run.ready[key] = source, make()  # the source is held, so that its id stays its own
        return run.ready[key][1]

    def lengthen(self, output: Any) -> None:
        """Put the decoder's hidden states back at the caller's places, in place."""
        if not self.last.whole:
            output.last_hidden_state = put(output.last_hidden_state, self.last.rows, self.length)
        if getattr(output, "hidden_states", None) is not None:
            output.hidden_states = tuple(self._restore(h, i) for i, h in enumerate(output.hidden_states))

    def _restore(self, hidden: Tensor, number: int) -> Tensor:
        """Hidden states at the caller's length, from the run that they come from."""
        # number 0 is the decoder's input, number i the output of layer i - 1, the last one normalised
        run = [run for run in self.all if run.group.first <= max(number - 1, 0)][-1]
        return hidden if run.whole else put(hidden, run.rows, self.length)


def _inverse(rows: Tensor, length: int) -> Tensor:
    """[B, length] for each place of the caller's sequence its place in a run (0 where it is not there)."""
    rows = rows.cpu()
    places = torch.arange(rows.shape[1]).expand_as(rows)
    full = torch.zeros(rows.shape[0], length + 1, dtype=torch.long)
    return full.scatter(1, torch.where(rows == PAD, length, rows), places)[:, :length]
