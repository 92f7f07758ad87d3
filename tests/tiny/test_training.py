"""The recipe runs from start to export; its shortcuts (packing, shared Muon, resuming) change nothing."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simignore import tiny
from simignore.tiny.config import TINY
from simignore.tiny.curriculum import IGNORED, TASKS, Mix, Segment, draw, mix_at
from simignore.tiny.export import export_run
from simignore.tiny.language import LETTER_IDS, answer_loss, features
from simignore.tiny.loop import Plan, Worker, finished, train
from simignore.tiny.model import build_model
from simignore.tiny.muon import SharedMuon, orthogonal
from simignore.tiny.packing import PREFIX, Pack, block_mask, pack
from simignore.tiny.pictures import load
from simignore.tiny.scenes import GRID, PATCHES, render, sample_scene
from simignore.tiny.stages import PLANS, run_stage
from simignore.tiny.start import start_decoder
from simignore.tiny.symbols import every_place
from simignore.tiny.words import EOS, VOCABULARY


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
    text = pack([sample_scene(0), sample_scene(1)], Mix(), 230, random.Random(0))
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
    asked = ids[len(PREFIX) + PATCHES :]
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
        columns[2] += range(len(PREFIX) + PATCHES, len(PREFIX) + PATCHES + count)
        columns[3] += segment.labels
        columns[4] += [TASKS.index(segment.task)] * count
    image = model.model.multi_modal_projector(features(model, pixels))
    places = every_place(1)
    text = Pack(*(torch.tensor([column]) for column in columns))
    return answer_loss(model, image, places, torch.ones_like(places, dtype=torch.bool), text)[0].item()


def _weight(segment: Segment) -> float:
    tokens = sum(0.2 if label == EOS else 1.0 for label in segment.labels if label != IGNORED)
    return tokens * (0.4 if segment.task == "caption" else 1.0)


def test_block_mask_spelt_out() -> None:
    seen = block_mask(torch.tensor([[0, 1, 1, 2, -1]]))[0, 0].int().tolist()
    assert seen == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 0], [1, 0, 0, 0, 1]]


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
    patches = [row * GRID + column for row in range(GRID) for column in range(GRID - 1)]
    right = sum(int(attention[1 + p, 1:].argmax()) == p + 1 for p in patches)
    assert right > 0.75 * len(patches)


def test_training_resumes_where_it_stopped(tmp_path: Path) -> None:
    seen: list[float] = []

    def loss_of(rng: random.Random, progress: float) -> tuple[Tensor, dict[str, float]]:
        seen.append(rng.random())
        return part(torch.ones(1, 4)).square().mean(), {}

    torch.set_num_threads(2)
    plan, worker = Plan("some", seconds=0.2, batch=1, rate=1e-3), Worker(0, 1, 0, tmp_path)
    part = nn.Linear(4, 2)
    train(plan, worker, {"part": part}, loss_of)
    assert finished(tmp_path / "some.pt")
    first, weight = len(seen), part.weight.detach().clone()
    part = nn.Linear(4, 2)
    train(plan, worker, {"part": part}, loss_of)
    assert len(seen) == first and torch.equal(part.weight, weight), "a finished stage only loads"
    longer = torch.load(tmp_path / "some.pt", weights_only=True)["elapsed"] + 0.1
    train(dataclasses.replace(plan, seconds=longer), worker, {"part": part}, loss_of)
    assert len(set(seen)) == len(seen) > first, "random numbers go on and do not repeat"


def test_every_stage_runs_and_exports(tmp_path: Path) -> None:
    pictures = dict.fromkeys(("train", "validation"), load(tmp_path / "pictures", "train", 250, 1))
    worker = Worker(0, 1, 0, tmp_path)
    for plan in PLANS:
        run_stage(dataclasses.replace(plan, seconds=0.01, batch=2), worker, pictures)
        assert finished(tmp_path / f"{plan.name}.pt")
    (tmp_path / "run.json").write_text('{"seed": 0, "commands": []}')
    export_run(tmp_path, tmp_path / "exported")
    model, _ = tiny.load(path=tmp_path / "exported")
    assert len(LETTER_IDS) == 5 and model.dtype == torch.float32
    assert set(json.loads((tmp_path / "exported" / "training.json").read_text())["stages"]) == {p.name for p in PLANS}
