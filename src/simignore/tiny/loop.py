"""The training loop that every stage shares: timing, data parallelism, optimisers, log, checkpoints and resuming.

A stage is a loss of `(step, random numbers, progress)`. Its data follow from seed, stage, process and step alone, so a
killed run goes on from its last checkpoint with the batches it would have had. A stage ends when its seconds are spent,
which keeps a run's length known on any machine; the log records how many steps that was.
"""

from __future__ import annotations

import json
import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .muon import SharedMuon

logger = logging.getLogger(__name__)

Loss = Callable[[random.Random, float], tuple[Tensor, dict[str, float]]]  # (random numbers, progress in [0, 1))


@dataclass(frozen=True)
class Worker:
    """One of `processes` data-parallel processes; process 0 logs and saves. `folder` is the run's folder."""

    rank: int
    processes: int
    seed: int
    folder: Path

    @classmethod
    def join(cls, rank: int, processes: int, seed: int, folder: Path, port: int) -> Worker:
        """Enter the group on this machine, with one thread: two such processes beat one with two threads by 1.7."""
        torch.set_num_threads(1)
        if processes > 1:
            address = f"tcp://127.0.0.1:{port}"
            dist.init_process_group("gloo", init_method=address, rank=rank, world_size=processes)
        return cls(rank, processes, seed, folder)

    def average(self, parameters: list[nn.Parameter], progress: float) -> float:
        """Average gradients over the processes in place; return the average progress, so that all stop together."""
        if self.processes == 1:
            return progress
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([*(g.flatten() for g in grads), torch.tensor([progress])])
        dist.all_reduce(flat)
        flat /= self.processes
        for p, piece in zip(parameters, torch.split(flat[:-1], [p.numel() for p in parameters]), strict=True):
            p.grad = piece.view_as(p)
        return float(flat[-1])


@dataclass(frozen=True)
class Plan:
    """How long and how fast a stage trains: `rate` is the peak of a cosine, after `warmup` steps."""

    name: str
    seconds: float
    batch: int  # pictures per process and step
    rate: float
    warmup: int = 50
    last_rate: float = 0.03  # fraction of the peak at the end
    decay: float = 0.02  # weight decay of matrices
    slow: dict[str, float] = field(default_factory=dict)  # part -> its share of the rate
    muon: float = 0.0  # rate of Muon as a share of `rate`, for the matrices inside layers; 0: AdamW for all


def train(plan: Plan, worker: Worker, parts: dict[str, nn.Module], loss_of: Loss) -> None:
    """Train the parts in place until the plan's seconds are spent; resume from and write `<folder>/<name>.pt`."""
    file = worker.folder / f"{plan.name}.pt"
    optimisers = _optimisers(plan, parts)
    parameters = [p for o in optimisers for group in o.param_groups for p in group["params"]]
    elapsed, step = _resume(file, parts, optimisers)
    progress, saved, before = elapsed / plan.seconds, time.time(), time.time()
    sums: dict[str, list[float]] = {}
    while progress < 1:
        rng = random.Random(f"{worker.seed}/{plan.name}/{worker.rank}/{step}")
        _set_rates(optimisers, plan, step, progress)
        with torch.autocast("cpu", torch.bfloat16):
            loss, notes = loss_of(rng, progress)
        loss.backward()  # type: ignore[no-untyped-call]
        now = time.time()
        elapsed, before = elapsed + now - before, now
        progress = worker.average(parameters, elapsed / plan.seconds)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        step += 1
        for name, value in {"loss": loss.item(), **notes}.items():
            sums.setdefault(name, []).append(value)
        if worker.rank == 0 and step % 100 == 0:
            _log(worker.folder, plan.name, step, elapsed, sums)
        if worker.rank == 0 and (time.time() - saved > 60 or progress >= 1):
            _save(file, parts, optimisers, {"elapsed": elapsed, "step": step, "finished": progress >= 1})
            saved = time.time()
    if worker.rank == 0 and sums:
        _log(worker.folder, plan.name, step, elapsed, sums)
    if worker.processes > 1:
        dist.barrier()


def restore(file: Path, parts: dict[str, nn.Module]) -> None:
    """Load those of the parts that the checkpoint holds."""
    state = torch.load(file, weights_only=True)
    for name, part in parts.items():
        if name in state["parts"]:
            part.load_state_dict(state["parts"][name])


def finished(file: Path) -> bool:
    """Whether the checkpoint is that of a stage which has spent its seconds."""
    return file.exists() and bool(torch.load(file, weights_only=True)["finished"])


def _optimisers(plan: Plan, parts: dict[str, nn.Module]) -> list[torch.optim.Optimizer]:
    """AdamW, or Muon for the matrices inside layers and AdamW for the rest (embeddings, heads, norms, biases)."""
    matrices: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for part, module in parts.items():
        rate = plan.rate * plan.slow.get(part, 1.0)
        inner: list[nn.Parameter] = []
        outer: list[nn.Parameter] = []
        flat: list[nn.Parameter] = []
        for name, p in module.named_parameters():
            if p.dim() == 2 and "layers." in name:
                inner.append(p)
            else:
                (outer if p.dim() > 1 else flat).append(p)
        if plan.muon:
            matrices.append({"params": inner, "peak": rate * plan.muon, "weight_decay": plan.decay})
        else:
            outer = outer + inner
        others.append({"params": outer, "peak": rate, "weight_decay": plan.decay})
        others.append({"params": flat, "peak": rate, "weight_decay": 0.0})
    others = [group for group in others if group["params"]]
    adam: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=plan.rate, betas=(0.9, 0.98))]
    matrices = [group for group in matrices if group["params"]]
    if matrices:
        adam.append(SharedMuon(matrices, lr=plan.rate))
    return adam


def _set_rates(optimisers: list[torch.optim.Optimizer], plan: Plan, step: int, progress: float) -> None:
    wave = plan.last_rate + (1 - plan.last_rate) * (0.5 + 0.5 * math.cos(math.pi * min(progress, 1.0)))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * wave * min(1.0, (step + 1) / plan.warmup)


def _resume(file: Path, parts: dict[str, nn.Module], optimisers: list[torch.optim.Optimizer]) -> tuple[float, int]:
    if not file.exists():
        return 0.0, 0
    restore(file, parts)
    state = torch.load(file, weights_only=True)
    for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    logger.info("%s: resumed at step %d after %.0f s", file.stem, state["step"], state["elapsed"])
    return float(state["elapsed"]), int(state["step"])


def _save(
    file: Path, parts: dict[str, nn.Module], optimisers: list[torch.optim.Optimizer], where: dict[str, float]
) -> None:
    """Write beside, then rename: a kill while saving leaves the checkpoint before it."""
    state = {
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "optimisers": [optimiser.state_dict() for optimiser in optimisers],
        **where,
    }
    beside = file.with_suffix(".part")
    torch.save(state, beside)
    beside.replace(file)


def _log(folder: Path, stage: str, step: int, elapsed: float, sums: dict[str, list[float]]) -> None:
    """Append means since the last line to `log.jsonl` (NaN notes say nothing and are left out) and say them."""
    means = {}
    for name, values in sums.items():
        known = [value for value in values if not math.isnan(value)]
        if known:
            means[name] = round(sum(known) / len(known), 4)
    sums.clear()
    line = {"stage": stage, "step": step, "seconds": round(elapsed, 1), **means}
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    logger.info("%s", " ".join(f"{key}={value}" for key, value in line.items()))
