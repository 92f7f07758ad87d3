"""From folders of runs and comparisons to rows that can be shown together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simignore.evaluate.benchmarks import BENCHMARKS
from simignore.evaluate.folder import CONFIG, METRICS, PREDICTIONS, read_json, read_jsonl
from simignore.evaluate.statistics import paired

COMPARISON, COST = "comparison.json", "cost.json"
ALIKE = (
    "benchmark",
    "questions_sha256",
    "model",
    "weights_sha256",
    "dtype",
    "device",
)  # what runs must share to be compared


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
    singles: dict[tuple[str, ...], list[Path]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise OSError(f"there is no folder {folder}; name one that `simignore evaluate` or `compare` wrote (--out)")
        if (folder / COMPARISON).is_file():
            told = read_json(folder / COMPARISON)
            found.append(
                Section(_titled(told, told["rows"][0]["questions"], [folder]), told["rows"], _facts(told), [folder])
            )
        elif (folder / CONFIG).is_file():
            if not (folder / METRICS).is_file():
                raise ValueError(f"the run in {folder} is not finished (no {METRICS}); repeat its command to go on")
            config = read_json(folder / CONFIG)
            alike = tuple(str(config.get(name)) for name in ALIKE)
            singles.setdefault(alike, []).append(folder)
        else:
            raise ValueError(f"{folder} holds neither {COMPARISON} nor {CONFIG}; name a folder that --out wrote")
    return found + [_runs(own) for own in singles.values()]


def _facts(told: dict[str, Any]) -> dict[str, Any]:
    return {
        name: told[name] for name in ("benchmark", "model", "dtype", "date", "versions", "hardware") if name in told
    }


def _titled(told: dict[str, Any], questions: int, sources: list[Path]) -> str:
    """Which questions, of which model, from where."""
    name = told["benchmark"].partition("(")[0]
    title = next((kind.title for kind in BENCHMARKS.values() if kind.__name__ == name), name)
    return f"{title}, {questions:,} questions, {told['model']} ({', '.join(map(str, sources))})"


def _runs(folders: list[Path]) -> Section:
    """Single runs over the same questions; the others are set against the one with all image tokens, if it is there."""
    configs = {folder: read_json(folder / CONFIG) for folder in folders}
    lines = {folder: [line for _, line in read_jsonl(folder / PREDICTIONS)] for folder in folders}
    scores = {folder: [line["score"] for line in own] for folder, own in lines.items()}
    names = [folder.resolve().name for folder in folders]
    full = next((folder for folder, config in configs.items() if config["method"] is None), None)
    rows = []
    for (folder, config), name in zip(configs.items(), names, strict=True):
        own = name if names.count(name) == 1 else f"{folder.resolve().parent.name}/{name}"
        metrics = read_json(folder / METRICS)
        row: dict[str, Any] = {
            "method": "full" if config["method"] is None else own,
            "at": "tokens",
            "keep": None,
        }
        row |= {"configuration": config["method"], **metrics}
        if full is not None and folder != full:
            clusters = [line.get("cluster") for line in lines[folder]]
            row["versus_full"] = paired(scores[folder], scores[full], clusters)
        if (folder / COST).is_file():
            row["cost"] = _cost(read_json(folder / COST))
        rows.append(row)
    last = configs[folders[-1]]
    title = _titled(last, last["questions"], folders)
    return Section(title, rows, _facts({**last["starts"][-1], **last}), folders)


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
