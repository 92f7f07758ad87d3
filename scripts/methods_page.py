"""The sections of docs/methods.md: every method's rule, what serves what, how long choosing takes, Simignore2 taken apart."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sections import ABLATION, CONTRACT, SELECTION, _code, footnote, markdown, read_result, same_weights
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
        cells = [f"{cases[name]['seconds']['median'] * 1e3:.3g}" if name in cases else "" for cases in runs.values()]
        most = [cases[name]["extra"] for cases in runs.values() if name in cases and cases[name]["extra"] is not None]
        rows.append([name if name.endswith("loop") else f"`{name}`", *cells, f"{max(most):.1f}" if most else ""])
    held = [
        f"- {bar['name']}: {bar['value']:.1f}"
        + (f" (bar: at least {bar['at_least']:g})" if bar.get("at_least") else "")
        + (f" (bar: at most {bar['at_most']:g})" if bar.get("at_most") else "")
        for bar in result["bars"]
    ]
    note = footnote(result, "Medians; one token in 4.5 stays; extra memory: the most at any size, in tensors [N, D]")
    return markdown(head, rows) + "\n\n" + "\n".join(held) + f"\n\n{note}"


def ablation(root: Path) -> str:
    """Simignore2 taken apart, on the bundled model and on the three of the control without alignment."""
    results = [
        read_result(root, ABLATION),
        *(read_result(root, ABLATION.replace(".json", f"-unaligned-{i}.json")) for i in range(3)),
    ]
    same_weights(results[0], ABLATION)
    keeps = sorted({row["keep"] for row in results[0]["rows"]}, reverse=True)
    labels = list(dict.fromkeys(row["label"] for row in results[0]["rows"]))

    def cell(result: Mapping[str, Any], label: str, keep: float) -> str:
        rows = [row for row in result["rows"] if row["label"] == label and row["keep"] == keep]
        return f"{sum(row['accuracy'] for row in rows) / len(rows) * 100:.1f}" if rows else ""

    def mean(label: str, keep: float) -> str:
        told = [cell(result, label, keep) for result in results[1:]]
        return f"{sum(map(float, told)) / len(told):.1f}" if all(told) else ""

    first = results[0]["rows"][0]
    head = (
        "right, %",
        *(f"{keep:g}" for keep in keeps if keep < 1),
        *(f"{keep:g}, unaligned" for keep in keeps if keep < 1),
    )
    rows = [
        [label, *(cell(results[0], label, k) for k in keeps[1:]), *(mean(label, k) for k in keeps[1:])]
        for label in labels[1:]
    ]
    whole = f"All image tokens: {cell(results[0], labels[0], 1.0)} %, unaligned {mean(labels[0], 1.0)} %."
    note = footnote(
        results[0], f"{first['questions']} questions that nothing was chosen by; unaligned: mean of three models"
    )
    return f"{whole}\n\n{markdown(head, rows)}\n\n{note}"


SECTIONS: dict[str, Callable[[Path], str]] = {
    "rules": rules,
    "served": served,
    "choosing": choosing,
    "ablation": ablation,
}
