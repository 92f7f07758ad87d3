"""A method that hears the question as words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simignore import Scorer


@dataclass(frozen=True)
class Listening(Scorer):
    """Notes the questions in ``heard``; its scores mean nothing."""

    heard: ClassVar[list[str]] = []
    needs: ClassVar[tuple[str, ...]] = ("visual", "question")

    def score(self, view):
        self.heard.extend(view.questions)
        return view.visual[..., 0]
