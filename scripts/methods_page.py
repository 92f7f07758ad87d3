"""The sections of docs/methods.md: every method's rule, what serves what, how long choosing takes, Simignore2 taken apart."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sections import (
    ABLATION,
    AGREEMENT,
    CONTRACT,
    SELECTION,
    _code,
    _pooled,
    footnote,
    markdown,
    read_result,
    same_weights,
)
from simignore.methods import METHODS


def rules(_: Path) -> str:
    """Each method's docstring: its rule, why it works, and its options."""
    parts = []
    for name, kind in METHODS.items():
        told = [" ".join(part.split()) for part in inspect.cleandoc(kind.__doc__ or "").split("\n\n")]
        parts.append(f"### `{name}` ({kind.__name__})\n\n" + "\n\n".join(_code(_roles(part)) for part in told))
    return "\n\n".join(parts)


def _roles(text: str) -> str:
    return re.sub(r":\w+:`[~.\w]*?(\w+)`", r"`\1`", text)


def served(root: Path) -> str:
    """Which methods which families cannot be served with, from the last run of the contract."""
    result = read_result(root, CONTRACT)
    reasons: dict[str, dict[str, list[str]]] = {}
    for case in result["cases"]:
        for method, reason in case.get("not_served", {}).items():
            reasons.setdefault(reason, {}).setdefault(case["model_type"], []).append(f"`{method}`")
    rows = []
    for reason, families in reasons.items():
        by_methods: dict[str, list[str]] = {}
        for family, named in families.items():
            by_methods.setdefault(", ".join(dict.fromkeys(named)), []).append(f"`{family}`")
        rows += [[named, ", ".join(dict.fromkeys(where)), reason] for named, where in by_methods.items()]
    return (
        "Every other method serves every other family of the zoo, each run against its oracles there.\n\n"
        + markdown(("not served", "in", "because"), rows)
        + f"\n\nRun on {result['date']}: `{result['command']}`."
    )


def choosing(root: Path) -> str:
    """How long choosing takes, per method and size."""
    result = read_result(root, SELECTION)
    runs = {(r["tokens"], r["width"], r["batch"]): r["cases"] for r in result["runs"]}
    names = list(dict.fromkeys(name for cases in runs.values() for name in cases))
    head = ("ms per sample", *(f"{n:,} x {d:,}{f', batch {b}' if b > 1 else ''}" for n, d, b in runs), "extra memory")
    rows = []
    for name in names:
        cells = [_short(cases[name]["seconds"]["median"] * 1e3) if name in cases else "" for cases in runs.values()]
        most = [cases[name]["extra"] for cases in runs.values() if name in cases and cases[name]["extra"] is not None]
        rows.append([name if name.endswith("loop") else f"`{name}`", *cells, f"{max(most):.1f}" if most else ""])
    held = [
        f"- {bar['name']}: {bar['value']:.1f}"
        + (f" (bar: at least {bar['at_least']:g})" if bar.get("at_least") else "")
        + (f" (bar: at most {bar['at_most']:g})" if bar.get("at_most") else "")
        for bar in result["bars"]
    ]
    note = footnote(result, "Medians; one token in 4.5 stays; extra memory: the most at any size, in tensors [N, D]")
    later = [
        f"{r['tokens']:,} x {r['width']:,}, batch {r['batch']}: in a run of its own, {r['taken']['note']} "
        f"(`{r['taken']['command']}`)."
        for r in result["runs"]
        if "taken" in r
    ]
    return "\n\n".join([markdown(head, rows), "\n".join(held), note, *later])


def _short(number: float) -> str:
    """Three digits, or all before the point."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def ablation(root: Path) -> str:
    """Simignore2 taken apart, on questions that nothing was chosen by."""
    result = read_result(root, ABLATION)
    same_weights(result, ABLATION)
    rows: list[Mapping[str, Any]] = result["rows"]
    keeps = sorted({row["keep"] for row in rows if row["keep"] < 1}, reverse=True)
    labels = list(dict.fromkeys(row["label"] for row in rows if row["keep"] < 1))
    table = [
        [label, *(_pooled([row for row in rows if (row["label"], row["keep"]) == (label, keep)]) for keep in keeps)]
        for label in labels
    ]
    whole = _pooled([row for row in rows if row["keep"] >= 1])
    what = f"{rows[0]['questions']} questions; in brackets Wilson's 95 % interval, for several seeds their range"
    head = ("right", *(f"{keep:g} of the image tokens" for keep in keeps))
    return f"All image tokens: {whole}.\n\n{markdown(head, table)}\n\n{footnote(result, what)}"


def agreement(root: Path) -> str:
    """Which share of the tokens chosen in float32 is chosen in bfloat16 and under eager attention too."""
    result = read_result(root, AGREEMENT)
    same_weights(result, AGREEMENT)
    rows = [[f"`{name}`", f"{one['bfloat16']:.1%}", f"{one['eager']:.1%}"] for name, one in result["rows"].items()]
    what = f"{result['questions']} questions to the bundled model, {result['keep']:g} of the image tokens kept"
    head = ("chosen too", "in bfloat16", "in float32 under eager attention")
    return f"{markdown(head, rows)}\n\n{footnote(result, what)}"


SECTIONS: dict[str, Callable[[Path], str]] = {
    "rules": rules,
    "served": served,
    "choosing": choosing,
    "ablation": ablation,
    "agreement": agreement,
}
