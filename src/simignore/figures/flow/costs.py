"""What the prompt costs with all image tokens and under the method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simignore.figures.flow.words import figure, number, percent, safe, section, table
from simignore.flow.report import FlowReport

FULL = "all tokens"
_MEASURED = {
    "prefill_flops": ("prefill, GFLOP", 1e9),
    "prefill_seconds": ("prefill, ms", 1e-3),
    "selection_seconds": ("of which choosing, ms", 1e-3),
    "decode_seconds": ("decoding step, ms", 1e-3),
    "kv_bytes": ("KV cache, MB", 1e6),
}


def costs(report: FlowReport) -> str:
    """Nothing where nothing was measured."""
    if not report.cost:
        return ""
    names = sorted(report.cost, key=lambda name: name != FULL)
    full = report.cost.get(FULL)
    rows = []
    for name, (label, unit) in _MEASURED.items():
        if any(name in report.cost[one] for one in names):
            rows.append([label, *(_cell(report.cost[one], full, name, unit) for one in names)])
    if any("kept" in report.cost[one] for one in names):
        rows.insert(0, ["image tokens", *(_held(report.cost[one]) for one in names)])
    ratio = (
        f"Bars and percentages are of {FULL} = 100 %; what goes beyond is orange. " if full and len(names) > 1 else ""
    )
    caption = (
        f"One prompt, on this machine. {ratio}Times are medians of runs taken in turn, with their quartiles in brackets; "
        "prefill includes the vision tower and the method's own choosing. FLOPs are counted by torch: the same everywhere, "
        "while times hold for this machine only."
    )
    body = table("", ["", *(safe(name) for name in names)], rows, "costs")
    return section(
        "cost", "What it saves", "What does the prompt cost, with and without the method?", figure(body, caption)
    )


def _held(own: Mapping[str, Any]) -> str:
    return f"{own['kept']:,}" if "kept" in own else "–"


def _cell(own: Mapping[str, Any], full: Mapping[str, Any] | None, name: str, unit: float) -> str:
    if name not in own:
        return "–"
    value = _middle(own[name])
    spread = ""
    if isinstance(own[name], Mapping) and "q1" in own[name]:
        spread = f" <small>({number(own[name]['q1'] / unit)} to {number(own[name]['q3'] / unit)})</small>"
    if full is None or name == "selection_seconds" or not _middle(full.get(name, 0)):
        return f"{number(value / unit)}{spread}"
    share = value / _middle(full[name])
    told = "" if own is full else f" <b>{percent(share)}</b> of all tokens'"
    kind = "meter over" if share > 1.005 else "meter"
    return f'<span class="{kind}" style="--share:{share:.4f}"></span>{number(value / unit)}{spread}{told}'


def _middle(value: Any) -> float:
    return float(value["median"] if isinstance(value, Mapping) else value)
