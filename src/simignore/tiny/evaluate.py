"""Measure the bundled model on held-out scenes: `python -m simignore.tiny.evaluate --out results/tiny.json`.

Everything goes the way a user goes: the exported folder, the processor with its chat template, `model.generate`. Every
question has a scene of its own, from seeds that training never draws. Three things are measured: how often the model is
right, by form and kind of question; whether the image matters to it, and where in the decoder (`bed`); and what its
embeddings give away (`embeddings`). Parts that are not measured anew stay as they are in the file.
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
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from simignore.methods import Method, Random
from simignore.wording import NO_CONTEXT

from . import fingerprint, folder, load
from .model import scale_of
from .prompts import BRIEFLY, DESCRIBE, caption, free_prompt, option_prompt, same_caption
from .questions import KINDS, ask_surely
from .scenes import SPLITS, render, sample_scene

logger = logging.getLogger(__name__)

FORMS = {
    "text": "options shown, answered with the option's text",
    "letter": "options shown, answered with the option's letter",
    "free": f"no options, `{BRIEFLY}`",
    "bare": "the question alone, as one would type it",
    "caption": f"`{DESCRIBE}`, right if every word about every thing is",
}
FEW = 0.125  # share of image tokens that stay in the test of the bed
APART = 100_000  # scenes of one evaluation seed


@dataclass(frozen=True)
class Item:
    """One prompt about one scene, by its seed, and the answer that counts as right."""

    kind: str
    scene: int
    prompt: str
    answer: str


def items(form: str, per_kind: int, seed: int = 0, split: str = "test") -> list[Item]:
    """Draw `per_kind` prompts of each kind, each about a scene of its own. `text` and `letter` ask the same questions.

    Raises ValueError for an unknown form, for seeds beyond the split, and for more questions than a seed has scenes.
    """
    if form not in FORMS:
        raise ValueError(f"there is no form {form!r}; choose one of {', '.join(FORMS)}")
    start = SPLITS[split].start + seed * APART
    if seed < 0 or start + APART > SPLITS[split].stop:
        raise ValueError(f"seed {seed} lies outside the {split} split; choose 0 to {len(SPLITS[split]) // APART - 1}")
    if form == "caption":
        return [Item("caption", s, DESCRIBE, caption(sample_scene(s))) for s in range(start, start + per_kind)]
    rng, found, scene = random.Random(f"{seed}"), [], start
    for kind in KINDS:
        left = per_kind
        while left:
            item = _item(form, kind, scene, rng)
            scene += 1
            if item:
                found.append(item)
                left -= 1
    if scene > start + APART:
        raise ValueError(
            f"{per_kind} questions of each kind need more than the {APART:,} scenes of one seed; ask fewer"
        )
    return found


def _item(form: str, kind: str, scene: int, rng: random.Random) -> Item | None:
    asked = ask_surely(kind, sample_scene(scene), rng)
    if asked is None or (form in ("free", "bare") and not asked.free):
        return None
    if form == "free":
        return Item(kind, scene, free_prompt(asked), asked.answer)
    if form == "bare":
        return Item(kind, scene, asked.question, asked.answer)
    asked = replace(asked, context=rng.choice((None, NO_CONTEXT)))
    letter = form == "letter"
    return Item(kind, scene, option_prompt(asked, letter), asked.letter if letter else asked.answer)


def answer(
    model: Any, processor: Any, images: Sequence[Image.Image], prompts: Sequence[str], method: Method | None = None
) -> list[str]:
    """Answer one prompt about each image, as one left-padded batch."""
    import torch

    chats = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}] for prompt in prompts]
    texts = [processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
    inputs = processor(text=texts, images=list(images), padding=True, return_tensors="pt").to(model.device)
    with torch.inference_mode(), method(model, processor=processor) if method else nullcontext():
        output = model.generate(**inputs)
    told: list[str] = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in told]


def evaluate(
    model: Any, processor: Any, some: Sequence[Item], batch: int = 50, method: Method | None = None
) -> dict[str, Any]:
    """Accuracy over all items and per kind, each with count and Wilson's 95 % interval, with all image tokens or under
    a method."""
    right: dict[str, list[bool]] = {}
    for start in range(0, len(some), batch):
        part = some[start : start + batch]
        images = [render(sample_scene(item.scene), scale_of(model))[0] for item in part]
        told = answer(model, processor, images, [item.prompt for item in part], method)
        for item, text in zip(part, told, strict=True):
            right.setdefault(item.kind, []).append(_right(item, text))
    everything = [hit for hits in right.values() for hit in hits]
    return {"all": share(everything), "kinds": {kind: share(hits) for kind, hits in right.items()}}


def _right(item: Item, told: str) -> bool:
    return same_caption(told, sample_scene(item.scene)) if item.kind == "caption" else told == item.answer


def bed(model: Any, processor: Any, some: Sequence[Item], only: Sequence[str] = ()) -> dict[str, Any]:
    """Whether methods can be told apart on this model: accuracy with all image tokens, with one random token (what can
    be guessed), and with `FEW` of them at random, cut before the decoder or before each of its layers. `only` names
    some of these cuts."""
    layers = model.config.text_config.num_hidden_layers
    cuts = {"all": None, "one token": Random(keep=1), "before the decoder": Random(keep=FEW)}
    cuts |= {f"before layer {layer}": Random(keep=FEW, layer=layer) for layer in range(1, layers)}
    found = {}
    for name, method in cuts.items():
        if only and name not in only:
            continue
        found[name] = {"method": repr(method), **evaluate(model, processor, some, method=method)}
        logger.info("%s %s", name, found[name]["all"]["accuracy"])
    return found


def embeddings(model: Any, processor: Any, count: int, seed: int = 0, split: str = "test") -> dict[str, Any]:
    """What embeddings say about `count` scenes and one question about each, as areas under the ROC curve, means over
    scenes (0.5 says nothing).

    `similarity`: the largest cosine with a word of question and options, against the patches of things that the
    question needs. `length` of image embeddings and `cls`, the attention of CLS in the layer that LLaVA reads, against
    the patches of things. `word`: the cosine with the word of each colour and shape, against the patches of such things.
    """
    import torch

    from .probe import areas

    rng, start = random.Random(f"embeddings/{seed}"), SPLITS[split].start + seed * APART
    sums: dict[str, list[float]] = {}
    for number in range(count):
        scene = sample_scene(start + number)
        asked = None
        while asked is None:
            asked = ask_surely(rng.choice(KINDS), scene, rng)
        with torch.inference_mode():
            for name, area in areas(model, processor, scene, asked).items():
                if not math.isnan(area):
                    sums.setdefault(name, []).append(area)
    return {"areas": {name: round(sum(values) / len(values), 4) for name, values in sums.items()}, "scenes": count}


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


def surroundings(path: Path) -> dict[str, Any]:
    """Versions, hardware, the command line and what was measured, to stand beside measured numbers."""
    import torch
    import transformers

    return {
        "command": "python -m simignore.tiny.evaluate " + " ".join(sys.argv[1:]),
        "weights": fingerprint(path),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
    }


def main() -> None:
    """Measure what is asked for and write it, form by form, into one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-kind", type=int, default=2000, help="questions of each kind (captions: in all)")
    parser.add_argument("--form", nargs="*", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--bed", type=int, default=0, help="questions of each kind to cut the image under")
    parser.add_argument("--cut", nargs="*", default=(), help="of the cuts of --bed only these")
    parser.add_argument("--embeddings", type=int, default=0, help="scenes to look at the embeddings of")
    parser.add_argument("--seed", type=int, default=0, help="which part of the split, 0 to 9")
    parser.add_argument("--split", choices=["validation", "test"], default="test")
    parser.add_argument("--model", type=Path, default=folder(), help="exported folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="to compute in")
    parser.add_argument("--out", type=Path, default=Path("results/tiny.json"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    import torch

    model, processor = load(arguments.device, getattr(torch, arguments.dtype), arguments.model)
    seed, split = arguments.seed, arguments.split
    jobs: dict[str, Callable[[], dict[str, Any]]] = {
        form: partial(_form, model, processor, form, items(form, arguments.per_kind, seed, split))
        for form in arguments.form
    }
    if arguments.bed:
        jobs["bed"] = partial(bed, model, processor, items("text", arguments.bed, seed, split), arguments.cut)
    if arguments.embeddings:
        jobs["embeddings"] = partial(embeddings, model, processor, arguments.embeddings, seed, split)
    for name, job in jobs.items():
        began = time.time()
        measured = {**job(), "seed": seed, "split": split, **surroundings(arguments.model)}
        measured["seconds"] = round(time.time() - began, 1)
        _store(arguments.out, name, measured)


def _form(model: Any, processor: Any, form: str, some: Sequence[Item]) -> dict[str, Any]:
    measured = evaluate(model, processor, some)
    logger.info("%s %s", form, {k: v["accuracy"] for k, v in ({"all": measured["all"]} | measured["kinds"]).items()})
    return {"what": FORMS[form], **measured}


def _store(file: Path, name: str, measured: dict[str, Any]) -> None:
    """Put one part into the file: a form below `forms`, anything else at the top."""
    result = json.loads(file.read_text()) if file.exists() else {"forms": {}}
    (result["forms"] if name in FORMS else result)[name] = measured
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
