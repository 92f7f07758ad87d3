"""How long choosing takes: every method on made-up views, and the obvious loops beside it.

    python -m benchmarks.selection --json results/selection.json

Times are of one ``choose``, its result on the host included, per sample. The loops are what one writes first: for Simignore the
published one (all image-text pairs sorted, walked pair by pair until enough image tokens were met); for DivPrune the smallest
distance to *all* chosen tokens read anew at each step, from a ready matrix of all distances; for CDPruner the determinant's
gain of every token solved anew from all chosen columns, from a ready kernel. Of several cuts the first is timed.

The bars, printed with every run: Simignore at least 8 times as fast as its loop at 576 tokens, and linear in their number;
DivPrune and CDPruner at least 3 times as fast as theirs at 2,880. ``extra`` is the most memory held at once besides the view,
in units of one [N, D] tensor of features. At 576 tokens Simignore keeps 452, as published, and everything else one in 4.5.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.heads import HOPS, RANK, fitting
from benchmarks.measure import interleaved, save, summary, surroundings
from benchmarks.views import view
from simignore.methods import METHODS
from simignore.types import Cut, View

PUBLISHED = 452  # of 576, what Simignore keeps of LLaVA-1.5-7B's
KEPT = 4.5  # one token in so many stays: 128 of 576, 640 of 2,880, 2,560 of 11,520
LONG = 10.0  # seconds; where there is one round, a case that takes longer is not run again after its memory was watched
LONGEST_LOOP = 2880  # tokens; loops that solve every token anew take hours beyond
os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler tells of its starts and stops otherwise
LOOP_BAR, DIVERSE_BAR, LINEAR_BAR = 8.0, 3.0, 1.3
console = Console(width=160)


def cut(name: str, keep: int, width: int) -> Cut:
    """The first cut of a method by name, for embeddings of this width."""
    return METHODS[name](keep=keep, **fitting(METHODS[name], width, RANK, HOPS)).cuts()[0]  # type: ignore[arg-type]


def simignore_loop(seen: View, keep: int) -> list[int]:
    """The published loop: all pairs, sorted, walked until enough image tokens were met."""
    visual, text = (normalize(x[0].float(), dim=-1) for x in _given(seen.visual, seen.text))
    similar = visual @ text.T
    kept: list[int] = []
    for pair in similar.flatten().argsort(descending=True):
        token = int(pair) // similar.shape[1]
        if token not in kept:
            kept.append(token)
        if len(kept) == keep:
            break
    return sorted(kept)


def divprune_loop(seen: View, keep: int) -> list[int]:
    """Max-min by a matrix of all distances, the columns of all chosen tokens read at each step."""
    unit = normalize(_given(seen.visual)[0][0].float(), dim=-1)
    distance = 1 - unit @ unit.T
    distance.fill_diagonal_(torch.inf)
    chosen = [int(distance.min(1).values.argmax())]
    distance.fill_diagonal_(0)
    while len(chosen) < keep:
        chosen.append(int(distance[:, chosen].min(1).values.argmax()))
    return sorted(chosen)


def cdpruner_loop(seen: View, keep: int) -> list[int]:
    """Greedy MAP by the gain of every token, solved from the columns of all chosen tokens at each step."""
    visual, text = (normalize(x[0].float(), dim=-1) for x in _given(seen.visual, seen.text))
    relevance = (visual @ text.T).mean(1)
    relevance = (relevance - relevance.min()) / (relevance.max() - relevance.min())
    kernel = relevance[:, None] * (visual @ visual.T) * relevance
    chosen = [int(kernel.diagonal().argmax())]
    while len(chosen) < keep:
        columns = kernel[:, chosen]  # [N, i]
        factor = torch.linalg.cholesky(columns[chosen] + 1e-6 * torch.eye(len(chosen)))
        solved = torch.linalg.solve_triangular(factor, columns.T, upper=False)
        gain = kernel.diagonal() - solved.square().sum(0)
        gain[chosen] = -torch.inf
        chosen.append(int(gain.argmax()))
    return sorted(chosen)


LOOPS: dict[str, Callable[[View, int], list[int]]] = {
    "simignore": simignore_loop,
    "divprune": divprune_loop,
    "cdpruner": cdpruner_loop,
}


def _given(*tensors: Tensor | None) -> list[Tensor]:
    return [x for x in tensors if x is not None]


def peak(run: Callable[[], object], device: torch.device) -> int:
    """The most bytes that ``run`` held at once, of what it allocated."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    with torch.profiler.profile(profile_memory=True) as profiler:
        run()
    held = most = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def timed(run: Callable[[], object], device: torch.device, samples: int, repeats: int) -> dict[str, float]:
    """Seconds of one call per sample, mean of ``repeats`` in a row."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return {"seconds": (time.perf_counter() - began) / samples / repeats}


def measured(
    names: list[str], tokens: int, width: int, batch: int, device: torch.device, rounds: int, loops: bool, seed: int
) -> dict[str, Any]:
    """All methods at one size: seconds per sample, extra memory, and their loops."""
    repeats = 5 if tokens * batch < 1000 else 1
    turns: dict[str, Callable[[], dict[str, float]]] = {}
    extra: dict[str, float] = {}
    found: dict[str, dict[str, list[float]]] = {}
    for name in names:
        keep = PUBLISHED if (name, tokens) == ("simignore", 576) else round(tokens / KEPT)
        chooser = cut(name, keep, width)
        seen = view(chooser, tokens, width, batch, device, seed)
        run = lambda chooser=chooser, seen=seen: chooser.choose(seen)  # noqa: E731
        began = time.perf_counter()
        extra[name] = peak(run, device) / (batch * tokens * width * 4)  # this warms up, too
        if rounds == 1 and (took := time.perf_counter() - began) > LONG:
            found[name] = {"seconds": [took / batch]}
        turns[name] = lambda run=run: timed(run, device, batch, repeats)
        if loops and batch == 1 and name in LOOPS and device.type == "cpu":
            turns[f"{name}, loop"] = lambda name=name, seen=seen, keep=keep: timed(
                lambda: LOOPS[name](seen, keep), device, 1, repeats
            )
    slow = {name for name in turns if name.endswith("loop") and tokens > 1000}
    quick = {name: turn for name, turn in turns.items() if name not in slow and name not in found}
    found |= interleaved(quick, rounds, seed, warmup=0)
    found |= interleaved({name: turns[name] for name in slow}, 1, seed, warmup=0)  # seconds each
    cases = {name: {"seconds": summary(found[name]["seconds"]), "extra": extra.get(name)} for name in turns}
    return {
        "tokens": tokens,
        "keep": round(tokens / KEPT),
        "width": width,
        "batch": batch,
        "rounds": rounds,
        "cases": cases,
    }


def bars(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The promises that these runs can be held against."""

    def seconds(run: dict[str, Any], name: str) -> float:
        return float(run["cases"][name]["seconds"]["median"])

    found = []
    for run in runs:
        for name in LOOPS:
            if f"{name}, loop" in run["cases"]:
                limit = LOOP_BAR if name == "simignore" else DIVERSE_BAR
                ratio = seconds(run, f"{name}, loop") / seconds(run, name)
                asked = run["tokens"] == (576 if name == "simignore" else 2880)
                what = f"{name}: loop over it at {run['tokens']} tokens of width {run['width']}"
                found.append({"name": what, "value": ratio, "at_least": limit if asked else None})
    by_size = {r["tokens"]: r for r in runs if r["batch"] == 1 and r["width"] == runs[0]["width"]}
    if {2880, 11520} <= by_size.keys() and "simignore" in by_size[2880]["cases"]:
        growth = seconds(by_size[11520], "simignore") / seconds(by_size[2880], "simignore") / 4
        found.append(
            {"name": "simignore: growth from 2,880 to 11,520 over that of N", "value": growth, "at_most": LINEAR_BAR}
        )
    return found


