"""Diverse: the scores of any method, under a rule that avoids choosing the same thing twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from simignore.budget import Keep, check_number
from simignore.diversity import How, diverse
from simignore.methods.base import Method, Scorer, check_plain, needed
from simignore.types import Cut, Look, Selection, View


class Diverse(Scorer):
    """Choose by the scores of ``scorer`` and by how unlike the tokens are: greedily, under a determinantal point process whose
    kernel is L = diag(r) cos(V, V) diag(r), with r the scores between 0 and 1, or by max-min distance times r.

    Why it works: the best-scored tokens often show one and the same thing; what a second copy would take, another can have.
    Source: the kernel is CDPruner's (arXiv 2506.10967), the max-min rule DivPrune's (arXiv 2503.02175).

    scorer: any method that keeps its highest scores, such as ``Diverse(FastV(keep=64))``; a budget that reads scores reads
        those.
    how: "dpp" or "max-min". sharpness: the power that r is raised to; 0 leaves diversity alone, large ones the scores.
    keep: that of ``scorer``; so are layer, hide, positions, within, needs and looks.
    """

    composed: ClassVar[bool] = True

    scorer: Scorer
    how: How
    sharpness: float

    def __init__(self, scorer: Scorer, how: How = "dpp", sharpness: float = 1.0) -> None:
        if not isinstance(scorer, Scorer):
            raise TypeError(
                f"Diverse is laid over a method with scores, got {type(scorer).__name__}: Diverse(Simignore(keep=64))"
            )
        check_plain("Diverse", scorer)
        if how not in ("dpp", "max-min"):
            raise ValueError(f"how={how!r} is none of 'dpp', 'max-min'")
        if check_number("sharpness", sharpness) < 0:
            raise ValueError(f"sharpness={sharpness:g} would prefer what scores low; it must be at least 0")
        _take(self, scorer, {"scorer": scorer, "how": how, "sharpness": float(sharpness)})
        object.__setattr__(self, "needs", tuple(dict.fromkeys((*scorer.needs, "visual"))))

    @property
    def score_kind(self) -> str:
        return self.scorer.score_kind

    def with_keep(self, keep: Keep) -> Diverse:
        return Diverse(self.scorer.with_keep(keep), self.how, self.sharpness)

    @property
    def looks(self) -> tuple[Look, ...]:
        return self.scorer.looks

    @property
    def span(self) -> str:
        """The part of the prompt that the scorer compares with."""
        return getattr(self.scorer, "span", "auto")

    def raters(self, view: View) -> Tensor | None:
        return self.scorer.raters(view)

    def cuts(self) -> Sequence[Cut]:
        own = self.scorer.cuts()
        if len(own) == 1 and own[0] is self.scorer:
            return (self,)
        return tuple(Diverse(cut, self.how, self.sharpness) for cut in own)  # type: ignore[arg-type]

    def score(self, view: View) -> Tensor:
        return self.scorer.score(view)

    def choose(self, view: View) -> Selection:
        score = self.score(view)
        counts, notes = self.counted(view, score)
        visual = needed(view.visual, "visual")
        return replace(diverse(view, score, visual, counts, self.how, self.sharpness), notes=notes)

    def __repr__(self) -> str:
        return f"Diverse({self.scorer!r}{self._told})"

    def __str__(self) -> str:
        return f"Diverse({self.scorer}{self._told})"

    @property
    def _told(self) -> str:
        how = "" if self.how == "dpp" else f", how={self.how!r}"
        short = f"{self.sharpness:g}"  # 2 rather than 2.0, where no digit is lost
        exact = short if float(short) == self.sharpness else repr(self.sharpness)
        return how + ("" if self.sharpness == 1 else f", sharpness={exact}")

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Diverse) and type(self) is type(other)
        return same and (self.scorer, self.how, self.sharpness) == (other.scorer, other.how, other.sharpness)  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), self.scorer, self.how, self.sharpness))


def _take(wrapper: Any, inner: Method, own: dict[str, Any]) -> None:
    """Set a wrapper's own fields and those that it shares with the method inside."""
    shared = {name: getattr(inner, name) for name in ("keep", "layer", "hide", "positions", "within", "source")}
    for name, value in {**shared, **own}.items():
        object.__setattr__(wrapper, name, value)
