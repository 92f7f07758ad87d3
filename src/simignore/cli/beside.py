"""The same prompt with and without a method, side by side: answers, tokens, time and memory as one plain report."""

from __future__ import annotations

import math
import platform
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from simignore.methods import Method
    from simignore.prompt import Prompt
    from simignore.types import Answer, Trace


@dataclass(frozen=True)
class Comparison:
    """Two answers to one prompt, and the timed runs behind the figures.

    full, reduced: the answers without and with the method. timed: pairs (full, reduced) of runs of one new token.
    """

    prompt: Prompt
    method: Method
    full: Answer
    reduced: Answer
    timed: list[tuple[Answer, Answer]]

    @property
    def trace(self) -> Trace:
        """What the method did to the answer that is shown."""
        if self.reduced.trace is None:
            raise RuntimeError("the reduced answer was made without a method")
        return self.reduced.trace


def compare(model: Any, processor: Any, prompt: Prompt, method: Method, runs: int, tokens: int) -> Comparison:
    """Answer with and without ``method``, then time the prefill of both, one after the other ``runs`` times.

    The answers, of at most ``tokens`` tokens, are the warm-up. The method goes first, so that a setting that does not
    fit is told before the long run. Raises ValueError for fewer than one run or token, and what the method refuses.
    """
    from simignore.answer import ask

    for name, value in (("--runs", runs), ("--max-new-tokens", tokens)):
        if value < 1:
            raise ValueError(f"{name} {value}: at least 1 is needed")
    reduced = ask(model, processor, prompt, method, max_new_tokens=tokens)
    full = ask(model, processor, prompt, max_new_tokens=tokens)
    timed = [
        (ask(model, processor, prompt, max_new_tokens=1), ask(model, processor, prompt, method, max_new_tokens=1))
        for _ in range(runs)
    ]
    return Comparison(prompt, method, full, reduced, timed)


def report(c: Comparison, model: Any, processor: Any) -> dict[str, Any]:
    """Everything that is known about a comparison, in plain types: seconds, bytes, tokens. ``--json`` prints it."""
    full, reduced = ([pair[side] for pair in c.timed] for side in (0, 1))
    prefill = median(run.prefill for run in full), median(run.prefill for run in reduced)
    selection, trace = c.trace.selections[0], c.trace
    score = None if selection.score is None else [_number(x) for x in selection.score[0].tolist()]
    weights = next(model.parameters())
    return {
        "versions": versions(),
        "device": str(weights.device),
        "dtype": str(weights.dtype).removeprefix("torch."),
        "prompt": c.prompt.text,
        "method": repr(c.method),
        "compared_with": compared_with(c.method, c.prompt),
        "answer": {"full": c.full.text, "reduced": c.reduced.text},
        "image_tokens": {"full": c.full.image_tokens, "reduced": c.reduced.kept},
        "prompt_tokens": {"full": trace.tokens_before[0], "reduced": trace.tokens_after[0]},
        "prefill_seconds": {"full": prefill[0], "reduced": prefill[1]},
        "prefill_ratio": prefill[1] / prefill[0],
        "selection_seconds": median(run.selection for run in reduced),
        "runs": len(c.timed),
        "cache_bytes": {"full": full[0].cache_bytes, "reduced": reduced[0].cache_bytes},
        "grids": [list(grid.size) for grid in trace.patches[0].grids[0]],
        "kept": selection.index[0][selection.valid[0]].tolist(),
        "score": score,
        "score_kind": None if score is None else c.method.score_kind,
        "notes": [*(note.partition(": ")[2] for note in trace.notes), *cropped(c, processor)],
    }


def cropped(c: Comparison, processor: Any) -> list[str]:
    """What to know about images whose sides the processor cuts off, as LLaVA-1.5's does with those that are not square."""
    from simignore.places import locate

    try:
        places = [place for place in locate(c.trace.patches[0], list(c.prompt.images), processor) if place is not None]
    except ValueError:
        return []
    notes = []
    for number, image in enumerate(c.prompt.images):
        boxes = [place.box for place in places if place.picture == number]
        left, top = (min((box[side] for box in boxes), default=0) for side in (0, 1))
        right, bottom = (
            max((box[side] for box in boxes), default=end) for side, end in ((2, image.width), (3, image.height))
        )
        seen = round(min(right, image.width) - max(left, 0)), round(min(bottom, image.height) - max(top, 0))
        if seen[0] < 0.98 * image.width or seen[1] < 0.98 * image.height:
            notes.append(f"of the {image.width} x {image.height} image the model sees {seen[0]} x {seen[1]} only")
    return notes


def picture(c: Comparison, processor: Any, question: str, subtitle: str = "") -> Image.Image:
    """What was kept, drawn on the images as the model saw them. Raises ValueError where they have no places."""
    from simignore.figures import draw

    return draw(
        c.trace,
        list(c.prompt.images),
        processor,
        question=question,
        subtitle=subtitle,
        answers=[
            (f"all {c.full.image_tokens} image tokens", c.full.text),
            (f"{c.reduced.kept} image tokens", c.reduced.text),
        ],
        method=str(c.method),
        score=c.method.score_kind,
        mark_lowest=c.method.within == "sample",
    )


def compared_with(method: Method, prompt: Prompt) -> dict[str, Any] | None:
    """The part of the prompt that image tokens are compared with, None for a method that looks at no text."""
    from simignore.answer import span_of

    if not any({"text", "question"}.intersection(cut.needs) for cut in method.cuts()):
        return None
    span = prompt.span_for(span_of(method))
    return {"span": span, "tokens": len(prompt.query(span))}


def versions() -> dict[str, str]:
    """What the figures were measured with."""
    import torch
    import transformers

    from simignore import __version__

    return {
        "simignore": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None
