"""Train the bundled model from nothing: `python -m simignore.tiny.train --out runs/tiny`.

Five stages, each a loss and a number of steps:

1. vision: the tower learns what each patch shows, and CLS to tell captions apart (`vision.py`);
2. copying: the decoder learns to find the letter of an option that is named;
3. symbols: the decoder learns to reason, on symbols in place of image tokens (`symbols.py`);
4. projector: fitted to say of a patch what its symbol would;
5. joint: everything together, on pictures, by the answers.

Large decoders read a picture late, small ones at once, unless they are kept from it: in most rows text cannot look at
the picture in the first `blind` layers. Nothing of that remains at inference. A killed run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import platform
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from .curriculum import mix_at
from .loop import Plan, Worker, finished, note, restore, spawn, train
from .losses import answer_loss, first_layers_blind, length_loss
from .model import SIZES, TinyConfig, build_model
from .packing import pack
from .pictures import Pictures, load
from .symbols import Symbols, sample_places
from .vision import VisionHeads, vision_accuracy, vision_loss

PLANS = (
    Plan("vision", steps=4500, batch=28, rate=1.5e-3, muon=1.5),
    Plan("copying", steps=130, batch=24, rate=2e-3, muon=1.0),
    Plan("symbols", steps=4400, batch=20, rate=2e-3, muon=1.5),
    Plan("projector", steps=150, batch=32, rate=2e-3, warmup=20),
    Plan("joint", steps=1900, batch=16, rate=1.2e-3, muon=1.5, slow={"tower": 0.125, "vision_heads": 0.125}),
)
AFTER = {  # checkpoints that a stage starts from; later ones win
    "vision": (),
    "copying": (),
    "symbols": ("copying",),
    "projector": ("vision", "symbols"),
    "joint": ("vision", "symbols", "projector"),
}
TRACKS = ((("vision",), ("copying", "symbols")), (("projector", "joint"),))  # those in one bracket run side by side
COUNTS = {"train": 40_000, "validation": 500}  # pictures drawn ahead
TEXT = {"copying": 124, "symbols": 124, "projector": 230, "joint": 230}  # tokens of text behind a picture

BLINDED = 0.75  # share of rows whose text is kept from the picture in the first layers
SEEING = 0.1  # weight of the vision stage's loss in the joint stage
LENGTHS = 0.1  # weight of the loss that keeps the lengths of image embeddings from giving things away


def run_stage(plan: Plan, worker: Worker, config: TinyConfig, pictures: dict[str, Pictures], aligned: bool) -> None:
    """Build the parts from the seed, load what earlier stages trained, and train the stage.

    Without `aligned`, symbols share nothing with words, and the projector learns from the answers alone.
    """
    model = build_model(config, worker.seed)
    torch.manual_seed(worker.seed)
    heads, symbols = VisionHeads(config.vision_width), Symbols(config.width, config.grid, aligned)
    parts = {**model_parts(model), "vision_heads": heads, "symbols": symbols}
    for name in AFTER[plan.name]:
        restore(worker.folder / f"{name}.pt", parts)
    for part in parts.values():
        part.to(worker.device)
    stage = Stage(plan, worker, config, model, heads, symbols, pictures["train"], aligned)
    trained, loss_of = {
        "vision": (("tower", "vision_heads"), stage.see),
        "copying": (("decoder", "head", "symbols"), stage.reason),
        "symbols": (("decoder", "head", "symbols"), stage.reason),
        "projector": (("projector",), stage.project if aligned else stage.answer),
        "joint": (("decoder", "head", "projector", "tower", "vision_heads"), stage.answer),
    }[plan.name]
    with first_layers_blind(model.model.language_model, config.blind):
        train(plan, worker, {name: parts[name] for name in trained}, loss_of)
    if plan.name == "vision" and worker.rank == 0:
        accuracy = vision_accuracy(model.model.vision_tower, heads, pictures["validation"], worker.device)
        note(worker.folder, {"stage": plan.name, "validation": accuracy})


def model_parts(model: Any) -> dict[str, Any]:
    """The model's parts by the names that checkpoints use."""
    inner = model.model
    return {
        "tower": inner.vision_tower,
        "projector": inner.multi_modal_projector,
        "decoder": inner.language_model,
        "head": model.lm_head,
    }


