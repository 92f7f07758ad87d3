"""The frames of transformers' generation that a forward was called from.

Some modes of ``generate`` leave no other sign in what they pass to the model than their place on the stack.
"""

from __future__ import annotations

import sys
from types import FrameType

_GENERATION = "transformers.generation"


def generation_frame(name: str) -> FrameType | None:
    """The frame of transformers' own ``name`` ("generate", "_prefill" ...), however far up; None if there is none.

    A function of the same name that is not transformers' does not count.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == name and _is_generation(frame):
            return frame
        frame = frame.f_back
    return None


def _is_generation(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return module == _GENERATION or module.startswith(_GENERATION + ".")


__all__ = ["generation_frame"]
