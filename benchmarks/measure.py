"""Fair timing on a noisy machine: cases take turns, and every figure is a median with its quartiles."""

from __future__ import annotations

import gc
import json
import os
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from simignore.surroundings import surroundings as anywhere

Sample = dict[str, float]


def interleaved(
    cases: Mapping[str, Callable[[], Sample]],
    rounds: int,
    seed: int = 0,
    warmup: int = 1,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, list[float]]]:
    """Run every case once a round, in a new random order each round, and gather what each returns.

    Why: a machine speeds up, heats up and is shared, so two cases compare only within a round; the order is drawn anew
    because a case inherits the caches and the memory of the one before it.

    warmup: rounds that are run and forgotten. tick: called after every case. Returns for each case and each of its
    quantities one number per round.
    """
    order, turn = random.Random(seed), list(cases)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in cases}
    for number in range(-warmup, rounds):
        order.shuffle(turn)
        for name in turn:
            gc.collect()
            gc.disable()  # a collection in the middle of a case would be charged to it
            try:
                sample = cases[name]()
            finally:
                gc.enable()
            tick()
            if number >= 0:
                for quantity, value in sample.items():
                    found[name].setdefault(quantity, []).append(value)
    return found


class Watch:
    """Measures from its making: seconds on the wall, and on a CPU also the processor time of all threads.

    Processor time does not count the moments in which the machine worked for others, so it stays comparable on a shared
    one. On a GPU the wall's time is taken once the device has done everything that it was given.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._start = self._now()

    def read(self, name: str, times: int = 1) -> Sample:
        """Seconds since the start for each of ``times`` repetitions, under ``name`` and ``name_cpu``."""
        wall, cpu = (end - start for end, start in zip(self._now(), self._start, strict=True))
        found = {name: wall / times}
        return found if self.device.type == "cuda" else found | {f"{name}_cpu": cpu / times}

    def _now(self) -> tuple[float, float]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter(), time.process_time()


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles and the raw values."""
    low, middle, high = (float(np.quantile(values, q)) for q in (0.25, 0.5, 0.75))
    return {"median": middle, "q1": low, "q3": high, "raw": [float(f"{value:.6g}") for value in values]}


def ratio(these: Sequence[float], those: Sequence[float]) -> dict[str, Any]:
    """Of each round's ratio: median and quartiles. Rounds are compared with themselves, so that drift cancels.

    ``of_medians``, the ratio of the two medians, stands beside it as a check that needs no pairing.
    """
    paired = summary([a / b for a, b in zip(these, those, strict=True)])
    del paired["raw"]
    return {**paired, "of_medians": float(np.median(these) / np.median(those))}


def surroundings(device: torch.device) -> dict[str, Any]:
    """What a figure depends on: versions, machine, threads, load, the command, the commit and the time."""
    found = anywhere()
    found |= {"command": shlex.join(["python", *_command()]), "commit": _commit()}
    found["hardware"]["gpu"] = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    found["hardware"]["load"] = [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None
    return found


def save(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result as JSON, one raw list per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_folded(result) + "\n", encoding="utf-8")


def _folded(value: Any, depth: int = 0) -> str:
    """JSON with an object's members on lines of their own, but short objects and lists of numbers on one."""
    flat = json.dumps(value, ensure_ascii=False)
    numbers = isinstance(value, list) and not any(isinstance(part, dict | list) for part in value)
    if not isinstance(value, dict | list) or numbers or len(flat) + depth <= 100:
        return flat
    pad = " " * (depth + 1)
    if isinstance(value, dict):
        parts = [f"{pad}{json.dumps(key)}: {_folded(part, depth + 1)}" for key, part in value.items()]
        return "{\n" + ",\n".join(parts) + f"\n{' ' * depth}}}"
    return "[\n" + ",\n".join(pad + _folded(part, depth + 1) for part in value) + f"\n{' ' * depth}]"


def _command() -> list[str]:
    """The command line as it can be typed again: ``-m benchmarks.prefill ...``."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["-m", spec.name, *sys.argv[1:]] if spec is not None else sys.argv


def _commit() -> str | None:
    """The commit that was measured, with ``+`` if the files had been changed since; None outside a checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
