"""The generated sections of ``docs/learning.md``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from claims_page import points

from sections import (
    LEARNED,
    LEARNED_SPEED,
    MADE_BY,
    NEEDED,
    SELECTION,
    StaleError,
    footnote,
    markdown,
    read_result,
    same_weights,
    spoken,
)
from simignore import tiny
from simignore.head import BUNDLED

TOKENS = 196  # the bundled model's
NEVER = "never saw"  # in the name of a head that was trained without some kinds and shapes
OURS, EIGHTH = "LearnedSimignore", 0.125
MOVED = (OURS, "Simignore2")
SAME_SCORE = (f"{OURS}, at most", f"{OURS}, filled with the highest")  # as the bundled head's
SHOWN = ("all image tokens", OURS, "Simignore2", "Simignore", "Simignore, options too")


def rivals(root: Path) -> str:
    """Methods that were not trained, best first: accuracy at each budget, and in brackets the bundled head's advantage."""
    result = _result(root)
    rows: list[Mapping[str, Any]] = [row for row in result["rows"] if not str(row["label"]).startswith(f"{OURS},")]
    full = next(row for row in rows if row["keep"] == 1.0)
    budgets = sorted({row["keep"] for row in rows if 0 < row["keep"] < 1}, reverse=True)
    by_label: dict[str, dict[float, list[Mapping[str, Any]]]] = {}
    for row in rows:
        if row["keep"] in budgets:
            by_label.setdefault(str(row["label"]), {}).setdefault(row["keep"], []).append(row)
    best = sorted(by_label.items(), key=lambda one: (one[0] != OURS, -_mean(one[1][EIGHTH], "accuracy")))
    cells = [
        ["all image tokens", *([""] * len(budgets)), f"{full['questions']:,}"],
        *([label, *(_cell(own.get(keep)) for keep in budgets), _asked(own)] for label, own in best),
    ]
    cells[0][1 + budgets.index(EIGHTH)] = _cell([full])
    head = ("", *(f"{keep:g} of {TOKENS}" for keep in budgets), "questions")
    what = (
        "In brackets the bundled head's advantage in points with as many tokens (over all image tokens with an eighth), on the "
        "questions that both have answered; bold: significant, the paired bootstrap's 95 % interval lies above zero. Chance is "
        "the mean of three seeds. Rows have answered as many questions as the last column says, at each budget"
    )
    return (
        f"{markdown(head, cells)}\n\n{footnote({**result, 'command': None}, what)} To repeat it: `{MADE_BY[LEARNED]}`."
    )


def heads(root: Path) -> str:
    """Heads of other seeds and losses, and other ways to use the bundled one, at an eighth of the tokens."""
    result = _result(root)
    full = [row for row in result["rows"] if row["keep"] == 1.0]
    own = [row for row in result["rows"] if row["keep"] in (EIGHTH, 0.0) and str(row["label"]).startswith(OURS)]
    rival = [row for row in result["rows"] if row["keep"] == EIGHTH and row["label"] == MOVED[1]]
    shown = [*full, *rival, *sorted(own, key=lambda row: -float(row["accuracy"]))]
    cells = []
    for row in shown:
        versus = row.get("learned_minus_this")
        told = (f"{row['held'] or TOKENS:.1f}", f"{row['questions']:,}")
        right = f"{row['accuracy']:.1%} ({row['low']:.1%} to {row['high']:.1%})"
        sure = "" if versus is None else "yes" if versus["better"] or versus["high"] < 0 else "no"
        two = points(row.get("learned_minus_this_two_hop"))
        label = str(row["label"]).removeprefix(f"{OURS}, ").replace(OURS, "**the bundled head**")
        cells.append([label, *told, right, f"{row['of_full']:.1%}", points(versus), two, sure])
    head = ("", "tokens, mean", "questions", "right", "of all tokens'", "the bundled head's advantage, points")
    made = "\n".join(f"- {name}: `{one['command']}`" for name, one in result["heads"].items())
    fold = f"<details><summary>How each head was made</summary>\n\n{made}\n\n</details>"
    return f"{markdown((*head, 'on two hops', 'significant?'), cells)}\n\n{fold}"


def needed(root: Path) -> str:
    """Which scores tell needed patches from others, and how many of these stay."""
    result = read_result(root, NEEDED)
    same_weights(result, NEEDED)
    if result["head"]["weights"] != tiny.fingerprint(BUNDLED):
        raise StaleError(f"{NEEDED} was measured with another bundled head; make it anew: {MADE_BY[NEEDED]}")
    told = [row for row in result["rows"] if row["label"] not in SAME_SCORE]
    rows = sorted(told, key=lambda row: -(row["auc"]["mean"] or 0.0))
    hops = rows[0]["kept by kind"]["two_hop"]["questions"]
    cells = []
    for row in rows:
        area = [_area(one) for one in (row["auc"], row["auc by kind"]["two_hop"])]
        kept = [_percent(one) for one in (row["kept"], row["kept by kind"]["two_hop"])]
        label = str(row["label"]).replace("Random, 3 seeds", "Random, seed 0")
        cells.append([label, area[0], area[1], kept[0], kept[1]])
    head = ("", "AUROC", "over two hops", "of the needed patches kept", "over two hops")
    what = (
        f"Means over {rows[0]['kept']['questions']:,} questions, {hops} over two hops, in brackets 95 % intervals; "
        f"{rows[0]['keep']:g} of the image tokens kept; where nothing stands a rule has no scores"
    )
    return (
        f"{markdown(head, cells)}\n\n{footnote({**result, 'command': None}, what)} To repeat it: `{MADE_BY[NEEDED]}`."
    )


