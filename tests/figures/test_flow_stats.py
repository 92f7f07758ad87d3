"""Figures of flow over a benchmark: lines and bands are where the figures say, and one-sided or silent results can be drawn."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest

from simignore.evaluate.flowsummary import PARTS, summary
from simignore.figures import flow_stats as drawn
from simignore.figures.flow_stats_page import figures, flow_stats_page, png

pytest.importorskip("matplotlib")
LAYERS = 5


def row(generator, score, kind, *, context=True, silent=False):
    """A line of ``predictions.jsonl``; layer 2 has no attention. silent: nothing flows anywhere."""

    def line(least=0.0, most=1.0):
        drawn = [0.0 if silent else generator.uniform(least, most) for _ in range(LAYERS)]
        return [None if layer == 2 else value for layer, value in enumerate(drawn)]

    parts = [part for part in PARTS if context or part != "context"]
    rho = [None] * LAYERS
    flow = {
        "share": {part: line() for part in parts},
        "per_token": {part: line(0, 0.1) for part in parts},
        "image_to_answer": line(0, 2),
        "image_to_question": line(),
        "spread": rho if silent else line(1, 9),
        "layer": -1 if silent else generator.choice([1, 3, 4]),
        "rho": {target: rho if silent else line(-1, 1) for target in ("answer", "question")},
    }
    about = {"groups": {"type": kind}, "image_tokens": 4, "answer_tokens": 2, "cut": 0}
    return {"score": score, **about, "flow": {"attention": flow, "saliency": flow}}


@pytest.fixture(scope="module")
def metrics():
    generator = random.Random(0)
    rows = [row(generator, n % 3 > 0, "a $b$" if n % 2 else "_c<i>", context=n % 4 > 0) for n in range(24)]
    return {**summary(rows), "without_image": 2, "unexplained": {"7<b>": "because"}}


def lines(axis):
    """(x, y) of every line with a name, by name."""
    handles, labels = axis.get_legend_handles_labels()
    return {name: (list(h.get_xdata()), list(h.get_ydata())) for h, name in zip(handles, labels, strict=True)}


def test_curves_are_where_the_figures_say_and_pass_layers_without_attention(metrics):
    flow = metrics["flow"]["all"]
    found = lines(drawn.shares(flow).axes[0])
    assert set(found) == set(PARTS)
    means = flow["attention"]["share"]["context"]["mean"]
    assert found["context"][0] == [0, 1, 3, 4]
    assert found["context"][1] == pytest.approx([means[n] * 100 for n in (0, 1, 3, 4)])
    found = lines(drawn.per_token(flow).axes[1])
    assert found["image"][1] == pytest.approx(
        [flow["saliency"]["per_token"]["image"]["median"][n] for n in (0, 1, 3, 4)]
    )
    figure = drawn.by_part(flow)
    assert len(figure.axes) == len(PARTS) and "context (18)" in [axis.get_title() for axis in figure.axes]
    found = lines(drawn.similarity(flow).axes[1])
    assert found["saliency"][1] == pytest.approx([flow["saliency"]["rho"]["question"]["mean"][n] for n in (0, 1, 3, 4)])


def test_bands_hold_interval_and_middle_half(metrics):
    flow = metrics["flow"]["all"]
    half, interval = drawn.similarity(flow).axes[0].collections[:2]
    told = flow["attention"]["rho"]["answer"]
    for band, ends in ((half, ("quarter", "three_quarters")), (interval, ("low", "high"))):
        heights = np.concatenate([path.vertices[:, 1] for path in band.get_paths()])
        for end in ends:
            assert all(np.abs(heights - value).min() < 1e-9 for value in told[end] if value is not None)


def test_bars_and_colours_count_every_question(metrics):
    flows = {side: metrics["flow"][side] for side in ("right", "wrong")}
    bars = drawn.convergence(flows).axes[0].patches
    assert sum(bar.get_height() for bar in bars) == 24
    for side, own in zip(("right", "wrong"), (bars[:LAYERS], bars[LAYERS:]), strict=True):
        assert [bar.get_height() for bar in own] == flows[side]["attention"]["convergence"]["counts"]
    found = lines(drawn.image_flow(flows).axes[0])
    assert found["answer right (16)"][1][0] == pytest.approx(flows["right"]["attention"]["image_to_answer"]["mean"][0])
    groups = metrics["groups"]["type"]
    axis = drawn.similarity_by_group(groups).axes[3]
    shown = np.ma.filled(axis.images[0].get_array(), np.nan)
    told = np.array([one["saliency"]["rho"]["question"]["mean"] for one in groups.values()], dtype=float)
    assert np.allclose(shown, told, equal_nan=True)
    dots = set(zip(*(np.asarray(x).tolist() for x in axis.lines[0].get_data()), strict=True))
    for place, one in enumerate(groups.values()):
        own = one["saliency"]["rho"]["question"]
        for layer in (0, 1, 3, 4):
            assert ((layer, place) in dots) == (own["low"][layer] <= 0 <= own["high"][layer])


def test_the_page_holds_every_figure_and_every_left_out_question(metrics):
    pictures = [(caption, png(figure)) for _, caption, figure in figures(metrics, "Own & more")]
    assert len({name for name, _, _ in figures(metrics, "Own")}) == len(pictures) == 7
    page = flow_stats_page("Own & more", metrics, {"model": "tiny"}, pictures)
    assert page.count("<figure>") == 7 and page.count("convergence layer of a question is") == 2  # seen and read out
    assert "7&lt;b&gt;" in page and "because" in page and "2 more have no image" in page and "_c&lt;i&gt;" in page
    assert "<i>" not in page and "://" not in page


@pytest.mark.parametrize("silent", [True, False])
def test_one_wrong_answer_alone_and_questions_without_any_flow(silent):
    rows = [row(random.Random(1), 0.0, "a", silent=silent), row(random.Random(2), 0.0, "b", silent=silent)]
    metrics = {**summary(rows if silent else rows[:1]), "without_image": 0, "unexplained": {}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures = [(caption, png(figure)) for _, caption, figure in figures(metrics, "Own")]
    assert ("nothing flows" in flow_stats_page("Own", metrics, {}, pictures)) is silent
