"""``simignore flow-stats``: what the answers to a whole benchmark draw on, into a folder that can be resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simignore.cli.asking import Device, Dtype, ModelName, in_output, in_run
from simignore.cli.benchmarks import Data, Images, Limit, Name, Seed, Settings, make_benchmark, progress
from simignore.cli.errors import Debug, readable

if TYPE_CHECKING:
    from simignore.evaluate import Benchmark

EXAMPLES = "Example: simignore flow-stats scenes --limit 280 --out runs/flow"
PAGE = "flow-stats.html"
NAMED = 5  # questions that could not be explained are named one by one up to this many; all are in metrics.json


@readable
def flow_stats(
    benchmark: Name,
    data: Data = None,
    images: Images = None,
    settings: Settings = None,
    limit: Limit = None,
    seed: Seed = 0,
    model: ModelName = None,
    most: Annotated[
        int, in_run(min=1, help="How many tokens of an answer are explained; each takes a backward pass.")
    ] = 16,
    max_new_tokens: Annotated[
        int | None, in_run(min=1, help="Longest answer, in tokens; default: the benchmark's.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    out: Annotated[
        Path | None,
        in_output(
            help="Folder of the run, its page and figures; a run that was stopped goes on. Default: nothing is kept."
        ),
    ] = None,
    as_json: Annotated[bool, in_output("--json", help="Print one JSON object and nothing else.")] = False,
    debug: Debug = False,
) -> None:
    """Measure over a benchmark what answers draw on: flow by layer, where it converges, whether similar tokens gather it.

    With --out the folder gets config.json, predictions.jsonl (one line per question, as they come), metrics.json,
    flow-stats.html and its figures as PNG files; the same command goes on with a run that was stopped, even killed.
    """
    asked = make_benchmark(benchmark, data, images, seed, settings)
    from simignore.evaluate.benchmark import check_images

    items = asked.chosen(limit)
    check_images(items)
    from simignore.cli.models import load
    from simignore.evaluate.flowstats import flow_stats as run

    loaded, processor = load(model, device, dtype)
    how: dict[str, Any] = {"most": most, "max_new_tokens": max_new_tokens, "folder": out, "name": model or "tiny"}
    with progress(asked.title, sum(bool(item.images) for item in items), as_json) as tick:
        metrics = run(loaded, processor, asked, items=items, tick=tick, **how).metrics
    page = None if out is None else _drawn(asked, metrics, out)
    found = {"model": how["name"], **metrics, "page": None if page is None else str(page)}
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False, allow_nan=False))
    else:
        _show(asked, found, out)


def _drawn(benchmark: Benchmark, metrics: dict[str, Any], out: Path) -> Path | None:
    """Write the page and its figures; None where matplotlib is missing: the numbers are worth having without."""
    try:
        import matplotlib as _  # noqa: F401
    except ImportError:
        return None
    from simignore.evaluate.folder import CONFIG, read_json
    from simignore.figures.flow_stats_page import figures, flow_stats_page, png

    pictures = []
    for name, caption, figure in figures(metrics, benchmark.title):
        pictures.append((caption, png(figure)))
        (out / f"{name}.png").write_bytes(pictures[-1][1])
    (out / PAGE).write_text(
        flow_stats_page(benchmark.title, metrics, read_json(out / CONFIG), pictures), encoding="utf-8"
    )
    return out / PAGE


def _show(benchmark: Benchmark, found: dict[str, Any], out: Path | None) -> None:
    """What was found, as a person reads it in a terminal."""
    from rich.text import Text

    from simignore.cli.results import percent, plain

    console = plain()
    console.print(
        Text.assemble(
            (benchmark.title, "bold"), f", {found['model']}: {percent(found)} right, {found['questions']:,} explained"
        )
    )
    if found["without_image"]:
        console.print(f"{found['without_image']:,} questions have no image and are left out")
    if found["cut"]:
        console.print(f"{found['cut']:,} answers are longer than the tokens that were explained (--most)")
    for number, (name, why) in enumerate(found["unexplained"].items()):
        if number == NAMED:
            console.print(f"and {len(found['unexplained']) - NAMED:,} more could not be explained; see metrics.json")
            break
        console.print(f"{name} could not be explained: {why}", soft_wrap=True)
    console.print(_by_layer(found["flow"]["all"]))
    if out is not None:
        drawn = (
            found["page"] or "no page: the figures need matplotlib (pip install 'simignore[viz]'); run this again then"
        )
        console.print(Text(f"Kept in {out}; {drawn}", style="dim"), soft_wrap=True)


def _by_layer(whole: dict[str, Any]) -> Any:
    """Share from the image, correlation with similarity and convergence, layer by layer."""
    from rich.table import Table

    from simignore.flow.report import MEASURES

    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, 3, 0, 0),
        header_style="dim",
        caption="means over questions; image: share of all flow into an answer token that comes from the image; rho: rank "
        "correlation of similarity and flow into the answer; converges: questions with most flow from the image there",
        caption_justify="left",
    )
    table.add_column("\nlayer", justify="right")
    for measure in MEASURES:
        for heading in ("image", "rho", "converges"):
            table.add_column(f"{measure}\n{heading}" if heading == "image" else f"\n{heading}", justify="right")
    for layer in range(len(whole[MEASURES[0]]["spread"]["mean"])):
        cells = []
        for own in (whole[measure] for measure in MEASURES):
            cells.append(_said(own["share"]["image"]["mean"][layer], "{:.1%}"))
            cells.append(_said(own["rho"]["answer"]["mean"][layer], "{:+.2f}"))
            cells.append(str(own["convergence"]["counts"][layer]))
        table.add_row(str(layer), *cells)
    return table


def _said(value: float | None, how: str) -> str:
    return "" if value is None else how.format(value)
