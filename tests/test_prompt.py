"""Building a prompt: ScienceQA's wording to the letter, spans to the token, images from anywhere, and every bad input."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_utils import load_image
from zoo import CASES

import models
import processors
from simignore import build, preset
from simignore.answer import span_of
from simignore.prompt import open_image
from simignore.wording import wording

SHARED = Path(__file__).parents[2] / "shared" / "data" / "scienceqa" / "llava_test_CQM-A_image.json"
OPTIONS = ["red", "blue", "left of it"]


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "red.png"
    Image.new("RGB", (40, 32), "red").save(path)
    return path


@pytest.mark.parametrize("template", processors.TEMPLATES)
def test_spans_are_where_their_words_are(template, picture):
    processor = processors.processor(template)
    prompt = build(processor, picture, "What colour is the star?", context="this is a picture .", options=OPTIONS)

    def words(span):
        return " ".join(processor.tokenizer.convert_ids_to_tokens(prompt.query(span).tolist()))

    assert words("question") == "What colour is the star ?"
    assert words("options-plain") == "red blue left of it"
    assert words("options") == "( A ) red ( B ) blue ( C ) left of it"
    assert words("question+options") == words("question") + " " + words("options")
    assert words("context+question+options") == f"this is a picture . {words('question+options')}"
    assert words("user").startswith("Context : this is") and words("user").endswith("choices directly .")
    assert words("user") in words("prompt")
    assert words("simignore/llava-1.5-7b") == "<s> red blue left of it"
    assert words("simignore/llava-1.5-13b") == "<s> Options : ( A ) red ( B ) blue ( C ) left of it"
    assert words("auto") == words("question+options")
    assert torch.equal(
        build(processor, picture, "What is it?").query(), build(processor, picture, "What is it?").query("user")
    )
    ids = prompt.inputs["input_ids"][0]
    assert int((ids == models.IMAGE).sum()) == models.PATCHES
    for span, places in prompt.spans.items():
        assert torch.equal(ids[places], prompt.query(span)) and not bool((ids[places] == models.IMAGE).any())


def test_a_word_that_stands_twice_is_found_in_its_own_span(picture):
    prompt = build(processors.processor(), picture, "red", context="red", options=["red", "blue"])
    assert len(prompt.query("question")) == 1 and len(prompt.query("options-plain")) == 2
    assert int(prompt.spans["context+question"][0]) < int(prompt.spans["question"][0]) < int(prompt.spans["options"][0])


@pytest.mark.parametrize(
    ("template", "question"), [("vicuna", "A"), ("vicuna", "human"), ("turns", "assistant"), ("turns", "a")]
)
def test_words_that_the_template_holds_too(template, question, picture):
    """The user's text is where the user said it, not where the template says the same."""
    prompt = build(processors.processor(template), picture, question)
    images = (prompt.inputs["input_ids"][0] == models.IMAGE).nonzero()[:, 0]
    assert int(prompt.spans["question"][0]) > int(images[-1]) and len(prompt.spans["question"]) == 1
    assert int(prompt.spans["question"][-1]) < prompt.inputs["input_ids"].shape[1] - 1


@pytest.mark.parametrize("change", ["upper", "replace('?', '!')"])
def test_a_template_that_changes_the_text_is_refused(change, picture):
    processor = processors.processor()
    processor.chat_template = processor.chat_template.replace("{{ c['text'] }}", "{{ c['text'] | " + change + " }}")
    with pytest.raises(ValueError, match="changes the user's text"):
        build(processor, picture, "What is it?")


def test_the_published_presets_name_their_spans(picture):
    prompt = build(processors.processor(), picture, "What is it?", options=OPTIONS)
    for name in ("simignore/llava-1.5-7b", "simignore/llava-1.5-13b"):
        assert span_of(preset(name)) == name and len(prompt.query(span_of(preset(name)))) > 1
    with pytest.raises(KeyError, match=r"no preset 'nothing'; there are .*simignore/llava-1\.5-7b"):
        preset("nothing")


def test_a_span_that_is_not_there_is_named(picture):
    prompt = build(processors.processor(), picture, "What is it?")
    with pytest.raises(KeyError, match="no span 'options' .it has no options.; it has question, user, prompt"):
        prompt.query("options")
    with pytest.raises(KeyError, match="has no options"):
        prompt.query("simignore/llava-1.5-7b")


