"""What can be explained, and what is told where it cannot."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from zoo import CASES, Sample, picture

import models
from simignore import tiny
from simignore.families import UnsupportedModelError
from simignore.flow.asked import _said, asked, told
from simignore.flow.plain import plain
from simignore.prompt import build
from simignore.types import Grid, Patches, Selection


def test_the_answer_is_the_models_own_without_its_end_mark():
    model, processor = tiny.load()
    prompt = build(processor, tiny.example(), tiny.EXAMPLE_QUESTION, options=tiny.EXAMPLE_OPTIONS, answer="text")
    found = asked(model, prompt, processor, 8, 16)
    out = model.generate(**prompt.inputs, do_sample=False, max_new_tokens=8)[0, prompt.inputs["input_ids"].shape[1] :]
    assert found.text == processor.decode(out, skip_special_tokens=True).strip()
    assert int(out[-1]) == model.generation_config.eos_token_id and found.answer.tolist() == out[:-1].tolist()
    assert (
        found.image.tolist() == (prompt.inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0].tolist()
    )


def test_a_long_answer_is_cut_and_counted():
    found = asked(models.model(), models.batch(models.prompt()), None, 6, 4)
    assert len(found.answer) == 4 and found.cut == 2


def test_an_answer_of_end_marks_alone_keeps_the_first():
    assert _said(torch.tensor([2, 0, 0]), frozenset({0, 2})).tolist() == [2]
    assert _said(torch.tensor([7, 2, 9, 2, 0]), frozenset({0, 2})).tolist() == [7, 2, 9]


@pytest.mark.parametrize(
    "inputs, words",
    [
        (models.batch(models.prompt(), models.prompt()), "one prompt is explained at a time, and input_ids has 2 rows"),
        (models.batch(torch.arange(3, 9)), "holds no image"),
        ({"pixel_values": torch.zeros(1)}, "needs the prompt's token ids, and got dict with ['pixel_values']"),
        ("photo.png", "needs the prompt's token ids, and got str"),
        ({**models.batch(models.prompt()), "past_key_values": object()}, "pass that without a cache"),
        (
            {**models.batch(models.prompt()), "attention_mask": torch.tensor([[0] + [1] * 25])},
            "pass the prompt without padding",
        ),
    ],
)
def test_what_cannot_be_explained_says_why(inputs, words):
    with pytest.raises(ValueError) as error:
        asked(models.model(), inputs, None, 4, 4)
    assert words in str(error.value)


def test_nothing_to_explain_is_refused():
    with pytest.raises(ValueError, match="most=0"):
        asked(models.model(), models.batch(models.prompt()), None, 4, 0)


def test_a_decoder_without_attention_is_refused(monkeypatch):
    import simignore.flow.asked as room

    real = room.parts(models.model())
    monkeypatch.setattr(room, "parts", lambda _: type("P", (), {**vars(real), "attentions": (None,) * 4})())
    with pytest.raises(UnsupportedModelError, match="no layer of this 'llava' decoder has attention"):
        asked(models.model(), models.batch(models.prompt()), None, 4, 4)


def test_placeholders_never_get_into_an_answer():
    case = CASES["llava-clip-llama"]
    model, inputs = case.model(), case.inputs(Sample(images=(picture(48, 48),)))
    token = model.config.image_token_id
    hook = model.lm_head.register_forward_hook(lambda _, __, out: out.index_fill(-1, torch.tensor([token]), 1e4))
    try:
        assert token not in asked(model, inputs, None, 5, 5).answer.tolist()
    finally:
        hook.remove()


def test_probabilities_are_the_softmax_and_runners_up_leave_the_answer_out():
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0], [0.0, 0.0, 5.0, 1.0]])
    first, second = told(torch.tensor([2, 2]), logits, None)
    whole = sum(math.exp(x) for x in (1, 3, 2, 0))
    assert first.probability == pytest.approx(math.exp(2) / whole)
    assert [name for name, _ in first.runners_up] == ["#1", "#0", "#3"]
    assert first.runners_up[0][1] == pytest.approx(math.exp(3) / whole)
    assert second.text == "#2" and len(second.runners_up) == 3


def test_plain_types_survive_json_and_what_is_not_a_number_is_null():
    place = torch.tensor([[0, 0]])
    patches = Patches(((Grid(1, 2, 0),),), place, place, torch.tensor([[0, 1]]))
    chosen = Selection(torch.tensor([[1, -1]]), torch.tensor([[-1, 1]]), torch.tensor([[float("nan"), 0.5]]))
    found = plain({"a": np.array([1.0, np.nan, np.inf]), "p": patches, "s": chosen, "n": np.int64(3), 5: (1, None)})
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["a"] == [1.0, None, None] and found["n"] == 3 and found["5"] == [1, None]
    assert found["s"] == {"index": [1], "source": [-1, 1], "score": [None, 0.5]}
    assert found["p"]["grids"][0]["columns"] == 2 and found["p"]["column"] == [0, 1]
