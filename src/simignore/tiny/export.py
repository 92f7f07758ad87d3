"""Write a run's newest joint checkpoint as a Hugging Face folder: `python -m simignore.tiny.export --run runs/tiny`.

Works while training still runs. Beside the weights goes `training.json`: how they were made.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

from . import folder
from .config import TINY


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/tiny"), help="folder that train.py wrote")
    parser.add_argument("--to", type=Path, default=folder(), help="folder to write")
    parser.add_argument("--results", type=Path, help="what evaluate.py measured on these weights, for the record")
    arguments = parser.parse_args()
    export_run(arguments.run, arguments.to, arguments.results)


def export_run(run: Path, to: Path, results: Path | None = None) -> None:
    """Export the run's joint checkpoint. Raises FileNotFoundError if it has none yet."""
    from .loop import restore
    from .model import build_model, export
    from .stages import model_parts

    file = run / "joint.pt"
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing; the joint stage writes it within two minutes of its start")
    model = build_model(TINY)
    restore(file, model_parts(model))
    export(model, to)
    record = _record(run)
    if results is not None:
        forms = json.loads(results.read_text())["forms"]
        record["measured"] = {form: measured["all"] for form, measured in forms.items()}
    (to / "training.json").write_text(json.dumps(record, indent=1) + "\n")


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
        "minutes": round(sum(stage["seconds"] for stage in stages.values()) / 60, 1),
        "stages": stages,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


if __name__ == "__main__":
    main()
