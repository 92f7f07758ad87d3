"""``simignore score``: a file of answers, scored without any model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from simignore.cli.benchmarks import Name, Settings, make_benchmark
from simignore.cli.errors import Debug, readable

EXAMPLES = "Example: simignore score scienceqa --questions llava_test_CQM-A.json --answers answers.jsonl"


@readable
def score(
    benchmark: Name,
    questions: Annotated[Path, typer.Option(help="File or folder with the questions, in the benchmark's own layout.")],
    answers: Annotated[Path, typer.Option(help="JSONL with question_id and text (LLaVA), or predictions.jsonl.")],
    against: Annotated[
        Path | None, typer.Option(help="A second file of answers; both are compared on the same questions.")
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Leave questions without an answer out.")] = False,
    settings: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    debug: Debug = False,
) -> None:
    """Score a file of answers by the benchmark's own rules: accuracy with its interval, counts, and what could not be read."""
    asked = make_benchmark(benchmark, questions, None, 0, settings)
    from simignore.evaluate.scoring import against as compared
    from simignore.evaluate.scoring import read_answers
    from simignore.evaluate.scoring import score as scored

    one = scored(asked, read_answers(answers), partial=partial)
    found: dict[str, Any] = {"benchmark": repr(asked), "answers": str(answers), **one.report}
    found["unanswered"] = len(one.unanswered)
    if against is not None:
        other = scored(asked, read_answers(against), partial=partial)
        found["against"] = {"answers": str(against), "accuracy": other.report["accuracy"], **compared(one, other)}
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        from simignore.cli.results import show_score

        show_score(asked, found)
