"""Draw the README's plot from results/scenes.json: ``python scripts/accuracy_plot.py``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simignore.figures import by_tokens

ROOT = Path(__file__).resolve().parents[1]
TOKENS = 196  # image tokens of the bundled model
SHOWN = (
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


def plotted(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows as ``simignore compare`` has them: those that are shown, random seeds taken together."""
    found: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["label"] in SHOWN:
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
        for (label, keep), own in found.items()
    ]


def _holding(row: Mapping[str, Any]) -> str:
    """What a cut inside the decoder holds beyond what it keeps."""
    kept, held = row["keep"] * TOKENS, row.get("held") or 0
    return " (holds 100 and more)" if held > max(100, 2 * kept) and row["keep"] < 1 else ""


def main() -> None:
    """Draw accuracy against image tokens."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "scenes.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "accuracy.png")
    options = parser.parse_args()
    result = json.loads(options.results.read_text(encoding="utf-8"))
    title = f"The bundled model on {result['rows'][0]['questions']:,} questions about scenes that training never drew"
    by_tokens(plotted(result["rows"]), title).savefig(options.out, metadata={"Software": None})


if __name__ == "__main__":
    main()
