"""One forward of the decoder: what it cuts, and the tensors that each run of layers gets instead of the long ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from simignore.clock import Clock
from simignore.families import Parts
from simignore.layout import Layout
from simignore.observe import AttentionRow
from simignore.query import Query
from simignore.select import compose, from_kept, identity, lift
from simignore.splice.cache import Group, Ledger, adopt, ledger_of
from simignore.splice.tensors import count_before, cut_mask, like_tuple, pack, put, shift, take
from simignore.types import PAD, Cut, Selection, Step, Trace, View


@dataclass
class _Run:
    """The layers from ``group.first`` to the next cut: what this call's sequence looks like there.

    rows: [B, Q] the places among the caller's tokens that are left, -1 = padding. within, base: [B, Q] the same as places
    of the previous run and of the first one. closed: [B, Q] how far each position has closed up (``reindex``).
    group: the ledger's entry, this call's tokens included. ready: tensors made once per call.
    """

    rows: Tensor
    within: Tensor
    base: Tensor
    closed: Tensor
    group: Group
    ready: dict[Any, Any] = field(default_factory=dict)


class Call:
    """The life of one decoder forward under a splice: :meth:`enter`, :meth:`layer` for each layer, :meth:`leave`.

    Bookkeeping of places happens on the host, on small integer tensors; only the finished indices go to the device.
    """

    def __init__(
        self,
        parts: Parts,
        cuts: Mapping[int, list[Cut]],
        observers: Mapping[int, AttentionRow],
        query: Query,
        read: Layout,
        labels: Tensor | None,
        kwargs: dict[str, Any],
    ) -> None:
        self.parts, self.cuts, self.observers, self.query, self.read = parts, cuts, observers, query, read
        self.kwargs = kwargs
        embeds: Tensor = kwargs["inputs_embeds"]
        self.batch, self.length, self.device = embeds.shape[0], embeds.shape[1], embeds.device
        cache, self.mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        self.cutting = read.image.shape[1] > 0
        self.past = known = ledger_of(cache)
        held = 0 if cache is None else cache.get_seq_length()
        self.prefill = self.cutting or self.length > 1 or held == 0
        self.idle = not self.cutting and known is None  # nothing to cut, and nothing ever was: stay out of the way
        if known is None and not self.idle:
            self.past = Ledger.plain(self.batch, held, self.mask, self.device)
        self.changed = known is not None
        self.alive = read.image != PAD  # [B, N] image tokens still there and seen
        self.left = torch.ones(self.batch, self.length, dtype=torch.bool)  # [B, T] places still in the sequence
        self.shown = read.attended.clone()  # [B, T] places that others may look at
        self.closing = torch.zeros_like(self.left)  # [B, T] places whose position closes up
        self.labelled = _predicts(labels, self.left)
        self.chosen = identity(self.alive)
        self.steps: list[Step] = []
        self.clock = Clock(self.device)
        self.runs: list[_Run] = []

    # the three doors

    def enter(self) -> dict[str, Any]:
        """The decoder's keyword arguments, shortened."""
        if self.idle:
            return self.kwargs
        self._cut(0, self.kwargs["inputs_embeds"])
        run = self._start(0)
        self._observe(0)
        if not self.changed:
            return self.kwargs
        return {
            **self.kwargs,
            "inputs_embeds": take(self.kwargs["inputs_embeds"], run.rows),
            "position_ids": self._positions(run),
            "attention_mask": self._first_mask(run),
        }

    def layer(self, number: int, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        """The arguments of decoder layer ``number``, shortened; None if it gets what the decoder got."""
        if self.idle:
            return None
        if number > 0:
            hidden = args[0] if args else kwargs["hidden_states"]
            if self._cut(number, hidden) or any(group.first == number for group in self._past.groups):
                hidden = take(hidden, self._start(number).within)
            self._observe(number)
        if not self.changed:
            return None
        short = self._layer_kwargs(self.runs[-1], kwargs, args[0] if args else kwargs["hidden_states"])
        if number == 0 or self.runs[-1].group.first == 0:
            return args, short
        return ((hidden, *args[1:]), short) if args else (args, {**short, "hidden_states": hidden})

    def leave(self, output: Any, trace: Trace, lock: Lock) -> Any:
        """The decoder's output with hidden states back at their old places; books the cut in the cache and the trace."""
        if self.changed:
            self._lengthen(output)
            adopt(output.past_key_values, self._ledger())
        if self.prefill:
            with lock:
                trace.selections.append(self.chosen)
                trace.steps.append(tuple(self.steps))
                trace.grids.append(self.read.grids(self.parts.grid))
                trace.tokens_before.append(self.length)
                trace.tokens_after.append(self.runs[-1].rows.shape[1] if self.runs else self.length)
                trace._clocks.append(self.clock.seconds)
                trace.query = self.query.origin
        return output

    # choosing

    def _cut(self, number: int, hidden: Tensor) -> bool:
        """Run the cuts before this layer; True if anything in the sequence changed."""
        if not self.cutting or number not in self.cuts:
            return False
        before = self.left.clone(), self.shown.clone()
        for cut in self.cuts[number]:
            self._apply(cut, self._choose(cut, number, hidden))
        moved = not (self.left.equal(before[0]) and self.shown.equal(before[1]))
        self.changed = self.changed or moved
        return moved

    def _choose(self, cut: Cut, number: int, hidden: Tensor) -> Selection:
        among = from_kept(self.alive).index  # [B, N'] numbers of the tokens still there
        with self.clock.span(), torch.no_grad():
            chosen = cut.choose(self._view(cut, number, hidden, among))
        _check_selection(cut, chosen, among)
        return lift(_to_host(chosen), among, self.alive.shape[1])

    def _view(self, cut: Cut, number: int, hidden: Tensor, among: Tensor) -> View:
        valid = (among != PAD).to(self.device)
        slots = self._slots(among, number)
        seen: dict[str, Any] = {}
        if "visual" in cut.needs:
            seen["visual"] = take(hidden.detach(), slots)  # [B, N', D]
        if "text" in cut.needs:
            ids, seen["text_valid"] = self.query.tokens(self.read, self.device)
            seen["text"] = self.parts.embed(ids).detach().to(self.device)  # [B, M, D]
        if "attention" in cut.needs:
            row = self.observers[number].row()
            seen["attention"] = take(row, slots + row.shape[1] - self.runs[-1].rows.shape[1])  # [B, N']
        return View(valid=valid, layer=number, grid=self.read.grids(self.parts.grid), seeds=self.read.seeds, **seen)

    def _slots(self, among: Tensor, number: int) -> Tensor:
        """[B, N'] where the given image tokens are in the sequence that reaches layer ``number``."""
        places = self.read.image.gather(1, among.clamp(min=0))
        if number == 0:
            return places.clamp(min=0)
        return _inverse(self.runs[-1].rows, self.length).gather(1, places.clamp(min=0))

    def _apply(self, cut: Cut, chosen: Selection) -> None:
        """Book a selection: which places leave the sequence, and which are only hidden."""
        image = self.read.image
        going = self.alive & ~chosen.kept  # [B, N]
        places = torch.zeros(self.batch, self.length + 1, dtype=torch.bool)
        places = places.scatter(1, torch.where(going, image, self.length), True)[:, : self.length]
        self.alive = self.alive & chosen.kept
        self.shown = self.shown & ~places
        if cut.hide == "drop":
            # a place that has to predict a labelled token stays, unseen by the others, as it would under a mask
            self.left = self.left & ~(places & ~self.labelled)
        if cut.positions == "reindex":
            self.closing = self.closing | places
        self.chosen = compose(self.chosen, chosen)
        self.steps.append(Step(cut.site, cut.hide, chosen))

    def _observe(self, number: int) -> None:
        """Ask for the attention row in layer ``number`` if a cut before the next layer needs it."""
        if self.cutting and number + 1 in self.observers:
            last = (self.shown & self.left).long().cumsum(1).argmax(1, keepdim=True)  # [B, 1] the last visible place
            self.observers[number + 1].ask(_inverse(self.runs[-1].rows, self.length).gather(1, last)[:, 0])

    # the shortened tensors

    @property
    def _past(self) -> Ledger:
        if self.past is None:
            raise RuntimeError("an idle call has no past")
        return self.past

    def _start(self, number: int) -> _Run:
        """Begin a new run of layers with the sequence as it is now."""
        rows = pack(self.left)  # [B, Q]
        first = self.runs[0] if self.runs else None
        real = rows != PAD
        within = base = rows.clamp(min=0)
        if first is not None:
            within = _inverse(self.runs[-1].rows, self.length).gather(1, base)
            base = _inverse(first.rows, self.length).gather(1, base)
        old, old_base = self._past.group(number), self._past.groups[0]
        width = old_base.columns.shape[1]
        columns = base + (self._past.length if number == 0 else width)
        held = old.columns
        if number > 0 and old.first == 0:  # the layers part company only now: their past is what the first group holds
            held = torch.arange(width, device=self.device).expand(self.batch, width)
        seen = self.shown.gather(1, rows.clamp(min=0)) & real
        group = Group(
            first=number,
            columns=torch.cat([held, torch.where(real, columns, PAD).to(self.device)], 1),
            seen=torch.cat([old.seen, seen.to(self.device)], 1),
            dense=old.dense and bool(seen.all()),
            gone=old.gone + self.closing.sum(1, keepdim=True).to(self.device),
        )
        closed = old.gone.cpu() + count_before(self.closing).gather(1, rows.clamp(min=0))
        self.runs.append(_Run(rows.to(self.device), within.to(self.device), base.to(self.device), closed, group))
        return self.runs[-1]

    def _positions(self, run: _Run) -> Tensor:
        """[B, Q] position ids of a run."""
        given = self.kwargs.get("position_ids")
        if given is None:
            given = torch.arange(self.length, device=self.device)[None] + self._past.length
        return shift(take(given, run.rows), run.closed)

    def _first_mask(self, run: _Run) -> Tensor | None:
        """What the decoder gets as attention mask; never None, or gaps in the positions would pass for packed sequences."""
        if self.mask is not None and self.mask.dim() == 4:
            return cut_mask(self.mask, run.rows, run.group.columns, run.group.seen, dense=False)
        return run.group.seen.to(torch.long if self.mask is None else self.mask.dtype)

    def _layer_kwargs(self, run: _Run, kwargs: dict[str, Any], hidden: Tensor) -> dict[str, Any]:
        short = dict(kwargs)
        if self.parts.attention_implementation.startswith("flash") and "position_embeddings" in kwargs:
            short["position_ids"] = None  # flash attention would read gaps in them as the ends of packed sequences
        elif run.group.first and kwargs.get("position_ids") is not None:
            short["position_ids"] = self._once(run, "positions", None, lambda: self._positions(run))
        if run.group.first == 0:
            return short
        mask = kwargs.get("attention_mask")
        group = run.group
        short["attention_mask"] = self._once(
            run, "mask", mask, lambda: cut_mask(mask, run.base, group.columns, group.seen, group.dense)
        )
        if (rotary := kwargs.get("position_embeddings")) is not None:
            short["position_embeddings"] = self._once(run, "rotary", rotary, lambda: self._rotary(run, rotary, hidden))
        return short

    def _rotary(self, run: _Run, rotary: Any, hidden: Tensor) -> Any:
        """Rotary (cos, sin) of a run: those of the tokens that are left, or new ones where positions closed up."""
        base = self.runs[0].closed.gather(1, run.base.cpu())
        if run.closed.equal(base):
            return like_tuple(rotary, lambda part: take(part, run.base))
        if self.parts.rotary is None:
            raise ValueError(
                'positions="reindex" inside the decoder needs a rotary module, and this one has none; use "keep"'
            )
        return self.parts.rotary(hidden, position_ids=self._positions(run))

    @staticmethod
    def _once(run: _Run, name: str, source: Any, make: Any) -> Any:
        """Make a tensor at the first layer that needs it; layers with another source (another mask) get their own."""
        key = name, id(source)
        if key not in run.ready:
            run.ready[key] = source, make()  # the source is held, so that its id stays its own
        return run.ready[key][1]

    # the way out

    def _lengthen(self, output: Any) -> None:
        last = self.runs[-1]
        if last.rows.shape[1] != self.length:
            output.last_hidden_state = put(output.last_hidden_state, last.rows, self.length)
        if getattr(output, "hidden_states", None) is not None:
            output.hidden_states = tuple(self._restore(h, i) for i, h in enumerate(output.hidden_states))

    def _restore(self, hidden: Tensor, number: int) -> Tensor:
        """A layer's hidden states at the caller's length, whichever run they come from."""
        if hidden.shape[1] == self.length:
            return hidden
        runs = [run for run in self.runs if run.rows.shape[1] == hidden.shape[1] and run.group.first <= number]
        return put(hidden, runs[-1].rows, self.length)

    def _ledger(self) -> Ledger:
        cut = ~self.left | (self.read.attended & ~self.shown)  # [B, T] places that went or were hidden
        fixed = self._past.fixed
        if bool(cut.any()):
            fixed = self._past.length + int(cut.any(0).nonzero().max()) + 1
        return Ledger([run.group for run in self.runs], self._past.length + self.length, fixed)


def _predicts(labels: Tensor | None, like: Tensor) -> Tensor:
    """[B, T] True where the next token is labelled, so that the loss reads this place's logits."""
    if labels is None or labels.shape != like.shape:
        return torch.zeros_like(like)
    return torch.cat([labels[:, 1:].cpu() != -100, torch.zeros_like(like[:, :1])], 1)


def _inverse(rows: Tensor, length: int) -> Tensor:
    """[B, length] for each place of the caller's sequence its place in a run (0 where it is not there)."""
    rows = rows.cpu()
    places = torch.arange(rows.shape[1]).expand_as(rows)
    full = torch.zeros(rows.shape[0], length + 1, dtype=torch.long)
    return full.scatter(1, torch.where(rows == PAD, length, rows), places)[:, :length]


def _to_host(chosen: Selection) -> Selection:
    score = None if chosen.score is None else chosen.score.cpu()
    return Selection(chosen.index.cpu(), chosen.source.cpu(), score, chosen.notes)


def _check_selection(cut: Cut, chosen: Selection, among: Tensor) -> None:
    """Refuse a selection that breaks the contract, so that a wrong method fails loudly at its first prefill."""
    index, valid = chosen.index.cpu(), chosen.valid.cpu()
    tokens = (among != PAD).sum(1, keepdim=True)
    if index.dim() != 2 or index.shape[0] != among.shape[0] or chosen.source.shape != among.shape:
        raise ValueError(
            f"{cut!r} returned index {tuple(index.shape)} and source {tuple(chosen.source.shape)} for image tokens "
            f"{tuple(among.shape)}; index must be [B, K] and source [B, N]"
        )
    rising = (index[:, 1:] > index[:, :-1]) | ~valid[:, 1:]
    if (
        not bool(rising.all())
        or bool(((index >= tokens) & valid).any())
        or bool(((valid.sum(1, True) == 0) & (tokens > 0)).any())
    ):
        raise ValueError(
            f"{cut!r} returned an index that is not rising, out of range, or empty for a sample with an image"
        )


__all__ = ["Call"]
