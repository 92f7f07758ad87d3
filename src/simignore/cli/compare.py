"""``simignore compare``: many methods and budgets on the same questions, as one table."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from simignore.cli.benchmarks import Data, Images, Limit, Name, Seed, Settings, first_prompt, make_benchmark, progress
from simignore.cli.errors import Debug, readable
from simignore.cli.options import make_method, read_keep, read_settings

EXAMPLES = (
    "Example: simignore compare scenes --limit 280 --methods simignore,fastv,visionzip --keep 49,25 --out runs/all"
)

_run = partial(typer.Option, rich_help_panel="Model and runs")
_method = partial(typer.Option, rich_help_panel="Methods")


@readable
def compare(
    benchmark: Name,
    data: Data = None,
    images: Images = None,
    settings: Settings = None,
    limit: Limit = None,
    seed: Seed = 0,
    methods: Annotated[
        str,
        _method(help="Names of `simignore list`, separated by commas, or `all`. Full, random and pooled come along."),
    ] = "simignore,simignore2,fastv,visionzip,divprune",
    keep: Annotated[
        str, _method(help="Budgets, separated by commas: counts (192,128,64) or fractions (0.25,0.125).")
    ] = "0.25,0.125",
    set_: Annotated[
        list[str] | None,
        _method("--set", metavar="METHOD.NAME=VALUE", help="An option of one method (fastv.layer=5); repeatable."),
    ] = None,
    presets: Annotated[
        str, _method(help="Published settings of `simignore list presets`, separated by commas, beside the methods.")
    ] = "",
    equal_cost: Annotated[
        bool, _method(help="Also give dearer methods fewer tokens, so that their prefill costs no more.")
    ] = True,
    model: Annotated[str | None, _run(help="Folder or Hugging Face name; default: the bundled model.")] = None,
    batch: Annotated[int, _run(min=1, help="Questions asked at once.")] = 16,
    device: Annotated[str, _run(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, _run(help="auto, float32, bfloat16, float16, or 4bit (needs bitsandbytes).")] = "auto",
    rounds: Annotated[
        int, _run("--cost-rounds", min=0, help="Timed runs of one prompt, all methods in turn; 0 for no costs.")
    ] = 5,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for all runs and comparison.json; what was stopped goes on. Default: nothing is kept."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    debug: Debug = False,
) -> None:
    """Compare methods on the same questions: beside all image tokens, chance (three seeds) and pooling.

    Every difference comes with the paired bootstrap's 95 % interval over these questions. Methods whose prefill costs more
    than dropping as many tokens before the decoder stand a second time with fewer tokens, at equal cost.
    """
    budgets = [_budget(word) for word in apart(keep)]
    asked = make_benchmark(benchmark, data, images, seed, settings)
    from simignore.evaluate.benchmark import check_images
    from simignore.evaluate.compare import at_equal_cost, entries
    from simignore.evaluate.compare import compare as run

    every = entries(
        _methods(methods, set_ or []), budgets, [name.strip() for name in presets.split(",") if name.strip()]
    )
    _check_untouched(every)
    items = asked.chosen(limit)
    check_images(items)
    from simignore.cli.models import load

    loaded, processor = load(model, device, dtype)
    prompt = first_prompt(processor, asked, items)
    if prompt is not None and equal_cost:
        every += at_equal_cost(loaded, prompt, every, _image_tokens(loaded, processor, prompt), processor)
    with progress(asked.title, len(items) * sum(not entry.impossible for entry in every), as_json) as tick:
        rows = run(
            loaded,
            processor,
            asked,
            every,
            items,
            batch=batch,
            folder=out,
            name=model or "tiny",
            prompt=prompt if rounds else None,
            rounds=rounds,
            tick=tick,
        )
    found: dict[str, Any] = {
        "benchmark": repr(asked),
        "main": asked.main,
        "model": model or "tiny",
        **_surroundings(loaded),
        "rows": rows,
    }
    if out is not None:
        from simignore.evaluate.folder import write_json

        write_json(out / "comparison.json", found)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        from simignore.cli.results import show_comparison

        show_comparison(asked, found, out)


def _budget(word: str) -> int | float:
    budget = read_keep(word)
    if not isinstance(budget, int | float):
        raise ValueError(f"--keep {word!r}: methods are compared at counts or fractions, not at rules")
    return budget


def apart(typed: str) -> list[str]:
    """What stands between commas, but for those inside brackets: ``25,AtLeast(0, cap=0.125)`` are two."""
    words = [""]
    for letter in typed:
        if letter == "," and words[-1].count("(") <= words[-1].count(")"):
            words.append("")
        else:
            words[-1] += letter
    return words


def _methods(typed: str, settings: list[str]) -> list[Any]:
    """The methods that were typed, with their own options. Raises KeyError for unknown names, ValueError for options of a
    method that is not compared."""
    from simignore.methods import METHODS

    stills = [name for name, kind in METHODS.items() if not kind.video]
    names = stills if typed.strip() == "all" else [name.strip() for name in typed.split(",") if name.strip()]
    given: dict[str, dict[str, Any]] = {}
    for pair in settings:
        name, dot, rest = pair.partition(".")
        if not dot or name not in names:
            raise ValueError(f"--set {pair!r}: write METHOD.NAME=VALUE for one of {', '.join(names)}")
        given.setdefault(name, {}).update(read_settings([rest]))
    return [make_method(name, None, given[name]) if name in given else name for name in names]


def _check_untouched(every: list[Any]) -> None:
    """Raise ValueError for a head with adapters: they change the model that all methods of a comparison share."""
    from simignore.cli.models import has_adapters, head_of

    for entry in every:
        if has_adapters(head := head_of(entry.method)):
            raise ValueError(
                f"{head} holds adapters, which change the model, and methods are compared on one untouched model; run it alone "
                f"with `simignore evaluate --method {entry.label} --set head={head}`, or name a head that was trained without"
            )


def _image_tokens(model: Any, processor: Any, prompt: Any) -> int:
    from simignore.answer import ask

    return ask(model, processor, prompt, max_new_tokens=1).image_tokens


def _surroundings(model: Any) -> dict[str, Any]:
    from simignore.surroundings import surroundings

    return surroundings(model)
