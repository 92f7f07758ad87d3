"""``simignore ask``: one question about an image, answered with all image tokens and with few."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simignore.cli.errors import Debug, readable
from simignore.cli.options import make_method, read_keep, read_layer, read_options, read_settings

if TYPE_CHECKING:
    from simignore.cli.beside import Comparison

EXAMPLE = "example"
EXAMPLES = 'Example: simignore ask photo.jpg "What colour is the bus?" --options "red,blue" --keep 0.25 --out kept.png'

_prompt = partial(typer.Option, rich_help_panel="Prompt")
_method = partial(typer.Option, rich_help_panel="Method")
_output = partial(typer.Option, rich_help_panel="Output")
_run = partial(typer.Option, rich_help_panel="Model and runs")


@readable
def ask(
    image: Annotated[str | None, typer.Argument(help='Image file, or "example" for the bundled picture.')] = None,
    question: Annotated[str | None, typer.Argument(help="The question, in quotes.")] = None,
    also: Annotated[list[Path] | None, _prompt(metavar="IMAGE", help="One more image; repeatable.")] = None,
    options: Annotated[str | None, _prompt(help='Answers to choose from: "red,blue,green" (or "a|b").')] = None,
    context: Annotated[str | None, _prompt(help="A hint that precedes the question.")] = None,
    answer_as: Annotated[str | None, _prompt(help="Answer options by letter (default) or text.")] = None,
    method: Annotated[str | None, _method(help="One of `simignore list`; default: simignore.")] = None,
    preset: Annotated[str | None, _method(help="A published setting instead of a method and its options.")] = None,
    keep: Annotated[
        str | None,
        _method(help="How many image tokens: 64, a fraction (0.25, 25%), or a rule: 'Mass(0.9)'; default: 0.25."),
    ] = None,
    threshold: Annotated[float | None, _method(help="Keep what scores at least this.")] = None,
    layer: Annotated[
        str | None, _method(help="Decoder layer before which to cut: 5, or a share of the depth (0.5).")
    ] = None,
    seed: Annotated[int | None, _method(help="Of methods that draw at random.")] = None,
    span: Annotated[str | None, _method(help="Part of the prompt to compare with: user, question, ...")] = None,
    hide: Annotated[str | None, _method(help="drop (shorten) or mask (hide from attention).")] = None,
    positions: Annotated[str | None, _method(help="keep each token's position, or reindex.")] = None,
    within: Annotated[str | None, _method(help="Choose among all of a sample, or in each image or grid.")] = None,
    set_: Annotated[
        list[str] | None, _method("--set", metavar="NAME=VALUE", help="Any other option of the method; repeatable.")
    ] = None,
    out: Annotated[Path | None, _output(help="Draw which image tokens were kept into this file.")] = None,
    as_json: Annotated[bool, _output("--json", help="Print one JSON object and nothing else.")] = False,
    model: Annotated[str | None, _run(help="Folder or Hugging Face name; default: the bundled model.")] = None,
    max_new_tokens: Annotated[int, _run(help="Longest answer, in tokens.")] = 48,
    runs: Annotated[int, _run(help="Timed runs of each; medians are shown.")] = 5,
    device: Annotated[str, _run(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, _run(help="auto, float32, bfloat16 or float16.")] = "auto",
    debug: Debug = False,
) -> None:
    """Ask a question about an image, with all image tokens and with the few that the question is about.

    Prints both answers, how many tokens stayed, and what each answer cost. Without IMAGE (or with the word "example")
    the question goes to a bundled picture, and without a question a bundled one is asked.
    """
    choices = read_options(options)
    given = {
        "keep": None if keep is None else read_keep(keep),
        "threshold": threshold,
        "layer": None if layer is None else read_layer(layer),
        "seed": seed,
        "span": span,
        "hide": hide,
        "positions": positions,
        "within": within,
        **read_settings(set_ or []),
    }
    with waiting("loading", quiet=as_json):
        chosen = make_method(method, preset, given)
        _check_out(out)
        files, asked, own_options = images_and_question(image, question, also or [])
        choices = choices or own_options
        # what is wrong with the images or the words is told before a large model is loaded
        from simignore.prompt import build, open_image
        from simignore.wording import lettered, wording

        opened = [open_image(file) for file in files]
        wording(asked, context=context, options=choices, answer=answer_as)  # type: ignore[arg-type]
        if answer_as is not None and not choices:
            raise ValueError(f"--answer-as {answer_as} says how to name an option, but there are none; add --options")
        from simignore.cli.models import load

        loaded, processor = load(model, device, dtype)
    from simignore.cli.beside import compare, report

    prompt = build(processor, opened, asked, context=context, options=choices, answer=answer_as)  # type: ignore[arg-type]
    with waiting(f"answering, and timing {runs} runs of each", quiet=as_json):
        compared = compare(loaded, processor, prompt, chosen, runs, max_new_tokens)
    if out is not None:
        out = _drawn(out, compared, processor, asked.strip(), lettered(choices))
    facts = {
        "images": [str(file) for file in files],
        "question": asked,
        "context": context,
        "options": choices,
        "model": model or "tiny",
        **report(compared, loaded, processor),
        "picture": None if out is None else str(out),
    }
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False, allow_nan=False))
    else:
        from simignore.cli.table import show

        show({**facts, "method": str(chosen)})


def images_and_question(
    image: str | None, question: str | None, also: Sequence[Path]
) -> tuple[list[Path], str, list[str]]:
    """The image files and the question, the bundled ones where they were left out, and the bundled question's options.

    A single argument with a blank in it is a question about the bundled picture, without one it is an image.
    """
    from simignore import tiny

    if question is None and image is not None and " " in image.strip() and not Path(image).exists():
        image, question = None, image
    bundled, options = image is None or image == EXAMPLE, []
    if question is None:
        if not bundled:
            raise ValueError(f'what about {image}? simignore ask {image} "What colour is the bus?"')
        question, options = tiny.EXAMPLE_QUESTION, list(tiny.EXAMPLE_OPTIONS)
    return [tiny.example() if bundled else Path(str(image)), *also], question, options


def _drawn(out: Path, compared: Comparison, processor: Any, question: str, subtitle: str) -> Path | None:
    """Save the picture; None, with a word why, where the image tokens of a model have no places to draw them at."""
    from simignore.cli.beside import picture
    from simignore.cli.errors import complain

    try:
        drawn = picture(compared, processor, question, subtitle)
    except ValueError as error:
        complain(f"no picture: {error}")
        return None
    out.parent.mkdir(parents=True, exist_ok=True)
    drawn.save(out)
    return out


@contextmanager
def waiting(what: str, quiet: bool) -> Iterator[None]:
    """A spinner on stderr while a person waits; nothing where none is looking."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield
        return
    with console.status(f"{what} ...", refresh_per_second=2):  # rarely: drawing takes time from what is timed
        yield


def _check_out(out: Path | None) -> None:
    """Refuse a picture that could not be written before anything is computed."""
    if out is None:
        return
    from PIL import Image

    Image.init()
    known = {suffix for suffix, kind in Image.EXTENSION.items() if kind in Image.SAVE}
    if out.suffix.lower() not in known:
        raise ValueError(f"--out {out}: {out.suffix or 'a name without ending'} is no picture format; use .png")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; name a file such as {out / 'kept.png'}")
