"""Comparisons: which lines there are, what their figures are made of, and equal cost against FLOPs counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simignore import Chain, Diverse, FastV, FrameBudget, Merged, Product, Random, Simignore
from simignore.cost import cost, flops
from simignore.evaluate import evaluate, paired
from simignore.evaluate.compare import at_equal_cost, compare, entries
from simignore.evaluate.pictures import opened
from simignore.prompt import build


@pytest.fixture(scope="module")
def prompt(bundled, scenes, items):
    return build(bundled[1], opened(items[0].images[0]), **scenes.words(items[0]))


def test_full_random_and_pooled_stand_in_every_comparison():
    found = entries(["simignore", FastV(keep=1, layer=5)], [49, 25])
    assert [(e.label, e.keep) for e in found if e.keep in (None, 49)] == [
        ("full", None),
        *[("random", 49)] * 3,
        ("pooled", 49),
        ("simignore", 49),
        ("fastv", 49),
    ]
    assert len({e.key for e in found}) == len(found) == 1 + 2 * 6
    assert found[-1].method == FastV(keep=25, layer=5)
    assert entries(["full", "random"], [9])[-1].label == "pooled"  # they are there already
    published = entries(["simignore"], [9], ["simignore/llava-1.5-7b", "pyramiddrop"])
    assert [(e.label, e.keep) for e in published[-2:]] == [("simignore/llava-1.5-7b", 144), ("pyramiddrop", None)]
    assert ("random", 144) in [(e.label, e.keep) for e in published]  # chance at its budget stands beside it
    with pytest.raises(KeyError, match="no method 'nonsense'; there are"):
        entries(["nonsense"], [9])
    with pytest.raises(ValueError, match="twice: simignore-9"):
        entries(["simignore", "simignore"], [9])


@pytest.mark.parametrize(
    ("made", "label"),
    [
        (lambda keep: Diverse(FastV(keep=keep, layer=3), sharpness=2), "Diverse(FastV(layer=3), sharpness=2)"),
        (lambda keep: Merged(Simignore(keep=keep), least=0.5), "Merged(Simignore(), least=0.5)"),
        (lambda keep: Product(Simignore(keep=keep), Random(keep=keep)), "Product(Simignore(), Random())"),
        (lambda keep: FrameBudget(Simignore(keep=keep), floor=2), "FrameBudget(Simignore(), floor=2)"),
        (lambda keep: Merged(Diverse(Simignore(keep=keep))), "Merged(Diverse(Simignore()))"),
    ],
)
def test_wrappers_are_compared_at_each_budget_under_one_label(made, label):
    found = [entry for entry in entries([made(9)], [4, 0.25]) if entry.label not in ("full", "random", "pooled")]
    assert [(e.label, e.keep, e.method) for e in found] == [(label, 4, made(4)), (label, 0.25, made(0.25))]


@pytest.mark.parametrize("wrap", [lambda chain: chain, Merged])
def test_a_chain_has_no_single_budget_and_says_so(wrap):
    with pytest.raises(
        ValueError, match="has a budget for each of its methods, and keep=4 would be one for all; make a"
    ):
        entries([wrap(Chain(Simignore(keep=9), FastV(keep=5)))], [4])


def test_rows_hold_what_single_runs_hold(bundled, scenes, items):
    model, processor = bundled
    rows = compare(model, processor, scenes, entries(["simignore"], [20]), items, batch=7)
    by_name = {row["method"]: row for row in rows}
    assert list(by_name) == ["full", "random", "pooled", "simignore"]
    chance = [
        evaluate(model, processor, scenes, Random(keep=20, seed=s), items=items, batch=7).scores for s in (0, 1, 2)
    ]
    own = evaluate(model, processor, scenes, Simignore(keep=20), items=items, batch=7).scores
    full = evaluate(model, processor, scenes, None, items=items, batch=7).scores
    mean = np.mean(chance, axis=0).tolist()
    assert by_name["random"]["accuracy"] == pytest.approx(np.mean(chance))
    assert by_name["simignore"]["accuracy"] == np.mean(own)
    assert by_name["simignore"]["versus_random"] == paired(own, mean)
    assert by_name["simignore"]["versus_full"] == paired(own, full)
    assert by_name["simignore"]["significantly_better_than_random"] == paired(own, mean)["better"]
    assert by_name["simignore"]["kept"] == by_name["simignore"]["held"] == 20
    assert set(by_name["random"]["groups"]["type"]) == {item.groups["type"] for item in items}
    assert "cost" not in by_name["full"]


def test_flops_of_linear_layers_by_hand(bundled, prompt):
    """The counter against multiplications written out: every linear layer's rows times inputs times outputs, twice."""
    model, _ = bundled
    counted = 0

    def count(module, args, output):
        nonlocal counted
        counted += 2 * output.numel() * module.in_features

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, torch.nn.Linear)]
    try:
        whole = flops(model, prompt)
    finally:
        for hook in hooks:
            hook.remove()
    tower, decoder, tokens = model.config.vision_config, model.config.text_config, prompt.inputs["input_ids"].shape[1]
    attention = 4 * 197**2 * tower.hidden_size * tower.num_hidden_layers
    attention += 4 * tokens**2 * decoder.hidden_size * decoder.num_hidden_layers
    convolution = 2 * 196 * tower.hidden_size * 3 * tower.patch_size**2
    assert whole == counted + attention + convolution


def test_fewer_tokens_cost_fewer_flops_and_the_cache_says_how_many(bundled, prompt):
    model, processor = bundled
    found = cost(model, processor, prompt, {"full": None, "few": Random(keep=20)}, rounds=2, tokens=3)
    tokens = prompt.inputs["input_ids"].shape[1]
    layers, width = (
        10,
        model.config.text_config.num_key_value_heads * (192 // model.config.text_config.num_attention_heads),
    )
    per_token = layers * 2 * width * 4  # keys and values in float32
    assert found["full"]["kv_bytes"] == (tokens + 2) * per_token  # two decoded tokens were seen, the third was not
    assert found["few"]["kv_bytes"] == (tokens + 2 - 176) * per_token
    assert found["few"]["prefill_flops"] < found["full"]["prefill_flops"]
    assert found["full"]["selection_seconds"]["median"] == 0 < found["few"]["selection_seconds"]["median"]
    with pytest.raises(ValueError, match="0 rounds"):
        cost(model, processor, prompt, {"full": None}, rounds=0)


def test_equal_cost_gives_dearer_methods_as_many_tokens_as_fit(bundled, prompt):
    model, _ = bundled
    every = entries([FastV(keep=1, layer=2), "simignore"], [100, 20])
    found = {(e.keep, e.label): e for e in at_equal_cost(model, prompt, every, 196)}
    assert set(found) == {(100, "fastv"), (20, "fastv")}  # the others drop before the decoder
    assert (
        found[20, "fastv"].impossible and found[20, "fastv"].method is None
    )  # two whole layers cost more than all of it
    fewer = found[100, "fastv"].method.keep
    limit = flops(model, prompt, Random(keep=100)) * 1.01
    assert (
        flops(model, prompt, FastV(keep=fewer, layer=2)) <= limit < flops(model, prompt, FastV(keep=fewer + 1, layer=2))
    )
