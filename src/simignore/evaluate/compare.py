"""Many methods on the same questions: at equal tokens, at equal cost, beside everything and chance, with paired intervals."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from simignore.cost import cost, flops
from simignore.evaluate.benchmark import Benchmark, Item, by_group
from simignore.evaluate.harness import Result, sweep
from simignore.evaluate.statistics import paired, share
from simignore.methods import METHODS, Method, Pooled, Random, preset
from simignore.prompt import Prompt

FULL, RANDOM, POOLED = "full", "random", "pooled"
SEEDS = (0, 1, 2)
CLOSE = 1.01  # costs within a hundredth are equal

Keep = int | float


@dataclass(frozen=True)
class Entry:
    """One line of a comparison. label: the method's name. keep: the budget it was asked for, None for all image tokens.
    at: "tokens", or "cost" where the method was given fewer so that its prefill costs what dropping before the decoder does.
    fixed: a published setting, whose budget is its own. impossible: why there is no result."""

    label: str
    keep: Keep | None
    method: Method | None
    at: str = "tokens"
    fixed: bool = False
    impossible: str = ""

    @property
    def key(self) -> str:
        """A name for its folder."""
        seed = f"-seed{self.method.seed}" if isinstance(self.method, Random) else ""
        keep = "" if self.keep is None else f"-{self.keep!r}"
        return re.sub(r"[^a-z0-9.-]+", "-", f"{self.label}{keep}{seed}{'-cost' if self.at == 'cost' else ''}".lower())


def entries(methods: Sequence[Method | str], keeps: Sequence[Keep], presets: Sequence[str] = ()) -> list[Entry]:
    """All lines at equal tokens: everything, chance with several seeds, pooling, and each method at each budget.

    methods: names of METHODS, or methods whose ``keep`` is replaced, wrappers among them, but no chains. presets: names of
        published settings, which come with their own budgets; where one is a count or a fraction, chance and all methods are
        asked for it too.
    Raises KeyError for an unknown name, ValueError for the same line twice, and for a method with several budgets.
    """
    published = [Entry(name, _budget(preset(name)), preset(name), fixed=True) for name in presets]
    found = [Entry(FULL, None, None)]
    budgets = [*keeps, *(entry.keep for entry in published if entry.keep is not None)]
    for keep in {repr(keep): keep for keep in budgets}.values():  # 1 token and 1.0 of them are equal numbers
        found += [Entry(RANDOM, keep, Random(keep=keep, seed=seed)) for seed in SEEDS]
        found += [Entry(POOLED, keep, Pooled(keep=keep))]
        for method in methods:
            if method in (FULL, RANDOM, POOLED):
                continue
            if isinstance(method, str):
                if method not in METHODS:
                    raise KeyError(f"no method {method!r}; there are {', '.join(sorted(METHODS))}")
                found.append(Entry(method, keep, METHODS[method](keep=keep)))
            else:
                found.append(Entry(_name(method, keep), keep, method.with_keep(keep)))
    found += published
    twice = {entry.key for entry in found if sum(other.key == entry.key for other in found) > 1}
    if twice:
        raise ValueError(f"the same method and budget twice: {', '.join(sorted(twice))}; name each once")
    return found


def _budget(method: Method) -> Keep | None:
    return method.keep if isinstance(method.keep, int | float) else None


def _name(method: Method, keep: Keep) -> str:
    """The method's name, or all of it but its budget, so that it has one label at all budgets."""
    whole, told = str(method.with_keep(keep)), f"keep={keep!r}"
    bare = whole.replace(f"{told}, ", "").replace(told, "")
    return next((name for name, kind in METHODS.items() if type(method) is kind), bare)


def at_equal_cost(
    model: Any, prompt: Prompt, every: Sequence[Entry], image_tokens: int, processor: Any = None
) -> list[Entry]:
    """For each method that costs more than dropping as many tokens before the decoder: the largest budget that does not.

    The cost is the FLOPs of a prefill; the reference keeps the same number at random before the decoder.
    processor: the model's, for methods that read the question as words.
    """
    found: list[Entry] = []
    reference: dict[Any, float] = {}
    for entry in every:
        if entry.keep is None or entry.method is None or entry.label == RANDOM or entry.fixed:
            continue
        if entry.keep not in reference:
            reference[entry.keep] = flops(model, prompt, Random(keep=entry.keep)) * CLOSE
        fits = partial(_fits, model, processor, prompt, entry.method, reference[entry.keep])
        most = entry.keep if isinstance(entry.keep, int) else max(1, int(entry.keep * image_tokens + 0.5))
        if fits(most):
            continue
        if fewer := _largest(fits, most):
            found.append(Entry(entry.label, entry.keep, entry.method.with_keep(fewer), "cost"))
        else:
            why = "even with one token its prefill costs more: its first layers see all image tokens, or its looks cost more"
            found.append(Entry(entry.label, entry.keep, None, "cost", impossible=why))
    return found


