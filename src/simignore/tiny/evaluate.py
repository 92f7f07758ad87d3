"""Measure the bundled model on held-out scenes: `python -m simignore.tiny.evaluate --out results/tiny.json`.

Everything goes the way a user goes: the exported folder, the processor with its chat template, `model.generate`. Every
question has a scene of its own, from seeds that training never draws.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import platform
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from simignore.wording import NO_CONTEXT

from . import folder, load
from .questions import BRIEFLY, DESCRIBE, KINDS, ask, caption, free_prompt, option_prompt
from .scenes import SPLITS, render, sample_scene

logger = logging.getLogger(__name__)

FORMS = {
    "text": "options shown, answered with the option's text",
    "letter": "options shown, answered with the option's letter",
    "free": f"no options, `{BRIEFLY}`",
    "bare": "the question alone, as one would type it",
    "caption": f"`{DESCRIBE}`, right if every word about every thing is",
}
_APART = 100_000  # scenes of one evaluation seed


@dataclass(frozen=True)
class Item:
    """One prompt about one scene, by its seed, and the answer that counts as right."""

    kind: str
    scene: int
    prompt: str
    answer: str


def items(form: str, per_kind: int, seed: int = 0, split: str = "test") -> list[Item]:
    """Draw `per_kind` prompts of each kind, each about a scene of its own.

    Raises ValueError for an unknown form and for seeds beyond the split.
    """
    if form not in FORMS:
        raise ValueError(f"there is no form {form!r}; choose one of {', '.join(FORMS)}")
    start = SPLITS[split].start + seed * _APART
    if seed < 0 or start + _APART > SPLITS[split].stop:
        raise ValueError(f"seed {seed} lies outside the {split} split; choose 0 to {len(SPLITS[split]) // _APART - 1}")
    if form == "caption":
        return [Item("caption", s, DESCRIBE, caption(sample_scene(s))) for s in range(start, start + per_kind)]
    rng, found, scene = random.Random(f"{form}/{seed}"), [], start
    for kind in KINDS:
        left = per_kind
        while left:
            item = _item(form, kind, scene, rng)
            scene += 1
            if item:
                found.append(item)
                left -= 1
    return found


def _item(form: str, kind: str, scene: int, rng: random.Random) -> Item | None:
    asked = ask(kind, sample_scene(scene), rng)
    if asked is None or (form in ("free", "bare") and not asked.free):
        return None
    if form == "free":
        return Item(kind, scene, free_prompt(asked), asked.answer)
    if form == "bare":
        return Item(kind, scene, asked.question, asked.answer)
    asked = replace(asked, context=rng.choice((None, NO_CONTEXT)))
    letter = form == "letter"
    return Item(kind, scene, option_prompt(asked, letter), asked.letter if letter else asked.answer)


def answer(model: Any, processor: Any, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[str]:
    """Answer one prompt about each image, as one left-padded batch."""
    import torch

    chats = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}] for prompt in prompts]
    texts = [processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
    inputs = processor(text=texts, images=list(images), padding=True, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        output = model.generate(**inputs)
    told: list[str] = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in told]


def evaluate(model: Any, processor: Any, some: Sequence[Item], batch: int = 50) -> dict[str, Any]:
    """Accuracy over all items and per kind, each with count and Wilson's 95 % interval."""
    right: dict[str, list[bool]] = {}
    for start in range(0, len(some), batch):
        part = some[start : start + batch]
        images = [render(sample_scene(item.scene))[0] for item in part]
        for item, told in zip(part, answer(model, processor, images, [item.prompt for item in part]), strict=True):
            right.setdefault(item.kind, []).append(told == item.answer)
    everything = [hit for hits in right.values() for hit in hits]
    return {"all": share(everything), "kinds": {kind: share(hits) for kind, hits in right.items()}}


def share(hits: Sequence[bool]) -> dict[str, Any]:
    """Right answers, questions, accuracy and the ends of Wilson's 95 % interval (Wilson 1927)."""
    n, k, z = len(hits), sum(hits), 1.959964
    middle, spread = (k + z * z / 2) / (n + z * z), z * math.sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    return {
        "right": k,
        "questions": n,
        "accuracy": round(k / n, 4),
        "interval": [round(middle - spread, 4), round(middle + spread, 4)],
    }


def surroundings() -> dict[str, Any]:
    """Versions, hardware and the command line, to stand beside measured numbers."""
    import torch
    import transformers

    return {
        "command": "python -m simignore.tiny.evaluate " + " ".join(sys.argv[1:]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
    }


def main() -> None:
    """Measure the forms asked for and write them as one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-kind", type=int, default=200, help="questions of each kind (captions: in all)")
    parser.add_argument("--form", nargs="+", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--seed", type=int, default=0, help="which part of the test split, 0 to 9")
    parser.add_argument("--model", type=Path, default=folder(), help="exported folder")
    parser.add_argument("--out", type=Path, default=Path("results/tiny.json"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model, processor = load(path=arguments.model)
    result: dict[str, Any] = {"seed": arguments.seed, **surroundings(), "forms": {}}
    for form in arguments.form:
        began = time.time()
        measured = evaluate(model, processor, items(form, arguments.per_kind, arguments.seed))
        seconds = round(time.time() - began, 1)
        result["forms"][form] = {"what": FORMS[form], **measured, "seconds": seconds}
        logger.info(
            "%s %s", form, {k: v["accuracy"] for k, v in ({"all": measured["all"]} | measured["kinds"]).items()}
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
