"""Draw the bundled model's training curves from the log beside its weights: ``python scripts/curves.py``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from simignore import tiny

OUT = Path(__file__).resolve().parents[1] / "docs" / "training.png"
SHOWN = {
    "vision": ("shape", "colour", "size", "pattern", "number", "cls"),
    "symbols": ("colour", "relation_yes_no", "count", "odd_one_out", "two_hop", "three_hop", "letter", "caption"),
    "joint": ("colour", "relation_yes_no", "count", "odd_one_out", "two_hop", "three_hop", "letter", "caption"),
}
TITLES = {
    "vision": "vision: patches of things, CLS picks a caption",
    "symbols": "symbols: answers about stand-ins for image tokens",
    "joint": "joint: answers about pictures",
}


def main() -> None:
    """Draw one panel per stage: shares of right answers in training batches, by step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--log", type=Path, default=tiny.folder() / "training.jsonl")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.log.read_text(encoding="utf-8").splitlines()]
    figure, axes = plt.subplots(1, len(SHOWN), figsize=(15, 4.4), sharey=True, layout="constrained")
    for axis, (stage, names) in zip(axes, SHOWN.items(), strict=True):
        some = [line for line in lines if line["stage"] == stage and "step" in line]
        for name in names:
            points = [(line["step"], line[name]) for line in some if name in line]
            axis.plot(*zip(*points, strict=True), label=name.replace("_", " "))
        axis.set(title=TITLES[stage], xlabel="step", ylim=(0, 1.01))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="lower right")
    axes[0].set_ylabel("share right, means of 100 steps")
    figure.savefig(options.out, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
