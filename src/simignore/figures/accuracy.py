"""Accuracy against image tokens or against prefill time, and by kind of question: results of ``simignore compare`` as plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
FULL, RANDOM = "full", "random"
# Okabe and Ito's colours, apart for every eye, then dashes once they are used up
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C6D31")
MARKERS = "osD^vPX"  # seven, so that colour and marker repeat together only after 56 methods
CHANCE = "#8A8F99"


def by_tokens(rows: Sequence[Row], title: str = "") -> Figure:
    """Accuracy of each method against the image tokens that it keeps, as lines with 95 % intervals; everything as a level.

    rows: of ``comparison.json``. Raises ValueError for rows without one that dropped anything.
    """
    return _lines([row for row in rows if row.get("at") == "tokens"], "kept", "image tokens kept", title)


def by_prefill(rows: Sequence[Row], title: str = "") -> Figure:
    """Accuracy against prefill time as a share of that with all image tokens, measured in the same run. Raises ValueError for
    rows without costs."""
    timed = [
        {**row, "share": row["cost"]["of_full"]["prefill_seconds"]}
        for row in rows
        if "cost" in row and row.get("at") == "tokens"
    ]
    return _lines(timed, "share", "prefill time, of that with all image tokens (vision tower included)", title)


def by_group(rows: Sequence[Row], kind: str, keep: float | None, title: str = "") -> Figure:
    """Accuracy by kind of question at one budget: a row of dots for each kind, one dot for each method.

    kind: the name of the grouping, such as "type". keep: None for rows that name no budget. Raises ValueError if no row has it.
    """
    shown = [
        row for row in rows if row["keep"] in (None, keep) and row["at"] == "tokens" and kind in row.get("groups", {})
    ]
    if not shown:
        raise ValueError(f"no row at keep={keep} is grouped by {kind!r}")
    values = list(shown[0]["groups"][kind])
    figure, axis = _blank(title, height=max(3.0, 0.42 * len(values) + 1.6))
    for row, style, aside in zip(
        shown, _styles([row["method"] for row in shown]), _aside(len(shown), 0.6), strict=True
    ):
        points = [row["groups"][kind].get(value, {}).get("accuracy") for value in values]
        known = [(point * 100, place + aside) for place, point in enumerate(points) if point is not None]
        axis.plot(*zip(*known, strict=True), **{**style, "linestyle": "none"}, label=said(row["method"]))
    axis.set_yticks(range(len(values)), [said(value).replace("_", " ") for value in values])
    axis.invert_yaxis()
    axis.set_xlabel("accuracy, %" if keep is None else f"accuracy, % (keep {keep:g})")
    axis.grid(axis="x", alpha=0.25)
    axis.hlines(
        [place + 0.5 for place in range(len(values) - 1)], *axis.get_xlim(), color="#888888", alpha=0.25, linewidth=0.6
    )
    _legend(axis)
    return figure


def said(name: str) -> str:
    """A name as matplotlib prints it: no formulas between dollars, and no label that it leaves out."""
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") or not name else name


def _aside(count: int, width: float) -> list[float]:
    """Small steps to either side, so that points that coincide stay visible."""
    return [width * ((n + 0.5) / count - 0.5) for n in range(count)]


def _lines(rows: Sequence[Row], along: str, label: str, title: str) -> Figure:
    """One line for each method."""
    methods = list(dict.fromkeys(row["method"] for row in rows if along in row and row["method"] != FULL))
    if not methods:
        raise ValueError(f"no row says {along!r}, so nothing can be drawn against it")
    figure, axis = _blank(title)
    for row in rows:
        if row["method"] == FULL:
            axis.axhspan(row["low"] * 100, row["high"] * 100, color="#444444", alpha=0.07, linewidth=0)
            axis.axhline(
                row["accuracy"] * 100, color="#444444", linewidth=1, linestyle=(0, (1, 1)), label="all image tokens"
            )
    reach = [row[along] for row in rows if along in row and row["method"] != FULL]
    width = 0.03 * ((max(reach) - min(reach)) or max(reach))
    for method, style, aside in zip(methods, _styles(methods), _aside(len(methods), width), strict=True):
        own = sorted((row for row in rows if row["method"] == method and along in row), key=lambda row: row[along])
        places, middle = [row[along] + aside for row in own], [row["accuracy"] * 100 for row in own]
        ends = [
            [(row["accuracy"] - row["low"]) * 100 for row in own],
            [(row["high"] - row["accuracy"]) * 100 for row in own],
        ]
        axis.errorbar(places, middle, yerr=ends, label=said(method), capsize=2, elinewidth=0.8, **style)
    axis.set(xlabel=label, ylabel="accuracy, %")
    axis.grid(alpha=0.25)
    _legend(axis)
    return figure


def _styles(methods: Sequence[str]) -> list[dict[str, Any]]:
    """A look for each method; chance is grey, whatever else there is."""
    found, number = [], 0
    for method in methods:
        if method in (RANDOM, FULL):
            found.append({"color": CHANCE if method == RANDOM else "#444444", "marker": "_" if method == FULL else "x"})
            continue
        dash = ("-", "--", ":", "-.")[number // len(COLOURS) % 4]
        look = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "linestyle": dash}
        found.append(look)
        number += 1
    return [{"markersize": 4.5, "linewidth": 1.3, **look} for look in found]


def _blank(title: str, height: float = 4.4) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, height), layout="constrained", dpi=130)
    axis = figure.add_subplot()
    axis.spines[["top", "right"]].set_visible(False)
    if title:
        axis.set_title(said(title), loc="left", size=10)
    return figure, axis


def _legend(axis: Any) -> None:
    axis.figure.legend(loc="outside right upper", frameon=False, fontsize=8)
