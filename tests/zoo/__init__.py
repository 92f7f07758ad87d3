"""Every family as a user meets it: a tiny model of the genuine class with random weights, and its real processor.

`CASES` is what tests are parametrised over; a case is added by one entry in one of the files here. `DISCOVERED` are
families of the same structure that the table does not name, `REFUSED` models that cannot be served.
"""

from __future__ import annotations

from zoo import gemma, llava, qwen, rest, tiled_text, tiles, unnamed, unnamed_qwen
from zoo.base import Case, Sample, frames, picture

__all__ = ["CASES", "DISCOVERED", "REFUSED", "UNSURE", "Case", "Sample", "frames", "picture"]

CASES: dict[str, Case] = {
    **llava.CASES,
    **tiles.CASES,
    **tiled_text.CASES,
    **qwen.CASES,
    **gemma.CASES,
    **rest.CASES,
}
_UNFIT = {
    "ovis2": "other tokens than its image tokens are replaced too",
    "chameleon": "images become words of the vocabulary",
}
DISCOVERED: dict[str, Case] = {
    name: case for name, case in {**unnamed.CASES, **unnamed_qwen.CASES}.items() if name not in _UNFIT
}
REFUSED: dict[str, Case] = rest.REFUSED
UNSURE: dict[str, Case] = {
    name: case for name, case in {**unnamed.CASES, **unnamed_qwen.CASES}.items() if name in _UNFIT
}
