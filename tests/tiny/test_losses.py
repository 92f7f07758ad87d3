"""What the decoder's training minimises: packing changes nothing, blind layers see nothing, targets are what they say."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simignore import tiny
from simignore.tiny.curriculum import IGNORED, TASKS, Mix, Segment, draw
from simignore.tiny.losses import answer_loss, first_layers_blind, length_loss
from simignore.tiny.model import TINY, build_model
from simignore.tiny.packing import PREFIX, Pack, blind, block_mask, pack
from simignore.tiny.scenes import render, sample_scene
from simignore.tiny.symbols import Symbols
from simignore.tiny.vision import CLASSES, VisionHeads
from simignore.tiny.words import EOS, VOCABULARY, encode


def test_a_row_is_filled_with_exchanges_that_fit() -> None:
    text = pack([sample_scene(0), sample_scene(1)], TINY.patches, Mix(), 230, random.Random(0))
    assert text.tokens.shape == (2, 230)
    assert ((text.segment > 0).sum(1) > 180).all()
    assert (text.label[text.segment < 0] == IGNORED).all()


def test_a_packed_exchange_gets_what_its_own_prompt_gets() -> None:
    """The packed answer's loss equals that of the same exchange in a row of its own."""
    model, _ = tiny.load()
    rng = random.Random(0)
    scene = sample_scene(5)
    segments = [draw(scene, Mix(), rng) for _ in range(4)]
    pixels = _pixels(5)
    together = _loss(model, pixels, segments)
    apart = [_loss(model, pixels, [segment]) for segment in segments]
    weights = [_weight(segment) for segment in segments]
    expected = sum(w * loss for w, loss in zip(weights, apart, strict=True)) / sum(weights)
    assert together == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_packing_asks_as_the_processor_does() -> None:
    """Tokens before and after the picture are those of the chat template."""
    _, processor = tiny.load()
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe the image."}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    ids = processor(text=text, images=render(sample_scene(0))[0], return_tensors="pt")["input_ids"][0].tolist()
    segment = draw(sample_scene(0), Mix(caption=1.0), random.Random(0))
    asked = ids[len(PREFIX) + TINY.patches :]
    assert tuple(ids[: len(PREFIX)]) == PREFIX
    assert segment.tokens[: len(asked)] == asked


def _pixels(seed: int) -> Tensor:
    _, processor = tiny.load()
    seen: Tensor = processor(text="<image>", images=render(sample_scene(seed))[0], return_tensors="pt")["pixel_values"]
    return seen


@torch.no_grad()
def _loss(model: Any, pixels: Tensor, segments: list[Segment]) -> float:
    columns: list[list[int]] = [[], [], [], [], []]
    for number, segment in enumerate(segments, start=1):
        count = len(segment.tokens)
        columns[0] += segment.tokens
        columns[1] += [number] * count
        columns[2] += range(len(PREFIX) + TINY.patches, len(PREFIX) + TINY.patches + count)
        columns[3] += segment.labels
        columns[4] += [TASKS.index(segment.task)] * count
    text = Pack(*(torch.tensor([column]) for column in columns))
    return _answer_loss(model, _image(model, pixels), text, blinded=False)


def _image(model: Any, pixels: Tensor) -> Tensor:
    tower = model.model.vision_tower(pixels, output_hidden_states=True)
    embeddings: Tensor = model.model.multi_modal_projector(tower.hidden_states[-2][:, 1:])
    return embeddings


def _answer_loss(model: Any, image: Tensor, text: Pack, blinded: bool) -> float:
    places = torch.arange(TINY.patches)[None]
    rows = torch.tensor([blinded])
    return answer_loss(model, image, places, torch.ones_like(places, dtype=torch.bool), text, rows)[0].item()


def _weight(segment: Segment) -> float:
    tokens = sum(0.2 if label == EOS else 1.0 for label in segment.labels if label != IGNORED)
    return tokens * (0.4 if segment.task == "caption" else 1.0)


def test_block_mask_spelt_out() -> None:
    seen = block_mask(torch.tensor([[0, 1, 1, 2, -1]]))[0, 0].int().tolist()
    assert seen == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 0], [1, 0, 0, 0, 1]]


