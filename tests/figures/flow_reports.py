"""Reports of explanations as they might come out, made of nothing: what the tests of the page share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from grids import lying
from simignore import Simignore
from simignore.flow import VIEWS
from simignore.flow.report import (
    AnswerToken,
    Convergence,
    Correlation,
    Curves,
    FlowReport,
    Kept,
    Knockout,
    Lens,
    Projection,
    Removal,
    Sinks,
    Swap,
)
from simignore.select import from_kept
from simignore.types import Grid, Patches

SPANS = ("system", "image 1", "context", "question", "options", "template", "earlier answer")
SIZES = np.array([9, 0, 6, 9, 14, 4, 0])
QUESTION = "What number is on the blue star?"


def flow_report(
    patches: Patches | None = None,
    answer: tuple[str, ...] = ("7", ".", "</s>"),
    layers: int = 10,
    seed: int = 0,
    blind: tuple[int, ...] = (),
) -> FlowReport:
    """A report on image tokens that lie on ``patches`` (14 x 14 without), whose answer draws on one corner of every grid.

    blind: layers without attention.
    """
    random = np.random.default_rng(seed)
    patches = patches or lying([[Grid(14, 14, 0, box=(0, 0, 1, 1))]])
    wanted = _bump(patches)  # [N]
    similarity = np.clip(0.1 + 0.35 * wanted + random.normal(0, 0.06, len(wanted)), -1, 1)
    curves = {name: _curves(name, wanted, len(answer), layers, blind, random) for name in ("attention", "saliency")}
    views = {name: _view(name, curves, wanted, similarity, random) for name in VIEWS}
    kept = _kept(patches, similarity, views, random)
    return FlowReport(
        question=QUESTION,
        options=("7", "2", "4"),
        answer="".join(answer[:-1]),
        tokens=tuple(_token(n, text, random) for n, text in enumerate(answer)),
        image=np.arange(len(wanted)) + 9,
        patches=patches,
        curves=curves,
        views=views,
        similarity=similarity,
        span="question+options",
        kept=kept,
        correlations=tuple(
            _correlation(measure, target, layers, blind, random)
            for measure in ("attention", "saliency")
            for target in ("answer", "question")
        ),
        projection=_projection(wanted, random),
        sinks=_sinks(wanted, random),
        lens=_lens(wanted, layers),
        removal=_removal(random),
        knockout=_knockout(layers, random),
        swaps=(
            Swap("the kept ones alone", 49, "7.", True, -0.09),
            Swap("the dropped ones alone", 147, "2.", False, -3.1),
            Swap("no image token", 0, "4.", False, -2.9),
            Swap("as many at random", 49, "4.", False, -2.2),
        ),
        cost={
            "all tokens": _cost(1.9e9, 1.2e6, len(wanted), len(wanted), 0.021),
            "simignore": _cost(1.1e9, 0.45e6, len(wanted), len(wanted) // 4, 0.014),
        },
        settings={
            "model": "tiny",
            "method": kept.method,
            "seed": 0,
            "dtype": "float32",
            "versions": {"simignore": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
            "hardware": {"cpu": "some processor", "gpu": None},
        },
        notes=("Layer 3 was read twice, once for its attention and once for its gradient.",),
    )


def bare_report() -> FlowReport:
    """The least that a report may hold: no method, and nothing that was not asked for."""
    full = flow_report(answer=("yes",))
    return FlowReport(
        question=full.question,
        options=(),
        answer="yes",
        tokens=full.tokens,
        image=full.image,
        patches=full.patches,
        curves={"attention": full.curves["attention"]},
        views={"attention": full.views["attention"]},
        similarity=full.similarity,
        span="user",
        notes=("Saliency was left out: this model's attention has no gradient in 8 bits.",),
    )


def tiled(tile: int = 4, down: int = 2, across: int = 2) -> Patches:
    """An overview and the tiles of one picture, each of ``tile`` x ``tile`` tokens."""
    boxes = [(c / across, r / down, (c + 1) / across, (r + 1) / down) for r in range(down) for c in range(across)]
    overview = Grid(tile, tile, 0, "overview", (0, 0, 1, 1))
    return lying([[overview, *(Grid(tile, tile, 0, "tile", box) for box in boxes)]])


def odd_report() -> FlowReport:
    """Words that a page must not trip over."""
    rtl = "ما هو الرقم على النجم الأزرق؟"
    full = flow_report(answer=("<b>", "\n", "\"'&", "🦩", "🇫🇷", " ", "$x^$"))
    lens = full.lens
    assert lens is not None and full.kept is not None
    return replace(
        full,
        question=f"<script>alert('x')</script> \"quoted\" & $x_{{$ 🦩 {rtl} \x07 \ud800",
        options=("</script><img src=x onerror=alert(1)>", "long " * 120, "unbroken" * 60, rtl),
        answer="<b>\n\"'&🦩",
        lens=replace(lens, why=("</td><script>", rtl, "$"), words=(((("</script>", 0.5), ("🦩", 0.25)),) * 11,) * 3),
        kept=replace(full.kept, method="Simignore(keep=0.25, words='</style><script>')", answer="</p>"),
        settings={"model": "<i>x</i>", "command": 'explain "a" <b>', "nothing": {}, "rows": [1, 2]},
        notes=("<script>note</script>",),
    )


def _bump(patches: Patches) -> np.ndarray:
    grids = patches.grids[0]
    at = [
        (float(r) + 0.5, float(c) + 0.5, grids[g])
        for g, r, c in zip(patches.grid[0].tolist(), patches.row[0].tolist(), patches.column[0].tolist(), strict=True)
    ]
    down = np.array([r / grid.rows for r, _, grid in at])
    right = np.array([c / grid.columns for _, c, grid in at])
    return np.exp(-((down - 0.83) ** 2 + (right - 0.72) ** 2) / 0.012)


def _token(n: int, text: str, random: np.random.Generator) -> AnswerToken:
    first = float(random.uniform(0.55, 0.98))
    rest = (1 - first) * np.array([0.6, 0.2, 0.08])
    return AnswerToken(n, text, first, tuple(zip(("2", " 4", "\n"), rest.tolist(), strict=True)))


def _curves(name, wanted, a, layers, blind, random) -> Curves:
    n, depth = len(wanted), np.arange(layers)
    rise = 0.08 + 0.5 * np.exp(-((depth - 0.55 * layers) ** 2) / (0.03 * layers**2))  # [L] what flows from the image
    sharp = np.exp(-((depth - 0.6 * layers) ** 2) / (0.05 * layers**2))
    noise = random.gamma(0.6, size=(a, layers, n))
    tokens = noise / noise.sum(-1, keepdims=True) * (1 - sharp[:, None]) + sharp[:, None] * wanted / wanted.sum()
    tokens = tokens * rise[:, None] * random.uniform(0.8, 1.1, (a, 1, 1))
    rest = random.dirichlet((40, 3, 8, 8, 5, 3), size=(a, layers)) * (1 - tokens.sum(-1))[..., None]
    into = np.insert(rest, 1, tokens.sum(-1), axis=-1)
    into[0, :, -2] += into[0, :, -1]
    into[0, :, -1] = 0
    question = tokens[0] * np.linspace(1.2, 0.2, layers)[:, None]
    if name == "saliency":
        into, tokens, question = (x * 0.2 * np.linspace(0.3, 1, layers)[:, None] for x in (into, tokens, question))
    counts = np.repeat(SIZES[None], a, 0)
    counts[:, 1], counts[:, -1] = n, np.arange(a)
    for x in (into, tokens):
        x[:, list(blind)] = np.nan
    question[list(blind)] = np.nan
    flow = tokens.sum(-1).mean(0)
    share = tokens.mean(0) / tokens.mean(0).sum(-1, keepdims=True)
    spread = np.exp(-(share * np.log(share + 1e-30)).sum(-1))
    top = int(np.nanargmax(flow))
    near = [layer for layer in range(layers) if flow[layer] >= flow[top] / 2]
    converged = Convergence(top, min(near), max(near), flow, spread)
    return Curves(name, SPANS, into, counts, tokens, question, converged)


def _view(name, curves, wanted, similarity, random) -> np.ndarray:
    a = curves["attention"].tokens.shape[0]
    if name in curves:
        return np.nanmean(curves[name].tokens, 1)
    if name == "similarity":
        return np.repeat(similarity[None], a, 0)
    blur = wanted * random.uniform(0.5, 1, (a, 1)) + random.gamma(0.4, 0.15, (a, len(wanted)))
    return blur / blur.sum(-1, keepdims=True)


def _kept(patches, similarity, views, random) -> Kept:
    n = len(similarity)
    count = max(1, n // 4)
    chosen = np.zeros(n, dtype=bool)
    chosen[np.argsort(-similarity)[:count]] = True
    selection = from_kept(torch.tensor(chosen)[None], torch.tensor(similarity)[None])
    flow = {name: float(view[:, chosen].sum() / view.sum()) for name, view in views.items() if view.min() >= 0}
    chance = dict.fromkeys(flow, (count / n, count / n - 0.06, count / n + 0.07))
    return Kept(repr(Simignore(keep=0.25)), "simignore", selection, "7.", count / n, flow, chance)


def _correlation(measure, target, layers, blind, random) -> Correlation:
    rho = 0.45 * np.sin(np.linspace(0, 2.6, layers)) + random.normal(0, 0.03, layers) - 0.05 * (target == "question")
    rho[list(blind)] = np.nan
    return Correlation(measure, target, rho, rho - 0.12, rho + 0.11)


def _projection(wanted, random) -> Projection:
    image = random.normal(0, 0.12, (len(wanted), 2)) + np.where(wanted > 0.3, 0.4, -0.2)[:, None]
    words = ("What", "Ġnumber", "Ġis", "Ġon", "Ġthe", "Ġblue", "Ġstar", "?")
    cluster = np.where(wanted > 0.3, 2, np.where(image[:, 0] > -0.2, 0, 1))
    return Projection(image, random.normal(0.5, 0.25, (len(words), 2)), words, (0.31, 0.12), cluster)


def _sinks(wanted, random) -> Sinks:
    base = random.gamma(1.2, 1, len(wanted))
    flagged = (0, len(wanted) // 2, len(wanted) - 3)
    base[list(flagged)] = (14, 9, 11)
    asked, other = (base * random.uniform(0.7, 1.3, len(wanted)) + more for more in (4 * wanted, wanted))
    asked, other = asked / asked.mean(), other / other.mean()
    return Sinks("star the What is blue number on?", asked, other, 4.0, flagged, 0.81)


def _lens(wanted, layers) -> Lens:
    best = int(wanted.argmax())
    early, late = (("the", 0.08), (" of", 0.05), ("<s>", 0.04)), (("7", 0.62), (" star", 0.2), ("blue", 0.05))
    words = tuple(
        tuple(late if state > layers // 2 and n == 0 else early for state in range(layers + 1)) for n in range(3)
    )
    return Lens((best, 0, 5), ("most saliency", "a sink: most attention whatever is asked", "at random"), words)


def _removal(random) -> Removal:
    fractions = np.linspace(0, 1, 11)
    start, end = np.log(0.9), np.log(0.12)
    speed = {"attention": 2.2, "saliency": 5.0, "rollout": 1.4, "relevancy": 3.0, "similarity": 2.6}
    speed |= {"attention at convergence": 2.4, "question's attention": 2.0}
    down = {name: end + (start - end) * (1 - fractions) ** rate for name, rate in speed.items()}
    up = {name: start + (end - start) * (1 - fractions) ** rate for name, rate in speed.items()}
    drawn = {
        name: end + (start - end) * np.stack([shape ** random.uniform(0.8, 1.3) for _ in range(8)])
        for name, shape in (("deletion", 1 - fractions), ("insertion", fractions))
    }
    area = {name: tuple(float(_area(c[name], fractions)) for c in (down, up)) for name in speed}
    area["random"] = tuple(float(_area(drawn[name], fractions).mean()) for name in ("deletion", "insertion"))
    return Removal(fractions, down, up, drawn, area)


def _area(curve, fractions):
    values = np.exp(curve)
    return ((values[..., 1:] + values[..., :-1]) / 2 * np.diff(fractions)).sum(-1)


def _knockout(layers, random) -> tuple[Knockout, ...]:
    windows = tuple((first, min(first + 2, layers - 1)) for first in range(layers - 2))
    peak = -np.exp(-((np.arange(len(windows)) - len(windows) * 0.5) ** 2) / 4)
    return tuple(
        Knockout(route, windows, size * peak + random.normal(0, 0.03, len(windows)), -1.4 * size)
        for route, size in (("image to question", 0.9), ("image to last", 2.1), ("question to last", 0.6))
    )


def _cost(flops, kv, image_tokens, kept, seconds) -> dict:
    spread = {"median": seconds, "q1": seconds * 0.95, "q3": seconds * 1.1}
    return {
        "prefill_flops": int(flops),
        "kv_bytes": int(kv),
        "image_tokens": image_tokens,
        "kept": kept,
        "prefill_seconds": spread,
        "decode_seconds": spread,
        "selection_seconds": {"median": 0.0004, "q1": 0.0003, "q3": 0.0005},
    }
