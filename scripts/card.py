"""Sections of the bundled model's card, made from its training record, its log and what was measured on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from sections import ACCURACY, MADE_BY, StaleError, footnote, markdown, percent, read_result, same_weights, spoken
from simignore import tiny
from simignore.tiny.questions import KINDS

CONTROL = "results/control.json"
BARS = {  # least accuracy by kind of question
    **dict.fromkeys(("colour", "shape", "size", "pattern", "number", "where", "exist", "compare"), 0.97),
    **dict.fromkeys(("relation_yes_no", "which_relation", "two_hop", "three_hop", "odd_one_out"), 0.92),
    "count": 0.90,
}


def facts(_: Path) -> str:
    """What the model is, read from its own files."""
    config = json.loads((tiny.folder() / "config.json").read_text(encoding="utf-8"))
    vision, text = config["vision_config"], config["text_config"]
    file = tiny.folder() / "model.safetensors"
    with safe_open(file, "pt") as weights:
        parameters = sum(_size(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    rows = [
        ["class", f"`{config['architectures'][0]}`"],
        ["parameters", f"{parameters / 1e6:.1f} M, {file.stat().st_size / 1e6:.1f} MB as bfloat16"],
        ["picture", f"{vision['image_size']} x {vision['image_size']} px, patches of {vision['patch_size']} px"],
        ["image tokens", f"{(vision['image_size'] // vision['patch_size']) ** 2}"],
        ["vision tower", f"CLIP, {vision['num_hidden_layers']} layers of {vision['hidden_size']}"],
        ["decoder", f"Llama, {text['num_hidden_layers']} layers of {text['hidden_size']}"],
        ["words", f"{text['vocab_size']}"],
    ]
    return markdown(("", ""), rows)


def bars(root: Path) -> str:
    """What was asked of the model, and what it reached."""
    result = _measured(root)
    text = result["forms"]["text"]["kinds"]
    letter, bed, caption = result["forms"]["letter"]["all"], result["bed"], result["forms"]["caption"]["all"]
    whole = result["forms"]["text"]["all"]["accuracy"]
    cut = bed["all"]["all"]["accuracy"]
    middle = len([name for name in bed if name.startswith("before layer")]) // 2 + 1
    inside, before = (bed[f"before {where}"]["all"]["accuracy"] for where in (f"layer {middle}", "the decoder"))
    rows = [
        *(_bar(spoken(kind), BARS[kind], text[kind]["accuracy"], percent(text[kind])) for kind in KINDS),
        _bar("captions", 0.85, caption["accuracy"], percent(caption)),
        _below("letters below text", 0.02, whole - letter["accuracy"], most=True),
        _below(f"12.5 % of the tokens at random before layer {middle} cost", 0.05, cut - inside),
        _below("12.5 % of the tokens at random before the decoder cost", 0.20, cut - before),
    ]
    return markdown(("", "bar", "reached", ""), rows)


def _bar(name: str, least: float, reached: float, told: str) -> list[str]:
    return [name, f"at least {least:.0%}", told, "yes" if reached >= least else "**no**"]


def _below(name: str, bar: float, points: float, most: bool = False) -> list[str]:
    points, bar = round(points, 6), round(bar, 6)
    met = points <= bar if most else points >= bar
    return [
        name,
        f"at {'most' if most else 'least'} {bar * 100:.0f} points",
        f"{points * 100:.1f} points",
        "yes" if met else "**no**",
    ]


def intervals(root: Path) -> str:
    """Accuracy by kind with Wilson's intervals, for text and letters."""
    forms = _measured(root)["forms"]
    rows = [
        [spoken(kind), *(_interval(forms[form]["kinds"][kind]) for form in ("text", "letter"))]
        for kind in forms["text"]["kinds"]
    ]
    rows.append(["**all**", *(_interval(forms[form]["all"]) for form in ("text", "letter"))])
    text, letter = (next(iter(forms[form]["kinds"].values()))["questions"] for form in ("text", "letter"))
    counts = f"{text:,} questions of each kind by text, {letter:,} by letter"
    note = footnote(forms["text"], f"{counts}; in brackets Wilson's 95 % interval")
    return markdown(("question", "by text", "by letter"), rows) + f"\n\n{note}"


def _interval(share: Mapping[str, Any]) -> str:
    low, high = share["interval"]
    return f"{share['accuracy'] * 100:.1f} % ({low * 100:.1f}-{high * 100:.1f})"


