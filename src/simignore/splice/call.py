"""One forward of the decoder: what is chosen on its way, and what the caller and the cache are told afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from simignore.clock import Clock, added
from simignore.layout import Layout
from simignore.merge import blended
from simignore.observe import AttentionRow
from simignore.parts import Parts
from simignore.query import Query
from simignore.select import compose, from_kept, identity, lift, renumber
from simignore.splice.cache import Ledger, ShortCache, UnsupportedCallError, adopt, ledger_of
from simignore.splice.deepstack import DeepStack
from simignore.splice.run import Run, given_tokens
from simignore.splice.runs import Runs
from simignore.splice.sight import Sight, Tower
from simignore.splice.tensors import take
from simignore.splice.within import join, numbered, part, split
from simignore.types import PAD, Blend, Cut, Selection, Step, Trace


class Call:
    """The life of one decoder forward under a splice: :meth:`enter`, :meth:`layer` for each layer, :meth:`leave`.

    Bookkeeping of places happens on the host, on small integer tensors; only the finished indices go to the device.
    """

    def __init__(
        self,
        parts: Parts,
        cuts: Mapping[int, list[Cut]],
        observers: Mapping[int, AttentionRow],
        tower: Tower | None,
        query: Query,
        read: Layout,
        labels: Tensor | None,
        kwargs: dict[str, Any],
    ) -> None:
        self.parts, self.cuts, self.query, self.read = parts, cuts, query, read
        tokens = given_tokens(kwargs)
        self.batch, self.length, self.device = tokens.shape[0], tokens.shape[1], tokens.device
        self.clock = Clock(self.device)
        self.looked = (lambda: 0.0) if tower is None else tower.seconds()
        self.sight = Sight(parts, cuts, observers, tower, query, read, self.clock)
        self.deep = DeepStack.of(kwargs) if max(cuts, default=0) > 0 or read.image.shape[1] > 0 else None
        self.kwargs = _last_ones(kwargs, read)
        cache = kwargs.get("past_key_values")
        held = 0 if cache is None else cache.get_seq_length()
        past = ledger_of(cache)
        self.cutting = read.image.shape[1] > 0
        self.prefill = self.cutting or self.length > 1 or held == 0
        self.idle = not self.cutting and past is None  # nothing to cut, and nothing ever was: stay out of the way
        self.changed = past is not None
        if not self.idle:
            past = past or Ledger.plain(self.batch, held, kwargs.get("attention_mask"), self.device)
            self.runs = Runs(parts, self.kwargs, past)
        self.alive = read.image != PAD  # [B, N] image tokens still there and seen
        self.left = torch.ones(self.batch, self.length, dtype=torch.bool)  # [B, T] places still in the sequence
        self.shown = read.attended.clone()  # [B, T] places that others may look at
        self.closing = torch.zeros_like(self.left)  # [B, T] places whose position closes up
        self.labelled = _predicts(labels, self.left)
        # nothing can go from this call's tokens, and all of them are seen: a decoding step
        self.whole = not self.cutting and self.length == 1 and past is not None
        self.steps: list[Step] = []

    # the three doors

    def enter(self) -> dict[str, Any]:
        """The decoder's keyword arguments, shortened."""
        if self.idle:
            return self.kwargs
        if self.cutting:
            with self.clock.span():
                self.sight.enter(given_tokens(self.kwargs))
        embeds = self._cut(0, given_tokens(self.kwargs))
        if self.cutting and embeds is not self.kwargs["inputs_embeds"]:
            self.kwargs = self.runs.kwargs = {**self.kwargs, "inputs_embeds": embeds}
        run = self._start(0)
        self._observe(0)
        short = self.runs.decoder_kwargs(run) if self.changed else self.kwargs
        return short if self.deep is None else self.deep.taken_out(short)

    def layer(self, number: int, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        """The arguments of decoder layer ``number``, shortened; None if it gets what the decoder got."""
        if self.idle:
            return None
        came = hidden = args[0] if args else kwargs["hidden_states"]
        if number > 0 and number in self.cuts and (hidden.dim() != 3 or hidden.shape[0] != self.batch):
            raise UnsupportedCallError(
                f"the hidden states before layer {number} of this decoder have the shape {tuple(hidden.shape)}, not [batch, "
                "tokens, width], so its layers hand on more than one state of each token. Cut before the decoder instead."
            )
        if number > 0:
            if self.deep is not None:
                hidden = self.deep.add(hidden, number - 1, self.runs.last.rows)
            before = self.left, self.shown
            hidden = self._cut(number, hidden)
            if self._moved(*before) or self.runs.past.parts_at(number):
                run = self._start(number)
                hidden = hidden if run.whole else take(hidden, run.within)
            self._observe(number)
        if hidden is came and (not self.changed or self.runs.untouched()):
            return None
        short = self.runs.layer_kwargs(number, kwargs, hidden) if self.changed else kwargs
        if not args:
            return args, {**short, "hidden_states": hidden}
        return (hidden, *self.runs.layer_args(args[1:])), short

    def leave(self, output: Any, trace: Trace, lock: Lock) -> Any:
        """The decoder's output with hidden states back at their old places; books the cut in the cache and the trace."""
        if self.changed:
            self.runs.lengthen(output)
            adopt(output.past_key_values, self._ledger())
        if self.prefill:
            chosen = identity(self.read.image != PAD)
            for step in self.steps:
                chosen = compose(chosen, step.selection)
            with lock:
                trace.selections.append(chosen)
                trace.steps.append(tuple(self.steps))
                trace.patches.append(self.read.patches)
                trace.tokens_before.append(self.length)
                trace.tokens_after.append(self.length if self.idle else self.runs.last.rows.shape[1])
                trace._clocks.append(added(self.clock.seconds, self.looked))
                if any({"text", "question"}.intersection(cut.needs) for group in self.cuts.values() for cut in group):
                    trace.query = self.query.origin
        return output

    # choosing

    def _cut(self, number: int, hidden: Tensor) -> Tensor:
        """Run the cuts before this layer; the hidden states with what tokens take in of others."""
        if not self.cutting or number not in self.cuts:
            return hidden
        before = self.left, self.shown
        for cut in self.cuts[number]:
            chosen = self._choose(cut, number, hidden)
            if chosen.blend is not None:
                with self.clock.span():
                    hidden = self._blend(chosen.blend, number, hidden)
            self._apply(cut, number, chosen)
        if self._moved(*before):
            self._check_recurrent()
            self.changed = True
        return hidden

    def _moved(self, left: Tensor, shown: Tensor) -> bool:
        """Whether anything in the sequence changed since these were ``self.left`` and ``self.shown``."""
        return not (self.left.equal(left) and self.shown.equal(shown))

    def _blend(self, blend: Blend, number: int, hidden: Tensor) -> Tensor:
        """Hidden states [B, Q, D], and features still to be added, in which tokens took in others."""
        at = renumber(blend, self.read.image)  # in places of the caller's sequence
        if self.deep is not None:
            self.deep.blend(at)
        if number:
            slots = (self.runs.slots(x.clamp(min=0)) for x in (at.target, at.origin))
            target, origin = (x.masked_fill(at.target == PAD, PAD) for x in slots)
            at = Blend(target, origin, at.weight)
        return blended(hidden, at)

    def _check_recurrent(self) -> None:
        """Layers that carry a state see every token that is there; none can stay only to say what comes next."""
        if self.parts.recurrent and bool((self.left & self.read.attended & ~self.shown).any()):
            raise UnsupportedCallError(
                "a dropped image token stands where the next token is labelled or asked for, so it would have to stay "
                "without being seen, and this model's recurrent layers see every token. Put text behind the image, and label "
                "the first token behind it -100."
            )

    def release(self) -> None:
        """Let the cache answer with its logical length again; also after an interrupted forward."""
        if isinstance(cache := self.kwargs.get("past_key_values"), ShortCache):
            cache.inside = False

    def _choose(self, cut: Cut, number: int, hidden: Tensor) -> Selection:
        among = from_kept(self.alive).index  # [B, N'] numbers of the tokens still there
        with self.clock.span(), torch.no_grad():
            view = self.sight.view(cut, number, hidden, among, self.runs)
            if cut.within == "sample":
                chosen = cut.choose(view)
            else:
                parting = part(view.patches, cut.within)
                with numbered(parting, cut.within):
                    chosen = cut.choose(split(view, parting, self.read.patches, cut.within))
                    _check_selection(cut, chosen, parting.index)
                chosen = join(chosen, parting, among.shape[0], among.shape[1], cut.within)
        _check_selection(cut, chosen, among)
        return lift(_to_host(chosen), among, self.alive.shape[1])

    def _apply(self, cut: Cut, number: int, chosen: Selection) -> None:
        """Book a selection: which places leave the sequence, and which are only hidden."""
        image = self.read.image
        going = self.alive & ~chosen.kept  # [B, N]
        places = torch.zeros(self.batch, self.length + 1, dtype=torch.bool)
        places = places.scatter(1, torch.where(going, image, self.length), True)[:, : self.length]
        self.alive = self.alive & chosen.kept
        self.shown = self.shown & ~places
        if cut.hide == "drop":
            # a place that has to predict a labelled token stays, unseen by the others, as it would under a mask
            self.left = self.left & ~(self._droppable(places) & ~self.labelled)
        if cut.positions == "reindex":
            self.closing = self.closing | places
        self.steps.append(Step(("layer", number) if number else "projector", cut.hide, chosen))

    def _droppable(self, places: Tensor) -> Tensor:
        """[B, T] what may leave with these places: padding too, but not a prompt's last token, which says what comes next."""
        if not bool(places.any()):
            return places
        last = self.read.attended.long().cumsum(1).argmax(1, keepdim=True)  # [B, 1]
        return (places | ~self.read.attended).scatter(1, last, False)

    def _observe(self, number: int) -> None:
        """Ask for the attention row in layer ``number`` if a cut before the next layer needs it."""
        if self.cutting:
            last = (self.shown & self.left).long().cumsum(1).argmax(1, keepdim=True)  # [B, 1] the last visible place
            self.sight.ask(number, last, self.runs)

    def _start(self, number: int) -> Run:
        if self.whole:
            return self.runs.go_on(number)
        return self.runs.start(number, self.left, self.shown, self.closing)

    # the way out

    def _ledger(self) -> Ledger:
        if self.whole:
            past = self.runs.past
            return Ledger([run.group for run in self.runs.all], past.length + self.length, past.fixed)
        cut = ~self.left | (self.read.attended & ~self.shown)  # [B, T] places that went or were hidden
        past = self.runs.past
        fixed = past.length + int(cut.any(0).nonzero().max()) + 1 if bool(cut.any()) else past.fixed
        return Ledger([run.group for run in self.runs.all], past.length + self.length, fixed)


def _last_ones(kwargs: dict[str, Any], read: Layout) -> dict[str, Any]:
    """The decoder's arguments, asked for its last few hidden states only where nothing can go from among them."""
    wanted = kwargs.get("logits_to_keep")
    if wanted is None or (isinstance(wanted, int) and wanted == 0):
        return kwargs
    if isinstance(wanted, int) and bool((read.attended & ~read.placeholders)[:, -wanted:].all()):
        return kwargs
    return {**kwargs, "logits_to_keep": 0}


def _predicts(labels: Tensor | None, like: Tensor) -> Tensor:
    """[B, T] True where the next token is labelled, so that the loss reads this place's logits."""
    if labels is None or labels.shape != like.shape:
        return torch.zeros_like(like)
    return torch.cat([labels[:, 1:].cpu() != -100, torch.zeros_like(like[:, :1])], 1)


def _to_host(chosen: Selection) -> Selection:
    score = None if chosen.score is None else chosen.score.cpu()
    return Selection(chosen.index.cpu(), chosen.source.cpu(), score, chosen.notes, chosen.blend)


def _check_selection(cut: Cut, chosen: Selection, among: Tensor) -> None:
    """Refuse a selection that breaks the contract, so that a wrong method fails loudly at its first prefill."""
    index, valid = chosen.index.cpu(), chosen.valid.cpu()
    tokens = (among != PAD).sum(1, keepdim=True)
    if index.dim() != 2 or index.shape[0] != among.shape[0] or chosen.source.shape != among.shape:
        raise ValueError(
            f"{cut!r} returned index {tuple(index.shape)} and source {tuple(chosen.source.shape)} for image tokens "
            f"{tuple(among.shape)}; index must be [B, K] and source [B, N]. Let `choose` return one of simignore.select, "
            "such as top_k(score, view.real, self.keep)"
        )
    rising = (index[:, 1:] > index[:, :-1]) | ~valid[:, 1:]
    faults = (
        ("an index that is not rising", ~rising.all(1)),
        ("an index that is out of range", ((index >= tokens) & valid).any(1)),
        ("nothing", (valid.sum(1) == 0) & (tokens[:, 0] > 0) & (not cut.clears)),
    )
    for what, broken in faults:
        if bool(broken.any()):
            sample = int(broken.nonzero()[0, 0])
            own = [number for number in index[sample].tolist() if number != PAD]
            raise ValueError(
                f"{cut!r} returned {what} for sample {sample}, which has {int(tokens[sample, 0])} image tokens: {_short(own)}. "
                "An index holds rising numbers of image tokens of its own sample and -1 behind them, at least one where there "
                "is an image; let `choose` return one of simignore.select, such as top_k(score, view.real, self.keep)"
            )


def _short(numbers: list[int]) -> str:
    return str(numbers) if len(numbers) <= 12 else f"[{', '.join(map(str, numbers[:12]))}, ...]"


__all__ = ["Call"]
