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
figures   what stayed, as a picture
tiny      the bundled model, its scenes and questions
convert   original LLaVA and Mipha checkpoints -> the layout of transformers
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simignore import figures, tiny
    from simignore.answer import ask
    from simignore.budget import AtLeast, Mass, OfAll, Outliers, Schedule
    from simignore.families import FAMILIES, UnsupportedModelError
    from simignore.methods import (
        EVS,
        METHODS,
        PRESETS,
        CDPruner,
        Chain,
        Diverse,
        DivPrune,
        FasterVLM,
        FastV,
        FrameBudget,
        HiPrune,
        Merged,
        Method,
        Pooled,
        Product,
        PruMerge,
        PruMergePlus,
        PyramidDrop,
        Random,
        Scorer,
        Simignore,
        Simignore2,
        SparseVLM,
        ToMe,
        UniformGrid,
        VisionZip,
        VisPruner,
        preset,
    )
    from simignore.places import locate
    from simignore.prompt import Prompt, build
    from simignore.splice import UnsupportedCallError
    from simignore.types import Answer, Selection, Trace, View

__version__ = "0.1.0"

_HOME_OF = {  # public name -> the room it lives in
    "FAMILIES": "families",
    "METHODS": "methods",
    "AtLeast": "budget",
    "Mass": "budget",
    "OfAll": "budget",
    "Outliers": "budget",
    "Schedule": "budget",
    "PRESETS": "methods",
    "Answer": "types",
    "Chain": "methods",
    "CDPruner": "methods",
    "Diverse": "methods",
    "DivPrune": "methods",
    "EVS": "methods",
    "FasterVLM": "methods",
    "FrameBudget": "methods",
    "HiPrune": "methods",
    "Merged": "methods",
    "Pooled": "methods",
    "Product": "methods",
    "PruMerge": "methods",
    "PruMergePlus": "methods",
    "PyramidDrop": "methods",
    "Simignore2": "methods",
    "SparseVLM": "methods",
    "ToMe": "methods",
    "UniformGrid": "methods",
    "VisPruner": "methods",
    "VisionZip": "methods",
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
    "EVS",
    "FAMILIES",
    "METHODS",
    "PRESETS",
    "Answer",
    "AtLeast",
    "CDPruner",
    "Chain",
    "DivPrune",
    "Diverse",
    "FastV",
    "FasterVLM",
    "FrameBudget",
    "HiPrune",
    "Mass",
    "Merged",
    "Method",
    "OfAll",
    "Outliers",
    "Pooled",
    "Product",
    "Prompt",
    "PruMerge",
    "PruMergePlus",
    "PyramidDrop",
    "Random",
    "Schedule",
    "Scorer",
    "Selection",
    "Simignore",
    "Simignore2",
    "SparseVLM",
    "ToMe",
    "Trace",
    "UniformGrid",
    "UnsupportedCallError",
    "UnsupportedModelError",
    "View",
    "VisPruner",
    "VisionZip",
    "ask",
    "build",
    "figures",
    "locate",
    "preset",
    "tiny",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import simignore`` and ``simignore --help`` stay quick."""
    if name in ("tiny", "figures"):
        return import_module(f"simignore.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'simignore' has no attribute {name!r}")
    return getattr(import_module(f"simignore.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})
