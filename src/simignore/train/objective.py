"""What training aims at, in one place: weights, temperature and schedule."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import get_args

from simignore.budget import check_number
from simignore.train.teacher import Measure
from simignore.wording import SPANS


@dataclass(frozen=True)
class Objective:
    """Weights, temperature and schedule of the losses; docs/learning.md says what is known of each.

    flow: weight of the distillation of the decoder's flow.
    answer: of the answer's loss on the shortened sequence.
    alignment: of the contrast of patches and words, where the data say which region shows what.
    needed: of the distance to the regions that the question needs, where the data say so.
    separate: of the learnt threshold's own loss, where the data say which regions the question needs: their tokens belong
        above it and the others below, and to lose one is ``lost`` times as bad as to keep another.
    budget: of the penalty that holds the learnt threshold to ``share``, beside the answer's loss under that threshold (with
        weight 1 where ``answer`` is 0); 0 leaves the threshold alone.
    measure, into: the teacher: "attention" or "saliency" into the "question" or the "answer". layers: the decoder layers it is
        averaged over; () for the convergence layers that :mod:`simignore.flow` finds.
    temperature: of the student's softmax over image tokens, and of the alignment's over words and over image tokens.
    keeps: the fractions of image tokens that are kept in turn while the answer's loss is learnt.
    noise, slope: of the relaxed choice, in units of the score: Gumbel noise that lets other tokens in, and how soft the step at
        the threshold is to the gradient.
    answer_from: the share of all steps after which the answer's loss sets in; before, there is only the quick distillation.
    hops_alone: the share of all steps in which a head with hops learns nothing but those; its first similarity is the paper's
        until then. Without such a beginning the similarity may learn to find by itself what hops should, and they stay unused.
    share: of image tokens that the learnt threshold should keep on average.
    spans: what of the prompt the head is shown as text, in turn.
    """

    flow: float = 1.0
    answer: float = 1.0
    alignment: float = 0.0
    needed: float = 0.0
    separate: float = 0.0
    budget: float = 0.0
    measure: Measure = "attention"
    into: str = "question"
    layers: tuple[int, ...] = ()
    temperature: float = 0.1
    keeps: tuple[float, ...] = (0.25, 0.125, 0.125, 0.0625)
    noise: float = 0.1
    slope: float = 0.1
    answer_from: float = 0.3
    hops_alone: float = 0.125
    share: float = 0.125
    lost: float = 10.0
    spans: tuple[str, ...] = ("question", "question", "question+options", "user")

    def __post_init__(self) -> None:
        for name in ("keeps", "layers", "spans"):
            if not isinstance(values := getattr(self, name), tuple | list):
                raise ValueError(f"{name}={values!r} must be a tuple; for one alone write {name}=({values!r},)")
            object.__setattr__(self, name, tuple(values))
        for field in fields(self):
            if isinstance(getattr(self, field.name), int | float) or field.type == "float":
                object.__setattr__(self, field.name, check_number(field.name, getattr(self, field.name)))
        for name in ("flow", "answer", "alignment", "needed", "separate", "budget", "noise"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name):g} must not be negative; 0 leaves it out")
        for name in ("temperature", "slope", "lost"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name):g} must be above 0")
        if not self.flow + self.answer + self.alignment + self.needed + self.separate + self.budget:
            raise ValueError("all weights are 0, so there is nothing to learn; give flow or answer a weight")
        for name in ("answer_from", "hops_alone"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name):g} is a share of all steps in [0, 1)")
        for name, values in (("share", (self.share,)), ("keeps", self.keeps)):
            if not values or not all(0 < check_number(name, value) <= 1 for value in values):
                raise ValueError(f"{name}={getattr(self, name)!r}: give fractions of the image tokens in (0, 1]")
        words: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
            ("measure", get_args(Measure), (self.measure,)),
            ("into", ("question", "answer"), (self.into,)),
            ("spans", SPANS, self.spans),
        )
        for name, allowed, chosen in words:
            if not chosen or not set(chosen) <= set(allowed):
                raise ValueError(f"{name}={getattr(self, name)!r}: choose among {', '.join(map(repr, allowed))}")
        if any(isinstance(layer, bool) or not isinstance(layer, int) or layer < 0 for layer in self.layers):
            raise ValueError(f"layers={self.layers!r} must be numbers of decoder layers, counted from 0")
