"""What fewer image tokens save: full prompt, reduced prompt and natively short prompt, side by side in one run.

    python -m benchmarks.prefill --json results/prefill.json
    python -m benchmarks.prefill --shape llava-1.5-7b --device cuda --batch 1 --batch 8 --batch 32 \\
        --keep 576 --keep 192 --keep 128 --keep 64 --json results/prefill-llava-1.5-7b.json

The bars, printed with every run: the first method's reduced prompt costs at most 1.03 of one that is natively as short (1.00
is the limit), and choosing under 2 % of the full prefill; every method costs at most 1.05 of the natively short prompt *plus
its own work*: the time it spends choosing (attention that had to be computed for it included), and the layers that image tokens
pass before they are dropped (for these, its share of what the full prompt takes longer); see `benchmarks.own_work`. ``pays
from`` is how many image tokens have to be dropped before what it costs is won. ``native again`` is the natively short case a
second time: how far its ratio is from 1 is what the machine's noise makes of nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

from benchmarks.heads import HOPS, RANK, fitting
from benchmarks.measure import Watch, interleaved, ratio, save, summary, surroundings
from benchmarks.own_work import AGAIN, FULL, MASK, NATIVE, bars, own_work
from benchmarks.shapes import SHAPES, Shape, model, native, prompts, questions
from simignore.answer import cache_bytes
from simignore.methods import METHODS, Chain, FastV, Method, Simignore
from simignore.parts import parts

WHAT = ("prefill", "generate", "decode")
TIMES = [f"{what}{clock}" for what in WHAT for clock in ("", "_cpu")]
console = Console(width=190)


@dataclass(frozen=True)
class Case:
    """One way to run the prompt: a model, its inputs, and the method laid over it, if any."""

    model: Any
    inputs: dict[str, Tensor]
    method: Method | None = None
    query: list[Tensor] | None = None

    def laid(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.method is None else self.method(self.model, query=self.query)


def sample(case: Case, steps: int) -> dict[str, float]:
    """One turn of a case: seconds of a prefill, of a decoding step and of ``generate(max_new_tokens=1)``; bytes.

    Entering the method's ``with`` counts as part of its prefill.
    """
    device = case.inputs["input_ids"].device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    found: dict[str, float] = {}
    with torch.inference_mode():
        watch = Watch(device)
        with case.laid() as trace:
            output = case.model(**case.inputs, use_cache=True, logits_to_keep=1)
            found |= watch.read("prefill")
            if device.type == "cuda":
                found["peak_bytes"] = torch.cuda.max_memory_allocated(device)
            cache = output.past_key_values
            found["kv_bytes"] = cache_bytes(cache)
            found |= _decode(case, output, steps)
        if trace is not None:
            found["selection"] = trace.seconds[0]
            found["passed"] = _passed(trace, len(parts(case.model).layers))
        del output, cache
        watch = Watch(device)
        with case.laid():
            case.model.generate(**case.inputs, max_new_tokens=1, do_sample=False)
        found |= watch.read("generate")
    return found


def _passed(trace: Any, layers: int) -> float:
    """The share of all (dropped image token, decoder layer) pairs that were computed before the token was dropped."""
    kept = trace.selections[0].count
    dropped = float((trace.selections[0].source.shape[1] - kept).sum())
    passing = [dropped] * layers  # of those that are dropped in the end, how many are still there in each layer
    for step in trace.steps[0]:
        first = 0 if step.site == "projector" else int(step.site[1])
        passing[first:] = [float((step.selection.count - kept).sum())] * (layers - first)
    return sum(passing) / (dropped * layers) if dropped else 0.0


def _decode(case: Case, output: Any, steps: int) -> dict[str, float]:
    """Time of one decoding step, called as ``generate`` calls it, mean of ``steps``."""
    ids = case.inputs["input_ids"]
    cache, token, device = output.past_key_values, output.logits[:, -1:].argmax(-1), ids.device
    places = torch.arange(ids.shape[1], ids.shape[1] + steps, device=device).expand(ids.shape[0], -1)
    watch = Watch(device)
    for step in range(steps):
        output = case.model(
            input_ids=token,
            position_ids=places[:, step : step + 1],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        token = output.logits[:, -1:].argmax(-1)
    return watch.read("decode", steps)


def configured(name: str, keep: int, shape: Shape) -> Method:
    """A method by name at this budget; ``chain`` is the published pair, scaled to the budget."""
    if name == "chain":
        first = min(shape.image_tokens, round(keep * 452 / 144))
        return Chain(Simignore(keep=first), FastV(keep=keep, layer=min(5, shape.layers - 1)))
    if name not in METHODS:
        raise typer.BadParameter(f"no method {name!r}; there are {', '.join([*METHODS, 'chain'])}")
    return METHODS[name](keep=keep, **fitting(METHODS[name], shape.width, RANK, HOPS))  # type: ignore[arg-type]


def cases(shape: Shape, whole: Any, batch: int, keep: int, methods: Mapping[str, Method], seed: int) -> dict[str, Case]:
    """All the ways to run one prompt, by name; the methods under their own."""
    device = next(whole.parameters()).device
    long = prompts(shape, batch, shape.image_tokens, device, seed)
    short = Case(native(whole, keep), prompts(shape, batch, keep, device, seed))
    query = questions(long)
    found = {FULL: Case(whole, long), NATIVE: short, AGAIN: short}
    found |= {name: Case(whole, long, method, query) for name, method in methods.items()}
    found[MASK] = Case(whole, long, _masked(next(iter(methods.values()))), query)
    return found


def _masked(method: Method) -> Method:
    """The same choice, hidden from attention instead of dropped."""
    if isinstance(method, Chain):
        return Chain(*map(_masked, method.methods))
    return replace(method, hide="mask")


def measure(
    shape: Shape,
    whole: nn.Module,
    batch: int,
    keep: int,
    methods: Mapping[str, Method],
    *,
    rounds: int,
    steps: int = 8,
    seed: int = 0,
    warmup: int = 1,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Measure one batch size and budget: figures of every case, their ratios, and whether the bars hold."""
    every = cases(shape, whole, batch, keep, methods, seed)
    turns = {name: lambda case=case: sample(case, steps) for name, case in every.items()}
    raw = interleaved(turns, rounds, seed, warmup, tick)
    found: dict[str, Any] = {}
    for name, figures in raw.items():
        one: dict[str, Any] = {"method": repr(every[name].method) if every[name].method else None}
        for time in figures.keys() & set(TIMES):
            one |= {time: summary(figures[time])}
            one |= {f"{time}_to_native": ratio(figures[time], raw[NATIVE][time])}
            one |= {f"{time}_to_full": ratio(figures[time], raw[FULL][time])}
        if "selection" in figures:
            one["selection"] = summary(figures["selection"])
            one["selection_to_full"] = ratio(figures["selection"], raw[FULL]["prefill"])
            one |= own_work(name, raw, shape.image_tokens - keep)
        one |= {size: int(np.median(figures[size])) for size in ("kv_bytes", "peak_bytes") if size in figures}
        found[name] = one
    tokens = {"image": shape.image_tokens, "keep": keep, "full": every[FULL].inputs["input_ids"].shape[1]}
    return {"batch": batch, "tokens": tokens, "cases": found, "bars": bars(next(iter(methods)), found, raw)}


