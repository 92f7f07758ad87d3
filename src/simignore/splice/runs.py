"""The shortened sequence, run by run: neighbouring decoder layers between two cuts share one length, and so one set of
positions, rotary angles and mask. Each is made once per forward, when the first layer asks."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from simignore.parts import Parts
from simignore.splice.cache import Group, Ledger, UnsupportedCallError
from simignore.splice.run import Run, given_tokens, inverse
from simignore.splice.tensors import count_before, cut_mask, like_tuple, pack, put, shift, take, take_places
from simignore.types import PAD


class Runs:
    """The runs of one decoder forward, and the arguments that the decoder and its layers get in each.

    kwargs: what the decoder was called with, at full length. past: the cache's ledger before this call.
    """

    def __init__(self, parts: Parts, kwargs: dict[str, Any], past: Ledger) -> None:
        self.parts, self.kwargs, self.past = parts, kwargs, past
        tokens = given_tokens(kwargs)
        self.batch, self.length, self.device = tokens.shape[0], tokens.shape[1], tokens.device
        self.mask: Any = kwargs.get("attention_mask")
        self.flash = parts.attention_implementation.startswith("flash")
        self.all: list[Run] = []
        self.widths: dict[int, int] = {}  # keys that each layer looks at

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
            within = inverse(self.last.rows, self.length).gather(1, base)
            base = inverse(first.rows, self.length).gather(1, base)
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
        return inverse(self.last.rows, self.length).gather(1, places)

    def decoder_kwargs(self, run: Run) -> dict[str, Any]:
        """What the decoder gets instead of ``kwargs``: everything that has a row for each token is cut."""
        short = dict(self.kwargs)
        if not run.whole:
            short = {name: self._cut_rows(value, run) for name, value in short.items()}
        return {**short, "position_ids": self._positions(run), "attention_mask": self._first_mask(run)}

    def _cut_rows(self, value: Any, run: Run) -> Any:
        if not isinstance(value, Tensor) or value.shape[:2] != (self.batch, self.length):
            return value
        short = take(value, run.rows)
        return short & (run.rows != PAD) if value.dtype == torch.bool else short  # padding belongs to no image

    def _positions(self, run: Run) -> Tensor:
        """[B, Q] position ids of a run, or [3 or 4, B, Q] for M-RoPE."""
        given = self.kwargs.get("position_ids")
        if given is None:
            given = self._default_positions()
        if run.whole and not bool(run.closed.any()):
            return given
        if given.dim() == 3 and bool(run.closed.any()):
            raise UnsupportedCallError(
                'positions="reindex" closes gaps in a line, and this model numbers the tokens of an image by row and column '
                '(M-RoPE), where dropped tokens leave none. Use positions="keep".'
            )
        return shift(take_places(given, run.rows, -1), run.closed)

    def _default_positions(self) -> Tensor:
        """[B or 1, T] the positions that the decoder would count by itself."""
        if self.parts.rotary is None and isinstance(self.mask, Tensor) and self.mask.dim() == 2:
            counted = self.mask.long().cumsum(1) - 1  # decoders with learned positions leave padding out
            return counted[:, -self.length :].clamp(min=0)
        return torch.arange(self.length, device=self.device)[None] + self.past.length

    def _first_mask(self, run: Run) -> Any:
        """What the decoder gets as attention mask; never None, or gaps in the positions would pass for packed sequences."""
        group = run.group
        if isinstance(self.mask, dict):
            kinds = list(getattr(self.parts.decoder.config, "layer_types", ()))
            return {
                kind: self._cut_first(mask, run, kinds.index(kind) if kind in kinds else 0)
                for kind, mask in self.mask.items()
            }
        if self.mask is not None:  # looked at in every step: the caller may have hidden more than at the prefill
            return self._cut_first(self.mask.to(self.device), run, 0)
        given = self.kwargs.get("position_ids")
        if (
            given is not None
            and self.length > 1
            and bool((given[..., 1:] < given[..., :-1]).any())
            and given.dim() == 2
        ):
            raise UnsupportedCallError(
                "position_ids start again within a row and there is no attention_mask, so the row holds packed sequences, "
                "which a shortened prompt could not keep apart. Pass them as rows of a batch, or with a 4-D attention_mask."
            )
        return group.seen.long()

    def _cut_first(self, mask: Tensor | None, run: Run, layer: int) -> Tensor | None:
        """A mask that the model made for the caller's tokens, cut for the first run; ``layer`` is one that it serves."""
        group = run.group
        if isinstance(self.mask, dict) and self.parts.attentions[layer] is None:
            return self._recurrent_mask(run, mask)
        if mask is not None and mask.dim() == 2:
            return cut_mask(mask, run.rows, group.columns, group.seen, dense=False)
        keys = self._keys_at_first(layer, run)
        missing = 0 if mask is None else self.past.length + self.length - mask.shape[-1]
        return cut_mask(mask, run.rows, group.columns[:, -keys:], group.seen[:, -keys:], group.dense, missing)

    def _keys_at_first(self, layer: int, run: Run) -> int:
        """Keys that a layer of this kind looks at if it is in the first run: fewer than were passed in a sliding window."""
        now, keys = run.rows.shape[1], run.group.columns.shape[1]
        held = getattr(self.kwargs.get("past_key_values"), "layers", ())
        window = getattr(held[layer], "sliding_window", None) if layer < len(held) else None
        return keys if window is None or keys - now < window else now + window - 1

    def _keys(self, layer: int, run: Run) -> int:
        """Keys that a layer looks at: those that it holds and this call's, or those of the layer whose keys it shares."""
        source = self.parts.key_sources[layer]
        if source == layer:
            held = getattr(self.kwargs.get("past_key_values"), "layers", ())
            keys = getattr(held[layer], "keys", None) if layer < len(held) else None
            self.widths[layer] = run.rows.shape[1] + (0 if keys is None else int(keys.shape[-2]))
        return self.widths[source]

    def untouched(self) -> bool:
        """Whether the layers of this run get just what the decoder hands them."""
        return self.last.group.first == 0 and not self.flash

    def layer_kwargs(self, number: int, kwargs: dict[str, Any], hidden: Tensor) -> dict[str, Any]:
        """What layer ``number`` gets instead of ``kwargs``; ``hidden`` is its input, for type and device."""
        run, short = self.last, dict(kwargs)
        if run.group.first:
            for name, value in kwargs.items():
                if hidden.shape[1] == run.rows.shape[1] or name == "attention_mask":  # else: the last tokens alone
                    short[name] = self._layer_kwarg(number, name, value, hidden)
        if self.flash and "position_embeddings" in kwargs:
            short["position_ids"] = None  # flash attention would read gaps in them as the ends of packed sequences
        return short

    def layer_args(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Further arguments that a layer gets by place, such as Gemma's inputs per layer."""
        return tuple(self._cut_base(value) for value in args) if self.last.group.first else args

    def _layer_kwarg(self, number: int, name: str, value: Any, hidden: Tensor) -> Any:
        run = self.last
        if name == "attention_mask":
            return self._layer_mask(run, value, number, hidden.shape[1])
        if value is None:
            return None
        if name == "position_embeddings":
            return self._once(run, "rotary", value, lambda: self._rotary(number, run, value, hidden))
        if name == "position_ids":
            return self._once(run, "positions", value, lambda: self._layer_positions(run, value))
        return self._cut_base(value)

    def _cut_base(self, value: Any) -> Any:
        """Anything else that has a row for each token of the first run."""
        if isinstance(value, Tensor) and value.dim() > 1 and value.shape[:2] == self.all[0].rows.shape:
            return take(value, self.last.base)
        return value

    def _layer_positions(self, run: Run, given: Tensor) -> Tensor:
        before = self.all[0].closed.gather(1, run.base.cpu())
        return shift(take_places(given, run.base, -1), run.closed - before)

    def _layer_mask(self, run: Run, mask: Any, number: int, tokens: int) -> Tensor | None:
        group, width = run.group, self.all[0].group.columns.shape[1]
        if self.parts.attentions[number] is None:
            return self._recurrent_mask(run, mask)
        if mask is None and self.flash:
            # flash attention takes padding as [B, P] and is causal by itself
            return None if group.dense else group.seen
        if mask is not None and not isinstance(mask, Tensor):
            raise UnsupportedCallError(
                f"the decoder's attention mask is a {type(mask).__name__}, which cannot be cut (flex attention). Cut before "
                "the decoder instead, or load the model with attn_implementation='sdpa'."
            )
        keys = self._keys(number, run)
        missing = 0 if mask is None else width - mask.shape[-1]
        rows = run.base
        if tokens != rows.shape[1]:  # the decoder goes on with its last tokens alone (KV sharing), and so does its mask
            rows = torch.arange(tokens, device=rows.device).expand(self.batch, -1)

        def cut() -> Tensor | None:
            return cut_mask(mask, rows, group.columns[:, -keys:], group.seen[:, -keys:], group.dense, missing)

        return self._once(run, f"mask of {tokens} by {keys}", mask, cut)  # type: ignore[no-any-return]

    def _recurrent_mask(self, run: Run, mask: Tensor | None) -> Tensor | None:
        """[B, Q] for layers that carry a state: padding must not enter it."""
        real = run.rows != PAD
        if mask is None:
            return None if run.rows.shape[1] == 1 or bool(real.all()) else real.long()
        return take(mask, run.base if run.group.first else run.rows) * real.to(mask.dtype)

    def _rotary(self, number: int, run: Run, rotary: Any, hidden: Tensor) -> Any:
        """Rotary (cos, sin) of a run: those of the tokens that are left, or new ones where positions closed up."""
        base = self.all[0].closed.gather(1, run.base.cpu())
        if run.closed.equal(base):
            return like_tuple(rotary, lambda part: take_places(part, run.base, -2))
        if self.parts.rotary is None:
            raise ValueError(
                'positions="reindex" inside the decoder needs a rotary module, and this one has none; use "keep"'
            )
        kinds = getattr(self.parts.decoder.config, "layer_types", None)
        if "layer_type" in inspect.signature(self.parts.rotary.forward).parameters and kinds is not None:
            return self.parts.rotary(hidden, self._positions(run), kinds[number])
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
        if not self.last.whole and output.last_hidden_state.shape[1] == self.last.rows.shape[1]:
            output.last_hidden_state = put(output.last_hidden_state, self.last.rows, self.length)
        if getattr(output, "hidden_states", None) is not None:
            output.hidden_states = tuple(self._restore(h, i) for i, h in enumerate(output.hidden_states))

    def _restore(self, hidden: Tensor, number: int) -> Tensor:
        """Hidden states at the caller's length, from the run that they come from."""
        # number 0 is the decoder's input, number i the output of layer i - 1, the last one normalised
        run = [run for run in self.all if run.group.first <= max(number - 1, 0)][-1]
        return hidden if run.whole else put(hidden, run.rows, self.length)
