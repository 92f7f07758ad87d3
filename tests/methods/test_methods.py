"""Methods as objects: configuration in, clear errors, and the rules that are not matched by an oracle elsewhere."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import simignore
from rebuilding import NAMES
from simignore import (
    METHODS,
    PRESETS,
    AtLeast,
    Chain,
    FastV,
    Method,
    Random,
    Schedule,
    Scorer,
    Selection,
    Simignore,
    View,
)
from simignore.methods import LearnedSimignore, Product, preset
from simignore.splice.engine import NEEDS
from simignore.types import Grid, Patches


def lying(sizes):
    """Patches of one image per sample, all in one row."""
    places = torch.arange(max(sizes)).expand(len(sizes), -1)
    column = places.masked_fill(places >= torch.tensor(sizes)[:, None], -1)
    zero = column.clamp(max=0)
    return Patches(tuple((Grid(1, size, 0),) for size in sizes), zero, zero, column)


def view(n=8, m=3, d=4, seed=0, sizes=None, **more):
    generator = torch.Generator().manual_seed(seed)
    sizes = sizes or [n, n]
    valid = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    return View(
        valid=valid,
        layer=0,
        patches=lying(sizes),
        seeds=more.pop("seeds", tuple(range(len(sizes)))),
        visual=torch.randn(len(sizes), max(sizes), d, generator=generator),
        text=torch.randn(len(sizes), m, d, generator=generator),
        text_valid=torch.ones(len(sizes), m, dtype=torch.bool),
        **more,
    )


@pytest.mark.parametrize("method", [*PRESETS.values(), *(cls(keep=0.25) for cls in METHODS.values())], ids=repr)
def test_the_repr_rebuilds_the_method(method):
    assert (
        eval(
            repr(method),
            NAMES | {"Chain": Chain} | {cls.__name__: cls for cls in METHODS.values()},
        )
        == method
    )
    assert (
        eval(
            str(method),
            NAMES | {"Chain": Chain} | {cls.__name__: cls for cls in METHODS.values()},
        )
        == method
    )
    assert isinstance(method, Method) and hash(method) == hash(method)


@pytest.mark.parametrize("cls", METHODS.values())
def test_methods_are_frozen_and_documented(cls):
    method = cls(keep=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.keep = 4
    assert "Why" in cls.__doc__ and "keep:" in cls.__doc__
    assert set(cls.needs) <= NEEDS and cls.source
    with pytest.raises(ValueError, match="hide='both' is none of 'drop', 'mask'"):
        cls(keep=3, hide="both")
    with pytest.raises(ValueError, match="positions='new'"):
        cls(keep=3, positions="new")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Simignore(keep=4, similarity="jaccard"), "similarity='jaccard' is none of 'cosine', 'dot'"),
        (lambda: Simignore(keep=AtLeast(float("nan"))), "score=nan"),
        (lambda: Simignore(keep=4, skip=-1), "skip=-1 must be a whole number of at least 0"),
        (lambda: Simignore(keep=4, stride=0), "stride=0 must be a whole number of at least 1"),
        (lambda: Simignore(keep=AtLeast(0.1), stride=2), "goes on until a count is reached"),
        (lambda: FastV(keep=4, layer=0), "layer=0 must be a whole number of at least 1"),
        (lambda: FastV(keep=4, layer=True), "layer=True"),
        (lambda: Simignore(keep=Schedule({2: 4}), layer=5), "layer=5: keep=.* names its layers itself"),
        (lambda: Chain(), "at least one method"),
        (
            lambda: Chain(Simignore(keep=3, span="options"), Simignore(keep=2, span="user")),
            "give all of them the same span",
        ),
        (
            lambda: Product(Simignore(keep=3, span="options"), Simignore(keep=2, span="user")),
            "'options' and span='user'",
        ),
    ],
)
def test_bad_configurations(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_methods_together_have_the_span_that_one_was_asked_for():
    asked, plain, learned = Simignore(keep=4, span="user"), Simignore(keep=4), LearnedSimignore(keep=4)
    assert Chain(asked, learned).span == Chain(learned, asked).span == "user"
    assert Product(plain, asked).span == Product(asked, asked).span == "user"
    assert Chain(plain, Random(keep=2)).span == "auto" and Chain(plain, learned).span == learned.span == "question"


def test_the_str_leaves_defaults_out():
    assert str(Simignore(keep=0.25)) == "Simignore(keep=0.25)"
    assert str(Chain(Random(keep=9, seed=1), FastV())) == "Chain(Random(keep=9, seed=1), FastV(keep=0.5))"


def test_a_chain_holds_methods_only():
    with pytest.raises(TypeError, match="got str"):
        Chain("simignore")
    with pytest.raises(TypeError, match=r"see|call the methods in"):
        Chain(Random(keep=2)).choose(view())
    inner = Chain(Random(keep=6), Random(keep=5, seed=1))
    assert len(Chain(inner, Random(keep=2)).cuts()) == 3 and Chain(inner).keep == 5


def test_the_published_presets():
    seven, thirteen = preset("simignore/llava-1.5-7b"), preset("simignore/llava-1.5-13b")
    assert [cut.keep for cut in seven.cuts()] == [452, 144] and [cut.keep for cut in thirteen.cuts()] == [451, 144]
    assert [cut.site for cut in seven.cuts()] == ["projector", ("layer", 5)]
    assert [cut.site for cut in thirteen.cuts()] == ["projector", ("layer", 4)]
    assert (seven.methods[0].skip, seven.methods[0].stride) == (1, 1)
    assert (thirteen.methods[0].skip, thirteen.methods[0].stride) == (0, 2)


def test_random_depends_on_the_seed_and_the_sample_alone():
    a, b = view(seeds=(5, 6)), view(seeds=(6, 5))
    first, swapped, other = Random(keep=4).choose(a), Random(keep=4).choose(b), Random(keep=4, seed=1).choose(a)
    assert torch.equal(first.index, swapped.index.flip(0))
    assert not torch.equal(first.index, other.index) and not torch.equal(first.index[0], first.index[1])
    wide = Random(keep=4).choose(view(seeds=(5, 6), sizes=[8, 11]))
    assert torch.equal(wide.index[0], first.index[0])  # a longer neighbour changes nothing


def test_random_is_uniform():
    """4 of 8 tokens over 2,000 prompts: each token stays in half of them, within five standard errors."""
    counts = torch.zeros(8)
    seeds = tuple(range(2000))
    kept = Random(keep=4).choose(view(sizes=[8] * 2000, seeds=seeds)).kept
    counts = kept.double().mean(0)
    assert bool(((counts - 0.5).abs() < 5 * 0.5 / 2000**0.5).all())


def test_simignore_ignores_padding_in_image_and_text():
    plain = view(sizes=[6, 8])
    padded = dataclasses.replace(
        plain,
        visual=torch.where(plain.valid[..., None], plain.visual, 1e3),
        text=torch.cat([plain.text, torch.full((2, 2, 4), 1e3)], 1),
        text_valid=torch.cat([plain.text_valid, torch.zeros(2, 2, dtype=torch.bool)], 1),
    )
    for kind in ("cosine", "dot", "euclidean", "manhattan"):
        method = Simignore(keep=3, similarity=kind)
        assert torch.equal(method.choose(plain).index, method.choose(padded).index)
    walk = Simignore(keep=3, skip=1, stride=2)
    assert torch.equal(walk.choose(plain).index, walk.choose(padded).index)


def test_zero_vectors_and_equal_tokens_have_an_order():
    flat = dataclasses.replace(view(), visual=torch.zeros(2, 8, 4))
    assert Simignore(keep=3).choose(flat).index.tolist() == [[0, 1, 2]] * 2
    broken = dataclasses.replace(view(), visual=torch.full((2, 8, 4), torch.nan))
    with pytest.raises(ValueError, match="NaN"):
        Simignore(keep=3).choose(broken)


def test_a_threshold_nothing_reaches_keeps_one_and_says_so():
    chosen = Simignore(keep=AtLeast(5.0)).choose(view())
    assert chosen.count.tolist() == [1, 1] and "nothing" not in chosen.notes[0]
    assert chosen.notes[0] == "no image token reached the threshold 5; the best one stayed"
    assert Simignore(keep=AtLeast(-2.0, cap=3)).choose(view()).count.tolist() == [3, 3]
    assert Simignore(keep=AtLeast(-2.0)).choose(view()).count.tolist() == [8, 8]


def test_a_method_that_forgets_its_needs_is_told():
    @dataclasses.dataclass(frozen=True)
    class Forgetful(Scorer):
        def score(self, seen):
            return simignore.methods.base.needed(seen.attention, "attention")

    with pytest.raises(RuntimeError, match="no 'attention'; name it in the method's `needs`"):
        Forgetful(keep=2).choose(view())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda v: Selection(torch.tensor([[3, 1], [0, 1]]), torch.zeros(2, 16, dtype=torch.long)),
        lambda v: Selection(torch.tensor([[0, 99], [0, 1]]), torch.zeros(2, 16, dtype=torch.long)),
        lambda v: Selection(torch.full((2, 1), -1), torch.full((2, 16), -1)),
        lambda v: Selection(torch.tensor([0, 1]), torch.zeros(2, 16, dtype=torch.long)),
        lambda v: Selection(torch.tensor([[0], [0]]), torch.zeros(2, 3, dtype=torch.long)),
    ],
)
def test_a_method_that_chooses_wrongly_fails_at_its_first_prefill(wrong):
    import models

    @dataclasses.dataclass(frozen=True)
    class Wrong(Method):
        def choose(self, seen):
            return wrong(seen)

    model, inputs = models.model(), models.batch(models.prompt(), models.prompt(seed=2))
    with torch.no_grad(), Wrong(keep=2)(model), pytest.raises(ValueError, match="Wrong"):
        model(**inputs)


def test_a_new_method_takes_a_few_lines():
    """The contributor's example of CONTRIBUTING.md."""
    import models

    @dataclasses.dataclass(frozen=True)
    class Loudest(Scorer):
        """Keep the image tokens with the largest norm."""

        needs = ("visual",)

        def score(self, seen):
            return seen.visual.norm(dim=-1)

    model, inputs = models.model(), models.batch(models.prompt())
    with torch.no_grad(), Loudest(keep=0.5)(model) as trace:
        model(**inputs)
    assert trace.selections[0].count.tolist() == [8]


def test_a_span_without_a_query_is_told_and_an_unknown_one_refused():
    import models

    model, inputs = models.model(), models.batch(models.prompt())
    with pytest.raises(ValueError, match="span='nonsense' is none of 'auto', 'user'"):
        Simignore(keep=3, span="nonsense")
    with pytest.warns(UserWarning, match="span 'options', but no query was given.*pass query=prompt.query"):
        splice = Chain(Simignore(keep=3, span="options"))(model)
    with torch.no_grad(), splice as trace:
        model(**inputs)
    assert trace.query == "whole prompt"
