"""``simignore explain``: what the model looked at for one answer, and whether dropping the rest was right, as a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simignore.cli.ask import checked, images_and_question, waiting
from simignore.cli.asking import (
    Also,
    AnswerAsOption,
    Context,
    Device,
    Dtype,
    HeadOption,
    ImageArgument,
    KeepOption,
    LayerOption,
    MaxNewTokens,
    MethodName,
    ModelName,
    Options,
    PresetName,
    QuestionArgument,
    Settings,
    in_method,
    in_output,
    in_run,
)
from simignore.cli.errors import Debug, readable
from simignore.cli.options import make_method, read_given, read_keep, read_layer, read_options

if TYPE_CHECKING:
    from simignore.flow import FlowReport

EXAMPLES = 'Example: simignore explain photo.jpg "What colour is the bus?" --keep 0.25 --out report.html'


@readable
def explain(
    image: ImageArgument = None,
    question: QuestionArgument = None,
    also: Also = None,
    options: Options = None,
    context: Context = None,
    answer_as: AnswerAsOption = None,
    method: MethodName = None,
    preset: PresetName = None,
    head: HeadOption = None,
    keep: KeepOption = None,
    layer: LayerOption = None,
    set_: Settings = None,
    no_method: Annotated[bool, in_method("--no-method", help="Explain the model alone.")] = False,
    out: Annotated[Path, in_output(help="The page; all numbers go into a .json beside it.")] = Path("report.html"),
    as_json: Annotated[bool, in_output("--json", help="Print where the files are, and the findings, as JSON.")] = False,
    model: ModelName = None,
    max_new_tokens: MaxNewTokens = 48,
    most: Annotated[int, in_run(help="How many tokens of the answer are explained; each takes a backward pass.")] = 16,
    faithful: Annotated[bool, in_run(help="Test the views by deletion, insertion and knockout: many forwards.")] = True,
    rounds: Annotated[int, in_run(help="Timed runs for the cost; 0 leaves it out.")] = 3,
    seed: Annotated[int, in_run(help="Of all random draws.")] = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    debug: Debug = False,
) -> None:
    """Show what the model looks at for its answer, what the method keeps of it, and whether dropping the rest was right.

    Writes one page that needs nothing beside it, and a JSON file with all its numbers. Without IMAGE (or with the word
    "example") the question goes to a bundled picture, and without a question a bundled one is asked.
    """
    _check(out)
    if most < 1 or max_new_tokens < 1 or rounds < 0:
        raise ValueError(
            f"--most {most}, --max-new-tokens {max_new_tokens}: at least 1 is needed; --rounds {rounds}: 0 or more"
        )
    choices = read_options(options)
    flags = {
        "head": head,
        "keep": None if keep is None else read_keep(keep),
        "layer": None if layer is None else read_layer(layer),
    }
    given = read_given(flags, set_)
    with waiting("loading", quiet=as_json):
        if no_method and (method or preset or given):
            raise ValueError("--no-method explains the model alone; leave out --method, --preset and their options")
        chosen = None if no_method else make_method(method, preset, given)
        files, asked, own_options = images_and_question(image, question, also or [], "explain")
        choices = choices or own_options
        if own_options:
            answer_as = answer_as or "text"  # by letter the bundled model nearly knows this answer without the picture
        opened = checked(files, asked, context, choices, answer_as)
        from simignore.cli.models import head_of, load
        from simignore.prompt import build

        loaded, processor = load(model, device, dtype, head_of(chosen))
    from simignore.flow import explain as explained

    prompt = build(processor, opened, asked, context=context, options=choices, answer=answer_as)  # type: ignore[arg-type]
    with waiting("looking into the model", quiet=as_json):
        report = explained(
            loaded,
            prompt,
            processor,
            method=chosen,
            faithful=faithful,
            most=most,
            max_new_tokens=max_new_tokens,
            rounds=rounds,
            seed=seed,
        )
        written = _written(report, opened, processor, out)
    facts = {"images": [str(file) for file in files], "question": asked, **findings(report), **written}
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False, allow_nan=False))
    else:
        _show(report, facts)


def findings(report: FlowReport) -> dict[str, Any]:
    """What a reader wants to know first, in plain types."""
    from simignore.flow import plain

    kept = report.kept
    found: dict[str, Any] = {
        "answer": report.answer,
        "probability": report.tokens[0].probability,
        "convergence_layers": {name: lines.convergence.layer for name, lines in report.curves.items()},
        "image_tokens": len(report.image),
        "answer_without_image_tokens": next((swap.answer for swap in report.swaps if not swap.kept), None),
    }
    if kept is not None:
        found |= {
            "method": kept.method,
            "kept": int(kept.selection.count[0]),
            "answer_with_method": kept.answer,
            "flow_kept": kept.flow_share,
            "flow_kept_at_random": {
                name: {"mean": mean, "low": low, "high": high} for name, (mean, low, high) in kept.random_share.items()
            },
        }
    return dict(plain(found))


def _check(out: Path) -> None:
    """Refuse a page that could not be written before anything is computed."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {out} must end in .html; the numbers go into {out.with_suffix('.json')}")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; name a file such as {out / 'report.html'}")


def _written(report: FlowReport, pictures: Any, processor: Any, out: Path) -> dict[str, str]:
    """Write the page and its numbers; their paths."""
    from simignore.figures import flow_page

    out.parent.mkdir(parents=True, exist_ok=True)
    numbers = out.with_suffix(".json")
    out.write_text(flow_page(report, pictures, processor), encoding="utf-8")
    numbers.write_text(report.to_json() + "\n", encoding="utf-8")
    return {"page": str(out), "numbers": str(numbers)}


def _show(report: FlowReport, facts: dict[str, Any]) -> None:
    """The findings as a person reads them in a terminal."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    first = report.tokens[0]
    console.print(
        f"[bold]{escape(facts['answer'])}[/bold]  ({first.probability:.0%} sure of its first token)", markup=True
    )
    for name, lines in report.curves.items():
        converging = lines.convergence
        if converging.layer >= 0:
            run = f"{converging.first} to {converging.last}"
            console.print(
                f"flow from the image converges in layer {converging.layer} by {name} (at least half as much in {run}; "
                f"layers are counted from 0 to {report.layers - 1})"
            )
    if report.kept is not None:
        kept, shares = report.kept, report.kept.flow_share
        console.print(f"{escape(kept.method)} keeps {kept.token_share:.1%} of {facts['image_tokens']} image tokens")
        for name, share in shares.items():
            _, low, high = kept.random_share[name]
            console.print(f"  {share:.0%} of the {name}, where as many random ones have {low:.0%} to {high:.0%}")
        same = "the same answer" if kept.answer == report.answer else f"another answer: {escape(kept.answer)}"
        console.print(f"  and gives {same}")
    if facts["answer_without_image_tokens"] == report.answer:
        console.print(
            "  the model gives this answer without any image token, too: what was kept cannot matter much for it"
        )
    console.print(escape(f"{facts['page']}, numbers in {facts['numbers']}"))
