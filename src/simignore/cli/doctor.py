"""``simignore doctor``: what serves a model, and whether the guarantees hold for it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from simignore.cli.errors import Debug, complain, readable

EXAMPLES = "Example: simignore doctor Qwen/Qwen2.5-VL-7B-Instruct"


@readable
def doctor(
    model: Annotated[str, typer.Argument(help='Folder or Hugging Face name, or "tiny" for the bundled model.')],
    weights: Annotated[
        bool, typer.Option("--weights", help="Try it with the real weights at full size, not with few random layers.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    debug: Debug = False,
) -> None:
    """Say which entry serves a model, what its parts are, and whether the guarantees hold for it.

    By default only its config and processor are read: a model of the same structure with few layers and random weights is
    tried on the CPU. Ends with exit code 1 if a guarantee is broken.
    """
    from simignore.cli.ask import waiting
    from simignore.doctor import examine, tokens_per_image
    from simignore.parts import parts

    with waiting("building a small model of the same structure" if not weights else "loading", quiet=as_json):
        loaded, processor = _loaded(model, weights)
        p = parts(loaded)
        facts: dict[str, Any] = {
            "model": model,
            "class": type(loaded).__name__,
            "family": p.family.title,
            "source": p.family.source,
            "layers": len(p.layers),
            "recurrent": p.recurrent,
            "last_cut": p.last_cut,
            "image_token": p.image_token,
            "video_token": p.video_token,
            "parts": {name: _path(loaded, getattr(p, name)) for name in ("vision", "projector", "decoder", "embed")},
            "parameters": sum(parameter.numel() for parameter in loaded.parameters()),
            "tokens_per_image": {
                f"{w} x {h}": list(found) for (w, h), found in tokens_per_image(loaded, processor).items()
            },
        }
    with waiting("trying the guarantees", quiet=as_json):
        facts["findings"] = [asdict(finding) for finding in examine(loaded, processor)]
    broken = [finding["guarantee"] for finding in facts["findings"] if finding["result"] == "broken"]
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
    else:
        _show(facts, weights)
        if broken:
            complain(f"{len(broken)} of {len(facts['findings'])} guarantees are broken: {', '.join(broken)}")
    if broken:
        raise typer.Exit(1)


def _loaded(name: str, weights: bool) -> tuple[Any, Any]:
    """The model itself, or one of its structure with few layers and random weights; and its processor."""
    import torch

    from simignore.cli.models import BUNDLED, checked, load

    if weights or name == BUNDLED:
        return load(name, "cpu", "float32")
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    from simignore.parts import parts
    from simignore.reduced import reduced

    logging.set_verbosity_error()
    name = checked(name)
    torch.manual_seed(0)
    try:
        config = AutoConfig.from_pretrained(name)
        config.dtype = torch.float32
        small = AutoModelForImageTextToText.from_config(reduced(config)).float().eval()
    except Exception as error:
        raise ValueError(f"no small model can be built from the config of {name!r} ({error}); try --weights") from error
    parts(small)  # refused with the reason before a processor is looked for
    try:
        return small, AutoProcessor.from_pretrained(name)
    except Exception as error:
        hint = "; install the torchvision that fits your torch" if "orchvision" in str(error) else ""
        raise ValueError(f"the processor of {name!r} cannot be loaded{hint}: {error}") from error


def _path(model: Any, module: Any) -> str:
    """Where a module is in the model, as attributes."""
    if module is None:
        return "not known"
    found = next((path for path, inner in model.named_modules() if inner is module), "?")
    return f"{found or 'the model itself'} ({type(module).__name__})"


def _show(facts: dict[str, Any], weights: bool) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    size = "its own weights" if weights or facts["model"] == "tiny" else "random weights at reduced size"
    lines = {
        "Model": f"{facts['model']} ({facts['class']})",
        "Entry": f"{facts['family']}; {facts['source']}",
        **{name.capitalize(): where for name, where in facts["parts"].items()},
        "Tried": f"{size}: {facts['layers']} layers, {facts['parameters'] / 1e6:.3g} million parameters, float32 on the CPU",
    }
    for name, text in lines.items():
        console.print(Text.assemble((f"{name:<10}", "dim"), text))
    tokens = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("picture", "image tokens", "rows x columns"):
        tokens.add_column(heading)
    for picture, (count, grids) in facts["tokens_per_image"].items():
        tokens.add_row(picture, str(count), grids)
    console.print(tokens)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("guarantee", "", "measured"):
        table.add_column(heading)
    style = {"holds": "green", "broken": "red"}
    for finding in facts["findings"]:
        table.add_row(finding["guarantee"], Text(finding["result"], style=style[finding["result"]]), finding["detail"])
    console.print(table)
    held = sum(finding["result"] == "holds" for finding in facts["findings"])
    if held == len(facts["findings"]):
        console.print(Text(f"All {held} guarantees hold.", style="green"))
    if facts["recurrent"]:
        console.print(Text("Some layers carry a state from token to token: hide='mask' is refused there.", style="dim"))
