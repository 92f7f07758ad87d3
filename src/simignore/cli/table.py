"""How a report reads on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from simignore.wording import LETTERS, lettered


def show(facts: dict[str, Any]) -> None:
    """Print what ``simignore ask`` found: the question, both answers, and what each cost."""
    console = Console()
    for name in ("question", "context"):
        if facts[name]:
            console.print(Text.assemble((f"{name.capitalize():<10}", "dim"), facts[name]))
    if facts["options"]:
        console.print(Text.assemble((f"{'Options':<10}", "dim"), lettered(facts["options"])))
    known = " (bundled: it knows rendered coloured shapes only; for photographs name another with --model)"
    console.print(
        Text.assemble((f"{'Model':<10}", "dim"), facts["model"] + (known if facts["model"] == "tiny" else ""))
    )
    console.print(Text.assemble((f"{'Method':<10}", "dim"), facts["method"]))
    console.print(_costs(facts))
    for line in _remarks(facts):
        console.print(Text(line, style="dim"))


def _costs(facts: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for heading in ("", "all image tokens", "with the method"):
        table.add_column(heading)
    tokens, prompt, cache = facts["image_tokens"], facts["prompt_tokens"], facts["cache_bytes"]
    prefill, choosing = facts["prefill_seconds"], facts["selection_seconds"]
    answers = [Text(resolved(facts["answer"][side], facts["options"]), style="bold") for side in ("full", "reduced")]
    table.add_row("answer", *answers)
    table.add_row("image tokens", str(tokens["full"]), f"{tokens['reduced']} of {tokens['full']}")
    table.add_row("prompt tokens", str(prompt["full"]), str(prompt["reduced"]))
    table.add_row(
        "prefill",
        duration(prefill["full"]),
        f"{duration(prefill['reduced'])}, {facts['prefill_ratio']:.2f} of that with all image tokens",
    )
    table.add_row("  choosing", "", f"{duration(choosing)} of it")
    table.add_row("KV cache", size(cache["full"]), size(cache["reduced"]))
    return table


def _remarks(facts: dict[str, Any]) -> list[str]:
    """What the figures are, and anything worth knowing about them."""
    runs = facts["runs"]
    timed = f"medians of {runs} runs of each, taken in turn" if runs > 1 else "one run of each"
    lines = [
        f"Prefill includes the vision tower: {timed}, on {facts['device']} in {facts['dtype']}. "
        "KV cache: after the prompt."
    ]
    if facts["compared_with"]:
        lines.append(
            "Image tokens were compared with the {tokens} tokens of the span {span!r}.".format(**facts["compared_with"])
        )
    lines += [f"Note: {note}" for note in facts["notes"]]
    if facts["picture"]:
        lines.append(f"Picture: {facts['picture']}")
    return lines


def resolved(answer: str, options: list[str]) -> str:
    """An answer, and behind a letter the option that it stands for."""
    number = LETTERS.find(answer) if len(answer) == 1 else -1
    return f"{answer} ({options[number]})" if 0 <= number < len(options) else answer or "(nothing)"


def duration(seconds: float) -> str:
    """Three figures, in ms or s."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def size(count: float) -> str:
    """Bytes in units of 1000."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
