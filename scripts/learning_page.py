"""The generated sections of ``docs/learning.md``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from claims_page import points

from sections import LEARNED, MADE_BY, StaleError, footnote, markdown, read_result, same_weights, spoken
from simignore import tiny
from simignore.head import BUNDLED

TOKENS = 196  # the bundled model's
NEVER = "never saw"  # in the name of a head that was trained without some kinds and shapes
MOVED = ("LearnedSimignore", "Simignore2")
SHOWN = ("all image tokens", "LearnedSimignore", "Simignore2", "Simignore", "Simignore, options too")


def table(root: Path) -> str:
    """Every row: accuracy, share of what all tokens reach, and the bundled head's advantage over it."""
    result = _result(root)
    rows: list[Mapping[str, Any]] = result["rows"]
    head = (
        "keep",
        "tokens, mean",
        "",
        "questions",
        "right",
        "of all tokens'",
        "the head's advantage, points",
        "on two hops",
        "significant?",
    )
    cells = []
    for keep in sorted({row["keep"] for row in rows}, reverse=True):
        own = sorted((row for row in rows if row["keep"] == keep), key=lambda row: -float(row["accuracy"]))
        for row in own:
            versus = row.get("learned_minus_this")
            cells.append(
                [
                    f"{keep:g}" if keep else "threshold",
                    f"{row['held'] or TOKENS:.1f}",
                    _label(row),
                    f"{row['questions']:,}",
                    f"{row['accuracy']:.1%} ({row['low']:.1%} to {row['high']:.1%})",
                    f"{row['of_full']:.1%}",
                    points(versus),
                    points(row.get("learned_minus_this_two_hop")),
                    "" if versus is None else "yes" if versus["better"] else "no",
                ]
            )
    what = "95 % intervals, of differences by paired bootstrap over the questions that both rows have answered"
    others = "\n".join(f"- {name}: `{one['command']}`" for name, one in result["heads"].items())
    repeat = f"To repeat it: `{MADE_BY[LEARNED]}`, and `--head NAME=FOLDER` for the other heads, which were made by\n\n{others}"
    return f"{markdown(head, cells)}\n\n{footnote(result, what)} {repeat}"


def kinds(root: Path) -> str:
    """Accuracy by kind of question at an eighth of the tokens."""
    rows: list[Mapping[str, Any]] = _result(root)["rows"]
    shown = [row for label in SHOWN for row in rows if row["label"] == label and row["keep"] in (1.0, 0.125)]
    every = list(shown[0]["kinds"])
    told = [[spoken(kind), *(_share(row["kinds"][kind]) for row in shown)] for kind in every]
    return markdown(("", *(str(row["label"]) for row in shown)), told)


def transfer(root: Path) -> str:
    """Heads beside Simignore2 on kinds of questions and shapes, some of which one of them never saw."""
    result = _result(root)
    full = next(row for row in result["rows"] if row["keep"] == 1.0)
    shown = [row for row in result["rows"] if row["keep"] == 0.125 and (row["label"] in MOVED or NEVER in row["label"])]
    if not any(NEVER in row["label"] for row in shown):
        raise StaleError(f"{LEARNED} holds no head {NEVER!r}; make it anew: {MADE_BY[LEARNED]}")
    columns = {
        "two hops": "_two_hop",
        "three hops": "_three_hop",
        f"names a {' or '.join(result['unseen'])}": "_unseen",
    }
    cells = []
    for row in (full, *shown):
        parts = {"_two_hop": row["kinds"]["two_hop"], "_three_hop": row["kinds"]["three_hop"], "_unseen": row["unseen"]}
        told = [f"{_share(parts[part])} of {parts[part]['asked']}" for part in columns.values()]
        versus = [points(row.get(f"simignore2_minus_this{part}")) for part in columns.values()]
        cells.append([str(row["label"]), *(x for pair in zip(told, versus, strict=True) for x in pair)])
    head = ("", *(x for name in columns for x in (name, "Simignore2's advantage, points")))
    return markdown(head, cells)


def bundled(_: Path) -> str:
    """What the bundled head is and how it was made."""
    record = json.loads((BUNDLED / "training.json").read_text())
    count, model = record["parameters"]["head"], record["parameters"]["model"]
    hardware = record["hardware"]
    minutes = record["seconds"] / 60
    return (
        f"{count:,} parameters, {count / model:.2%} of the model's {model:,}; made by `{record['command']}` in {minutes:.0f} "
        f"minutes of one thread of {hardware['cpu']} (torch {record['versions']['torch']}), beside other work and without the "
        f"time to prepare its examples, seed {record['settings']['seed']}. The whole record lies beside it: "
        "[`training.json`](../src/simignore/heads/tiny/training.json)."
    )


def _label(row: Mapping[str, Any]) -> str:
    """The row's name; of chance that of its seed, for each seed is a row of its own here."""
    label, seed = str(row["label"]), re.search(r"^Random\(.*seed=(\d+)\)$", str(row["method"]))
    return label if seed is None else f"Random, seed {seed[1]}"


def _share(one: Mapping[str, int]) -> str:
    return f"{one['right'] / one['asked']:.0%}"


def _result(root: Path) -> dict[str, Any]:
    result = read_result(root, LEARNED)
    same_weights(result, LEARNED)
    if result["head"]["weights"] != tiny.fingerprint(BUNDLED):
        raise StaleError(f"{LEARNED} was measured with another bundled head; make it anew: {MADE_BY[LEARNED]}")
    if len({row["keep"] for row in result["rows"]}) < 2:
        raise StaleError(f"{LEARNED} holds no budget; make it anew: {MADE_BY[LEARNED]}")
    return result


SECTIONS: dict[str, Callable[[Path], str]] = {
    "learning-table": table,
    "learning-kinds": kinds,
    "learning-transfer": transfer,
    "learning-head": bundled,
}
