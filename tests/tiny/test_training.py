"""The recipe runs from start to export; its shortcuts (packing, shared Muon, resuming) change nothing."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simignore import tiny
from simignore.tiny.curriculum import IGNORED, TASKS, Mix, Segment, draw, mix_at
from simignore.tiny.export import export_run
from simignore.tiny.loop import Plan, Worker, finished, restore, spawn, train
from simignore.tiny.losses import LETTER_IDS, answer_loss, first_layers_blind, length_loss
from simignore.tiny.model import LARGE, TINY, build_model
from simignore.tiny.muon import SharedMuon, orthogonal
from simignore.tiny.packing import PREFIX, Pack, blind, block_mask, pack
from simignore.tiny.pictures import load
from simignore.tiny.scenes import render, sample_scene
from simignore.tiny.start import start_decoder
from simignore.tiny.symbols import Symbols
from simignore.tiny.train import PLANS, model_parts, run_stage
from simignore.tiny.vision import CLASSES, VisionHeads
from simignore.tiny.words import EOS, VOCABULARY, encode


@pytest.mark.parametrize("stage", ["copying", "symbols", "joint"])
def test_segments_predict_their_answer(stage: str) -> None:
    rng = random.Random(stage)
    for step in range(300):
        segment = draw(sample_scene(step), mix_at(stage, step / 300), rng)
        assert len(segment.tokens) == len(segment.labels) and segment.task in TASKS
        last = max(i for i, label in enumerate(segment.labels) if label != IGNORED)
        assert last == len(segment.labels) - 1, "the last token predicts the end of the answer"
        for place, label in enumerate(segment.labels[:-1]):
            if label != IGNORED and segment.tokens[place] != VOCABULARY["?"]:
                assert segment.tokens[place + 1] == label, "what is predicted is what follows"


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


def test_muon_is_that_of_torch() -> None:
    mine = nn.Parameter(torch.randn(64, 32))
    theirs = nn.Parameter(mine.detach().clone())
    one = SharedMuon([{"params": [mine], "weight_decay": 0.02}], lr=1e-2)
    other = torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        grad = torch.randn(64, 32)
        mine.grad, theirs.grad = grad.clone(), grad.clone()
        one.step()
        other.step()
    torch.testing.assert_close(mine, theirs, atol=3e-3, rtol=0)  # bfloat16 inside


def test_orthogonal_evens_out_singular_values() -> None:
    for shape in ((3, 16, 16), (2, 32, 8), (2, 8, 32)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert values.max() < 1.3 and values.median() > 0.6


def test_the_started_decoder_looks_one_token_back() -> None:
    torch.manual_seed(0)
    decoder = build_model(TINY).model.language_model
    start_decoder(decoder, TINY.look_back, TINY.match)
    decoder.set_attn_implementation("eager")
    ids = torch.randint(5, len(VOCABULARY), (1, 20))
    attention = decoder(input_ids=ids, output_attentions=True).attentions[0][0, -1]  # [T, T] of the last head
    assert attention.diagonal(-1).mean() > 0.4


def test_the_started_tower_sees_neighbours() -> None:
    torch.manual_seed(0)
    tower = build_model(TINY).model.vision_tower
    tower.set_attn_implementation("eager")
    attention = tower(_pixels(0), output_attentions=True).attentions[0][0, 1]  # head 1 of layer 0: (1, 0)
    patches = [row * TINY.grid + column for row in range(TINY.grid) for column in range(TINY.grid - 1)]
    right = sum(int(attention[1 + p, 1:].argmax()) == p + 1 for p in patches)
    assert right > 0.75 * len(patches)


def test_training_resumes_where_it_stopped(tmp_path: Path) -> None:
    """Stopped half way and started again, a stage ends with the weights that it would have had."""
    drawn: list[float] = []

    def run(folder: Path, stop: int | None) -> Tensor:
        torch.manual_seed(0)
        part = nn.Linear(4, 2)
        folder.mkdir(exist_ok=True)

        def loss_of(rng: random.Random, progress: float) -> tuple[Tensor, dict[str, float]]:
            drawn.append(rng.random())
            if len(drawn) == stop:
                raise KeyboardInterrupt
            return part(torch.full((1, 4), drawn[-1])).square().mean(), {}

        with pytest.raises(KeyboardInterrupt) if stop else nullcontext():
            train(plan, Worker(0, 1, 0, folder), {"part": part}, loss_of)
        return part.weight.detach().clone()

    plan = Plan("some", steps=9, batch=1, rate=1e-2)
    whole = run(tmp_path / "whole", None)
    drawn.clear()
    monkey = pytest.MonkeyPatch()
    monkey.setattr("simignore.tiny.loop.SAVE_EVERY", 0.0)  # a checkpoint after every step
    run(tmp_path / "halves", stop=5)
    assert not finished(tmp_path / "halves" / "some.pt")
    resumed = run(tmp_path / "halves", None)
    monkey.undo()
    assert torch.equal(resumed, whole) and finished(tmp_path / "halves" / "some.pt")
    count = len(drawn)
    assert torch.equal(run(tmp_path / "halves", None), whole) and len(drawn) == count, "a finished stage only loads"


@pytest.mark.parametrize("aligned", [True, False])
def test_every_stage_runs_and_exports(tmp_path: Path, aligned: bool) -> None:
    pictures = dict.fromkeys(("train", "validation"), load(tmp_path / "pictures", "train", 250, 1))
    worker = Worker(0, 1, 0, tmp_path)
    for plan in PLANS:
        run_stage(dataclasses.replace(plan, steps=1, batch=2), worker, TINY, pictures, aligned)
        assert finished(tmp_path / f"{plan.name}.pt")
    (tmp_path / "run.json").write_text('{"seed": 0, "size": "tiny", "commands": []}')
    export_run(tmp_path, tmp_path / "exported")
    model, _ = tiny.load(path=tmp_path / "exported")
    trained = build_model(TINY)
    restore(tmp_path / "joint.pt", model_parts(trained))
    for name, weight in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight.bfloat16().float()), name
    assert len(LETTER_IDS) == 5 and model.dtype == torch.float32
    assert set(json.loads((tmp_path / "exported" / "training.json").read_text())["stages"]) == {p.name for p in PLANS}


def test_two_processes_learn_the_same(tmp_path: Path) -> None:
    """Gradients are averaged: both processes end with equal weights, though they drew different numbers."""
    spawn(_one_of_two, [(rank, tmp_path) for rank in range(2)])
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(one["weight"], other["weight"]) and one["drawn"] != other["drawn"]


def _one_of_two(rank: int, folder: Path, port: int) -> None:
    worker = Worker.join(rank, 2, 0, folder, "cpu", port)
    torch.manual_seed(0)
    part, drawn = nn.Linear(4, 2), []

    def loss_of(rng: random.Random, progress: float) -> tuple[Tensor, dict[str, float]]:
        drawn.append(rng.random())
        return part(torch.full((1, 4), drawn[-1])).square().mean(), {}

    train(Plan("some", steps=3, batch=2, rate=1e-2), worker, {"part": part}, loss_of)
    torch.save({"weight": part.weight.detach(), "drawn": drawn}, folder / f"{rank}.pt")


def test_the_large_sibling_has_llavas_geometry() -> None:
    model = build_model(LARGE)
    assert (LARGE.side, LARGE.patch, LARGE.patches) == (336, 14, 576)
    assert 30e6 <= sum(p.numel() for p in model.parameters()) <= 80e6
