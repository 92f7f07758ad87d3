"""Evaluation: benchmarks in their official layouts, runs that survive a kill, and comparisons that a sceptic can repeat."""

from __future__ import annotations

from simignore.evaluate.benchmark import Benchmark, Item
from simignore.evaluate.benchmarks import BENCHMARKS
from simignore.evaluate.harness import Result, evaluate, sweep
from simignore.evaluate.statistics import mcnemar, paired, share, wilson

__all__ = ["BENCHMARKS", "Benchmark", "Item", "Result", "evaluate", "mcnemar", "paired", "share", "sweep", "wilson"]
