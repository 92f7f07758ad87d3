"""The default query: the user's own words, told from the chat template's, in one turn or several, for any batch."""

from __future__ import annotations

import copy

import pytest
import torch
from PIL import Image
from zoo import CASES, picture

import models
import processors
from simignore import Simignore
from simignore.parts import parts
from simignore.query import Template, find_template
from simignore.splice.reading import read

PICTURE = Image.new("RGB", (40, 32), "red")


def user(*parts):
    content = [{"type": "image"} if part is PICTURE else {"type": "text", "text": part} for part in parts]
    return {"role": "user", "content": content}


def said(text):
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def words(processor, messages, prompt=True, **more):
    """The default query of a rendered conversation, as words."""
    text = processor.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)
    images = [PICTURE for message in messages for part in message["content"] if part["type"] == "image"]
    ids = processor(images=images or None, text=text, return_tensors="pt", **more)["input_ids"][0].tolist()
    runs = sum(a != models.IMAGE and b == models.IMAGE for a, b in zip([0, *ids], ids, strict=False))
    template = Template(processor, models.IMAGE)
    own = template.user_text([token for token in ids if token != models.IMAGE], runs)
    return " ".join(processor.tokenizer.convert_ids_to_tokens(own))


@pytest.mark.parametrize("template", processors.TEMPLATES)
@pytest.mark.parametrize("images", [0, 1, 2])
def test_one_turn(template, images):
    processor = processors.processor(template)
    assert words(processor, [user(*[PICTURE] * images, "What is left of the star?")]) == "What is left of the star ?"


@pytest.mark.parametrize("template", ["vicuna", "turns"])
def test_only_the_last_user_turn_counts(template):
    processor = processors.processor(template)
    chat = [user(PICTURE, "What colour is the cat?"), said("red"), user("Where is the dog in this picture?")]
    assert words(processor, chat) == "Where is the dog in this picture ?"
    longer = [*chat, said("left"), user("how many are there?")]
    assert words(processor, longer) == "how many are there ?"


@pytest.mark.parametrize("template", ["vicuna", "turns"])
def test_an_answer_that_follows_is_not_the_users(template):
    """Training passes prompt and answer in one sequence."""
    processor = processors.processor(template)
    assert words(processor, [user(PICTURE, "What colour is the cat?"), said("blue . it is blue")], prompt=False) == (
        "What colour is the cat ?"
    )


def test_the_users_words_may_be_those_of_the_template():
    processor = processors.processor("vicuna")
    question = "a human and a cat : What is between ASSISTANT and USER ?"
    assert words(processor, [user(PICTURE, question)]).startswith("a human and a cat :")


def test_several_lines_stay_whole():
    processor = processors.processor("turns")
    assert words(processor, [user(PICTURE, "Question: What is it?\nOptions: (A) red (B) blue\nAnswer")]) == (
        "Question : What is it ? \n Options : ( A ) red ( B ) blue \n Answer"
    )


def test_through_a_model_found_beside_its_weights(tmp_path):
    """A saved model with its processor: the default query is the user's text, equal to giving it; per sample in a batch."""
    processor, model = processors.processor(), models.fresh()
    model.save_pretrained(tmp_path), processor.save_pretrained(tmp_path)
    model = type(model).from_pretrained(tmp_path).eval()
    assert find_template(str(tmp_path), models.IMAGE) is not None and find_template("", models.IMAGE) is None
    assert find_template(str(tmp_path / "nothing"), models.IMAGE) is None
    texts = ["What colour is the star?", "how many are there in this picture?"]
    rendered = [
        processor.apply_chat_template([user(PICTURE, text)], add_generation_prompt=True, tokenize=False)
        for text in texts
    ]
    inputs = processor(images=[PICTURE] * 2, text=rendered, padding=True, return_tensors="pt")
    given = [processor.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0] for text in texts]
    with torch.no_grad():
        with Simignore(keep=4)(model) as found:
            model(**inputs)
        with Simignore(keep=4)(model, query=given) as explicit:
            model(**inputs)
        with Simignore(keep=4)(models.model(), processor=processor) as passed:
            models.model()(**inputs)
    assert (found.query, explicit.query, passed.query) == ("user text", "given", "user text")
    assert torch.equal(found.selections[0].index, explicit.selections[0].index)
    torch.testing.assert_close(found.selections[0].score, explicit.selections[0].score)


def test_a_tokenizer_that_knows_no_words_is_refused():
    class Deaf:
        all_special_ids, bos_token_id, unk_token_id = [], 1, 3

        def __call__(self, text, **_):
            return {"input_ids": [3] * len(text.split())}

    processor = type("P", (), {"tokenizer": Deaf()})()
    with pytest.raises(ValueError, match="pass query=ids"):
        Template(processor, models.IMAGE)


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.image and not case.options and name != "smolvlm"]
)
def test_the_users_words_are_found_behind_whatever_a_processor_makes_of_an_image(name):
    """Tiles, markers, row ends and line ends that stand for the image are not the user's words."""
    case = CASES[name]
    processor = copy.copy(case.shared_processor())
    processor.chat_template = (
        "<s>user : {% for c in messages[0]['content'] %}{% if c['type'] == 'image' %}"
        + case.image
        + "{% else %}{{ c['text'] }}{% endif %}{% endfor %} assistant :"
    )
    p = parts(case.model())
    for images in (1, 2):
        content = [{"type": "image"}] * images + [{"type": "text", "text": "what is left of the star ?"}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        inputs = processor(text=[text], images=[[picture(*case.sizes[-1])] * images], return_tensors="pt")
        laid = read(p, inputs)
        own = Template(processor, p.image_token).user_text(laid.text(0), laid.images[0])
        assert processor.tokenizer.convert_ids_to_tokens(own) == ["what", "is", "left", "of", "the", "star", "?"]


def test_a_processor_that_is_saved_later_is_found(tmp_path):
    assert find_template(str(tmp_path), models.IMAGE) is None
    models.fresh().config.save_pretrained(tmp_path), processors.processor().save_pretrained(tmp_path)
    found = find_template(str(tmp_path), models.IMAGE)
    assert found is not None and find_template(str(tmp_path), models.IMAGE) is found


def test_queries_are_shared_by_what_repeats_a_prompt_only():
    """Beams and samples do; a batch of four other prompts does not."""
    model, one, two = models.model(), torch.tensor([7, 8]), torch.tensor([9])
    prompts = [models.prompt(seed=seed) for seed in range(4)]
    with torch.no_grad():
        with Simignore(keep=4)(model, query=[one, two]), pytest.raises(ValueError, match="2 entries for a batch of 4"):
            model(**models.batch(*prompts))
        inputs = models.batch(*prompts[:2])
        with Simignore(keep=4)(model, query=[one, two]) as plain:
            model(**inputs)
        with Simignore(keep=4)(model, query=[one, two]) as beams:
            model.generate(**inputs, max_new_tokens=2, num_beams=3, do_sample=False)
        with Simignore(keep=4)(model, query=[one]) as single:
            model(**models.batch(*prompts))
    expected = plain.selections[0].index.repeat_interleave(3, 0)
    assert torch.equal(beams.selections[0].index, expected) and len(single.selections[0].index) == 4
