"""Chain: one method after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from simignore.budget import Keep
from simignore.methods.base import Method, common_span
from simignore.types import Cut, Selection, View


class Chain(Method):
    """Several methods in a row, each choosing among the tokens that the ones before it left.

    Why: published rows are often two rules, such as ``Chain(Simignore(keep=452), FastV(layer=5, keep=144))``.

    methods: in the order of their sites, those before the decoder first. Chains may hold chains.
    keep, hide, positions, within: those of the last one. Raises ValueError where two ask for different spans of the prompt.
    """

    composed: ClassVar[bool] = True

    methods: tuple[Method, ...]

    def __init__(self, *methods: Method) -> None:
        if not methods:
            raise ValueError("a chain needs at least one method: Chain(Simignore(keep=64), FastV(keep=32))")
        for method in methods:
            if not isinstance(method, Method):
                raise TypeError(
                    f"a chain is made of methods, got {type(method).__name__}: Chain(Simignore(keep=64), ...)"
                )
        common_span(methods)
        last = methods[-1]
        for name, value in (
            ("methods", methods),
            ("keep", last.keep),
            ("layer", last.layer),
            ("hide", last.hide),
            ("positions", last.positions),
            ("within", last.within),
        ):
            object.__setattr__(self, name, value)

    @property
    def score_kind(self) -> str:
        return next(filter(None, (method.score_kind for method in self.methods)), "")  # see `select.compose`

    def with_keep(self, keep: Keep) -> Method:
        raise ValueError(
            f"{self} has a budget for each of its methods, and keep={keep!r} would be one for all; make a chain for each "
            "budget (to compare it: simignore.evaluate.compare.Entry(label, keep, chain, fixed=True))"
        )

    @property
    def span(self) -> str:
        """The part of the prompt that its methods compare with."""
        return common_span(self.methods)

    def cuts(self) -> Sequence[Cut]:
        return [cut for method in self.methods for cut in method.cuts()]

    def choose(self, view: View) -> Selection:
        raise TypeError("a chain chooses at several sites; call the methods in `.methods`")

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.methods))})"

    def __str__(self) -> str:
        return f"Chain({', '.join(map(str, self.methods))})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chain) and self.methods == other.methods

    def __hash__(self) -> int:
        return hash(self.methods)
