"""Whether the examples say what the goals learn from: a goal without labels would train to its end and learn nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simignore.train.data import Example
from simignore.train.objective import Objective


def check_labels(objective: Objective, examples: Any, count: int = 0, data: str = "") -> None:
    """Raise ValueError for a goal that learns from regions where no example has what it needs; some without are allowed.

    count: so many examples, the first ones, are looked at in training; 0 for all. data: what the examples are, in words. Images
    are not opened, and the search ends with the first example that serves.
    """
    count = min(count or len(examples), len(examples))
    wanted: tuple[tuple[str, str, Callable[[Example], bool]], ...] = (
        ("needed", 'a region with "needed": true', _needs),
        ("separate", 'a region with "needed": true', _needs),
        ("alignment", "two regions of different words", _names),
    )
    for goal, what, serves in wanted:
        weight = getattr(objective, goal)
        if weight and not any(serves(examples[number]) for number in range(count)):
            where = getattr(examples, "file", None) or data or f"this {type(examples).__name__}"
            raise ValueError(
                f"the goal {goal}={weight:g} learns from regions, and none of the {count} examples of {where} that it would "
                f"see has {what}; add them to the records (regions: [{{words, box, needed}}]), or leave the goal out ({goal}=0)"
            )


def _needs(example: Example) -> bool:
    return any(region.needed for region in example.regions)


def _names(example: Example) -> bool:
    return len({region.words for region in example.regions}) > 1


__all__ = ["check_labels"]
