"""Write a run's newest joint checkpoint as a Hugging Face folder: `python -m simignore.tiny.export --run runs/tiny`.

Works while training still runs. Beside the weights go `training.json`, how they were made, and `training.jsonl`, the
run's log.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
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
    """Stages with their seconds, steps and last logged figures, and what they ran on."""
    import torch
    import transformers

    stages: dict[str, Any] = {}
    for line in (run / "log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        stages.setdefault(entry.pop("stage"), {}).update(entry)
    return {
        **json.loads((run / "run.json").read_text()),
        "minutes": {name: round(stage["seconds"] / 60, 1) for name, stage in stages.items()},
        "stages": stages,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


if __name__ == "__main__":
    main()
