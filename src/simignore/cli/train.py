"""``simignore train``: a head that learns, beside any model, what its decoder needs of an image."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from simignore.cli.asking import Dtype, ModelName
from simignore.cli.errors import Debug, readable
from simignore.cli.options import read_settings

EXAMPLES = (
    "Example: simignore train scenes --steps 600 --out runs/head, then: simignore ask --head runs/head. "
    "On several GPUs: accelerate launch -m simignore train questions.jsonl --model llava-hf/llava-1.5-7b-hf --out runs/llava"
)
SCENES = "scenes"
_run = partial(typer.Option, rich_help_panel="Run")
_goal = partial(typer.Option, rich_help_panel="What is learnt")
_data = partial(typer.Option, rich_help_panel="Data")


@readable
def train(
    data: Annotated[
        str, typer.Argument(help='"scenes", or a file of images, questions and answers (LLaVA\'s format).')
    ],
    out: Annotated[Path, typer.Option(help="Folder of the head; a run that was stopped goes on.")],
    images: Annotated[Path | None, _data(help="Folder that image names begin from; default: the file's.")] = None,
    count: Annotated[int, _data(min=1, help="Rendered scenes to draw from.")] = 50_000,
    kinds: Annotated[str | None, _data(help="Kinds of scene questions to learn from, by commas; default: all.")] = None,
    without: Annotated[str | None, _data(help="Shapes that no scene shows, by commas.")] = None,
    square: Annotated[bool, _data(help="Pad images to squares, as LLaVA-1.5 was trained.")] = False,
    rank: Annotated[int, _goal(min=1, help="Of the head's two matrices.")] = 32,
    hops: Annotated[
        int, _goal(min=0, help="How often the head looks beside what it found, for questions of what is near what.")
    ] = 0,
    adapters: Annotated[
        int, _goal(min=0, help="Rank of LoRA in projector and decoder; 0: the model stays as it is.")
    ] = 0,
    goal: Annotated[
        list[str] | None,
        _goal("--goal", metavar="NAME=VALUE", help="A field of simignore.train.Objective (flow=0); repeatable."),
    ] = None,
    prepare: Annotated[
        int, _run(min=0, help="So many examples go through the model once, before all steps; 0: each at its step.")
    ] = 0,
    prepared: Annotated[Path | None, _run(help="Where those are kept, for several runs; default: in --out.")] = None,
    steps: Annotated[int, _run(min=1, help="Updates.")] = 600,
    batch: Annotated[int, _run(min=1, help="Examples at once on one device.")] = 28,
    accumulate: Annotated[int, _run(min=1, help="Batches of one update.")] = 1,
    rate: Annotated[float, _run(help="Peak learning rate of the head.")] = 2e-3,
    adapter_rate: Annotated[float, _run(help="Peak learning rate of the adapters.")] = 1e-4,
    precision: Annotated[str, _run(help="float32, bfloat16 or float16: of mixed precision.")] = "float32",
    workers: Annotated[int, _run(min=0, help="Processes that make batches ready.")] = 0,
    save_every: Annotated[int, _run(min=1, help="Steps between checkpoints.")] = 50,
    seed: Annotated[int, _run(min=0, help="Of the scenes and all random draws.")] = 0,
    model: ModelName = None,
    dtype: Dtype = "auto",
    debug: Debug = False,
) -> None:
    """Train a small head beside a model that stays as it is, so that similarity finds what its answers need.

    Writes FOLDER with the head (safetensors and config), the record of the run, and TensorBoard's events; the head is then
    used by `simignore ask --head FOLDER` and as `LearnedSimignore(keep=0.125, head=FOLDER)`. Needs simignore[train].
    """
    goals = read_settings(goal or [], "--goal")
    _check_installed(adapters)
    from simignore.train import Objective, Scenes, Settings
    from simignore.train import train as run
    from simignore.train.record import finished

    settings = Settings(
        steps=steps,
        batch=batch,
        accumulate=accumulate,
        rate=rate,
        rank=rank,
        hops=hops,
        prepared=prepare,
        adapters=adapters,
        adapter_rate=adapter_rate,
        precision=precision,
        workers=workers,
        square=square,
        seed=seed,
        save_every=save_every,
        objective=_objective(Objective, goals),
    )
    if prepared is not None and not prepare:
        raise ValueError("--prepared names where prepared examples are kept; say with --prepare how many")
    told = {"data": data, "images": images, "count": count, "kinds": kinds, "without": without}
    told["seed"] = seed if data == SCENES else None  # which scenes; a file's examples are the same for every seed
    choices = _of_scenes(images, kinds, without) if data == SCENES else None
    examples: Any = (
        _of_file(data, images, kinds, without) if choices is None else None
    )  # before a large model is loaded
    from simignore.cli.models import load

    loaded, processor = load(model, "cpu", dtype)
    if choices is not None:
        from simignore.tiny.model import scale_of

        examples = Scenes(count, seed, scale=scale_of(loaded) if model is None else 3, **choices)
    words = ", ".join(f"{name}={value}" for name, value in told.items() if value is not None)
    if prepare > len(examples):
        typer.echo(f"--prepare {prepare}: there are {len(examples)} examples, and all of them are prepared", err=True)
    before = finished(out, bool(adapters))
    with _preparing(min(prepare, len(examples))) as tick:
        run(loaded, processor, examples, out, settings, words, prepared, tick)
    done = f"{out} was already finished, nothing was trained" if before else f"wrote {out}"
    typer.echo(f"{done}; try it: simignore ask --head {out}" + ("" if model is None else f" --model {model} ..."))


def _of_scenes(images: Path | None, kinds: str | None, without: str | None) -> dict[str, list[str]]:
    """What was typed of the scenes to draw. Raises ValueError for what only a file has."""
    if images is not None:
        raise ValueError("scenes are drawn, not read; leave out --images")
    typed = {"kinds": kinds, "without": without}
    return {name: [word.strip() for word in words.split(",")] for name, words in typed.items() if words}


def _of_file(data: str, images: Path | None, kinds: str | None, without: str | None) -> Any:
    """The examples of a file; says how many of its records have no image. Raises ValueError for what only scenes have."""
    if kinds or without:
        raise ValueError("--kinds and --without choose among rendered scenes; leave them out for a file")
    from simignore.train import Records

    examples = Records(Path(data), images)
    if examples.skipped:
        typer.echo(f"{examples.skipped} records without an image were left out", err=True)
    return examples


@contextmanager
def _preparing(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr of the process that prepares, told how many examples are done; gone when all are."""
    from simignore.cli.benchmarks import progress

    done = 0
    with ExitStack() as opened:
        others = os.environ.get("LOCAL_RANK", "0") != "0"
        more = opened.enter_context(progress("examples through the model", total, quiet=others or not total))

        def tick(now: int) -> None:
            nonlocal done
            more(now - done)
            done = now
            if now >= total:
                opened.close()

        yield tick


def _objective(kind: Any, goals: dict[str, Any]) -> Any:
    from dataclasses import fields

    known = {field.name for field in fields(kind)}
    if strange := sorted(set(goals) - known):
        raise ValueError(f"--goal {strange[0]}: there is no such goal; there are {', '.join(sorted(known))}")
    made = {
        name: (tuple(value) if isinstance(value, tuple | list) else (value,))
        if name in ("keeps", "spans", "layers")
        else value
        for name, value in goals.items()
    }
    return kind(**made)


def _check_installed(adapters: int) -> None:
    """Raise ValueError for packages that are not there, before anything is read."""
    from importlib.util import find_spec

    from simignore.cli.models import check_peft

    if missing := [name for name in ("accelerate", "tensorboard") if find_spec(name) is None]:
        raise ValueError(f"training needs {' and '.join(missing)}: pip install 'simignore[train]'")
    if adapters:
        check_peft(f"--adapters {adapters} trains LoRA")
