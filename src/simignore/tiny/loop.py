"""The training loop that every stage shares: timing, data parallelism, optimisers, log, checkpoints and resuming.

A stage is a loss of `(random numbers, progress)` and a number of steps. Its data follow from seed, stage, process and
step alone, so a killed run goes on from its last checkpoint with the batches that it would have had; another number of
processes is refused.
"""

from __future__ import annotations

import json
import logging
import math
import random
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from .muon import SharedMuon

logger = logging.getLogger(__name__)

SAVE_EVERY = 60.0  # seconds between checkpoints
Loss = Callable[[random.Random, float], tuple[Tensor, dict[str, float]]]  # (random numbers, progress in [0, 1))


@dataclass(frozen=True)
class Worker:
    """One of `processes` data-parallel processes; process 0 logs and saves. `folder` is the run's folder."""

    rank: int
    processes: int
    seed: int
    folder: Path
    device: str = "cpu"

    @classmethod
    def join(cls, rank: int, processes: int, seed: int, folder: Path, device: str, port: int) -> Worker:
        """Enter the group on this machine, with one thread: two such processes beat one with two threads by 1.7."""
        torch.set_num_threads(1)
        if processes > 1:
            address = f"tcp://127.0.0.1:{port}"
            dist.init_process_group("gloo", init_method=address, rank=rank, world_size=processes)
        return cls(rank, processes, seed, folder, device)

    def average(self, parameters: list[nn.Parameter]) -> None:
        """Average gradients over the processes in place."""
        if self.processes == 1:
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        flat /= self.processes
        for p, piece in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
            p.grad = piece.view_as(p)


@dataclass(frozen=True)
class Plan:
    """How long and how fast a stage trains: `rate` is the peak of a cosine, after `warmup` steps."""

    name: str
    steps: int
    batch: int  # pictures per step, shared among the processes
    rate: float
    warmup: int = 50
    last_rate: float = 0.03  # fraction of the peak at the end
    decay: float = 0.02  # weight decay of matrices
    slow: dict[str, float] = field(default_factory=dict)  # part -> its share of the rate
    muon: float = 0.0  # rate of Muon as a share of `rate`, for the matrices inside layers; 0: AdamW for all


def train(plan: Plan, worker: Worker, parts: dict[str, nn.Module], loss_of: Loss) -> None:
    """Train the parts in place for the plan's steps; resume from and write `<folder>/<name>.pt`."""
    file = worker.folder / f"{plan.name}.pt"
    optimisers = _optimisers(plan, parts)
    parameters = [p for o in optimisers for group in o.param_groups for p in group["params"]]
    elapsed, step = _resume(file, parts, optimisers, worker)
    saved = before = time.time()
    sums: dict[str, list[float]] = {}
    while step < plan.steps:
        rng = random.Random(f"{worker.seed}/{plan.name}/{worker.rank}/{step}")
        _set_rates(optimisers, plan, step)
        with torch.autocast(worker.device.split(":")[0], torch.bfloat16):
            loss, notes = loss_of(rng, step / plan.steps)
        loss.backward()  # type: ignore[no-untyped-call]
        worker.average(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        step += 1
        now = time.time()
        elapsed, before = elapsed + now - before, now
        for name, value in {"loss": loss.item(), **notes}.items():
            sums.setdefault(name, []).append(value)
        if worker.rank == 0 and step % 100 == 0:
            _log(worker.folder, plan.name, step, elapsed, sums)
        if worker.rank == 0 and (now - saved > SAVE_EVERY or step == plan.steps):
            where = {"elapsed": elapsed, "step": step, "processes": worker.processes, "finished": step == plan.steps}
            _save(file, parts, optimisers, where)
            saved = now
    if worker.rank == 0 and sums:
        _log(worker.folder, plan.name, step, elapsed, sums)
    if worker.processes > 1:
        dist.barrier()


def spawn(work: Callable[..., None], calls: list[tuple[Any, ...]]) -> Callable[[], None]:
    """Start `work(*call, port)` in a process for each call; `port` is free for them to meet at.

    Returns a function that waits for them. If one fails, it stops the others and raises that error.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    some = start_processes(_call, (work, calls, port), nprocs=len(calls), join=False, start_method="spawn")  # type: ignore[no-untyped-call]

    def wait() -> None:
        while not some.join():
            pass

    return wait


def _call(number: int, work: Callable[..., None], calls: list[tuple[Any, ...]], port: int) -> None:
    # The parent's death is told by SIGINT, which a command started in the background ignores.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    work(*calls[number], port)


def note(folder: Path, line: dict[str, Any]) -> None:
    """Add a line to the run's log."""
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")


def restore(file: Path, parts: dict[str, nn.Module]) -> None:
    """Load those of the parts that the checkpoint holds."""
    state = torch.load(file, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        if name in state["parts"]:
            part.load_state_dict(state["parts"][name])


def finished(file: Path) -> bool:
    """Whether the checkpoint is that of a stage which has done its steps."""
    return file.exists() and bool(torch.load(file, map_location="cpu", weights_only=True)["finished"])


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
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=plan.rate, betas=(0.9, 0.98))]
    matrices = [group for group in matrices if group["params"]]
    if matrices:
        found.append(SharedMuon(matrices, lr=plan.rate))
    return found


def _set_rates(optimisers: list[torch.optim.Optimizer], plan: Plan, step: int) -> None:
    wave = plan.last_rate + (1 - plan.last_rate) * (0.5 + 0.5 * math.cos(math.pi * step / plan.steps))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * wave * min(1.0, (step + 1) / plan.warmup)


def _resume(
    file: Path, parts: dict[str, nn.Module], optimisers: list[torch.optim.Optimizer], worker: Worker
) -> tuple[float, int]:
    if not file.exists():
        return 0.0, 0
    state = torch.load(file, map_location="cpu", weights_only=True)
    if state["processes"] != worker.processes:
        raise ValueError(
            f"{file} was written by {state['processes']} processes, and {worker.processes} would draw other batches; go on "
            f"with --processes {state['processes']}, or start anew in another folder"
        )
    restore(file, parts)
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
    note(folder, line)
    logger.info("%s", " ".join(f"{key}={value}" for key, value in line.items()))
