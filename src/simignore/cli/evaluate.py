"""``simignore evaluate``: all questions of a benchmark, under one method, into a folder that can be resumed."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simignore.cli.benchmarks import (
    Data,
    Images,
    Limit,
    Name,
    Seed,
    Settings,
    first_prompt,
    make_benchmark,
    progress,
)
from simignore.cli.errors import Debug, readable
from simignore.cli.options import make_method, read_given, read_keep, read_layer

if TYPE_CHECKING:
    from simignore.evaluate import Benchmark, Item
    from simignore.methods import Method

EXAMPLES = "Example: simignore evaluate scenes --limit 280 --method simignore --keep 0.25 --out runs/simignore"
NO_METHOD = ("full", "none")

_method = partial(typer.Option, rich_help_panel="Method")
_run = partial(typer.Option, rich_help_panel="Model and runs")


@readable
def evaluate(
    benchmark: Name,
    data: Data = None,
    images: Images = None,
    settings: Settings = None,
    limit: Limit = None,
    seed: Seed = 0,
    method: Annotated[
        str | None, _method(help="One of `simignore list`, or `full` for all image tokens; default: simignore.")
    ] = None,
    preset: Annotated[str | None, _method(help="A published setting instead of a method and its options.")] = None,
    keep: Annotated[
        str | None, _method(help="How many image tokens: 64, a fraction (0.25, 25%), or a rule: 'Mass(0.9)'.")
    ] = None,
    layer: Annotated[
        str | None, _method(help="Decoder layer before which to cut: 5, or a share of the depth (0.5).")
    ] = None,
    span: Annotated[str | None, _method(help="Part of the prompt to compare with: user, question, ...")] = None,
    set_: Annotated[
        list[str] | None, _method("--set", metavar="NAME=VALUE", help="Any other option of the method; repeatable.")
    ] = None,
    model: Annotated[str | None, _run(help="Folder or Hugging Face name; default: the bundled model.")] = None,
    batch: Annotated[int, _run(min=1, help="Questions asked at once.")] = 16,
    device: Annotated[str, _run(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, _run(help="auto, float32, bfloat16, float16, or 4bit (needs bitsandbytes).")] = "auto",
    rounds: Annotated[
        int, _run("--cost-rounds", min=0, help="Timed runs of one prompt, all tokens and method in turn; 0 for none.")
    ] = 5,
    ray: Annotated[
        str | None,
        _run(metavar="ADDRESS", help='Over Ray: "local", or "auto" or host:port of a cluster. No costs then.'),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; a run that was stopped goes on. Default: nothing is kept.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    debug: Debug = False,
) -> None:
    """Ask a model all questions of a benchmark and score its answers by the benchmark's own rules.

    With --out the folder gets config.json (everything that the figures depend on), predictions.jsonl (one line per
    question, as they come) and metrics.json; the same command goes on with a run that was stopped, even killed.
    """
    flags = {
        "keep": None if keep is None else read_keep(keep),
        "layer": None if layer is None else read_layer(layer),
        "span": span,
    }
    given = read_given(flags, set_)
    chosen = read_method(method, preset, given)
    asked = make_benchmark(benchmark, data, images, seed, settings)
    from simignore.evaluate.benchmark import check_images

    items = asked.chosen(limit)
    check_images(items)
    found = {"model": model or "tiny", "method": None if chosen is None else repr(chosen)}
    how: dict[str, Any] = {"batch": batch, "name": found["model"]}
    with progress(asked.title, len(items), as_json) as tick:
        if ray is not None:
            found |= _over_ray(ray, (model, device, dtype), asked, chosen, items, out, {**how, "tick": tick})
        else:
            found |= _here((model, device, dtype), asked, chosen, items, out, rounds, {**how, "tick": tick})
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        from simignore.cli.results import show_run

        show_run(asked, found, out)


def read_method(name: str | None, preset: str | None, given: dict[str, Any]) -> Method | None:
    """The method that was typed, None for ``full``. Raises ValueError for ``full`` with options."""
    if name not in NO_METHOD:
        return make_method(name, preset, given)
    if extra := [*given, *(["preset"] if preset else [])]:
        raise ValueError(f"--method {name} keeps all image tokens; leave out {', '.join(f'--{x}' for x in extra)}")
    return None


def _here(
    named: tuple[str | None, str, str],
    benchmark: Benchmark,
    method: Method | None,
    items: list[Item],
    out: Path | None,
    rounds: int,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """The figures of a run in this process, and what a prompt costs, all image tokens and the method in turn."""
    from simignore.cli.models import head_of, load
    from simignore.cost import cost
    from simignore.evaluate import evaluate as run
    from simignore.evaluate.folder import read_json, write_json

    model, processor = load(*named, head_of(method))
    found = dict(run(model, processor, benchmark, method, items=items, folder=out, **settings).metrics)
    if out is not None and (out / "cost.json").is_file():
        return found | {"cost": read_json(out / "cost.json")}  # of the start that measured it
    if rounds and (prompt := first_prompt(processor, benchmark, items)) is not None:
        cases: dict[str, Method | None] = {"full": None} | ({} if method is None else {"method": method})
        found["cost"] = cost(model, processor, prompt, cases, rounds)
        if out is not None:
            write_json(out / "cost.json", found["cost"])
    return found


def _over_ray(
    address: str,
    named: tuple[str | None, str, str],
    benchmark: Benchmark,
    method: Method | None,
    items: list[Item],
    out: Path | None,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """The figures of the same run over Ray."""
    from simignore.cli.models import Loader, head_of
    from simignore.evaluate.ray import sweep_on_ray

    folders = {} if out is None else {"": out}
    loader = Loader(*named, head_of(method))
    results = sweep_on_ray(loader, benchmark, {"": method}, items, folders=folders, address=address, **settings)
    return dict(results[""].metrics)