def table(run: Mapping[str, Any]) -> Table:
    """One run as people read it: milliseconds as median (quartiles), and ratios to the natively short prompt."""
    tokens = run["tokens"]
    title = f"batch {run['batch']}, {tokens['keep']} of {tokens['image']} image tokens, {tokens['full']} tokens in all"
    shown = Table(
        title=title,
        caption="medians, in brackets the quartiles; ratios are to the natively short prompt, round by round",
    )
    clocks = ["", "_cpu"] if "prefill_cpu" in run["cases"][FULL] else [""]
    shown.add_column("")
    for what in WHAT:
        for column in (f"{what} ms", *("to native" if not clock else "by CPU time" for clock in clocks)):
            shown.add_column(column, justify="right")
    for column in ("choosing, % of full", "to its own work", "pays from", "KV MB", "peak GB"):
        shown.add_column(column, justify="right")
    for name, one in run["cases"].items():
        cells = [name]
        for what in WHAT:
            cells += [f"{one[what]['median'] * 1e3:.1f}"]
            cells += [_spread(one[f"{what}{clock}_to_native"], 1, 3) for clock in clocks]
        cells += [_spread(one["selection_to_full"], 100, 2) if "selection" in one else ""]
        cells += [f"{one['to_own_work_least']:.3f}" if "to_own_work_least" in one else ""]
        cells += [f"{one['pays_from']:.0f}" if one.get("pays_from") is not None else ""]
        cells += [f"{one['kv_bytes'] / 1e6:.2f}", f"{one['peak_bytes'] / 1e9:.2f}" if "peak_bytes" in one else ""]
        shown.add_row(*cells)
    return shown


