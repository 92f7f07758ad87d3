"""UniformGrid: tokens evenly spread over each image, the baseline that looks at nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simignore.cells import partition
from simignore.methods.base import Method
from simignore.select import from_kept
from simignore.types import Selection, View


@dataclass(frozen=True)
class UniformGrid(Method):
    """Cut each grid (an image, tile or frame) into equal cells and keep the token nearest to the middle of each. The budget is
    shared out over the sample's grids in proportion to their tokens; a grid may get none where the budget is small.

    Why it works: neighbouring patches resemble each other, so an even sample of them stands for all; a rule that looks at the
    image or the text has to beat it. Source: a baseline, as every comparison of token reduction carries it.

    keep: a count, or a fraction of the image tokens that reach the site; exactly that many stay. Tokens that earlier cuts took
        are not there: the cells are made of those that are. Tokens without places (``Grid.kind`` "tokens") are one long row.
    """

    source: ClassVar[str] = "baseline"
    score_name: ClassVar[str] = ""

    def choose(self, view: View) -> Selection:
        kept, _ = partition(view.patches, self.amounts(view))
        return from_kept(kept)
