"""Draw accuracy against image tokens, for README and docs/learning.md: ``python scripts/accuracy_plot.py``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simignore.figures import by_tokens

ROOT = Path(__file__).resolve().parents[1]
TOKENS = 196  # image tokens of the bundled model
SCENES = (
    "all image tokens",
    "Random, 3 seeds",
    "Pooled",
    "Simignore, question",
    "Simignore2, question",
    "CDPruner, question",
    "DivPrune",
    "VisionZip",
    "VisPruner",
    "FastV, half-way",
)
LEARNED = (
    "all image tokens",
    "LearnedSimignore",
    "Simignore2",
    "CDPruner",
    "Simignore",
    "DivPrune",
    "VisPruner",
    "VisionZip",
    "Random, 3 seeds",
)
PLOTS = {"scenes.json": ("accuracy.png", SCENES), "learned.json": ("learned.png", LEARNED)}


def plotted(rows: Sequence[Mapping[str, Any]], shown: Sequence[str]) -> list[dict[str, Any]]:
    """Rows as ``simignore compare`` has them: those that are shown, in this order, random seeds taken together."""
    found: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: -row["keep"]):
        if row["label"] in shown:
            found.setdefault((row["label"], row["keep"]), []).append(row)
    names = {"all image tokens": "full", "Random, 3 seeds": "random"}
    return [
        {
            "method": names.get(label, label) + _holding(own[0]),
            "keep": keep,
            "at": "tokens",
            "kept": keep * TOKENS,
            **{name: sum(row[name] for row in own) / len(own) for name in ("accuracy", "low", "high")},
        }
        for (label, keep), own in sorted(found.items(), key=lambda one: shown.index(one[0][0]))
    ]


def _holding(row: Mapping[str, Any]) -> str:
    """What a cut inside the decoder holds beyond what it keeps."""
    kept, held = row["keep"] * TOKENS, row.get("held") or 0
    return " (holds 100 and more)" if held > max(100, 2 * kept) and row["keep"] < 1 else ""


def main() -> None:
    """Draw accuracy against image tokens."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    for name, (picture, shown) in PLOTS.items():
        result = json.loads((options.results / name).read_text(encoding="utf-8"))
        counts = sorted(row["questions"] for row in result["rows"] if row["label"] in shown)
        many = " to ".join(dict.fromkeys(f"{count:,}" for count in (counts[0], counts[-1])))
        title = f"The bundled model on {many} questions about scenes that training never drew"
        by_tokens(plotted(result["rows"], shown), title).savefig(options.out / picture, metadata={"Software": None})


if __name__ == "__main__":
    main()
