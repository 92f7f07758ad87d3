"""The methods by name. A new one is one file in this folder, its import, and one line in ``METHODS``.

``Chain``, ``Diverse``, ``FrameBudget``, ``Merged`` and ``Product`` are laid over methods and make new ones of them.
"""

from __future__ import annotations

from simignore.budget import Schedule
from simignore.methods.base import Method, Scorer
from simignore.methods.cdpruner import CDPruner
from simignore.methods.chain import Chain
from simignore.methods.diverse import Diverse
from simignore.methods.divprune import DivPrune
from simignore.methods.evs import EVS
from simignore.methods.fastervlm import FasterVLM
from simignore.methods.fastv import FastV
from simignore.methods.frame_budget import FrameBudget
from simignore.methods.hiprune import HiPrune
from simignore.methods.merged import Merged
from simignore.methods.pooled import Pooled
from simignore.methods.product import Product
from simignore.methods.prumerge import PruMerge
from simignore.methods.prumerge_plus import PruMergePlus
from simignore.methods.pyramiddrop import PyramidDrop
from simignore.methods.random import Random
from simignore.methods.simignore import Simignore
from simignore.methods.simignore2 import Simignore2
from simignore.methods.sparsevlm import SparseVLM
from simignore.methods.tome import ToMe
from simignore.methods.uniform_grid import UniformGrid
from simignore.methods.visionzip import VisionZip
from simignore.methods.vispruner import VisPruner

METHODS: dict[str, type[Method]] = {
    "random": Random,
    "uniform-grid": UniformGrid,
    "pooled": Pooled,
    "simignore": Simignore,
    "simignore2": Simignore2,
    "divprune": DivPrune,
    "cdpruner": CDPruner,
    "fastervlm": FasterVLM,
    "visionzip": VisionZip,
    "vispruner": VisPruner,
    "prumerge": PruMerge,
    "prumerge+": PruMergePlus,
    "hiprune": HiPrune,
    "tome": ToMe,
    "fastv": FastV,
    "pyramiddrop": PyramidDrop,
    "sparsevlm": SparseVLM,
    "evs": EVS,
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
    "prumerge+": PruMergePlus(),
    "evs": EVS(keep=0.25),
}


def preset(name: str) -> Method:
    """A method with its published settings, such as "visionzip/64". Raises KeyError naming the known ones."""
    if name not in PRESETS:
        raise KeyError(f"no preset {name!r}; there are {', '.join(sorted(PRESETS))}")
    return PRESETS[name]


__all__ = [
    "EVS",
    "METHODS",
    "PRESETS",
    "CDPruner",
    "Chain",
    "DivPrune",
    "Diverse",
    "FastV",
    "FasterVLM",
    "FrameBudget",
    "HiPrune",
    "Merged",
    "Method",
    "Pooled",
    "Product",
    "PruMerge",
    "PruMergePlus",
    "PyramidDrop",
    "Random",
    "Scorer",
    "Simignore",
    "Simignore2",
    "SparseVLM",
    "ToMe",
    "UniformGrid",
    "VisPruner",
    "VisionZip",
    "preset",
]
