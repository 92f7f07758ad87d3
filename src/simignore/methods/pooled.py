"""Pooled: average pooling to as many cells as the budget allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simignore.cells import partition
from simignore.merge import averaged
from simignore.methods.base import Method
from simignore.select import from_kept
from simignore.types import Selection, View


@dataclass(frozen=True)
class Pooled(Method):
    """Average pooling: the cells of ``UniformGrid``, and the token in the middle of each becomes the mean of its cell.

    Why it works: the mean of a few neighbours keeps what they share, and nothing of the image is left out, only blurred.
    Source: a baseline, average pooling of the projected features to any number of cells.

    keep: a count, or a fraction of the image tokens that reach the site; exactly that many cells. Where the budget is so small
        that a grid gets no cell, its tokens are dropped. The mean stands at the position of the token in the middle.
    """

    source: ClassVar[str] = "baseline"
    score_name: ClassVar[str] = ""
    merges: ClassVar[bool] = True

    def choose(self, view: View) -> Selection:
        kept, source = partition(view.patches, self.amounts(view))
        return averaged(from_kept(kept), source)
