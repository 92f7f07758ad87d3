"""An explanation in plain types, for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from math import isfinite
from typing import Any

import numpy as np
import torch

from simignore.types import Patches, Selection

DIGITS = 7  # significant ones of a float32


def plain(value: Any) -> Any:
    """Dataclasses, arrays and tensors as dicts, lists, numbers and strings; what is not a number as None."""
    if isinstance(value, Patches):
        return {
            "grids": [plain(grid) for grid in value.grids[0]],
            **{name: getattr(value, name)[0].tolist() for name in ("grid", "row", "column")},
        }
    if isinstance(value, Selection):
        kept = value.index[0]
        score = None if value.score is None else plain(value.score[0])
        return {"index": kept[kept >= 0].tolist(), "source": value.source[0].tolist(), "score": score}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, torch.Tensor | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    return value if value is None or isinstance(value, str | int | bool) else str(value)
