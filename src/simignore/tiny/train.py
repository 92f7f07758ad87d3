"""Train the bundled model from nothing: `python -m simignore.tiny.train --out runs/tiny --minutes 68.5`.

Draws the pictures, runs the stages of `stages.py` one after the other with data-parallel processes, and goes on where
it stopped if it is started again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import socket
import sys
from pathlib import Path

from torch.multiprocessing.spawn import spawn

from .loop import Plan, Worker, finished
from .pictures import load
from .stages import PLANS, run_stage

logger = logging.getLogger(__name__)

COUNTS = {"train": 30_000, "validation": 500}  # pictures drawn ahead


def main() -> None:
    """Parse the command line and run the stages that are not finished."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"), help="folder of checkpoints and log")
    parser.add_argument("--minutes", type=float, default=minutes(PLANS), help="length of all stages together")
    parser.add_argument("--stage", choices=[plan.name for plan in PLANS], help="run this stage only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2, help="data-parallel processes of one thread each")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    _remember(arguments)
    for split, count in COUNTS.items():
        load(arguments.out / "pictures", split, count, arguments.processes)
    for plan in PLANS:
        if arguments.stage in (None, plan.name) and not finished(arguments.out / f"{plan.name}.pt"):
            plan = dataclasses.replace(plan, seconds=plan.seconds * arguments.minutes / minutes(PLANS))
            logger.info("%s: %.0f s", plan.name, plan.seconds)
            _spawn(plan, arguments.processes, arguments.seed, arguments.out)


def _remember(arguments: argparse.Namespace) -> None:
    """Note seed and command lines in `run.json`, for the record that is exported with the weights."""
    file = arguments.out / "run.json"
    arguments.out.mkdir(parents=True, exist_ok=True)
    run = json.loads(file.read_text()) if file.exists() else {"commands": []}
    run["seed"] = arguments.seed
    run["commands"].append("python -m simignore.tiny.train " + " ".join(sys.argv[1:]))
    file.write_text(json.dumps(run) + "\n")


def minutes(plans: tuple[Plan, ...]) -> float:
    """Length of the plans together."""
    return sum(plan.seconds for plan in plans) / 60


def _spawn(plan: Plan, processes: int, seed: int, folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(_work, (plan, processes, seed, folder, port), nprocs=processes)  # type: ignore[no-untyped-call]


def _work(rank: int, plan: Plan, processes: int, seed: int, folder: Path, port: int) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    worker = Worker.join(rank, processes, seed, folder, port)
    pictures = {split: load(folder / "pictures", split, count, 1) for split, count in COUNTS.items()}
    run_stage(plan, worker, pictures)


if __name__ == "__main__":
    main()