def bed(root: Path) -> str:
    """Where in the decoder the image matters: accuracy after dropping at random, by layer."""
    found = _measured(root)["bed"]
    cuts = [name for name in found if isinstance(found[name], dict) and "all" in found[name]]
    kinds = list(found["all"]["kinds"])
    rows = [
        [name, _interval(found[name]["all"]), *(f"{found[name]['kinds'][k]['accuracy'] * 100:.0f}" for k in kinds)]
        for name in cuts
    ]
    each = next(iter(found["all"]["kinds"].values()))["questions"]
    note = footnote(found, f"Accuracy in %, {each} questions of each kind, by text, the same for every row")
    return markdown(("12.5 % at random", "all", *map(spoken, kinds)), rows) + f"\n\n{note}"


def embeddings(root: Path) -> str:
    """What embeddings give away, as areas under the ROC curve."""
    found = _measured(root)["embeddings"]
    told = {
        "similarity": "largest cosine with a word of question and options, for patches that the question needs",
        "word": "cosine with the word of a colour or shape, for patches of things that have it",
        "cls": "attention of CLS in the layer that the projector reads, for patches of things",
        "length": "length of the image embedding, for patches of things (0.5: gives nothing away)",
    }
    rows = [[what, f"{found['areas'][name]:.3f}"] for name, what in told.items()]
    note = footnote(found, f"Areas under the ROC curve, means over {found['scenes']} scenes of the test split")
    return markdown(("", "area"), rows) + f"\n\n{note}"


def training(_: Path) -> str:
    """The stages that made the weights, from the record beside them."""
    record = json.loads((tiny.folder() / "training.json").read_text(encoding="utf-8"))
    shown = {"loss": "loss", "blinded": "right where the first layers are blind", "open": "right elsewhere"}
    rows = []
    for name, stage in record["stages"].items():
        figures = stage.get("validation") or {told: stage[key] for key, told in shown.items() if key in stage}
        told = ", ".join(f"{k} {v:.3f}" for k, v in figures.items())
        rows.append([name, f"{stage['step']:,}", f"{stage['seconds'] / 60:.0f}", told])
    commands = "\n".join(record["commands"])
    notes = "".join(f"\n- {note}" for note in record.get("notes", ()))
    head = ("stage", "steps", "minutes", "at the end, on training batches (vision: on held-out pictures)")
    machine = (
        f"{record['machine']}, torch {record['torch']}, transformers {record['transformers']}, seed {record['seed']}"
    )
    return f"{markdown(head, rows)}\n\n{machine}. What was run:\n\n```\n{commands}\n```\n{notes}"


def _measured(root: Path) -> Mapping[str, Any]:
    """Everything that was measured on the bundled weights; StaleError if a part is missing or of other weights."""
    result = read_result(root, ACCURACY)
    parts = {name: result.get(name) for name in ("bed", "embeddings")}
    parts |= {name: result["forms"].get(name) for name in ("text", "letter", "caption")}
    for name, part in parts.items():
        if part is None:
            raise StaleError(f"{ACCURACY} holds no part {name!r}; make it: {MADE_BY[ACCURACY]}")
        same_weights(part, ACCURACY)
    return result


def control(root: Path) -> str:
    """Alignment by construction against none, over seeds."""
    if not (root / CONTROL).is_file():
        raise StaleError(f"no {CONTROL}; make it as docs/bundled-model.md says")
    runs = json.loads((root / CONTROL).read_text(encoding="utf-8"))["runs"]
    rows = [
        [
            run["what"],
            str(run["seed"]),
            percent(run["text"]),
            percent(run["blind"]),
            *(f"{run['embeddings'][name]:.3f}" for name in ("similarity", "word")),
        ]
        for run in runs
    ]
    head = (
        "symbols and projector",
        "seed",
        "right by text",
        "with one random token",
        "similarity, needed patches",
        "word, its patches",
    )
    note = footnote(runs[0], f"{runs[0]['text']['questions']:,} questions; areas under the ROC curve")
    return markdown(head, rows) + f"\n\n{note}"


def _size(shape: list[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


SECTIONS: dict[str, Callable[[Path], str]] = {
    "card-facts": facts,
    "card-bars": bars,
    "card-intervals": intervals,
    "card-bed": bed,
    "card-embeddings": embeddings,
    "card-training": training,
    "card-control": control,
}