def _spread(figure: Mapping[str, float], scale: float, digits: int) -> str:
    low, middle, high = (f"{figure[part] * scale:.{digits}f}" for part in ("q1", "median", "q3"))
    return f"{middle} ({low}-{high})"


def _compared() -> list[str]:
    """Every method for images, the one that the bars are on first, and the published chain."""
    stills = [name for name, kind in METHODS.items() if not kind.video]
    return [*dict.fromkeys(["simignore", *stills]), "chain"]


def _device(name: str) -> torch.device:
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise typer.BadParameter(
            "this shape runs on a GPU and torch finds none here; use a machine with CUDA, or --shape small --device cpu"
        )
    return torch.device(name)


def main(
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}.")] = "small",
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default what the shape is meant for.")] = None,
    keep: Annotated[
        list[int] | None, typer.Option(help="Image tokens kept; repeat for several. [default: 144]")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Batch size; repeat for several. [default: 1]")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Repeat for several; bars are on the first.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that every case gets.")] = 40,
    steps: Annotated[int, typer.Option(min=1, help="Decoding steps timed per turn.")] = 8,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    seed: int = 0,
    json: Annotated[Path | None, typer.Option(help="Write everything here, raw times included.")] = None,
) -> None:
    """Time prefill and decoding with all image tokens, with fewer, and with a prompt that is natively as short."""
    if shape not in SHAPES:
        raise typer.BadParameter(f"no shape {shape!r}; there are {', '.join(SHAPES)}")
    sizes, names = SHAPES[shape], method or _compared()
    budgets, batches = keep or [sizes.image_tokens // 4], batch or [1]
    if wrong := [k for k in budgets if not 1 <= k <= sizes.image_tokens]:
        raise typer.BadParameter(f"--keep {wrong[0]}: this shape has {sizes.image_tokens} image tokens")
    where = _device(device or sizes.device)
    torch.set_num_threads(threads)
    whole = model(sizes, where, seed)
    result: dict[str, Any] = {**surroundings(where), "seed": seed, "rounds": rounds, "decode_steps": steps}
    result |= {"shape": {"name": shape, **asdict(sizes), "device": str(where)}, "runs": []}
    for size in batches:
        for budget in budgets:
            methods = {name: configured(name, budget, sizes) for name in names}
            with Progress(console=console, transient=True) as progress:
                bar = progress.add_task(f"batch {size}, keep {budget}", total=(rounds + 1) * (len(methods) + 4))
                tick = lambda progress=progress, bar=bar: progress.advance(bar)  # noqa: E731
                run = measure(sizes, whole, size, budget, methods, rounds=rounds, steps=steps, seed=seed, tick=tick)
            result["runs"].append(run)
            console.print(table(run))
            for held in run["bars"]:
                verdict = "[green]holds[/]" if held["holds"] else "[red]missed[/]"
                verdict += "" if held["known"] else ", but the machine was too noisy to say"
                console.print(f"{held['name']}: {held['value']:.4f}, at most {held['limit']}: {verdict}")
            if json is not None:
                save(json, result)  # after every run: an hour of measuring must not be lost to the last one


if __name__ == "__main__":
    typer.run(main)
