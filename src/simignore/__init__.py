"""Ask a vision-language model with fewer image tokens: keep those that the question is about, see what was dropped.

The story, in the order of the files:
families  where a model keeps its vision tower, projector, decoder and image token (parts, discover), and how the tokens of
          an image lie (geometry)
prompt    image + text -> what the processor makes of it, and where each span of the text sits (wording, layout, query)
observe   read-only hooks that capture only what a method asks for
methods   View -> Selection: which image tokens stay
select    scores -> Selection, without a model
splice    the one surgeon: shortens hidden states, masks, positions and caches of an unmodified model
answer    the answer, and what it cost
places    where image tokens lie on the user's own pictures
flow      what the model looks at for its answer, and whether dropping the rest was right
evaluate  benchmarks, runs that survive a kill, comparisons with intervals
figures   what stayed, as a picture
tiny      the bundled model, its scenes and questions
train     a similarity that learns what the decoder needs (head)
convert   original LLaVA and Mipha checkpoints -> the layout of transformers
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simignore import evaluate, figures, flow, tiny
    from simignore import train as train
    from simignore.answer import ask
    from simignore.budget import AtLeast as AtLeast
    from simignore.budget import Mass as Mass
    from simignore.budget import OfAll as OfAll
    from simignore.budget import Outliers as Outliers
    from simignore.budget import Schedule as Schedule
    from simignore.families import FAMILIES, UnsupportedModelError
    from simignore.methods import *  # noqa: F403
    from simignore.methods import METHODS, PRESETS, Chain, FastV, Method, Random, Scorer, Simignore, Simignore2, preset
    from simignore.places import locate
    from simignore.prompt import Prompt, build
    from simignore.splice import UnsupportedCallError
    from simignore.types import Answer, Selection, Trace, View

__version__ = "0.1.0"

_HOME_OF = {  # public name -> the room it lives in
    "FAMILIES": "families",
    "METHODS": "methods",
    "PRESETS": "methods",
    "Answer": "types",
    "Chain": "methods",
    "Simignore2": "methods",
    "FastV": "methods",
    "Method": "methods",
    "Prompt": "prompt",
    "Random": "methods",
    "Scorer": "methods",
    "Selection": "types",
    "Simignore": "methods",
    "Trace": "types",
    "UnsupportedCallError": "splice",
    "UnsupportedModelError": "families",
    "View": "types",
    "ask": "answer",
    "build": "prompt",
    "locate": "places",
    "preset": "methods",
}

__all__ = [
    "FAMILIES",
    "METHODS",
    "PRESETS",
    "Answer",
    "Chain",
    "FastV",
    "Method",
    "Prompt",
    "Random",
    "Scorer",
    "Selection",
    "Simignore",
    "Simignore2",
    "Trace",
    "UnsupportedCallError",
    "UnsupportedModelError",
    "View",
    "ask",
    "build",
    "evaluate",
    "figures",
    "flow",
    "locate",
    "preset",
    "tiny",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import simignore`` and ``simignore --help`` stay quick."""
    if name in ("evaluate", "tiny", "figures", "flow", "train"):
        return import_module(f"simignore.{name}")
    if name in _HOME_OF:
        return getattr(import_module(f"simignore.{_HOME_OF[name]}"), name)
    if name[:1].isupper():  # every other method, and every budget rule
        for room in ("methods", "budget"):
            found = getattr(import_module(f"simignore.{room}"), name, None)
            if isinstance(found, type) and found.__module__.startswith(f"simignore.{room}"):  # not what it imports
                return found
    raise AttributeError(f"module 'simignore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})
