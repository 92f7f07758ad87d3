"""From folders of runs and comparisons to rows that can be shown together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simignore.evaluate.folder import CONFIG, METRICS, PREDICTIONS, read_json, read_jsonl
from simignore.evaluate.statistics import paired

COMPARISON, COST = "comparison.json", "cost.json"


@dataclass(frozen=True)
class Section:
    """Rows over the same questions. title: which; facts: what they depend on, by name; sources: the folders."""

    title: str
    rows: list[dict[str, Any]]
    facts: dict[str, Any]
    sources: list[Path] = field(default_factory=list)


def gather(folders: Iterable[Path]) -> list[Section]:
    """One section for each set of questions: of every comparison, and of all single runs over the same questions together.

    Raises OSError for a folder that is not there, ValueError for one that is no run, or whose run is not finished.
    """
    found: list[Section] = []
    singles: dict[tuple[str, str], list[Path]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise OSError(f"there is no folder {folder}; name one that `simignore evaluate` or `compare` wrote (--out)")
        if (folder / COMPARISON).is_file():
            told = read_json(folder / COMPARISON)
            found.append(Section(told["benchmark"], told["rows"], _facts(told), [folder]))
        elif (folder / CONFIG).is_file():
            if not (folder / METRICS).is_file():
                raise ValueError(f"the run in {folder} is not finished (no {METRICS}); repeat its command to go on")
            config = read_json(folder / CONFIG)
            singles.setdefault((config["benchmark"], config["questions_sha256"]), []).append(folder)
        else:
            raise ValueError(f"{folder} holds neither {COMPARISON} nor {CONFIG}; name a folder that --out wrote")
    return found + [_runs(benchmark, own) for (benchmark, _), own in singles.items()]


def _facts(told: dict[str, Any]) -> dict[str, Any]:
    return {
        name: told[name] for name in ("benchmark", "model", "dtype", "date", "versions", "hardware") if name in told
    }


def _runs(benchmark: str, folders: list[Path]) -> Section:
    """Single runs over the same questions; the others are set against the one with all image tokens, if it is there."""
    configs = {folder: read_json(folder / CONFIG) for folder in folders}
    scores = {folder: [line["score"] for _, line in read_jsonl(folder / PREDICTIONS)] for folder in folders}
    full = next((folder for folder, config in configs.items() if config["method"] is None), None)
    rows = []
    for folder, config in configs.items():
        metrics = read_json(folder / METRICS)
        row: dict[str, Any] = {
            "method": "full" if config["method"] is None else folder.name,
            "at": "tokens",
            "keep": None,
        }
        row |= {"configuration": config["method"], **metrics}
        if full is not None and folder != full:
            row["versus_full"] = paired(scores[folder], scores[full])
        if (folder / COST).is_file():
            row["cost"] = _cost(read_json(folder / COST))
        rows.append(row)
    last = configs[folders[-1]]
    return Section(benchmark, rows, _facts({**last["starts"][-1], **last}), folders)


def _cost(costs: dict[str, Any]) -> dict[str, Any]:
    """A run's own cost, beside that of all image tokens in the same measurement."""
    own, full = costs.get("method", costs["full"]), costs["full"]
    return {
        **own,
        "of_full": {
            "prefill_flops": own["prefill_flops"] / full["prefill_flops"],
            "prefill_seconds": own["prefill_seconds"]["median"] / full["prefill_seconds"]["median"],
            "kv_bytes": own["kv_bytes"] / full["kv_bytes"],
        },
    }
