"""The claims benchmark: its rows, and what it reads of attention."""

from __future__ import annotations

import pytest
import torch

from benchmarks.claims import attention, entries
from simignore import Simignore, tiny
from simignore.evaluate import BENCHMARKS
from simignore.evaluate.pictures import opened
from simignore.prompt import build


def test_every_part_stands_alone_beside_both_and_beside_chance():
    found = entries()
    assert len({entry.key for entry in found}) == len(found)
    last = {entry.label for entry in found if entry.keep == 0.25}
    assert {
        "random",
        "FastV alone",
        "Simignore alone, by the question",
        "Simignore by the question, then FastV",
    } <= last
    assert "chance, then FastV" in last and found[0].method is None


def test_attention_is_that_of_the_model_and_of_chance_where_scores_say_nothing():
    model, processor = tiny.load()
    benchmark = BENCHMARKS["scenes"](per_kind=1)
    items = benchmark.items()[:2]
    found = attention(model, processor, items, benchmark.words, "question")
    assert len(found["correlation"]) == 10 and found["questions"] == 2
    assert model.config._attn_implementation == "sdpa"  # as it was
    # one question by hand, in the layer in the middle
    prompt = build(processor, opened(items[0].images[0]), **benchmark.words(items[0]))
    at = (prompt.inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
    with torch.inference_mode(), Simignore(keep=1.0)(model, query=prompt.query("question")) as trace:
        model(**prompt.inputs)
    best = trace.selections[0].score[0].topk(49).indices
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        row = model(**prompt.inputs, output_attentions=True).attentions[5][0, :, -1].mean(0)[at]
    model.set_attn_implementation("sdpa")
    one = attention(model, processor, items[:1], benchmark.words, "question")
    assert one["share_of_most_similar_quarter"][5]["mean"] == pytest.approx(
        float(row[best].sum() / row.sum()), abs=1e-3
    )
