"""The head beside its model as one module that a trainer can train: a batch in, a loss out."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from simignore.budget import budget
from simignore.flow.asked import placed
from simignore.head import Head
from simignore.hops import spots
from simignore.layout import Layout
from simignore.parts import parts
from simignore.splice.reading import read
from simignore.train import losses
from simignore.train.cut import cutting
from simignore.train.objective import Objective
from simignore.train.teacher import answer_places, attention_flow, saliency_flow

Given = dict[str, Any]
Seen = dict[str, Tensor]


@contextmanager
def restoring(model: nn.Module) -> Iterator[None]:
    """Afterwards, and after an exception, each parameter of ``model`` learns or not as before, and each module is in training
    or evaluation as before. What came in between, as adapters do, is left as it is."""
    learns = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for parameter, before in learns:
            parameter.requires_grad_(before)
        for module, mode in modes:
            module.training = mode


class Student(nn.Module):
    """A model that stays as it is (but for adapters, if it was given some), and a head that learns.

    layers: of the teacher, unless the objective names its own. adapted: the peft model around ``model``, or None.
    Its ``forward`` takes what :class:`simignore.train.data.Collator` makes and returns the loss and its parts.
    """

    def __init__(
        self, model: nn.Module, head: Head, objective: Objective, layers: Sequence[int] = (), adapted: Any = None
    ) -> None:
        super().__init__()
        if adapted is None:
            model.requires_grad_(False)
        self.base, self.head, self.objective, self.adapted = model.eval(), head, objective, adapted
        self.parts = parts(model)
        self.layers = tuple(objective.layers or layers)
        if objective.flow and not self.layers:
            raise ValueError("no layers to learn flow from: pass those of simignore.train.convergence")
        self.progress = 0.0
        self._random = random.Random(0)

    def train(self, mode: bool = True) -> Student:
        """Only the head is ever in training mode: the model beside it has to answer as it will."""
        super().train(mode)
        self.base.eval()
        return self

    def begin(self, seed: int | str, progress: float) -> None:
        """Before each batch: what it draws follows from ``seed`` alone. progress: the share of all steps done, in [0, 1)."""
        self._random, self.progress = random.Random(seed), progress
        for weight in self.head.similarity():
            weight.requires_grad_(not self.head.hops or progress >= self.objective.hops_alone)

    def forward(
        self,
        query: Tensor,
        query_valid: Tensor,
        inputs: Given | None = None,
        labels: Tensor | None = None,
        asking: Tensor | None = None,
        seen: Seen | None = None,
        words: Tensor | None = None,
        words_valid: Tensor | None = None,
        shows: Tensor | None = None,
        needed: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The loss of a batch.

        query: [B, M] token ids of the text that the head is shown; query_valid [B, M]. inputs: what the processor returned for
        prompts with their answers. labels: [B, T], -100 but for the answers. asking: [B, Q] places of the question's tokens,
        -1 padding. seen: what :meth:`look` returned before, instead of these three, where nothing is learnt under the cut.
        words: [B, W, M'] token ids of what regions show, words_valid the same; shows: [B, N, W]. needed: [B, N] image tokens
        of the regions that the question needs.
        """
        o, text = self.objective, self.parts.embed(query).detach()
        regions = {"words": words, "words_valid": words_valid, "shows": shows, "needed": needed}
        told: dict[str, Tensor] = {}
        if inputs is not None:
            inputs = self.given(inputs)
        if o.flow or o.needed or o.separate or (o.alignment and words is not None):
            if seen is None:
                seen = self.look(_told(inputs), _told(labels), _told(asking))
            told |= self._before_cut(seen, text, query_valid, regions)
        if self.progress >= o.answer_from and (o.answer or o.budget):
            told |= self._under_cut(_told(inputs), _told(labels), text, query_valid)
        if not told:  # nothing but what comes later
            return {"loss": sum(p.sum() for p in self.head.parameters()) * 0.0}  # type: ignore[dict-item]
        weights = {name: getattr(o, name) for name in ("flow", "needed", "separate", "alignment", "budget")}
        weights["answer"] = o.answer or 1.0
        loss = sum(weights[name] * part for name, part in told.items() if name in weights)
        return {"loss": loss, **{name: part.detach() for name, part in told.items()}}

    def _before_cut(
        self, seen: Seen, text: Tensor, query_valid: Tensor, regions: Mapping[str, Tensor | None]
    ) -> dict[str, Tensor]:
        """What is learnt of all image tokens at once: the decoder's flow, and what regions tell."""
        o, told = self.objective, {}
        visual, valid, where = seen["visual"], seen["valid"], seen.get("where")
        score = self.head.ranked(visual, text, query_valid, where)
        if o.flow:
            told["flow"] = losses.flow_distillation(score, seen["flow"], valid, o.temperature)
        if (needed := regions["needed"]) is not None:
            if o.needed:
                told["needed"] = losses.flow_distillation(score, needed, valid, o.temperature)
            if o.separate:
                over = score.detach() - self.head.demanded(text, query_valid)[:, None]
                told["separate"] = losses.separation(over, needed, valid, o.slope, o.lost)
        words, real, shows = (regions[name] for name in ("words", "words_valid", "shows"))
        if o.alignment and words is not None and real is not None and shows is not None:
            pairs = self._named(visual, words, real, where)
            told["alignment"] = losses.alignment(pairs, shows, valid, real.any(-1), o.temperature)
        return told

    def given(self, inputs: Given) -> Given:
        """What the processor returned, where the model is and in the type of its weights, whatever the family."""
        return placed(inputs, self.base)

    def look(self, inputs: Given, labels: Tensor, asking: Tensor) -> Seen:
        """What the untouched model gives a head to learn from: image tokens ``visual`` [B, N, D], which are real ``valid``
        [B, N], and, as far as they are wanted, ``flow`` [B, N] and ``where`` they lie [B, N, 3]."""
        o, into = self.objective, asking if self.objective.into == "question" else answer_places(labels)
        found = self._layout(inputs)
        with self._untouched():
            if o.measure == "saliency" and o.flow:
                flow, visual = saliency_flow(self.parts, found, inputs, into, self.layers, labels)
            else:
                flow, visual = attention_flow(self.parts, found, inputs, into, self.layers or (0,))
        told = {"visual": visual, "valid": (found.image >= 0).to(visual.device)}
        return told | ({"flow": flow} if o.flow else {}) | self._where(found, visual)

    def _where(self, found: Layout, visual: Tensor) -> Seen:
        return {"where": spots(found.patches).to(visual.device)} if self.head.hops else {}

    def _layout(self, inputs: Given) -> Layout:
        found = read(self.parts, inputs)
        if found is None or not all(found.counts):
            raise ValueError("a sample of this batch holds no image; every sample needs one")
        return found

    def _untouched(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.adapted is None else self.adapted.disable_adapter()

    def _under_cut(self, inputs: Given, labels: Tensor, text: Tensor, query_valid: Tensor) -> dict[str, Tensor]:
        """The answer's loss on the shortened sequence: as many tokens as a budget says, or as the threshold lets in."""
        o, told, found = self.objective, {}, self._layout(inputs)
        by_threshold = bool(o.budget) and (not o.answer or self._random.random() < 0.5)
        keep = self._random.choice(o.keeps)
        drawn = torch.Generator().manual_seed(self._random.getrandbits(48))

        def choose(visual: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
            uniform = torch.rand(valid.shape, generator=drawn).to(valid.device)
            where = self._where(found, visual).get("where")
            if by_threshold:
                score = self.head(visual.detach(), text, query_valid, where)
                kept, gates, share = losses.above(score, valid, o.noise, o.slope, uniform)
                told["budget"], told["kept"] = losses.over_budget(share, o.share), share.mean()
                return kept, gates
            score = self.head.ranked(visual.detach(), text, query_valid, where)
            counts = torch.tensor([budget(keep, n) for n in found.counts], device=valid.device)
            return losses.top(score, valid, counts, o.noise, o.slope, uniform)

        with torch.enable_grad(), cutting(self.parts, found, choose):
            told["answer"] = self.base(**inputs, labels=labels, use_cache=False).loss
        return told

    def _named(self, visual: Tensor, words: Tensor, words_valid: Tensor, where: Tensor | None) -> Tensor:
        """[B, N, W] scores of image tokens by each of some words or names of several tokens."""
        b, w, _ = words.shape
        text = self.parts.embed(words.flatten(0, 1)).detach()  # [B*W, M', D]
        valid = words_valid.flatten(0, 1).clone()
        valid[:, 0] |= ~valid.any(-1)  # padding needs one token
        places = None if where is None else where.repeat_interleave(w, 0)
        each = self.head.ranked(visual.repeat_interleave(w, 0), text, valid, places)  # [B*W, N]
        return each.view(b, w, -1).transpose(1, 2)


def _told(given: Any) -> Any:
    if given is None:
        raise ValueError("this goal needs the model's own forward; pass inputs, labels and asking")
    return given
