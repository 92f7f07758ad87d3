"""Write a run's newest joint checkpoint as a Hugging Face folder: `python -m simignore.tiny.export --run runs/tiny`.

Works while training still runs. Beside the weights go `training.json`, how they were made, and `training.jsonl`, the
run's log.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from . import folder


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/tiny"), help="folder that train.py wrote")
    parser.add_argument("--to", type=Path, default=folder(), help="folder to write")
    arguments = parser.parse_args()
    export_run(arguments.run, arguments.to)


def export_run(run: Path, to: Path) -> None:
    """Export the run's joint checkpoint. Raises FileNotFoundError if it has none yet."""
    from .loop import restore
    from .model import SIZES, build_model, export
    from .train import model_parts

    file = run / "joint.pt"
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing; the joint stage writes it within two minutes of its start")
    record = _record(run)
    config = SIZES[record["size"]]
    model = build_model(config)
    restore(file, model_parts(model))
    export(model, config, to)
    (to / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    shutil.copyfile(run / "log.jsonl", to / "training.jsonl")


def _record(run: Path) -> dict[str, Any]:
    """Settings, machine and commands of the run; of each stage what its checkpoint says and the last logged figures."""
    import torch

    stages: dict[str, Any] = {}
    for line in (run / "log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        stages.setdefault(entry.pop("stage"), {}).update(entry)
    for name, stage in stages.items():
        state = torch.load(run / f"{name}.pt", map_location="cpu", weights_only=True)
        stage.update(step=state["step"], seconds=round(state["elapsed"], 1), finished=state["finished"])
    return {**json.loads((run / "run.json").read_text()), "stages": stages}


if __name__ == "__main__":
    main()