def _area(one: Mapping[str, Any]) -> str:
    return "" if one["mean"] is None else f"{one['mean']:.3f} ({one['low']:.3f} to {one['high']:.3f})"


def _percent(one: Mapping[str, Any]) -> str:
    return "" if one["mean"] is None else f"{one['mean']:.0%}"


def cost(root: Path) -> str:
    """What choosing by a learned head takes, beside Simignore2, and what a prefill with it does."""
    return f"{_choosing(read_result(root, SELECTION)['runs'])} {_prefill(read_result(root, LEARNED_SPEED))}"


def _choosing(runs: Sequence[Mapping[str, Any]]) -> str:
    both = [run for run in runs if {"learned", "simignore2"} <= run["cases"].keys()]
    times = [[run["cases"][name]["seconds"]["median"] for name in ("learned", "simignore2")] for run in both]
    ratios = [own / rival for own, rival in times]
    tokens, widths, batches = (sorted({run[what] for run in both}) for what in ("tokens", "width", "batch"))
    return (
        f"It costs: choosing takes {min(ratios):.1f} to {max(ratios):.1f} times as long as with `Simignore2`, wherever both "
        f"were measured, at {tokens[0]:,} to {tokens[-1]:,} tokens of width {widths[0]:,} to {widths[-1]:,}, batch "
        f"{' and '.join(map(str, batches))} ([all figures](methods.md#how-long-choosing-takes))."
    )


def _prefill(result: Mapping[str, Any]) -> str:
    run = result["runs"][0]
    cases, counted = run["cases"], run["tokens"]
    names = [name for name in cases if "selection" in cases[name] and name != "mask"]
    ratios = {name: cases[name]["prefill_to_native"]["median"] for name in (*names, "full", "native again")}
    told = ", ".join(f"{ratios[name]:.2f} with `{name}`" for name in names)
    own = ", ".join(f"{cases[name]['to_own_work_least']:.2f}" for name in names)
    return (
        f"A whole prefill of the speed table's model, {counted['keep']} of {counted['image']} tokens, took {told} and "
        f"{ratios['full']:.2f} with all of them, in times of a natively short prompt's; that prompt took "
        f"{ratios['native again']:.2f} times its own when it was measured again. In times of the short prompt and the work "
        f"that is each method's own it took {own}. "
        + footnote(result, f"Medians of {result['rounds']} interleaved rounds on a machine that others shared")
    )


def kinds(root: Path) -> str:
    """Accuracy by kind of question at an eighth of the tokens."""
    rows: list[Mapping[str, Any]] = _result(root)["rows"]
    shown = [row for label in SHOWN for row in rows if row["label"] == label and row["keep"] in (1.0, EIGHTH)]
    every = list(shown[0]["kinds"])
    told = [[spoken(kind), *(_share(row["kinds"][kind]) for row in shown)] for kind in every]
    return markdown(("", *(str(row["label"]) for row in shown)), told)


def transfer(root: Path) -> str:
    """Heads beside Simignore2 on kinds of questions and shapes, some of which one of them never saw."""
    result = _result(root)
    full = next(row for row in result["rows"] if row["keep"] == 1.0)
    shown = [
        row for row in result["rows"] if row["keep"] == EIGHTH and (row["label"] in MOVED or NEVER in row["label"])
    ]
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


def _cell(rows: Sequence[Mapping[str, Any]] | None) -> str:
    """Accuracy, and in brackets the bundled head's advantage; of several seeds the means."""
    if not rows:
        return ""
    right, versus = (
        f"{_mean(rows, 'accuracy'):.1%}",
        [row["learned_minus_this"] for row in rows if "learned_minus_this" in row],
    )
    if not versus:
        return right
    lead = f"{100 * _mean(versus, 'difference'):+.1f}"
    return f"{right} (**{lead}**)" if all(one["better"] for one in versus) else f"{right} ({lead})"


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(float(row[name]) for row in rows) / len(rows)


def _asked(own: Mapping[float, Sequence[Mapping[str, Any]]]) -> str:
    counts = sorted({row["questions"] for rows in own.values() for row in rows})
    return " to ".join(f"{count:,}" for count in {counts[0]: 0, counts[-1]: 0})


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
    "learning-rivals": rivals,
    "learning-heads": heads,
    "learning-needed": needed,
    "learning-cost": cost,
    "learning-kinds": kinds,
    "learning-transfer": transfer,
    "learning-head": bundled,
}