def table(run: dict[str, Any]) -> Table:
    shown = Table(title=f"{run['keep']} of {run['tokens']} tokens, width {run['width']}, batch {run['batch']}")
    for column in ("", "ms per sample", "quartiles", "extra memory, in [N, D]"):
        shown.add_column(column, justify="left" if not column else "right")
    for name, one in run["cases"].items():
        s = one["seconds"]
        spread = f"{s['q1'] * 1e3:.2f}-{s['q3'] * 1e3:.2f}"
        shown.add_row(name, f"{s['median'] * 1e3:.2f}", spread, "" if one["extra"] is None else f"{one['extra']:.2f}")
    return shown


def main(
    tokens: Annotated[list[int] | None, typer.Option(help="Image tokens; repeat. [default: 576, 2880, 11520]")] = None,
    width: Annotated[list[int] | None, typer.Option(help="Of embeddings; repeat. [default: 1024, 4096]")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Samples; repeat. [default: 1, and 16 at 576 tokens]")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Repeat for several. [default: all]")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each case; fewer for large ones.")] = 15,
    loops: Annotated[bool, typer.Option(help="Time the obvious loops too.")] = True,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    seed: int = 0,
    json: Annotated[Path | None, typer.Option(help="Write everything here.")] = None,
) -> None:
    """Time how long every method takes to choose."""
    torch.set_num_threads(threads)
    where, names = torch.device(device), method or list(METHODS)
    result: dict[str, Any] = {**surroundings(where), "seed": seed, "runs": []}
    sizes = [(n, d, b) for n in tokens or (576, 2880, 11520) for d in width or (1024, 4096) for b in batch or (1, 16)]
    if batch is None and device == "cpu":
        sizes = [size for size in sizes if size[2] == 1 or size[0] == 576]  # larger ones take minutes and gigabytes
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("", total=len(sizes))
        for n, d, b in sizes:
            progress.update(bar, advance=1, description=f"{n} tokens, width {d}, batch {b}")
            turns = max(1, min(rounds, round(rounds * 3e6 / (n * d * b))))
            told = loops and d == min(width or (1024,)) and n <= LONGEST_LOOP
            run = measured(names, n, d, b, where, turns, told, seed)
            result["runs"].append(run)
            result["bars"] = bars(result["runs"])
            console.print(table(run))
            if json is not None:
                save(json, result)
    for held in result["bars"]:
        limit = f"at least {held['at_least']}" if held.get("at_least") else f"at most {held.get('at_most')}"
        holds = (
            held["value"] >= held["at_least"]
            if held.get("at_least")
            else held["value"] <= held.get("at_most", torch.inf)
        )
        asked = held.get("at_least") or held.get("at_most")
        console.print(
            f"{held['name']}: {held['value']:.2f}" + (f", {limit}: {'holds' if holds else 'missed'}" if asked else "")
        )


if __name__ == "__main__":
    typer.run(main)