@dataclasses.dataclass
class Stage:
    """The losses of all stages; each draws its batch with the random numbers it is given."""

    plan: Plan
    worker: Worker
    config: TinyConfig
    model: Any
    heads: VisionHeads
    symbols: Symbols
    pictures: Pictures
    aligned: bool

    def see(self, rng: random.Random, progress: float) -> tuple[Tensor, dict[str, float]]:
        """Stage 1: patches and captions."""
        indices, device = self._draw(rng), self.worker.device
        return vision_loss(self.model.model.vision_tower, self.heads, self.pictures, indices, rng, device)[:2]

    def reason(self, rng: random.Random, progress: float) -> tuple[Tensor, dict[str, float]]:
        """Stages 2 and 3: answers on symbols of some of each picture's patches."""
        indices, device = self._draw(rng), self.worker.device
        places, valid = sample_places(self.pictures, indices, rng)
        labels = self.pictures.labels(indices).gather(1, places[..., None].expand(-1, -1, 5))  # [B, S, 5]
        image = self.symbols(labels.to(device), places.to(device), self.model.model.language_model.embed_tokens)
        return self._loss(image, places, valid, indices, rng, progress)

    def project(self, rng: random.Random, progress: float) -> tuple[Tensor, dict[str, float]]:
        """Stage 4: squared error between the projector's output and the symbol of every patch."""
        indices, device = self._draw(rng), self.worker.device
        with torch.no_grad():
            labels = self.pictures.labels(indices).to(device)
            places = self._everywhere(len(indices)).to(device)
            target = self.symbols(labels, places, self.model.model.language_model.embed_tokens)  # [B, N, D]
            features = self.model.model.vision_tower(
                self.pictures.batch(indices).to(device), output_hidden_states=True
            ).hidden_states[-2][:, 1:]
        error = (self.model.model.multi_modal_projector(features).float() - target).square().mean(-1)  # [B, N]
        weight = torch.where(labels[..., 0] > 0, 1.0, 0.3)
        return (error * weight).sum() / weight.sum() / target.var(), {}

    def answer(self, rng: random.Random, progress: float) -> tuple[Tensor, dict[str, float]]:
        """Stage 5, and stage 4 of the control: answers on pictures; the tower keeps learning what it learnt before."""
        indices, device = self._draw(rng), self.worker.device
        tower = self.model.model.vision_tower
        seeing, seen, features = vision_loss(tower, self.heads, self.pictures, indices, rng, device)
        image = self.model.model.multi_modal_projector(features)  # [B, N, D]
        places = self._everywhere(len(indices))
        loss, notes = self._loss(image, places, torch.ones_like(places, dtype=torch.bool), indices, rng, progress)
        owned = torch.from_numpy(self.pictures.owner[indices] > 0).to(device)
        uneven, gap = length_loss(image, owned)
        notes = {**notes, "cls": seen["cls"], "length_gap": gap}
        return loss + SEEING * seeing + (LENGTHS * uneven if self.aligned else 0), notes

    def _loss(
        self, image: Tensor, places: Tensor, valid: Tensor, indices: list[int], rng: random.Random, progress: float
    ) -> tuple[Tensor, dict[str, float]]:
        scenes = [self.pictures.scene(i) for i in indices]
        mix = mix_at(self.plan.name, progress)
        text = pack(scenes, self.config.patches, mix, TEXT[self.plan.name], rng).to(image.device)
        blinded = torch.tensor([rng.random() < BLINDED for _ in indices], device=image.device)
        return answer_loss(self.model, image, places.to(image.device), valid.to(image.device), text, blinded)

    def _draw(self, rng: random.Random) -> list[int]:
        return sorted(rng.sample(range(len(self.pictures)), self.plan.batch // self.worker.processes))

    def _everywhere(self, batch: int) -> Tensor:
        return torch.arange(self.config.patches).expand(batch, -1)


def main() -> None:
    """Parse the command line and run the stages that are not finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"), help="folder of checkpoints and log")
    parser.add_argument("--size", choices=list(SIZES), default="tiny", help="tiny is shipped; large is for a GPU")
    parser.add_argument("--stage", nargs="+", choices=list(AFTER), default=list(AFTER), help="run these stages only")
    parser.add_argument("--steps", type=float, default=1.0, help="multiply every stage's steps")
    parser.add_argument("--unaligned", action="store_true", help="the control: symbols and projector without words")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2, help="data-parallel processes of one thread each")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda with --processes 1")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.device != "cpu" and arguments.processes != 1:
        parser.error(f"--device {arguments.device} with --processes {arguments.processes}: use --processes 1")
    left = [name for name in arguments.stage if not finished(arguments.out / f"{name}.pt")]
    if not left:
        return
    try:
        remember(arguments)
    except ValueError as error:
        parser.error(str(error))
    config, cores = SIZES[arguments.size], os.cpu_count() or 1
    for split, count in COUNTS.items():
        load(arguments.out / "pictures", split, count, cores, config.scale, config.patch)
    for together in TRACKS:
        tracks = [[name for name in track if name in left] for track in together]
        for wait in [_start(track, arguments) for track in tracks if track]:
            wait()


def _start(names: list[str], arguments: argparse.Namespace) -> Callable[[], None]:
    """Start the processes of some stages that follow each other; the vision stage has one process."""
    processes = 1 if names == ["vision"] else arguments.processes
    return spawn(_work, [(names, arguments, rank, processes) for rank in range(processes)])


def _work(names: list[str], arguments: argparse.Namespace, rank: int, processes: int, port: int) -> None:
    """Run some stages as one of several processes."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config, folder, factor = SIZES[arguments.size], arguments.out, arguments.steps
    worker = Worker.join(rank, processes, arguments.seed, folder, arguments.device, port)
    pictures = {
        split: load(folder / "pictures", split, count, 1, config.scale, config.patch) for split, count in COUNTS.items()
    }
    for plan in PLANS:
        if plan.name in names:
            steps, warmup = (max(1, round(count * factor)) for count in (plan.steps, plan.warmup))
            plan = dataclasses.replace(plan, steps=steps, warmup=min(plan.warmup, warmup))
            run_stage(plan, worker, config, pictures, not arguments.unaligned)


def remember(arguments: argparse.Namespace) -> None:
    """Note settings, machine and command line in `run.json`, for the record that is exported with the weights.

    Raises ValueError if the folder holds a run with other settings.
    """
    file = arguments.out / "run.json"
    arguments.out.mkdir(parents=True, exist_ok=True)
    settings = {"seed": arguments.seed, "size": arguments.size, "aligned": not arguments.unaligned}
    run = json.loads(file.read_text()) if file.exists() else {"commands": []}
    for name, value in settings.items():
        if run.setdefault(name, value) != value:
            raise ValueError(
                f"{arguments.out} holds a run with {name} {run[name]!r}, not {value!r}; choose another --out, or delete it"
            )
    device = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else "CPU"
    run["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, {device}"
    run |= {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}
    run["commands"].append("python -m simignore.tiny.train " + " ".join(sys.argv[1:]))
    file.write_text(json.dumps(run, indent=1) + "\n")


if __name__ == "__main__":
    main()
