"""The whole page of an explanation: one HTML file that needs nothing beside it."""

from __future__ import annotations

from importlib.resources import files

from simignore.figures.flow.answer import answer, head
from simignore.figures.flow.costs import costs
from simignore.figures.flow.faithful import faithful
from simignore.figures.flow.findings import findings
from simignore.figures.flow.heat import ramp
from simignore.figures.flow.hypothesis import hypothesis
from simignore.figures.flow.keeping import keeping
from simignore.figures.flow.layers import layers
from simignore.figures.flow.maps import maps
from simignore.figures.flow.reading import reading
from simignore.figures.flow.settings import settings
from simignore.figures.flow.sinking import sinking
from simignore.figures.flow.stage import Stage
from simignore.figures.flow.words import safe
from simignore.flow.report import FlowReport
from simignore.places import Pictures

_NAMES = {
    "answer": "Answer",
    "maps": "Heat maps",
    "kept": "Kept",
    "layers": "Layers",
    "hypothesis": "Similarity",
    "sinks": "Sinks",
    "lens": "Lens",
    "faithful": "Faithfulness",
    "cost": "Cost",
    "settings": "Limits, settings",
}

# what browsers enforce: nothing is loaded from anywhere, pictures are those in the page
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def flow_page(report: FlowReport, pictures: Pictures, processor: object) -> str:
    """An explanation as one HTML page: ``Path("report.html").write_text(flow_page(report, "photo.png", processor))``.

    pictures: the images of the prompt as they were passed, opened or paths (of a video its frames, as the model sees them).
    processor: the model's; it is asked where its crops lie. The page works offline, without scripts (less the choosing of maps)
    and in print, and is the same for the same report. What the report does not hold is left out.
    Raises ValueError without pictures, and for pictures that are not those of the prompt.
    """
    if pictures is None:
        raise ValueError(
            "the page shows maps over the pictures of the prompt, but pictures is None; pass the image, or the list of images, "
            "that was explained: flow_page(report, pictures, processor)"
        )
    stage = Stage(report.patches, pictures, processor)
    _check(report, stage)
    sections = {
        "answer": answer(report),
        "maps": maps(report, stage),
        "kept": keeping(report, stage),
        "layers": layers(report),
        "hypothesis": hypothesis(report, stage),
        "sinks": sinking(report, stage),
        "lens": reading(report, stage),
        "faithful": faithful(report),
        "cost": costs(report),
        "settings": settings(report),
    }
    shown = {name: html for name, html in sections.items() if html}
    links = "".join(f'<li><a href="#{name}">{_NAMES[name]}</a></li>' for name in shown)
    return (
        '<!doctype html>\n<html lang="en" class="plain"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{safe(report.question[:120])} – simignore explain</title>"
        f"<style>{_file('look.css').replace('RAMP', ramp())}</style></head>\n<body>{stage.pictures()}\n{head(report, stage)}\n"
        f'{findings(report)}\n<nav aria-label="Contents"><ol>{links}</ol></nav>\n<main>'
        + "\n".join(shown.values())
        + f"</main>\n<script>{_file('choose.js')}</script></body></html>\n"
    )


def _check(report: FlowReport, stage: Stage) -> None:
    """Refuse a report without an answer, and one whose maps and image tokens do not fit together."""
    if not report.tokens or not report.curves:
        raise ValueError(
            "the report has no answer tokens or no curves, so there is nothing to draw; explain the prompt anew"
        )
    for name, view in report.views.items():
        if view.shape != (len(report.tokens), stage.count):
            raise ValueError(
                f"view {name!r} has shape {view.shape}, but there are {len(report.tokens)} answer tokens and {stage.count} "
                "image tokens; a report's views and its patches must be of the same prompt"
            )


def _file(name: str) -> str:
    return (files("simignore.figures.flow") / name).read_text(encoding="utf-8")
