"""The generated sections of ``docs/claims.md``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sections import CLAIMS, MADE_BY, footnote, markdown, read_result, same_weights


def accuracy(root: Path) -> str:
    """The paper's rows and those that it lacks, on the bundled model."""
    result = read_result(root, CLAIMS)
    same_weights(result, CLAIMS)
    rows: list[Mapping[str, Any]] = result["rows"]
    head = (
        "",
        "image tokens kept",
        "right",
        "against random, points",
        "better than random?",
        "against all tokens, points",
    )
    table = [
        [
            {"full": "all image tokens", "random": "random, mean of three seeds"}.get(row["method"], row["method"]),
            "all" if row["keep"] is None else f"{row['keep']:.1%}",
            f"{row['accuracy']:.1%} ({row['low']:.1%} to {row['high']:.1%})",
            points(row.get("versus_random")),
            "" if "versus_random" not in row else "yes" if row["significantly_better_than_random"] else "no",
            points(row.get("versus_full")),
        ]
        for row in rows
    ]
    what = f"{rows[0]['questions']:,} questions on held-out scenes; 95 % intervals, of differences by paired bootstrap"
    return f"{markdown(head, table)}\n\n{footnote(result, what)} To repeat it: `{MADE_BY[CLAIMS]}`."


def attention(root: Path) -> str:
    """Whether similar tokens get more attention, layer by layer."""
    result = read_result(root, CLAIMS)
    same_weights(result, CLAIMS)
    seen: list[Mapping[str, Any]] = result["attention"]
    head = ["decoder layer"]
    for one in seen:
        name = {"question": "question", "options-plain": "options"}[one["span"]]
        head += [f"rank correlation, by the {name}", f"share of the most similar quarter, by the {name}"]
    rows = [
        [
            str(layer),
            *(
                f"{one[name][layer]['mean']:.2f} ± {one[name][layer]['spread']:.2f}"
                for one in seen
                for name in ("correlation", "share_of_most_similar_quarter")
            ),
        ]
        for layer in range(len(seen[0]["correlation"]))
    ]
    what = (
        f"Means over {seen[0]['questions']} questions with the half-width of their 95 % intervals; chance: 0 and 0.25"
    )
    return f"{markdown(head, rows)}\n\n{footnote(result, what)}"


def points(difference: Mapping[str, Any] | None) -> str:
    """A difference with its interval, in points."""
    if difference is None:
        return ""
    middle, low, high = (difference[name] * 100 for name in ("difference", "low", "high"))
    return f"{middle:+.1f} ({low:+.1f} to {high:+.1f})"


SECTIONS: dict[str, Callable[[Path], str]] = {"claims-accuracy": accuracy, "claims-attention": attention}
