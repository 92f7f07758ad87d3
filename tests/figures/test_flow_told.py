"""What the page says in words: each sentence holds for the numbers it is told of, and is left out where it would not."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from flow_reports import bare_report, flow_report
from grids import lying
from simignore import tiny
from simignore.figures.flow import flow_page
from simignore.figures.flow.costs import costs
from simignore.figures.flow.faithful import faithful
from simignore.figures.flow.findings import believable, converged, cut, findings, kept_flow, resembling
from simignore.figures.flow.layers import layers
from simignore.figures.flow.looks import of_span
from simignore.figures.flow.maps import maps
from simignore.figures.flow.stage import Stage
from simignore.figures.flow.unseen import gaps, seen
from simignore.figures.flow.verdict import chance_areas
from simignore.types import Grid


def page(report) -> str:
    return flow_page(report, tiny.example(), None)


def data(html: str):
    return json.loads(re.search(r'id="maps-data">(.*?)</script>', html, re.S)[1])


def test_findings_say_what_the_numbers_say():
    report = flow_report()
    assert report.kept is not None and report.removal is not None
    assert "stays the same" in kept_flow(report)[1] and "more than chance by 6 of 6 views" in kept_flow(report)[1]
    changed = replace(report.kept, answer="2", flow_share=dict.fromkeys(report.kept.flow_share, 0.2))
    told = kept_flow(replace(report, kept=changed))[1]
    assert "answer changes" in told and "more than chance by 0 of 6 views" in told
    assert "<b>more</b>" in resembling(report)[1]
    unsure = [replace(one, low=one.rho * 0 - 0.1, high=one.rho * 0 + 0.1) for one in report.correlations]
    assert "cannot be told" in resembling(replace(report, correlations=tuple(unsure)))[1]
    mixed = [
        level if one.measure == "attention" else one for level, one in zip(unsure, report.correlations, strict=True)
    ]
    told = resembling(replace(report, correlations=tuple(mixed)))[1]
    assert "depends on the measure" not in told
    assert "more</b> into the answer than others by saliency; by attention it cannot be told" in told
    opposite = [replace(one, rho=-one.rho, low=-one.high, high=-one.low) for one in report.correlations]
    assert "<b>less</b>" in resembling(replace(report, correlations=tuple(opposite)))[1]
    split = [o if o.measure == "attention" else n for o, n in zip(opposite, report.correlations, strict=True)]
    assert (
        "depends on the measure</b>: more by saliency, less by attention"
        in resembling(replace(report, correlations=tuple(split)))[1]
    )
    assert f"<b>layer {report.curves['attention'].convergence.layer}</b> by attention" in converged(report)[1]
    weak = [replace(one, everywhere=one.everywhere / 1000) for one in report.knockout]
    assert "next to nothing" in cut(replace(report, knockout=tuple(weak)))[1]
    assert "image to last" in cut(report)[1]
    assert findings(report).count("<li>") == 4
    assert findings(bare_report()).count("<li>") == 2


def test_a_view_wins_a_test_only_by_a_margin_and_each_test_speaks_for_itself():
    report = flow_report()
    removal = report.removal
    lost, won = chance_areas(removal)

    def told(**areas):
        area = {name: areas.get(name, (0.5, 0.3)) for name in removal.area}
        found = replace(report, removal=replace(removal, area=area))
        return believable(found)[1], faithful(found), maps(found, Stage(report.patches, tiny.example(), None))

    low, high = float(lost.min()), float(won.max())
    said, tests, lead = told(saliency=(low - 0.1, 0.3), rollout=(low - 0.098, 0.3), relevancy=(low - 0.004, 0.3))
    assert said.startswith(
        "By deletion 2 of 7 views beat all 8 random orders; furthest goes <b>saliency</b>, level with rollout"
    )
    assert "by insertion no view beats all 8 random orders; all views are level" in said
    assert "best view first" in tests and "</a> say which" in lead
    said, tests, lead = told(attention=(low - 0.004, high + 0.004))
    assert said.startswith("By deletion no view beats") and "by insertion no view beats" in said
    assert "best view first" not in tests and "</a> cannot say which" in lead
    flat = {**removal.random, "insertion": np.log(np.full((8, 11), 0.3))}
    even = replace(removal, random=flat, area=dict.fromkeys(removal.area, (low - 0.1, 0.302)))
    assert (
        "insertion cannot tell: all views and chance are within 0.005" in believable(replace(report, removal=even))[1]
    )
    assert "Here insertion cannot tell" in faithful(replace(report, removal=even))


def test_without_need_of_the_picture_no_view_is_believed():
    report = flow_report()
    needless = replace(report, swaps=(replace(report.swaps[2], same=True),))
    assert "same answer without any image token" in believable(needless)[1]
    assert "best view first" not in faithful(needless)
    held = {name: np.log(np.full(11, 0.9)) for name in report.removal.deletion}
    held = replace(report, swaps=(), removal=replace(report.removal, deletion=held))
    assert "holds on to its answer" in believable(held)[1]


def test_a_cut_answer_says_how_much_is_not_explained():
    report = flow_report()
    assert "not explained" not in page(report) and "the full answer" not in page(report)
    assert "+ 27 more, not explained" in page(replace(report, cut=27))


def test_what_no_token_covers_is_hatched_and_told():
    assert gaps((100, 50), [(0, 0, 100, 50)]) == [] and gaps((100, 50), [(-9, 0, 60, 50), (55, 0, 99.5, 50)]) == []
    assert gaps((100, 50), [(20, 0, 80, 50)]) == [(0, 0, 20, 50), (80, 0, 100, 50)]
    assert seen((100, 50), [(20, 0, 80, 50), (0, 0, 10, 50)]) == pytest.approx(0.7)
    cropped = page(flow_report(lying([[Grid(14, 14, 0, box=(0.25, 0, 0.75, 1))]])))
    assert "the model saw 50 % of this picture" in cropped and 'class="unseen" d="M0.00 0.00H28.00V112.00' in cropped
    assert "the model saw" not in page(flow_report()) and 'class="unseen"' not in page(flow_report())


def test_several_images_are_told_apart_by_more_than_a_dash():
    looks = [of_span(f"image {n}", ("system", "image 1", "image 2", "image 3", "question")) for n in (1, 2, 3)]
    assert all(len({getattr(look, part) for look in looks}) == 3 for part in ("colour", "dash", "marker"))


def test_what_costs_more_than_all_tokens_is_marked():
    report = flow_report()
    assert "meter over" not in costs(report)
    dear = {**report.cost["simignore"], "prefill_flops": int(3.8e9)}
    html = costs(replace(report, cost={**report.cost, "simignore": dear}))
    assert 'class="meter over" style="--share:2.0000"' in html and "200 %" in html


def test_names_of_the_program_are_explained():
    assert "(what was asked)" in page(bare_report()) and "(user)" not in page(bare_report())
    assert "<q>template</q> is the chat's markers" in layers(flow_report())


def test_where_nothing_flows_no_layer_of_convergence_is_told():
    report = flow_report()
    nowhere = {}
    for name, own in report.curves.items():
        no = np.full(report.layers, np.nan)
        nothing = replace(own.convergence, layer=-1, first=-1, last=-1, flow=np.zeros(report.layers), spread=no)
        none = {part: getattr(own, part) * 0 for part in ("into", "tokens", "question")}
        nowhere[name] = replace(own, **none, convergence=nothing)
    empty = replace(report, curves=nowhere)
    assert "Nothing flows from the image" in converged(empty)[1]
    html = page(empty)
    assert "converges at" not in html and "layer -1" not in html and -1 not in data(html)["layers"]


def test_what_a_method_does_is_told_where_it_matters():
    report = flow_report()
    assert "as many at random (one draw)" in faithful(report) and "drop tokens before the decoder" not in faithful(
        report
    )
    fastv = faithful(replace(report, kept=replace(report.kept, layers=(2,))))
    assert "these rows drop tokens where it does" in fastv and "drop tokens before the decoder" not in fastv
    several = replace(report, kept=replace(report.kept, layers=(None, 8)))
    assert "these rows drop tokens before the decoder" in faithful(several)
