"""Options that several commands share which put one question to a model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

in_prompt = partial(typer.Option, rich_help_panel="Prompt")
in_method = partial(typer.Option, rich_help_panel="Method")
in_output = partial(typer.Option, rich_help_panel="Output")
in_run = partial(typer.Option, rich_help_panel="Model and runs")

ImageArgument = Annotated[str | None, typer.Argument(help='Image file, or "example" for the bundled picture.')]
QuestionArgument = Annotated[str | None, typer.Argument(help="The question, in quotes.")]
Also = Annotated[list[Path] | None, in_prompt(metavar="IMAGE", help="One more image; repeatable.")]
Options = Annotated[str | None, in_prompt(help='Answers to choose from: "red,blue,green" (or "a|b").')]
Context = Annotated[str | None, in_prompt(help="A hint that precedes the question.")]
AnswerAsOption = Annotated[str | None, in_prompt(help="Answer options by letter (default) or text.")]

MethodName = Annotated[str | None, in_method(help="One of `simignore list`; default: simignore.")]
PresetName = Annotated[str | None, in_method(help="A published setting instead of a method and its options.")]
HeadOption = Annotated[
    str | None, in_method(help="Folder that `simignore train` wrote, or a head's Hugging Face name; method: learned.")
]
KeepOption = Annotated[
    str | None,
    in_method(help="How many image tokens: 64, a fraction (0.25, 25%), or a rule: 'Mass(0.9)'; default: 0.25."),
]
LayerOption = Annotated[
    str | None, in_method(help="Decoder layer before which to cut: 5, or a share of the depth (0.5).")
]
Settings = Annotated[
    list[str] | None, in_method("--set", metavar="NAME=VALUE", help="Any other option of the method; repeatable.")
]

ModelName = Annotated[str | None, in_run(help="Folder or Hugging Face name; default: the bundled model.")]
MaxNewTokens = Annotated[int, in_run(help="Longest answer, in tokens.")]
Device = Annotated[str, in_run(help="auto, cpu or cuda.")]
Dtype = Annotated[str, in_run(help="auto, float32, bfloat16 or float16.")]
