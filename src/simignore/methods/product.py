"""Product: two scores in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from simignore.budget import Keep, check_number
from simignore.diversity import both
from simignore.methods.base import Scorer, check_plain, common_span
from simignore.types import Cut, Look, View


class Product(Scorer):
    """Score tokens by two methods at once: the weighted geometric mean of their scores, each put between 0 and 1 per sample.

    Why it works: what one rule overlooks the other may see, and a token has to please both. Source: this project.

    first: the method whose keep, layer, hide, positions and within count. second: another one with scores for the same site.
    weight: how much the second counts, in [0, 1].
    Raises ValueError for different sites, for a weight out of range, and where both ask for different spans of the prompt.
    """

    composed: ClassVar[bool] = True

    first: Scorer
    second: Scorer
    weight: float

    def __init__(self, first: Scorer, second: Scorer, weight: float = 0.5) -> None:
        for scorer in (first, second):
            if not isinstance(scorer, Scorer):
                raise TypeError(
                    f"a product is made of methods with scores, got {type(scorer).__name__}: "
                    "Product(Simignore(keep=64), FasterVLM(keep=64))"
                )
            check_plain("Product", scorer)
        if [cut.site for cut in first.cuts()] != [cut.site for cut in second.cuts()]:
            raise ValueError(f"{first} and {second} cut at different sites; give both the same layer")
        if not 0 <= check_number("weight", weight) <= 1:
            raise ValueError(f"weight={weight:g} of the second score must be in [0, 1]")
        common_span((first, second))
        attentive = [scorer for scorer in (first, second) if "attention" in scorer.needs]
        if len({"words" in scorer.needs for scorer in attentive}) > 1:
            raise ValueError(
                f"{first} and {second} read the attention of different tokens of the prompt, and a product asks for one row of "
                "it; lay one after the other with Chain"
            )
        shared = {name: getattr(first, name) for name in ("keep", "layer", "hide", "positions", "within")}
        own: dict[str, Any] = {"first": first, "second": second, "weight": float(weight), "source": "this project"}
        needs = tuple(dict.fromkeys((*first.needs, *second.needs)))
        for name, value in {**shared, **own, "needs": needs}.items():
            object.__setattr__(self, name, value)

    @property
    def score_kind(self) -> str:
        return f"geometric mean of {self.first.score_kind} and {self.second.score_kind}"

    def with_keep(self, keep: Keep) -> Product:
        return Product(self.first.with_keep(keep), self.second.with_keep(keep), self.weight)

    @property
    def looks(self) -> tuple[Look, ...]:
        return tuple(dict.fromkeys((*self.first.looks, *self.second.looks)))

    @property
    def span(self) -> str:
        """The part of the prompt that the scorers compare with."""
        return common_span((self.first, self.second))

    def raters(self, view: View) -> Tensor | None:
        mine = self.first.raters(view)
        return self.second.raters(view) if mine is None else mine

    def cuts(self) -> Sequence[Cut]:
        own, others = self.first.cuts(), self.second.cuts()
        if len(own) == 1 and own[0] is self.first:
            return (self,)
        return tuple(Product(a, b, self.weight) for a, b in zip(own, others, strict=True))  # type: ignore[arg-type]

    def score(self, view: View) -> Tensor:
        first, second = self.first.score(view), self.second.score(view)
        return both(first, second.to(first.device), view.valid.to(first.device), self.weight)

    def __repr__(self) -> str:
        return f"Product({self.first!r}, {self.second!r}, weight={self.weight!r})"

    def __str__(self) -> str:
        return f"Product({self.first}, {self.second}{'' if self.weight == 0.5 else f', weight={self.weight!r}'})"

    def __eq__(self, other: object) -> bool:
        mine = (self.first, self.second, self.weight)
        return isinstance(other, Product) and mine == (other.first, other.second, other.weight)

    def __hash__(self) -> int:
        return hash((self.first, self.second, self.weight))
