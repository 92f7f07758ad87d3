"""The methods by name. A new one is one file in this folder and one line in ``METHODS``."""

from __future__ import annotations

from simignore.methods.base import Method, Scorer
from simignore.methods.chain import Chain
from simignore.methods.fastv import FastV
from simignore.methods.random import Random
from simignore.methods.simignore import Simignore

METHODS: dict[str, type[Method]] = {
    "random": Random,
    "simignore": Simignore,
    "fastv": FastV,
}

PRESETS: dict[str, Method] = {
    "simignore/llava-1.5-7b": Chain(
        Simignore(keep=452, skip=1, span="simignore/llava-1.5-7b"), FastV(keep=144, layer=5)
    ),
    "simignore/llava-1.5-13b": Chain(
        Simignore(keep=451, stride=2, span="simignore/llava-1.5-13b"), FastV(keep=144, layer=4)
    ),
    "fastv": FastV(keep=0.5, layer=2),
}


def preset(name: str) -> Method:
    """A method with its published settings, such as "simignore/llava-1.5-7b". Raises KeyError naming the known ones."""
    if name not in PRESETS:
        raise KeyError(f"no preset {name!r}; there are {', '.join(sorted(PRESETS))}")
    return PRESETS[name]


__all__ = ["METHODS", "PRESETS", "Chain", "FastV", "Method", "Random", "Scorer", "Simignore", "preset"]
