"""What a student learns of all image tokens at once: hops first, the threshold by regions, and from what was seen before."""

from __future__ import annotations

import math

import pytest
import torch
from test_student import batch, goal, student, told, trained

import models
from simignore.head import Head
from simignore.train import Student


@pytest.mark.parametrize(
    ("hops", "progress", "moves"), [(1, 0.0, False), (1, 0.24, False), (1, 0.25, True), (0, 0.0, True)]
)
def test_hops_learn_alone_in_the_beginning(hops, progress, moves):
    """AdamW leaves alone what has no gradient, whatever it has seen before. Of a new head A waits for B to be something."""
    model = models.fresh()
    one = Student(model, Head(32, 4, hops=hops), goal(hops_alone=0.25))
    with torch.no_grad():
        one.head.text.add_(0.1)
    before = {name: p.detach().clone() for name, p in one.head.named_parameters()}
    optimiser = torch.optim.AdamW(one.head.parameters(), lr=0.01, weight_decay=0.0)
    for _ in range(2):
        told(one, progress)["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
    moved = {name for name, p in one.head.named_parameters() if not torch.equal(p, before[name])}
    assert {"image", "text", "bias", "sharpness"} & moved == (
        {"image", "text", "bias", "sharpness"} if moves else set()
    )
    assert not hops or {"onward.text", "onward.turn", "onward.reach"} <= moved
    one.begin(0, 0.9)
    assert set(trained(one)) == {f"head.{name}" for name, _ in one.head.named_parameters()}


def test_regions_that_are_needed_part_the_scores_by_the_threshold_alone():
    """Binary cross-entropy by hand, a lost token five times as dear; the order of the tokens is not learnt by it."""
    one = student(goal(flow=0.0, answer=0.0, separate=0.5, lost=5.0, slope=0.2))
    given = batch(one.base, True)
    needed = given["needed"] = given["shows"].any(-1)
    with torch.no_grad():
        one.head.threshold.fill_(0.05)
        one.head.demand.copy_(torch.linspace(-0.3, 0.3, 32))
    one.begin(0, 0.0)
    found = one(**given)
    found["loss"].backward()
    with torch.no_grad():
        features = one.base.get_image_features(pixel_values=given["inputs"]["pixel_values"])
        visual = torch.stack(list(getattr(features, "pooler_output", features)))
        score = one.head(visual, one.parts.embed(given["query"]), given["query_valid"])
    lost = []
    for b in range(2):
        for n in range(models.PATCHES):
            over = score[b, n].item() / 0.2
            lost.append(5 * math.log1p(math.exp(-over)) if needed[b, n] else math.log1p(math.exp(over)))
    assert found["separate"].item() == pytest.approx(sum(lost) / len(lost), rel=1e-4)
    assert found["loss"].item() == pytest.approx(0.5 * found["separate"].item(), rel=1e-5)
    learnt = {name for name, p in one.head.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert learnt == {"threshold", "demand"}


def test_what_was_seen_before_serves_where_nothing_is_learnt_under_the_cut():
    given = batch(student().base)
    words = {name: given.pop(name) for name in ("query", "query_valid")}
    one = student(goal(answer=0.0))
    seen = one.look(one.given(given["inputs"]), given["labels"], given["asking"])
    assert one(**words, seen=seen)["flow"].item() == told(student(goal(answer=0.0)))["flow"].item()
    one = student(goal(answer_from=0.0))
    one.begin(0, 0.5)
    with pytest.raises(ValueError, match="this goal needs the model's own forward; pass inputs, labels and asking"):
        one(**words, seen=seen)
