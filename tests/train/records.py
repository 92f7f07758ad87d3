"""Files of records for tests of training."""

from __future__ import annotations

import json
from pathlib import Path

from simignore.train import Objective, Scenes, Settings

QUICK = Objective(flow=0, answer=0, needed=1, spans=("question",))
SHORT = Settings(steps=1, batch=2, rank=2, objective=QUICK)


def records(count: int) -> list[dict]:
    """Records of one image, the answer of each a number of its own."""
    region = {"words": "a thing", "box": [0.1, 0.1, 0.6, 0.6], "needed": True}
    return [{"image": "a.png", "question": "What is it?", "answer": str(n), "regions": [region]} for n in range(count)]


def written(folder: Path, told: list[dict]) -> Path:
    if not (folder / "a.png").exists():
        Scenes(1)[0].image().save(folder / "a.png")
    file = folder / "told.jsonl"
    file.write_text("".join(f"{json.dumps(one)}\n" for one in told))
    return file
