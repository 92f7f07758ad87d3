"""``simignore ask``: one question about an image, answered with all image tokens and with few."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    from PIL import Image

    from simignore.cli.beside import Comparison

EXAMPLE = "example"
EXAMPLES = 'Example: simignore ask photo.jpg "What colour is the bus?" --options "red,blue" --keep 0.25 --out kept.png'


@readable
def ask(
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
    threshold: Annotated[float | None, in_method(help="Keep what scores at least this.")] = None,
    layer: LayerOption = None,
    seed: Annotated[int | None, in_method(help="Of methods that draw at random.")] = None,
    span: Annotated[str | None, in_method(help="Part of the prompt to compare with: user, question, ...")] = None,
    hide: Annotated[str | None, in_method(help="drop (shorten) or mask (hide from attention).")] = None,
    positions: Annotated[str | None, in_method(help="keep each token's position, or reindex.")] = None,
    within: Annotated[str | None, in_method(help="Choose among all of a sample, or in each image or grid.")] = None,
    set_: Settings = None,
    out: Annotated[Path | None, in_output(help="Draw which image tokens were kept into this file.")] = None,
    as_json: Annotated[bool, in_output("--json", help="Print one JSON object and nothing else.")] = False,
    model: ModelName = None,
    max_new_tokens: MaxNewTokens = 48,
    runs: Annotated[int, in_run(help="Timed runs of each; medians are shown.")] = 5,
    device: Device = "auto",
    dtype: Dtype = "auto",
    debug: Debug = False,
) -> None:
    """Ask a question about an image, with all image tokens and with the few that the question is about.

    Prints both answers, how many tokens stayed, and what each answer cost. Without IMAGE (or with the word "example")
    the question goes to a bundled picture, and without a question a bundled one is asked.
    """
    choices = read_options(options)
    flags = {
        "head": head,
        "keep": None if keep is None else read_keep(keep),
        "threshold": threshold,
        "layer": None if layer is None else read_layer(layer),
        "seed": seed,
        "span": span,
        "hide": hide,
        "positions": positions,
        "within": within,
    }
    given = read_given(flags, set_)
    with waiting("loading", quiet=as_json):
        chosen = make_method(method, preset, given)
        _check_out(out)
        files, asked, own_options = images_and_question(image, question, also or [])
        choices = choices or own_options
        opened = checked(files, asked, context, choices, answer_as)
        from simignore.cli.models import head_of, load
        from simignore.prompt import build
        from simignore.wording import lettered

        loaded, processor = load(model, device, dtype, head_of(chosen))
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


def checked(
    files: Sequence[Path], asked: str, context: str | None, choices: Sequence[str], answer_as: str | None
) -> list[Image.Image]:
    """The opened images. What is wrong with them or with the words is told here, before a large model is loaded."""
    from simignore.prompt import open_image
    from simignore.wording import wording

    opened = [open_image(file) for file in files]
    wording(asked, context=context, options=choices, answer=answer_as)  # type: ignore[arg-type]
    if answer_as is not None and not choices:
        raise ValueError(f"--answer-as {answer_as} says how to name an option, but there are none; add --options")
    return opened


def images_and_question(
    image: str | None, question: str | None, also: Sequence[Path], command: str = "ask"
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
            raise ValueError(f'what about {image}? simignore {command} {image} "What colour is the bus?"')
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
