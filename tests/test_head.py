"""The head's scores against its formula in plain numbers, and what is told of folders that hold no head."""

from __future__ import annotations

import json
import math
import os

import pytest
import torch

from simignore.head import CONFIG, WEIGHTS, Head, load_head
from simignore.similarity import best_similarity

WIDTH = 6


def made(seed=0, width=WIDTH, rank=3) -> Head:
    """A head with nothing at zero."""
    head, generator = Head(width, rank, base="a toy", seed=seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in (head.text, head.bias, head.threshold, head.demand):
            weight.add_(torch.randn(weight.shape, generator=generator))
    return head.requires_grad_(False).eval()


def drawn(n=7, m=4, b=2, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    visual, text = (torch.randn(b, count, WIDTH, generator=generator).to(dtype) for count in (n, m))
    return visual, text, torch.ones(b, m, dtype=torch.bool)


def unit(vector):
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def by_loop(head, visual, text):
    """One sample's scores by the formula of the docstring."""
    A, B, b = head.image.tolist(), head.text.tolist(), head.bias.tolist()
    k, scores = math.exp(head.sharpness.item()), []
    words = [unit(word) for word in text.tolist()]
    threshold = head.threshold.item() + sum(dot(head.demand.tolist(), t) for t in words) / len(words)
    for token in visual.tolist():
        v, found = unit(token), []
        for t in words:
            low = sum(dot(A[r], v) * (dot(B[r], t) + b[r]) for r in range(len(b)))
            found.append(dot(v, t) + low)
        scores.append(math.log(sum(math.exp(k * s) for s in found) / len(found)) / k - threshold)
    return scores


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_the_formula_in_plain_numbers(seed):
    head, (visual, text, valid) = made(seed), drawn(seed=seed)
    scores = head(visual, text, valid)
    assert scores.dtype == torch.float32
    for b in range(2):
        assert scores[b].tolist() == pytest.approx(by_loop(head, visual[b], text[b]), abs=1e-5)
    exact = head(visual.double(), text.double(), valid)
    assert exact.dtype == torch.float64
    assert exact[0].tolist() == pytest.approx(by_loop(head, visual[0], text[0]), abs=1e-12)


def test_a_new_head_is_the_soft_maximum_of_cosines_and_with_great_sharpness_simignore():
    visual, text, valid = drawn(n=40)
    head = Head(WIDTH).requires_grad_(False)
    k, cosine = 10.0, torch.cosine_similarity(visual[:, :, None], text[:, None], dim=-1)
    torch.testing.assert_close(head(visual, text, valid), (k * cosine).exp().mean(-1).log() / k)
    head.sharpness.fill_(math.log(1e4))
    plain = best_similarity(visual, text, valid, "cosine")
    assert torch.equal(head(visual, text, valid).argsort(-1), plain.argsort(-1))
    other = made()
    assert not torch.equal(other(visual, text, valid).argsort(-1), plain.argsort(-1))


@pytest.mark.parametrize("filler", [0.0, 1e4, math.nan])
def test_padding_of_the_text_and_neighbours_in_a_batch_do_not_matter(filler):
    head, (visual, text, valid) = made(), drawn()
    valid[1, 2:] = False
    text[1, 2:] = filler
    together = head(visual, text, valid)
    for b, words in enumerate((4, 2)):
        alone = head(visual[b : b + 1], text[b : b + 1, :words], valid[b : b + 1, :words])
        torch.testing.assert_close(together[b], alone[0])
    noisy = visual.clone()
    noisy[:, 5:] = filler  # image tokens that are no tokens
    torch.testing.assert_close(head(noisy, text, valid)[:, :5], together[:, :5])


def test_image_tokens_of_no_length_have_a_score():
    visual, text, valid = drawn()
    assert bool(made()(torch.zeros_like(visual), text, valid).isfinite().all())


def test_the_threshold_is_one_for_all_tokens_of_a_question_and_a_score_of_zero_reaches_it():
    head, (visual, text, valid) = made(), drawn()
    taken = head.ranked(visual, text, valid) - head(visual, text, valid)
    torch.testing.assert_close(taken, head.demanded(text, valid)[:, None].expand_as(taken))
    assert abs(float(taken[0, 0] - taken[1, 0])) > 1e-3  # another question, another threshold


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_scored_in_full(dtype):
    head, (visual, text, valid) = made(), drawn(dtype=dtype)
    wanted = head(visual.float(), text.float(), valid)
    found = head(visual, text, valid)
    assert found.dtype == torch.float32 and torch.equal(found, wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(visual, text, valid), wanted)


def test_what_was_saved_scores_the_same_to_the_bit_and_reading_it_is_silent(tmp_path, capsys):
    head = made(seed=3)
    head.save_pretrained(tmp_path)
    capsys.readouterr()
    config = json.loads((tmp_path / CONFIG).read_text())
    assert (config["width"], config["rank"], config["base"]) == (WIDTH, 3, "a toy")
    for again in (Head.from_pretrained(tmp_path), load_head(tmp_path), load_head(str(tmp_path))):
        assert torch.equal(again(*drawn()), head(*drawn())) and not again.training
        assert (again.width, again.rank, again.base) == (WIDTH, 3, "a toy")
    assert capsys.readouterr().out == ""
    assert not any(weight.requires_grad for weight in load_head(tmp_path).parameters())


def test_a_folder_is_read_once_and_again_when_it_changed(tmp_path):
    made(seed=1).save_pretrained(tmp_path)
    first = load_head(tmp_path)
    assert load_head(tmp_path) is first
    made(seed=2).save_pretrained(tmp_path)
    late = (tmp_path / WEIGHTS).stat().st_mtime_ns + 10**9  # a clock may be too coarse to tell two saves apart
    os.utime(tmp_path / WEIGHTS, ns=(late, late))
    assert torch.equal(load_head(tmp_path)(*drawn()), made(seed=2)(*drawn()))
    assert torch.equal(first(*drawn()), made(seed=1)(*drawn()))


def test_another_width_is_refused_with_both_and_the_remedy():
    wide = torch.randn(2, 7, 9)
    with pytest.raises(ValueError, match=r"beside a toy with embeddings of width 6, and those here have 9; train one"):
        made()(wide, torch.randn(2, 4, 9), drawn()[2])


@pytest.mark.parametrize("wrong", [{"width": 0}, {"width": 4, "rank": 0}])
def test_a_head_without_weights_is_refused(wrong):
    with pytest.raises(ValueError, match="nothing to learn; both must be at least 1"):
        Head(**wrong)


def truncated(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:200])


def config(**changes):
    def change(folder):
        told = json.loads((folder / CONFIG).read_text()) | changes
        (folder / CONFIG).write_text(json.dumps({name: value for name, value in told.items() if value is not None}))

    return change


READ = "cannot be read as a head", "train it anew, or name another"
BROKEN = {
    "no config": (lambda folder: (folder / CONFIG).unlink(), ("holds no config.json;", "simignore train --out")),
    "no weights": (
        lambda folder: (folder / WEIGHTS).unlink(),
        ("holds no model.safetensors;", "simignore train --out"),
    ),
    "truncated": (truncated, READ),
    "empty weights": (lambda folder: (folder / WEIGHTS).write_bytes(b""), READ),
    "another rank": (config(rank=5), ("size mismatch", *READ)),
    "another width": (config(width=5), ("size mismatch", *READ)),
    "no width": (config(width=None), ("width", *READ)),
    "rank in words": (config(rank="three"), READ),
    "no json": (lambda folder: (folder / CONFIG).write_text("{"), READ),
    "a list": (lambda folder: (folder / CONFIG).write_text("[]"), READ),
    "no text": (lambda folder: (folder / CONFIG).write_bytes(b"\xff\xfe"), READ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_that_is_no_head_is_told_with_reason_and_remedy(name, tmp_path):
    broken, said = BROKEN[name]
    made().save_pretrained(tmp_path)
    broken(tmp_path)
    with pytest.raises(ValueError) as told:
        load_head(tmp_path)
    for part in (str(tmp_path), *said):
        assert part in str(told.value)


def test_a_folder_that_is_nowhere_and_a_file_are_told(tmp_path):
    with pytest.raises(
        ValueError, match=r"absent' is no folder here; name one that `simignore train --out FOLDER` wrote"
    ):
        load_head(tmp_path / "absent")
    with pytest.raises(ValueError, match="'absent' is no folder here"):
        load_head("absent")
    with pytest.raises(
        ValueError, match="head=Head.* must be a folder or a name on the hub; write a head with save_pre"
    ):
        load_head(made())
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file' holds no config.json and no model.safetensors"):
        load_head(tmp_path / "file")


@pytest.mark.parametrize("name", ["some/absent-head", "./absent", "some/bad name"])
def test_a_name_that_the_hub_does_not_give(name, monkeypatch, tmp_path, capsys):
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=f"head '{name}' is no folder here, and the hub gave none of that name"):
        load_head(name)
    assert capsys.readouterr().out == ""


def test_the_bundled_head_fits_the_bundled_model():
    from simignore import tiny

    assert load_head().width == tiny.load()[0].get_input_embeddings().embedding_dim
