"""What a training run is, in its folder: the record that another start is held against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from simignore import tiny
from simignore.head import CONFIG, WEIGHTS
from simignore.surroundings import surroundings
from simignore.train.adapters import ADAPTER
from simignore.train.settings import Settings

RECORD = "training.json"


def remembered(folder: Path, settings: Settings, data: str, model: nn.Module, about: str | None = None) -> dict[str, Any]:
    """The record of the run in this folder, begun or new.

    about: which examples they are, beside ``data``, which are the caller's words; records from before it was kept go on.
    Raises ValueError for a folder that holds a run of another model, other data or other settings.
    """
    told: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / RECORD
    new = {"base": base_name(model), "data": data, "settings": told, "examples": about}
    if not file.exists():
        return new | surroundings(model)
    record: dict[str, Any] = json.loads(file.read_text())
    for name, value in new.items():
        if record.get(name) != value and not (name == "examples" and name not in record):
            settled = record["settings"]
            changed = [key for key in told if settled.get(key) != told[key]] if name == "settings" else [name]
            raise ValueError(
                f"{folder} holds a run with another {', '.join(changed)}; go on with the same, or name another --out"
            )
    return record


def finished(folder: Path, adapters: bool = False) -> bool:
    """Whether the run of this folder came to its end and all that it wrote is there."""
    wanted = [folder / WEIGHTS, folder / CONFIG] + [folder / ADAPTER / "adapter_config.json"] * adapters
    if not (folder / RECORD).exists() or not all(file.is_file() for file in wanted):
        return False
    return bool(json.loads((folder / RECORD).read_text()).get("finished"))


def base_name(model: nn.Module) -> str:
    """The model in words: its name on the hub, or its folder's; the bundled one by what its weights are."""
    config: Any = model.config
    name = str(getattr(config, "_name_or_path", "") or config.model_type)
    if Path(name) == tiny.folder():
        return f"simignore's bundled model, weights {tiny.fingerprint()}"
    return Path(name).name if Path(name).exists() else name


def write(file: Path, told: Mapping[str, Any]) -> None:
    """Written beside and renamed, so that a kill leaves the old one."""
    beside = file.with_suffix(".part")
    beside.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    beside.replace(file)


def followed(record: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """What the records of :func:`simignore.train.prepare.prepare` follow from."""
    o = settings.objective
    told = {"base": record["base"], "data": record["data"], "layers": record["layers"], "square": settings.square}
    return told | {"spans": o.spans, "measure": o.measure, "into": o.into}
