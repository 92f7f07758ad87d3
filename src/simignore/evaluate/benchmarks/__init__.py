"""The benchmarks, by name. A new one is a file here and a line below."""

from __future__ import annotations

from simignore.evaluate.benchmark import Benchmark
from simignore.evaluate.benchmarks.gqa import GQA
from simignore.evaluate.benchmarks.mmbench import MMBench
from simignore.evaluate.benchmarks.mme import MME
from simignore.evaluate.benchmarks.pope import Pope
from simignore.evaluate.benchmarks.refcoco import RefCOCO
from simignore.evaluate.benchmarks.scenes import Scenes
from simignore.evaluate.benchmarks.scienceqa import ScienceQA
from simignore.evaluate.benchmarks.textvqa import TextVQA

BENCHMARKS: dict[str, type[Benchmark]] = {
    kind.name: kind
    for kind in (
        Scenes,
        ScienceQA,
        Pope,
        TextVQA,
        GQA,
        MMBench,
        MME,
        RefCOCO,
    )
}

__all__ = ["BENCHMARKS"]
