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
OPTIONS = {"prepared": "--prepare", "warmup": ""}  # the command's names for settings, where they are others


def remembered(
    folder: Path, settings: Settings, data: str, model: nn.Module, about: str | None = None
) -> dict[str, Any]:
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
    record = _read(file)
    changed = []
    for name, value in new.items():
        before = record.get(name)
        if name == "settings":
            changed += _changed(before if isinstance(before, dict) else {}, told)
        elif before != value and not (name == "examples" and name not in record):
            changed.append(f"{name} {before}, now {value}")
    if changed:
        raise ValueError(
            f"{folder} holds another run, with {'; '.join(changed)}; go on with the same, or name another --out"
        )
    return record


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is no record of a run ({error}); delete it, or name another --out") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} is no record of a run, but {type(found).__name__}; delete it, or name another --out")
    return found


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], aim: bool = False) -> list[str]:
    """Which settings are others now, and the command's option for each. aim: these are of the objective."""
    found = []
    for name, value in now.items():
        was = before.get(name)
        if name == "objective":
            found += _changed(was if isinstance(was, dict) else {}, value, True)
        elif was != value:
            option = f"--goal {name}=" if aim else OPTIONS.get(name, f"--{name.replace('_', '-')}")
            found.append(f"{name} {was}, now {value}" + f" ({option})" * bool(option))
    return found


def finished(folder: Path, adapters: bool = False) -> bool:
    """Whether the run of this folder came to its end and all that it wrote is there."""
    wanted = [folder / WEIGHTS, folder / CONFIG] + [folder / ADAPTER / "adapter_config.json"] * adapters
    if not (folder / RECORD).exists() or not all(file.is_file() for file in wanted):
        return False
    return bool(_read(folder / RECORD).get("finished"))


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
