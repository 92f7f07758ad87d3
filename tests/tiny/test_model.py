"""The bundled folder is a Hugging Face model like any other, and it answers."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionModel,
    LlamaModel,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from simignore import tiny
from simignore.tiny.evaluate import answer, evaluate, items, share
from simignore.tiny.model import TINY
from simignore.tiny.pictures import normalise
from simignore.tiny.prompts import option_prompt
from simignore.tiny.questions import Question
from simignore.tiny.scenes import render, sample_scene


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return tiny.load()


def test_importing_it_is_light() -> None:
    code = "import sys, simignore.tiny; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_folder_holds_genuine_classes() -> None:
    model = AutoModelForImageTextToText.from_pretrained(tiny.folder())
    assert type(model) is LlavaForConditionalGeneration and model.dtype == torch.bfloat16
    assert type(model.model.vision_tower) is CLIPVisionModel and type(model.model.language_model) is LlamaModel
    assert type(AutoProcessor.from_pretrained(tiny.folder())) is LlavaProcessor
    assert (tiny.folder() / "model.safetensors").stat().st_size <= 24e6
    assert 144 <= TINY.patches <= 256


def test_load_gives_float32_in_eval_mode(loaded: tuple[Any, Any]) -> None:
    assert loaded[0].dtype == torch.float32 and not loaded[0].training


def test_a_missing_folder_is_named(tmp_path: Any) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        tiny.load(path=tmp_path)


def test_the_processor_gives_the_pixels_of_training(loaded: tuple[Any, Any]) -> None:
    picture, _ = render(sample_scene(0))
    seen = loaded[1](text="<image>", images=picture, return_tensors="pt")
    drawn = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(1, TINY.side, TINY.side, 3)
    torch.testing.assert_close(seen["pixel_values"], normalise(drawn))


IMAGE = {"type": "image"}
ASK = {"type": "text", "text": "What colour is the star?"}
CHATS = {
    "one image": ([{"role": "user", "content": [IMAGE, ASK]}], 1),
    "text before image": ([{"role": "user", "content": [ASK, IMAGE]}], 1),
    "two images": ([{"role": "user", "content": [IMAGE, IMAGE, ASK]}], 2),
    "no image": ([{"role": "user", "content": [ASK]}], 0),
    "plain string": ([{"role": "user", "content": "What colour is the star?"}], 0),
    "system": ([{"role": "system", "content": "Look at the image."}, {"role": "user", "content": [IMAGE, ASK]}], 1),
    "two turns": (
        [
            {"role": "user", "content": [IMAGE, ASK]},
            {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
            {"role": "user", "content": "What shape is the blue object?"},
        ],
        1,
    ),
}


@pytest.mark.parametrize("case", CHATS)
def test_chats_run(loaded: tuple[Any, Any], case: str) -> None:
    model, processor = loaded
    chat, count = CHATS[case]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert text.endswith(" ASSISTANT:") and text.count("<image>") == count
    pictures = [render(sample_scene(seed))[0] for seed in range(count)]
    inputs = processor(text=text, images=pictures or None, return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_index).sum() == count * TINY.patches
    assert inputs["input_ids"][0, 0] == processor.tokenizer.bos_token_id
    assert model.generate(**inputs, max_new_tokens=2).shape[1] > inputs["input_ids"].shape[1]


def test_the_template_spells_out_a_chat(loaded: tuple[Any, Any]) -> None:
    text = loaded[1].apply_chat_template(CHATS["two turns"][0], add_generation_prompt=True)
    assert text == (
        "USER: <image>\nWhat colour is the star? ASSISTANT: red</s>USER: What shape is the blue object? ASSISTANT:"
    )


def test_it_answers_the_example_both_ways(loaded: tuple[Any, Any]) -> None:
    with Image.open(tiny.example()) as picture:
        picture.load()
    options = tiny.EXAMPLE_OPTIONS
    asked = Question("number", tiny.EXAMPLE_QUESTION, options, options[0], ())
    prompts = [asked.question, option_prompt(asked, False)]
    assert answer(*loaded, [picture] * 2, prompts) == [options[0]] * 2


@pytest.mark.parametrize(("form", "floor"), [("text", 0.76), ("letter", 0.76), ("free", 0.72)])
def test_it_answers_new_questions(loaded: tuple[Any, Any], form: str, floor: float) -> None:
    """Floors leave room for chance: at least three standard errors of 84 questions below results/tiny.json."""
    assert evaluate(*loaded, items(form, per_kind=6, seed=9))["all"]["accuracy"] >= floor


def test_items_are_reproducible_and_apart() -> None:
    one = items("text", 5)
    assert one == items("text", 5)
    assert len({item.scene for item in one}) == len(one)
    assert not {item.scene for item in one} & {item.scene for item in items("text", 5, seed=1)}
    with pytest.raises(ValueError, match="seed 10"):
        items("text", 5, seed=10)


def test_wilson_interval_of_a_textbook_case() -> None:
    counted = share([True] * 81 + [False] * 182)
    assert counted["interval"] == pytest.approx([0.2553, 0.3662], abs=1e-4)