def test_blinded_text_spelt_out() -> None:
    segment = torch.tensor([[0, 0, 0, 0, 1, 2], [0, 0, 0, 0, 1, 2]])  # two tokens before the picture, two of it
    open_, blinded = blind(block_mask(segment), segment, torch.tensor([False, True]))[:, 0].int()
    assert torch.equal(open_, block_mask(segment)[0, 0].int())
    assert blinded[2:].tolist() == [
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


def test_blind_layers_get_nothing_of_the_picture_and_the_others_do() -> None:
    """With all layers blind another picture changes nothing; with the first ones blind, only in their rows."""
    torch.manual_seed(0)
    model = build_model(TINY)
    decoder = model.model.language_model
    one, other = torch.randn(2, 1, TINY.patches, TINY.width)
    text = pack([sample_scene(0)], TINY.patches, Mix(), 230, random.Random(0))
    with torch.no_grad():
        with first_layers_blind(decoder, TINY.layers):
            assert _answer_loss(model, one, text, True) == pytest.approx(_answer_loss(model, other, text, True))
            assert _answer_loss(model, one, text, False) != pytest.approx(_answer_loss(model, other, text, False))
        with first_layers_blind(decoder, TINY.blind):
            assert _answer_loss(model, one, text, True) != pytest.approx(_answer_loss(model, other, text, True))
        assert _answer_loss(model, one, text, True) == _answer_loss(model, one, text, False), "nothing remains"


def test_length_loss_spelt_out() -> None:
    image = torch.tensor([[[1.0], [1.0], [math.e], [math.e]]])  # logarithms 0, 0, 1, 1
    owned = torch.tensor([[False, False, True, True]])
    loss, gap = length_loss(image, owned)
    assert loss.item() == pytest.approx(1 / 3 + 3) and gap == pytest.approx(3**0.5)
    assert length_loss(image, torch.tensor([[False, True, False, True]]))[1] == pytest.approx(0)


def test_symbols_are_sums_of_words() -> None:
    words, symbols = nn.Embedding(len(VOCABULARY), 8), Symbols(8, 14)
    with torch.no_grad():
        for table in (symbols.across, symbols.down):
            table.weight.zero_()
        red, numbered = torch.tensor([[[4, 1, 3, 1, 1]]]), torch.tensor([[[4, 1, 3, 1, 8]]])
        centre = torch.tensor([[0]])
        plain, with_seven = symbols(red, centre, words), symbols(numbered, centre, words)
        mean = words.weight.mean(0)
        torch.testing.assert_close((with_seven - plain)[0, 0], words.weight[VOCABULARY["7"]] - mean)
        told = words.weight[encode("large plain red star left")].sum(0) - words.weight[encode("right")].sum(0)
        told = told + words.weight[encode("top")].sum(0) - words.weight[encode("bottom")].sum(0) - 3 * mean
        torch.testing.assert_close(plain[0, 0], told)
        apart = Symbols(8, 14, aligned=False)
        other = nn.Embedding(len(VOCABULARY), 8)
        assert torch.equal(apart(red, centre, words), apart(red, centre, other)), "nothing of the words is in it"


def test_false_captions_differ_by_one_word() -> None:
    from simignore.tiny.vision import _captions

    for seed in range(50):
        true, *edits = _captions(sample_scene(seed), random.Random(seed))
        assert (true[:, 0] > 0).sum() == len(sample_scene(seed).things)
        for edit in edits:
            assert (edit != true).sum() == 1
            changed = int((edit != true).nonzero()[0, 1])
            assert 1 <= int(edit[edit != true]) < CLASSES[changed]


def test_captions_have_no_order() -> None:
    heads = VisionHeads(32)
    table = torch.tensor([[1, 2, 3, 4, 5], [2, 3, 1, 1, 1], [0] * 5, [0] * 5])
    shuffled = table[[3, 1, 2, 0]]
    torch.testing.assert_close(heads.captions(table), heads.captions(shuffled))
    assert not torch.allclose(heads.captions(table), heads.captions(table.flip(1) % 4))
