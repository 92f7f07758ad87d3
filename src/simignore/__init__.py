"""Ask a vision-language model with fewer image tokens: keep those that the question is about, see what was dropped.

The story, in the order of the files:
families  where a model keeps its vision tower, projector, decoder and image token
prompt    image + text -> what the processor makes of it, and where each span of the text sits (layout, query)
observe   read-only hooks that capture only what a method asks for
methods   View -> Selection: which image tokens stay
select    scores -> Selection, without a model
splice    the one surgeon: shortens hidden states, masks, positions and caches of an unmodified model
answer    the answer, and what it cost
figures   what stayed, as a picture
tiny      the bundled model, its scenes and questions
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simignore import tiny
    from simignore.answer import ask
    from simignore.families import FAMILIES, UnsupportedModelError
    from simignore.methods import METHODS, PRESETS, Chain, FastV, Method, Random, Scorer, Simignore, preset
    from simignore.prompt import Prompt, build
    from simignore.splice import UnsupportedCallError
    from simignore.types import Answer, Selection, Trace, View

__version__ = "0.1.0"

_HOMES = {
    "answer": ["ask"],
    "families": ["FAMILIES", "UnsupportedModelError"],
    "methods": ["METHODS", "PRESETS", "Chain", "FastV", "Method", "Random", "Scorer", "Simignore", "preset"],
    "prompt": ["Prompt", "build"],
    "splice": ["UnsupportedCallError"],
    "types": ["Answer", "Selection", "Trace", "View"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [*sorted(_HOME_OF), "tiny"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import simignore`` and ``simignore --help`` stay quick."""
    if name == "tiny":
        return import_module("simignore.tiny")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'simignore' has no attribute {name!r}")
    return getattr(import_module(f"simignore.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
