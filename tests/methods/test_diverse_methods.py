"""DivPrune, CDPruner, Simignore2, Diverse and Product: their rules in plain loops, and what they refuse."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from methods.test_methods import view
from test_diversity import cosine, dpp_loop, max_min_loop

from rebuilding import NAMES
from simignore import (
    AtLeast,
    CDPruner,
    Chain,
    Diverse,
    DivPrune,
    FasterVLM,
    FastV,
    LearnedSimignore,
    Mass,
    Product,
    Random,
    Schedule,
    Simignore,
    Simignore2,
    SparseVLM,
    VisionZip,
)
from simignore.diversity import levelled
from simignore.types import Grid, Look, Patches


def looking(seen, seed=0, **more):
    """The same view with attention of the tower and of the decoder, in float64."""
    generator = torch.Generator().manual_seed(seed)
    attention = torch.rand(seen.valid.shape, generator=generator, dtype=torch.float64)
    exact = {name: getattr(seen, name).double() for name in ("visual", "text")}
    return dataclasses.replace(seen, tower={Look("attention"): attention}, attention=attention.flip(1), **exact, **more)


def level(values):
    low, high = min(values), max(values)
    return [(v - low) / (high - low) if high > low else 1.0 for v in values]


def text_similarity(seen, b, size, pick):
    rows, words = seen.visual[b, :size].tolist(), seen.text[b][seen.text_valid[b]].tolist()
    return [pick([cosine(row, word) for word in words]) for row in rows]


def kept(chosen, b):
    return [i for i in chosen.index[b].tolist() if i >= 0]


def mean(values):
    return sum(values) / len(values)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("keep", [1, 3, 6, 0.4, 1.0])
def test_the_rules(seed, keep):
    seen = looking(view(d=5, m=3, seed=seed, sizes=[6, 9]), seed)
    for b, size in enumerate((6, 9)):
        count = keep if isinstance(keep, int) else max(1, math.floor(keep * size + 0.5))
        rows = seen.visual[b, :size].tolist()
        text, paid = text_similarity(seen, b, size, max), seen.tower[Look("attention")][b, :size].tolist()
        average = text_similarity(seen, b, size, mean)
        both = [a**0.7 * c**0.3 for a, c in zip(level(text), level(paid), strict=True)]
        decoder = seen.attention[b, :size].tolist()
        expected = {
            DivPrune(keep=keep): max_min_loop(rows, count),
            CDPruner(keep=keep): dpp_loop(rows, level(average), count),
            Diverse(Simignore(keep=keep)): dpp_loop(rows, level(text), count),
            Diverse(FastV(keep=keep), sharpness=2): dpp_loop(rows, [r**2 for r in level(decoder)], count),
            Diverse(Simignore(keep=keep), how="max-min"): max_min_loop(rows, count, level(text)),
            Simignore2(keep=keep, attention=0.3): dpp_loop(rows, level(both), count),
            Simignore2(keep=keep, attention=0): dpp_loop(rows, level(text), count),
            Diverse(Product(Simignore(keep=keep), FasterVLM(keep=keep), weight=0.3)): dpp_loop(
                rows, level(both), count
            ),
            Product(Simignore(keep=keep), FasterVLM(keep=keep), weight=0.3): sorted(
                range(size), key=lambda i: (-both[i], i)
            )[:count],
        }
        for method, order in expected.items():
            together, alone = method.choose(seen), method.choose(towers_alone(seen, b, size))
            assert kept(together, b) == sorted(order) == kept(alone, 0), method
            assert together.blend is None and together.source[b, size:].eq(-1).all()


def towers_alone(seen, b, size):
    """Sample ``b`` by itself, without its padding."""
    where = seen.patches
    own = Patches((where.grids[b],), *(x[b : b + 1, :size] for x in (where.grid, where.row, where.column)))
    return dataclasses.replace(
        seen,
        valid=seen.valid[b : b + 1, :size],
        patches=own,
        seeds=seen.seeds[b : b + 1],
        visual=seen.visual[b : b + 1, :size],
        text=seen.text[b : b + 1],
        text_valid=seen.text_valid[b : b + 1],
        attention=seen.attention[b : b + 1, :size],
        tower={look: x[b : b + 1, :size] for look, x in seen.tower.items()},
    )


def test_what_is_left_of_many_images_is_levelled_by_their_own_numbers():
    """Fewer tokens than images: their images' numbers go beyond the number of tokens."""
    score, valid = torch.tensor([[3.0, 1.0, 2.0], [5.0, 4.0, 9.0]]), torch.tensor([[True] * 3, [True, True, False]])
    found = levelled(score, valid, torch.tensor([[5, 5, 9], [7, 7, -1]]))
    assert found.tolist() == [[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]]


