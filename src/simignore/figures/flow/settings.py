"""What the page was made with, what could not be done, and what its views cannot tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from simignore.figures.flow.words import safe, section
from simignore.flow.report import FlowReport

CANNOT = (
    "Everything here is about one prompt and one model. Attention says where a layer reads, not what it does with what it "
    "reads; gradients say what a small change would do, not a large one; rollout and relevancy assume that information "
    "mixes as the attention weights do. After the first layers a patch's hidden state also holds what it took from other "
    "patches: flow from a patch is flow from its place in the sequence, which need not be about its pixels. Similarity is "
    "measured before the decoder and knows nothing of it. Dropping tokens and cutting attention put the model in states it "
    "was not trained for. None of this shows that the model reasoned as a person would, and a sharp map is no sign that the "
    "answer is right."
)


def settings(report: FlowReport) -> str:
    """Notes, limits and settings."""
    notes = "".join(f"<li>{safe(note)}</li>" for note in report.notes)
    rows = "".join(
        f'<tr><th scope="row">{safe(name)}</th><td><code>{safe(value)}</code></td></tr>'
        for name, value in _flat(report.settings)
    )
    return section(
        "settings",
        "What this cannot tell, and how it was made",
        "Read the pictures above with this in mind.",
        f'<p class="limits">{CANNOT}</p>',
        f"<h3>Notes</h3><ul>{notes}</ul>" if notes else "",
        f'<h3>Settings</h3><div class="wide"><table class="settings"><tbody>{rows}</tbody></table></div>'
        if rows
        else "",
    )


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}, ")
        else:
            yield f"{above}{name}", "none" if value is None else value
