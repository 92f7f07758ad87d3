"""The methods by name. A new one is one file in this folder and one line here: its import, from which ``METHODS`` takes it.

Those of the last block are laid over methods and make new ones of them.
"""

from __future__ import annotations

from inspect import isabstract
from typing import TYPE_CHECKING

from simignore.budget import Schedule
from simignore.methods.base import Method as Method
from simignore.methods.base import Scorer as Scorer

# in the order in which they are listed
# isort: off
from simignore.methods.random import Random as Random
from simignore.methods.uniform_grid import UniformGrid as UniformGrid
from simignore.methods.pooled import Pooled as Pooled
from simignore.methods.simignore import Simignore as Simignore
from simignore.methods.simignore2 import Simignore2 as Simignore2
from simignore.methods.learned import LearnedSimignore as LearnedSimignore
from simignore.methods.divprune import DivPrune as DivPrune
from simignore.methods.cdpruner import CDPruner as CDPruner
from simignore.methods.fastervlm import FasterVLM as FasterVLM
from simignore.methods.received import Received as Received
from simignore.methods.visionzip import VisionZip as VisionZip
from simignore.methods.vispruner import VisPruner as VisPruner
from simignore.methods.prumerge import PruMerge as PruMerge
from simignore.methods.prumerge_plus import PruMergePlus as PruMergePlus
from simignore.methods.hiprune import HiPrune as HiPrune
from simignore.methods.tome import ToMe as ToMe
from simignore.methods.fastv import FastV as FastV
from simignore.methods.pyramiddrop import PyramidDrop as PyramidDrop
from simignore.methods.sparsevlm import SparseVLM as SparseVLM
from simignore.methods.evs import EVS as EVS

from simignore.methods.chain import Chain as Chain
from simignore.methods.diverse import Diverse as Diverse
from simignore.methods.frame_budget import FrameBudget as FrameBudget
from simignore.methods.merged import Merged as Merged
from simignore.methods.product import Product as Product
# isort: on

METHODS: dict[str, type[Method]] = {  # "uniform-grid" is the class of uniform_grid.py
    kind.__module__.rpartition(".")[2].replace("_", "-"): kind
    for kind in list(vars().values())
    if isinstance(kind, type) and issubclass(kind, Method) and not isabstract(kind) and not kind.composed
}

_TOKENS = (192, 128, 64)  # of 576, the budgets that most papers publish
_SPARSEVLM = {
    192: Schedule({2: 300, 6: 200, 15: 110}),
    128: Schedule({2: 303, 6: 110, 15: 36}),
    64: Schedule({2: 66, 6: 30, 15: 17}),
}

PRESETS: dict[str, Method] = {
    "simignore/llava-1.5-7b": Chain(
        Simignore(keep=452, skip=1, span="simignore/llava-1.5-7b"), FastV(keep=144, layer=5)
    ),
    "simignore/llava-1.5-13b": Chain(
        Simignore(keep=451, stride=2, span="simignore/llava-1.5-13b"), FastV(keep=144, layer=4)
    ),
    "fastv": FastV(keep=0.5, layer=2),
    "pyramiddrop": PyramidDrop(keep=Schedule({8: 0.5, 16: 0.25, 24: 0.125})),
    **{f"sparsevlm/{k}": SparseVLM(keep=_SPARSEVLM[k]) for k in _TOKENS},
    **{f"sparsevlm-v1/{k}": SparseVLM(keep=_SPARSEVLM[k], recycle=True) for k in _TOKENS},
    **{f"visionzip/{k}": VisionZip(keep=k) for k in _TOKENS},
    **{f"vispruner/{k}": VisPruner(keep=k, important=0.75 if k == 64 else 0.5) for k in _TOKENS},
    **{f"hiprune/{k}": HiPrune(keep=k) for k in _TOKENS},
    **{f"divprune/{k}": DivPrune(keep=k) for k in _TOKENS},
    **{f"cdpruner/{k}": CDPruner(keep=k) for k in _TOKENS},
    **{f"tome/{k}": ToMe(keep=k) for k in _TOKENS},
    **{f"fastervlm/{share}": FasterVLM(keep=share / 100) for share in (50, 25, 10, 5)},  # % of the tokens
    "prumerge": PruMerge(),
    "prumerge-plus": PruMergePlus(),
    "evs": EVS(keep=0.25),
}


def preset(name: str) -> Method:
    """A method with its published settings, such as "visionzip/64". Raises KeyError naming the known ones."""
    if name not in PRESETS:
        raise KeyError(f"no preset {name!r}; there are {', '.join(sorted(PRESETS))}")
    return PRESETS[name]


if not TYPE_CHECKING:  # else a star would bring the modules too, and with them names such as `random`
    __all__ = ["METHODS", "PRESETS", "preset"] + [
        name for name, kind in vars().items() if isinstance(kind, type) and issubclass(kind, Method)
    ]
