"""Original LLaVA and Mipha checkpoints -> the transformers layout, with every tensor accounted for.

`layouts` holds the tables, `plan` accounts for names and shapes, `configs` and `words` translate what surrounds the
weights, `head` the few tensors that are more than renamed, and `write` does it.
"""

from __future__ import annotations

from simignore.convert.plan import MappingError, Plan, Problem, plan
from simignore.convert.write import Report, convert

__all__ = ["MappingError", "Plan", "Problem", "Report", "convert", "plan"]
