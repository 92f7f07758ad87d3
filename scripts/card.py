"""Sections of the bundled model's card, made from its training record, its log and what was measured on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from sections import ACCURACY, StaleError, footnote, markdown, percent, read_result, spoken
from simignore import tiny

CONTROL = "results/control.json"
LOOK_UPS = ("colour", "shape", "size", "pattern", "number", "where", "exist", "compare")
HOPS = ("relation_yes_no", "which_relation", "two_hop", "three_hop", "odd_one_out")


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
    result = read_result(root, ACCURACY)
    text = result["forms"]["text"]["kinds"]
    letter, bed, caption = result["forms"]["letter"]["all"], result["bed"], result["forms"]["caption"]["all"]
    whole = result["forms"]["text"]["all"]["accuracy"]
    cut = bed["all"]["all"]["accuracy"]
    middle = len([name for name in bed if name.startswith("before layer")]) // 2 + 1
    inside, before = (bed[f"before {where}"]["all"]["accuracy"] for where in (f"layer {middle}", "the decoder"))
    rows = [
        *(_bar(spoken(kind), 0.97, text[kind]["accuracy"], percent(text[kind])) for kind in LOOK_UPS),
        *(_bar(spoken(kind), 0.92, text[kind]["accuracy"], percent(text[kind])) for kind in HOPS),
        _bar("count", 0.90, text["count"]["accuracy"], percent(text["count"])),
        _bar("captions", 0.85, caption["accuracy"], percent(caption)),
        _below("letters below text", 0.02, whole - letter["accuracy"], most=True),
        _below(f"12.5 % of the tokens at random before layer {middle} cost", 0.05, cut - inside),
        _below("12.5 % of the tokens at random before the decoder cost", 0.20, cut - before),
    ]
    return markdown(("", "bar", "reached", ""), rows)


def _bar(name: str, least: float, reached: float, told: str) -> list[str]:
    return [name, f"at least {least:.0%}", told, "yes" if reached >= least else "**no**"]


def _below(name: str, bar: float, points: float, most: bool = False) -> list[str]:
    met = points <= bar if most else points >= bar
    return [
        name,
        f"at {'most' if most else 'least'} {bar * 100:.0f} points",
        f"{points * 100:.1f} points",
        "yes" if met else "**no**",
    ]


def intervals(root: Path) -> str:
    """Accuracy by kind with Wilson's intervals, for text and letters."""
    forms = read_result(root, ACCURACY)["forms"]
    rows = [
        [spoken(kind), *(_interval(forms[form]["kinds"][kind]) for form in ("text", "letter"))]
        for kind in forms["text"]["kinds"]
    ]
    rows.append(["**all**", *(_interval(forms[form]["all"]) for form in ("text", "letter"))])
    each = next(iter(forms["text"]["kinds"].values()))["questions"]
    note = footnote(forms["text"], f"{each:,} questions of each kind and form; in brackets Wilson's 95 % interval")
    return markdown(("question", "by text", "by letter"), rows) + f"\n\n{note}"


def _interval(share: Mapping[str, Any]) -> str:
    low, high = share["interval"]
    return f"{share['accuracy'] * 100:.1f} % ({low * 100:.1f}-{high * 100:.1f})"


def bed(root: Path) -> str:
    """Where in the decoder the image matters: accuracy after dropping at random, by layer."""
    found = read_result(root, ACCURACY)["bed"]
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
    found = read_result(root, ACCURACY)["embeddings"]
    told = {
        "similarity": "largest cosine with a word of question and options, for patches that the question needs",
        "word": "cosine with the word of a colour or shape, for patches of things that have it",
        "cls": "attention of CLS in the layer that the projector reads, for patches of things",
        "length": "length of the image embedding, for patches of things (0.5: gives nothing away)",
    }
    rows = [[what, f"{found[name]:.3f}"] for name, what in told.items()]
    note = footnote(found, "Areas under the ROC curve, means over scenes of the test split")
    return markdown(("", "area"), rows) + f"\n\n{note}"


def training(_: Path) -> str:
    """The stages that made the weights, from the record beside them."""
    record = json.loads((tiny.folder() / "training.json").read_text(encoding="utf-8"))
    rows = []
    for name, stage in record["stages"].items():
        figures = stage.get("validation") or {k: v for k, v in stage.items() if k in ("loss", "open", "blind", "cls")}
        told = ", ".join(f"{k} {v:.3f}" for k, v in figures.items())
        rows.append([name, f"{stage['step']:,}", f"{record['minutes'][name]:.0f}", told])
    notes = "".join(f"\n- {note}" for note in record.get("notes", ()))
    head = ("stage", "steps", "minutes", "at the end (vision: on held-out pictures)")
    machine = (
        f"{record['machine']}, torch {record['torch']}, transformers {record['transformers']}, seed {record['seed']}"
    )
    return f"{markdown(head, rows)}\n\n{machine}.{chr(10) if notes else ''}{notes}"


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
            *(f"{run['embeddings'][name]:.3f}" for name in ("similarity", "word")),
        ]
        for run in runs
    ]
    head = ("symbols and projector", "seed", "right by text", "similarity, needed patches", "word, its patches")
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
