"""The stages of training, in order, and what each hands to the next."""

from __future__ import annotations

import json
from typing import Any

import torch

from .config import TINY
from .language import train_jointly, train_projector, train_symbols
from .loop import Plan, Worker, restore
from .model import build_model
from .pictures import Pictures
from .symbols import Symbols
from .vision import VisionHeads, train_vision, vision_accuracy

PLANS = (
    Plan("vision", seconds=720, batch=14, rate=1.5e-3),
    Plan("copying", seconds=90, batch=12, rate=2e-3, muon=1.0),
    Plan("symbols", seconds=960, batch=10, rate=2e-3, muon=1.5),
    Plan("projector", seconds=60, batch=16, rate=2e-3, warmup=20),
    Plan("joint", seconds=2280, batch=8, rate=1.2e-3, muon=1.5, slow={"tower": 0.125}),
)
AFTER = {  # checkpoints that a stage starts from; later ones win
    "vision": (),
    "copying": (),
    "symbols": ("copying",),
    "projector": ("vision", "symbols"),
    "joint": ("vision", "symbols", "projector"),
}


def run_stage(plan: Plan, worker: Worker, pictures: dict[str, Pictures]) -> None:
    """Build the parts from the seed, load what earlier stages trained, and train the stage."""
    torch.manual_seed(worker.seed)
    model = build_model(TINY)
    heads, symbols = VisionHeads(TINY.vision_width), Symbols(TINY.width)
    parts = {**model_parts(model), "vision_heads": heads, "symbols": symbols}
    for name in AFTER[plan.name]:
        restore(worker.folder / f"{name}.pt", parts)
    drawn = pictures["train"]
    if plan.name == "vision":
        train_vision(plan, worker, model.model.vision_tower, heads, drawn)
        if worker.rank == 0:
            note(worker, plan, vision_accuracy(model.model.vision_tower, heads, pictures["validation"]))
    elif plan.name == "projector":
        train_projector(plan, worker, model, symbols, drawn)
    elif plan.name == "joint":
        train_jointly(plan, worker, model, drawn, length=230)
    else:
        train_symbols(plan, worker, model, symbols, drawn, length=124)


def model_parts(model: Any) -> dict[str, Any]:
    """The model's parts by the names that checkpoints use."""
    inner = model.model
    return {
        "tower": inner.vision_tower,
        "projector": inner.multi_modal_projector,
        "decoder": inner.language_model,
        "head": model.lm_head,
    }


def note(worker: Worker, plan: Plan, accuracy: dict[str, float]) -> None:
    """Add a stage's held-out accuracy to the log."""
    with (worker.folder / "log.jsonl").open("a") as log:
        log.write(json.dumps({"stage": plan.name, "validation": accuracy}) + "\n")