def test_wording_is_scienceqa_s():
    text, _ = wording("What is the name of the colony shown?", options=["Maryland", "Vermont"])
    assert text == (
        "Context: N/A\nQuestion: What is the name of the colony shown?\nOptions: (A) Maryland (B) Vermont\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert wording(" What is it? ")[0] == "What is it?"
    assert wording("What?", context="a cat")[0] == "Context: a cat\nQuestion: What?"
    assert wording("What?", options=["a", "b"], answer="text")[0].endswith("\nAnswer with the option's text.")


@pytest.mark.skipif(not SHARED.exists(), reason="the real ScienceQA questions are not on this machine")
def test_wording_equals_the_published_prompts():
    """Rebuilt from their parts, 2,017 published prompts come out to the letter."""
    records = json.loads(SHARED.read_text())
    for record in records:
        published = record["conversations"][0]["value"].replace("<image>", "").strip()
        context, rest = published.removeprefix("Context: ").split("\nQuestion: ", 1)
        question, line = rest.rsplit("\nOptions: ", 1)
        options, letter = [], "A"
        line = line.removeprefix("(A) ")
        while (following := f" ({chr(ord(letter) + 1)}) ") in line:
            option, line = line.split(following, 1)
            options.append(option)
            letter = chr(ord(letter) + 1)
        options.append(line)
        if len(options) < 2 or any(option != option.strip() for option in options) or question != question.strip():
            continue
        built, _ = wording(question, context=context, options=options)
        assert built.rsplit("\n", 1)[0] == published.rstrip(), record["id"]


def test_several_images_and_none(picture):
    processor = processors.processor()
    two = build(processor, [picture, Image.new("RGB", (32, 50))], "What is it?")
    assert int((two.inputs["input_ids"] == models.IMAGE).sum()) == 2 * models.PATCHES and len(two.images) == 2
    none = build(processor, None, "What is it?")
    assert "pixel_values" not in none.inputs


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (dict(question="  "), "question is empty"),
        (dict(options=[str(i) for i in range(27)]), "27 options are more than the 26 letters"),
        (dict(options=["red", " "]), "at least two, none of them empty"),
        (dict(options=["red"]), "at least two"),
        (dict(options="red,blue"), "must be text, and options 'red,blue' a list of texts"),
        (dict(options=["red", 3]), "a list of texts"),
        (dict(question=None), "question None must be text"),
        (dict(options=["a", "b"], answer="number"), "answer='number' is none of 'letter'"),
    ],
)
def test_bad_questions(more, message, picture):
    with pytest.raises(ValueError, match=message):
        build(processors.processor(), picture, **{"question": "What?", **more})


def test_a_processor_without_a_chat_template_gets_images_and_words(picture):
    processor = processors.processor()
    processor.chat_template = None
    prompt = build(processor, picture, "What colour is this?")
    assert prompt.text == "<image>What colour is this?"
    assert " ".join(processor.tokenizer.convert_ids_to_tokens(prompt.query("question"))) == "What colour is this ?"


@pytest.mark.parametrize("name", ["paligemma", "blip-2", "gemma3", "aya-vision"])
def test_words_are_found_whatever_the_processor_puts_around_them(name):
    """PaliGemma's adds a begin token behind the image and a line end behind the words; others markers and tiles."""
    case = CASES[name]
    processor = copy.copy(case.shared_processor())
    processor.chat_template = None
    prompt = build(processor, Image.new("RGB", (60, 30)), "what colour is the star ?")
    said = processor.tokenizer.convert_ids_to_tokens(prompt.query("question"))
    assert said == ["what", "colour", "is", "the", "star", "?"]


def test_bad_images(tmp_path, picture, monkeypatch):
    def bad(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    whole = picture.read_bytes()
    with pytest.raises(ValueError, match=r"no image file at .*nothing\.png"):
        open_image(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match=r"text\.png cannot be read as an image"):
        open_image(bad("text.png", b"not an image"))
    with pytest.raises(ValueError, match=r"half\.png cannot be read as an image .*truncated"):
        open_image(bad("half.png", whole[: len(whole) // 2]))
    with pytest.raises(ValueError, match=r"empty\.png cannot be read"):
        open_image(bad("empty.png", b""))
    with pytest.raises(ValueError, match="no image file"):
        open_image(tmp_path)
    with pytest.raises(ValueError, match="0 x 5 pixels"):
        open_image(Image.new("RGB", (0, 5)))
    monkeypatch.setattr("simignore.images.MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match="1280 pixels|40 x 32 pixels, more than 1,000; scale it down"):
        open_image(picture)
    monkeypatch.undo()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="too large to open safely"):
        open_image(picture)


def test_odd_but_good_images(tmp_path):
    for mode in ("L", "RGBA", "P", "1", "CMYK", "I;16"):
        path = tmp_path / f"{mode.replace(';', '')}.tif"
        Image.new(mode, (9, 7)).save(path)
        assert open_image(path).mode == "RGB"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_camera_says(tmp_path, orientation):
    drawn = Image.new("RGB", (40, 20), "blue")
    drawn.paste("red", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    drawn.save(tmp_path / "a.png", exif=exif)
    expected = load_image(str(tmp_path / "a.png"))
    assert expected.size == ((20, 40) if orientation > 4 else (40, 20))
    found = open_image(tmp_path / "a.png")
    assert found.tobytes() == expected.tobytes() and found.size == expected.size
    assert open_image(found).tobytes() == found.tobytes()  # turned once
    with Image.open(tmp_path / "a.png") as opened:  # as processors take it, which turn nothing that is open
        assert open_image(opened).tobytes() == drawn.tobytes()


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_grey_in_sixteen_bits_keeps_its_shades(tmp_path, name):
    values = [0, 1, 128, 129, 257, 20000, 32768, 65406, 65407, 65535]
    array = np.array([values], dtype=np.uint16)
    Image.fromarray(array).save(tmp_path / name)
    with Image.open(tmp_path / name) as opened:
        assert opened.mode.startswith("I;16")
    found = np.asarray(open_image(tmp_path / name))
    assert found.shape == (1, len(values), 3)
    assert found[0, :, 0].tolist() == [int(value / 257 + 0.5) for value in values]
    Image.new("I;16B", (2, 1), 65535).save(tmp_path / "b.tif")
    assert open_image(tmp_path / "b.tif").getpixel((0, 0)) == (255, 255, 255)


def test_a_truncated_image_is_refused_though_another_package_lets_them_pass(tmp_path, monkeypatch):
    from PIL import ImageFile

    Image.effect_noise((64, 64), 50).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:900])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ValueError, match="may be truncated"):
        open_image(tmp_path / "a.png")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True  # as it was
