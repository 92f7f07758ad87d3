"""The recipe runs from start to export; its shortcuts (packing, shared Muon, resuming) change nothing."""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from simignore import tiny
from simignore.tiny.curriculum import IGNORED, TASKS, draw, mix_at, probe
from simignore.tiny.export import export_run
from simignore.tiny.loop import Plan, Worker, finished, restore, spawn, train
from simignore.tiny.losses import LETTER_IDS
from simignore.tiny.model import LARGE, TINY, build_model
from simignore.tiny.muon import SharedMuon, orthogonal
from simignore.tiny.pictures import load
from simignore.tiny.scenes import render, sample_scene
from simignore.tiny.start import start_decoder
from simignore.tiny.train import PLANS, model_parts, remember, run_stage
from simignore.tiny.words import VOCABULARY


@pytest.mark.parametrize("stage", ["copying", "symbols", "joint"])
def test_segments_predict_their_answer(stage: str) -> None:
    rng = random.Random(stage)
    for step in range(300):
        segment = draw(sample_scene(step), mix_at(stage, step / 300), rng)
        assert len(segment.tokens) == len(segment.labels) and segment.task in TASKS
        last = max(i for i, label in enumerate(segment.labels) if label != IGNORED)
        assert last == len(segment.labels) - 1, "the last token predicts the end of the answer"
        for place, label in enumerate(segment.labels[:-1]):
            early = segment.tokens[place] == VOCABULARY["?"] or segment.tokens[place + 1] == VOCABULARY["(A)"]
            if label != IGNORED and not early:
                assert segment.tokens[place + 1] == label, "what is predicted is what follows"


def test_lettered_probes_ask_for_the_answer_and_then_for_its_letter() -> None:
    words = {number: word for word, number in VOCABULARY.items()}
    rng, seen = random.Random(0), 0
    for seed in range(100):
        segment = probe(sample_scene(seed), rng, lettered_too=True)
        told = [words[token] for token in segment.tokens]
        if "(A)" in told:
            answer, letter = (words[label] for label in segment.labels if label != IGNORED)
            assert told[told.index(f"({letter})") + 1] == answer and told.count(answer) == 1
            seen += 1
    assert seen > 50


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


def test_two_processes_learn_what_one_would_from_both_draws(tmp_path: Path) -> None:
    """Gradients are averaged and Muon's work is shared: as if one process had seen what both drew."""
    spawn(_one_of_two, [(rank, tmp_path) for rank in range(2)])()
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(one["part"][name], other["part"][name]) for name in one["part"])
    assert one["drawn"] != other["drawn"]
    pairs = iter(zip(one["drawn"], other["drawn"], strict=True))
    part = _layered()
    (tmp_path / "alone").mkdir()

    def loss_of(rng: random.Random, progress: float) -> tuple[Tensor, dict[str, float]]:
        return torch.stack([_square(part, draw) for draw in next(pairs)]).mean(), {}

    train(MUON_PLAN, Worker(0, 1, 0, tmp_path / "alone"), {"part": part}, loss_of)
    for name, weight in part.state_dict().items():
        torch.testing.assert_close(weight, one["part"][name], atol=2e-3, rtol=0)  # bfloat16 inside Muon
    with pytest.raises(ValueError, match="written by 2 processes, and 1"):
        train(dataclasses.replace(MUON_PLAN, steps=9), Worker(0, 1, 0, tmp_path), {"part": part}, loss_of)


MUON_PLAN = Plan("some", steps=3, batch=2, rate=1e-2, muon=1.0)


def _layered() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)])})


def _square(part: nn.Module, draw: float) -> Tensor:
    state = torch.full((1, 4), draw)
    for layer in part.get_submodule("layers").children():
        state = layer(state)
    return state.square().mean()


def _one_of_two(rank: int, folder: Path, port: int) -> None:
    worker = Worker.join(rank, 2, 0, folder, "cpu", port)
    part, drawn = _layered(), []

    def loss_of(rng: random.Random, progress: float) -> tuple[Tensor, dict[str, float]]:
        drawn.append(rng.random())
        return _square(part, drawn[-1]), {}

    train(MUON_PLAN, worker, {"part": part}, loss_of)
    torch.save({"part": part.state_dict(), "drawn": drawn}, folder / f"{rank}.pt")


def test_a_run_with_other_settings_is_refused(tmp_path: Path) -> None:
    settings = argparse.Namespace(out=tmp_path, seed=0, size="tiny", unaligned=False, device="cpu")
    remember(settings)
    remember(settings)
    assert len(json.loads((tmp_path / "run.json").read_text())["commands"]) == 2
    with pytest.raises(ValueError, match="seed 0, not 1"):
        remember(argparse.Namespace(**{**vars(settings), "seed": 1}))


def test_the_large_sibling_has_llavas_geometry() -> None:
    model = build_model(LARGE)
    assert (LARGE.side, LARGE.patch, LARGE.patches) == (336, 14, 576)
    assert 30e6 <= sum(p.numel() for p in model.parameters()) <= 80e6


def _pixels(seed: int) -> Tensor:
    _, processor = tiny.load()
    seen: Tensor = processor(text="<image>", images=render(sample_scene(seed))[0], return_tensors="pt")["pixel_values"]
    return seen