def test_a_head_without_a_rule_of_its_own_may_be_a_factor():
    assert Product(FasterVLM(keep=3), LearnedSimignore(keep=3, sharpness=None, fill="highest")).keep == 3
    assert Product(SparseVLM(keep=4, layer=2), SparseVLM(keep=4, layer=2)).layer == 2


def test_relevance_is_levelled_in_each_image():
    """Two images in one sample: the most relevant token of either has relevance 1."""
    places = torch.arange(8)[None]
    two = Patches(((Grid(1, 4, 0), Grid(1, 4, 1)),), places // 4, places * 0, places % 4)
    seen = dataclasses.replace(looking(view(n=8, sizes=[8])), patches=two)
    average = text_similarity(seen, 0, 8, mean)
    score = CDPruner(keep=2).score(seen)[0].tolist()
    assert score == pytest.approx(level(average[:4]) + level(average[4:]))


def test_padding_may_hold_anything_and_must_not_matter():
    seen = looking(view(d=5, sizes=[4, 9], seed=3))
    dirty = dataclasses.replace(seen, visual=seen.visual.masked_fill(~seen.valid[..., None], math.nan))
    dirty.tower[Look("attention")][~seen.valid] = math.nan
    for method in (DivPrune(keep=3), CDPruner(keep=3), Simignore2(keep=3), Diverse(FastV(keep=3), how="max-min")):
        assert torch.equal(method.choose(dirty).index, method.choose(seen).index)


@pytest.mark.parametrize(
    "method",
    [
        DivPrune(keep=3),
        CDPruner(keep=3),
        Simignore2(keep=3),
        Diverse(FastV(keep=3)),
        Product(FasterVLM(keep=3), Simignore(keep=3)),
    ],
    ids=str,
)
def test_nan_is_refused(method):
    for what in ("visual", "attention"):
        seen = looking(view(sizes=[6, 9]))
        if what == "visual":
            seen.visual[1, 2, 1] = math.nan
        else:
            seen.tower[Look("attention")][1, 2] = seen.attention[1, 2] = math.nan
        if what == "attention" and not (method.looks or "attention" in method.needs):
            continue
        with pytest.raises(ValueError, match="NaN"):
            method.choose(seen)


def test_budgets_that_read_scores_read_the_scorers():
    seen = looking(view(sizes=[8, 8], seed=2))
    inner = Simignore(keep=AtLeast(0.2, cap=5))
    counts = inner.choose(seen).count
    assert torch.equal(Diverse(inner).choose(seen).count, counts) and 1 <= int(counts.min()) <= int(counts.max()) <= 5
    nothing = Diverse(Simignore(keep=AtLeast(5.0))).choose(seen)
    assert nothing.count.tolist() == [1, 1] and "no image token reached" in nothing.notes[0]
    mass = FastV(keep=Mass(0.5))
    assert torch.equal(Diverse(mass).choose(seen).count, mass.choose(seen).count)
    with pytest.raises(TypeError, match=r"reads scores, and DivPrune has none"):
        DivPrune(keep=Mass(0.5))


def test_schedules_make_a_cut_at_each_layer():
    made = Diverse(FastV(keep=Schedule({2: 5, 3: 3})), how="max-min")
    assert [(cut.site, cut.keep, cut.how) for cut in made.cuts()] == [
        (("layer", 2), 5, "max-min"),
        (("layer", 3), 3, "max-min"),
    ]
    both = Product(FastV(keep=Schedule({2: 5, 3: 3})), Simignore(keep=Schedule({2: 5, 3: 3})))
    assert [(cut.site, cut.keep) for cut in both.cuts()] == [(("layer", 2), 5), (("layer", 3), 3)]
    assert [cut.site for cut in DivPrune(keep=Schedule({0: 0.5, 2: 0.25})).cuts()] == ["projector", ("layer", 2)]


@pytest.mark.parametrize(
    "method",
    [
        Diverse(Simignore(keep=3)),
        Diverse(Random(keep=0.5, layer=2), how="max-min", sharpness=0.5),
        Diverse(Simignore(keep=3), sharpness=1.2345671),
        Diverse(Simignore(keep=3), sharpness=1.0000001),
        Product(Simignore(keep=3), FasterVLM(keep=3)),
        Product(FastV(keep=3), Random(keep=3, layer=2), weight=0.2),
        Chain(Diverse(Simignore(keep=9)), FastV(keep=3)),
        Simignore2(keep=3, attention=0),
        CDPruner(keep=3, clip="openai/clip"),
    ],
    ids=str,
)
def test_the_repr_rebuilds_it(method):
    assert eval(repr(method), NAMES) == method and eval(str(method), NAMES) == method
    assert hash(eval(repr(method), NAMES)) == hash(method)


def test_sharpnesses_that_differ_look_different_and_whole_ones_stay_short():
    one, other = (Diverse(Simignore(keep=3), sharpness=value) for value in (1.2345671, 1.2345674))
    assert repr(one) != repr(other) and str(one) != str(other)
    assert str(Diverse(Simignore(keep=3), sharpness=2)) == "Diverse(Simignore(keep=3), sharpness=2)"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Diverse("simignore"), TypeError, "got str: Diverse"),
        (lambda: Diverse(VisionZip(keep=3)), TypeError, "with scores, got VisionZip"),
        (lambda: Diverse(Simignore(keep=3), how="best"), ValueError, "how='best' is none of 'dpp', 'max-min'"),
        (lambda: Diverse(Simignore(keep=3), sharpness=-1), ValueError, "sharpness=-1 would prefer what scores low"),
        (
            lambda: Diverse(Simignore(keep=3, skip=1)),
            TypeError,
            "more than its scores, and Diverse would lose the rest",
        ),
        (lambda: Diverse(Diverse(Simignore(keep=3))), TypeError, "chooses by more than its scores"),
        (lambda: Diverse(CDPruner(keep=3)), TypeError, "such as Simignore"),
        (lambda: Product(FasterVLM(keep=3), LearnedSimignore(keep=3)), TypeError, "Product would lose the rest"),
        (lambda: Product(FasterVLM(keep=3), Simignore(keep=3, stride=2)), TypeError, "Product would lose the rest"),
        (lambda: Product(FastV(layer=2), SparseVLM(keep=4, layer=2, recycle=True)), TypeError, "write Merged"),
        (lambda: Product(FastV(layer=2), SparseVLM(keep=4, layer=2)), ValueError, "attention of different tokens"),
        (lambda: Product(Simignore(keep=3), DivPrune(keep=3)), TypeError, "got DivPrune"),
        (lambda: Product(Simignore(keep=3), FastV(keep=3)), ValueError, "cut at different sites"),
        (lambda: Product(Simignore(keep=3), FasterVLM(keep=3), weight=2), ValueError, "weight=2 of the second score"),
        (lambda: Simignore2(keep=3, attention=1.5), ValueError, r"attention=1.5 is a weight in \[0, 1\]"),
        (lambda: Simignore2(keep=3, similarity="best"), ValueError, "similarity='best' is none of"),
        (lambda: CDPruner(keep=3, clip=""), ValueError, "clip='' is no name or folder"),
        (lambda: CDPruner(keep=3, span="all"), ValueError, "span='all' is none of"),
    ],
)
def test_bad_configurations(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_relevance_from_clip(tmp_path):
    """The paper's own: patches and question in CLIP's space, negated; computed here from the checkpoint by hand."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = {word: i for i, word in enumerate(["<pad>", "<unk>", "what", "colour", "is", "it", "</s>"])}
    size = dict(intermediate_size=16, num_attention_heads=2, num_hidden_layers=2)
    text = dict(hidden_size=16, vocab_size=7, max_position_embeddings=6, eos_token_id=6, bos_token_id=2, pad_token_id=0)
    vision = dict(hidden_size=12, image_size=8, patch_size=4)
    clip = CLIPModel(CLIPConfig(text_config=text | size, vision_config=vision | size, projection_dim=8)).eval()
    clip.save_pretrained(tmp_path)
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")
    tokenizer.save_pretrained(tmp_path)

    seen = view(n=6, sizes=[6, 6])
    features = torch.randn(2, 6, 12)
    questions = ("what colour is it </s>", "is it </s>")
    seen = dataclasses.replace(seen, tower={Look("features", -1): features}, questions=questions)
    method = CDPruner(keep=2, clip=str(tmp_path))
    assert method.needs == ("visual", "question") and method.looks == (Look("features", -1),)
    score = method.score(seen)
    for b, question in enumerate(questions):
        ids = torch.tensor([[words[word] for word in question.split()]])
        with torch.no_grad():
            told = clip.text_projection(clip.text_model(input_ids=ids).pooler_output)[0].tolist()
            patches = clip.visual_projection(clip.vision_model.post_layernorm(features[b])).tolist()
        expected = level([-cosine(patch, told) for patch in patches])
        assert score[b].tolist() == pytest.approx(expected, abs=1e-5)
    wide = dataclasses.replace(seen, tower={Look("features", -1): torch.randn(2, 6, 20)})
    with pytest.raises(ValueError, match="vision tower of width 12, and this model's has 20"):
        method.score(wide)
