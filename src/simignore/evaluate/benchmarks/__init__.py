"""The benchmarks, by name. A new one is a file here and a line below."""

from __future__ import annotations

from simignore.evaluate.benchmark import Benchmark
from simignore.evaluate.benchmarks.scenes import Scenes
from simignore.evaluate.benchmarks.scienceqa import ScienceQA

BENCHMARKS: dict[str, type[Benchmark]] = {kind.name: kind for kind in (Scenes, ScienceQA)}

__all__ = ["BENCHMARKS"]