def _fits(model: Any, processor: Any, prompt: Prompt, method: Method, limit: float, keep: int) -> bool:
    return flops(model, prompt, method.with_keep(keep), processor) <= limit


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest count up to ``most`` that fits, 0 if none does; what fits is monotonous."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def compare(
    model: Any,
    processor: Any,
    benchmark: Benchmark,
    every: Sequence[Entry],
    items: Sequence[Item],
    *,
    batch: int = 16,
    folder: Path | None = None,
    name: str = "",
    prompt: Prompt | None = None,
    rounds: int = 5,
    tick: Callable[[int], None] = lambda count: None,
) -> list[dict[str, Any]]:
    """Run all entries on the same questions; one plain row for each, random seeds taken together.

    prompt: one to measure the cost on, None for no cost. folder: a run folder for each entry is kept in it.
    """
    runs = {entry.key: entry for entry in every if not entry.impossible}
    folders = {} if folder is None else {key: folder / key for key in runs}
    methods = {key: entry.method for key, entry in runs.items()}
    results = sweep(model, processor, benchmark, methods, items, batch=batch, folders=folders, name=name, tick=tick)
    costs = {} if prompt is None else cost(model, processor, prompt, methods, rounds)
    return rows(every, results, costs)


def rows(
    every: Sequence[Entry], results: Mapping[str, Result], costs: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The lines of a comparison: accuracy with interval, difference to chance and to all tokens on the same questions, cost."""
    chance = {
        keep: np.mean(
            [results[e.key].scores for e in every if e.label == RANDOM and repr(e.keep) == keep], axis=0
        ).tolist()
        for keep in {repr(e.keep) for e in every if e.label == RANDOM}
    }
    found, seen = [], set()
    for entry in every:
        if (entry.label, repr(entry.keep), entry.at) in seen:
            continue  # another seed of chance
        seen.add((entry.label, repr(entry.keep), entry.at))
        alike = [results[e.key] for e in every if e.label == RANDOM and repr(e.keep) == repr(entry.keep)]
        found.append(_row(entry, results, chance, costs, alike if entry.label == RANDOM else []))
    return found


def _row(
    entry: Entry,
    results: Mapping[str, Result],
    chance: Mapping[Any, list[float]],
    costs: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[Result],
) -> dict[str, Any]:
    """One line. seeds: of chance, the results of all its seeds, whose figures are averaged."""
    plain: dict[str, Any] = {"method": entry.label, "keep": entry.keep, "at": entry.at}
    if entry.impossible:
        return {**plain, "impossible": entry.impossible}
    result = results[entry.key]
    scores = chance[repr(entry.keep)] if seeds else result.scores
    clusters = [item.cluster for item in result.items]
    plain |= {"configuration": None if entry.method is None else repr(entry.method)}
    plain |= share(scores, clusters)
    plain |= _figures(seeds or [result])
    if entry.label == RANDOM:
        plain |= {"seeds": list(SEEDS), "configuration": repr(Random(keep=entry.keep or 1))}
    elif entry.keep is not None:
        versus = paired(scores, chance[repr(entry.keep)], clusters)
        plain |= {"versus_random": versus, "significantly_better_than_random": versus["better"]}
    if entry.label != FULL:
        plain["versus_full"] = paired(scores, results[FULL].scores, clusters)
    if entry.key in costs:
        plain["cost"] = dict(costs[entry.key])
        full = costs[FULL]
        plain["cost"]["of_full"] = {
            "prefill_flops": plain["cost"]["prefill_flops"] / full["prefill_flops"],
            "prefill_seconds": plain["cost"]["prefill_seconds"]["median"] / full["prefill_seconds"]["median"],
            "kv_bytes": plain["cost"]["kv_bytes"] / full["kv_bytes"],
        }
    plain["groups"] = by_group(result.items, scores)
    return plain


def _figures(results: Sequence[Result]) -> dict[str, Any]:
    """The official figures and token counts of a run; of several seeds their means."""
    told = [result.metrics for result in results]
    found: dict[str, Any] = {
        name: sum(one[name] for one in told) / len(told)
        for name in ("unreadable", "image_tokens", "kept", "held")
        if all(name in one for one in told)
    }
    official = [one["metrics"] for one in told]
    numbers = [name for name, value in official[0].items() if isinstance(value, int | float)]
    return found | {"metrics": {name: sum(one[name] for one in official) / len(official) for name in numbers}}
