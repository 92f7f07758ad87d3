"""Batches: where the answer, the question and the regions are, on the bundled model and on another family's templates."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from zoo import CASES

import models
from processors import processor
from simignore import tiny
from simignore.tiny.model import scale_of
from simignore.tiny.scenes import patch_owner, render, sample_scene
from simignore.train import Example, Region, Scenes
from simignore.train.collator import Collator
from simignore.train.data import FIRST, _box, _draw


@pytest.fixture(scope="module")
def bundled():
    return tiny.load()


def blank(width: int = 32, height: int = 32) -> Image.Image:
    return Image.new("RGB", (width, height), (200, 30, 30))


OTHERS = [
    Example(blank, "What colour is the star?", "red"),
    Example(
        blank, "Which shape is left of the blue circle in this picture?", "square", ("star", "square"), None, "text"
    ),
    Example(blank, "Where is the cat?", "B", ("left", "right"), "a dog and a cat", "letter"),
]


def real(told: torch.Tensor, b: int, fill: int = -1) -> list[int]:
    return told[b][told[b] != fill].tolist()


def test_labels_are_the_answer_and_the_token_that_ends_it(bundled):
    model, made = bundled
    examples = list(Scenes(9))
    batch = Collator(model, made, ("question",))(examples)
    ids, labels = batch["inputs"]["input_ids"], batch["labels"]
    assert int((batch["inputs"]["attention_mask"] == 0).sum()) > 0
    for b, example in enumerate(examples):
        own = real(labels, b, -100)
        assert own[-1] == made.tokenizer.eos_token_id
        assert made.tokenizer.decode(own[:-1]).strip() == example.answer
        assert ids[b, -len(own) :].tolist() == own and bool((labels[b, : -len(own)] == -100).all())


def words_of(made, text: str) -> list[int]:
    return made.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_asking_are_the_places_of_the_question_and_the_query_is_the_span(bundled):
    model, made = bundled
    examples = list(Scenes(9))
    batch = Collator(model, made, ("question",))(examples)
    for b, example in enumerate(examples):
        own = batch["inputs"]["input_ids"][b, real(batch["asking"], b)].tolist()
        assert made.tokenizer.decode(own).strip() == made.tokenizer.decode(words_of(made, example.question)).strip()
        assert batch["query"][b][batch["query_valid"][b]].tolist() == own
    options = Collator(model, made, ("options",))(examples)
    for b, example in enumerate(examples):
        said = made.tokenizer.decode(options["query"][b][options["query_valid"][b]])
        assert all(option in said for option in example.options)
        assert example.question not in said


@pytest.mark.parametrize("template", ["vicuna", "turns"])
def test_other_templates_are_taken_apart_the_same_way(template):
    made = processor(template)
    batch = Collator(models.model(), made, ("question",))(OTHERS)
    ids, labels = batch["inputs"]["input_ids"], batch["labels"]
    ending = {"vicuna": "</s>", "turns": "<end>"}[template]
    assert int((batch["inputs"]["attention_mask"] == 0).sum()) > 0
    for b, example in enumerate(OTHERS):
        assert made.tokenizer.convert_ids_to_tokens(real(labels, b, -100)) == [example.answer, ending]
        own = ids[b, real(batch["asking"], b)].tolist()
        assert own == words_of(made, example.question)
        assert batch["query"][b][batch["query_valid"][b]].tolist() == own


def test_a_prompt_without_the_span_is_shown_by_its_question():
    made = processor()
    batch = Collator(models.model(), made, ("options",))(OTHERS)
    assert batch["query"][0][batch["query_valid"][0]].tolist() == words_of(made, OTHERS[0].question)
    shown = made.tokenizer.convert_ids_to_tokens(batch["query"][1][batch["query_valid"][1]])
    assert "star" in shown and "square" in shown and "blue" not in shown


def test_the_span_follows_from_the_words_alone(bundled):
    model, made = bundled
    collate, examples = Collator(model, made, ("question", "options", "user")), list(Scenes(12))
    batch, other = collate(examples), collate(examples[::-1])
    lengths = batch["query_valid"].sum(1).tolist()
    assert lengths == other["query_valid"].sum(1).tolist()[::-1]
    questions = [len(words_of(made, example.question)) for example in examples]
    assert 0 < sum(length == own for length, own in zip(lengths, questions, strict=True)) < 12


def things(scene) -> tuple:
    return tuple(Region(thing.name, _box(thing), n == 0) for n, thing in enumerate(scene.things))


def test_shown_patches_are_those_that_the_scenes_owner_map_gives_to_the_thing(bundled):
    """At each thing's middle; and nearly all patches of which the map gives most to a thing, and little of the background."""
    model, made = bundled
    scale, patch = scale_of(model), int(model.config.vision_config.patch_size)
    scenes = [sample_scene(FIRST + n) for n in range(6)]
    questions = ("What colour is the star?", "What is the shape of the object left of the large green circle here?")
    examples = [
        Example(partial(_draw, scene, scale), questions[n % 2], "red", regions=things(scene))
        for n, scene in enumerate(scenes)
    ]
    batch = Collator(model, made, ("question",), regions=True)(examples)
    assert int((batch["inputs"]["attention_mask"] == 0).sum()) > 0
    mostly = found = background = 0
    for b, scene in enumerate(scenes):
        _, owner = render(scene, scale)
        grid, owners, full = len(owner) // patch, patch_owner(owner, patch), patch_owner(owner, patch, 0.6)
        shows = batch["shows"][b].numpy()
        assert not batch["words_valid"][b, len(scene.things) :].any() and not shows[:, len(scene.things) :].any()
        for t, thing in enumerate(scene.things):
            said = made.tokenizer.decode(batch["words"][b, t][batch["words_valid"][b, t]])
            assert said.strip() == thing.name
            column, row = (int(end * scale / patch) for end in (thing.x, thing.y))
            middles = [(n + 0.5) * patch / scale for n in (column, row)]
            near = max(abs(middles[0] - thing.x), abs(middles[1] - thing.y)) < 0.8 * thing.radius
            if owners[row * grid + column] == t + 1 and near:  # nothing lies in front of it, and it is no ring
                assert shows[row * grid + column, t]
            if t == 0:
                assert batch["needed"][b].tolist() == shows[:, t].tolist()  # `things` says that the first one is needed
            mostly += int((full == t + 1).sum())
            found += int((shows[:, t] & (full == t + 1)).sum())
            background += int((shows[:, t] & (owners == 0)).sum())
    assert mostly > 40
    assert found > 0.85 * mostly and background < 0.25 * found


def test_a_region_holds_the_patches_whose_middles_are_inside():
    """Patches of 8 pixels on 32: middles at 1/8, 3/8, 5/8 and 7/8."""
    regions = (
        Region("star", (0.0, 0.3, 0.4, 0.7)),
        Region("cat", (0.8, 0.0, 1.0, 0.2)),
        Region("star", (0.6, 0.8, 0.7, 1.0)),
    )
    batch = Collator(models.model(), processor(), ("question",), regions=True)(
        [Example(blank, "What colour is the star?", "red", regions=regions), OTHERS[1]]
    )
    star = np.zeros((4, 4), bool)
    star[1:3, :2] = star[3, 2] = True
    cat = np.zeros((4, 4), bool)
    cat[0, 3] = True
    assert np.array_equal(batch["shows"][0, :, 0].view(4, 4).numpy(), star)
    assert np.array_equal(batch["shows"][0, :, 1].view(4, 4).numpy(), cat)
    assert not batch["shows"][1].any() and not batch["words_valid"][1].any()


def test_a_box_between_the_middles_has_the_patch_that_holds_its_own():
    """A thing of two pixels in the corner of the patch at row 2 and column 1, and a line across the picture's lower edge."""
    regions = (
        Region("star", (8 / 32, 16 / 32, 10 / 32, 18 / 32), needed=True),
        Region("line", (0.0, 31 / 32, 1.0, 1.0)),
    )
    example = Example(blank, "What colour is the star?", "red", regions=regions)
    batch = Collator(models.model(), processor(), ("question",), regions=True)([example])
    assert batch["shows"][0, :, 0].view(4, 4).nonzero().tolist() == [[2, 1]]
    assert batch["needed"][0].view(4, 4).nonzero().tolist() == [[2, 1]]
    assert batch["shows"][0, :, 1].view(4, 4).nonzero().tolist() == [[3, 2]]


def test_regions_follow_an_image_into_its_square():
    """An image twice as wide as high has the middle half of its square's rows; patches' middles are at 1/8, 3/8 ..."""
    wide = partial(blank, 64, 32)
    example = Example(wide, "What colour is the star?", "red", regions=(Region("star", (0.0, 0.0, 1.0, 0.5)),))
    batch = Collator(models.model(), processor(), ("question",), square=True, regions=True)([example])
    rows = batch["shows"][0, :, 0].view(4, 4).all(1).tolist()
    assert rows == [False, True, False, False]
    assert not bool(batch["shows"][0, :, 0].view(4, 4)[[0, 2, 3]].any())
    tall = Example(
        partial(blank, 32, 64), "What colour is the star?", "red", regions=(Region("star", (0.5, 0.0, 1.0, 1.0)),)
    )
    batch = Collator(models.model(), processor(), ("question",), square=True, regions=True)([tall])
    assert batch["shows"][0, :, 0].view(4, 4).tolist() == [[False, False, True, False]] * 4


def test_a_family_with_grids_of_its_own_and_no_chat_template():
    case = CASES["qwen2-vl"]
    made, model = case.shared_processor(), case.model()
    assert not getattr(made, "chat_template", None)
    sizes = [(24, 24), (48, 32)]
    examples = [
        Example(partial(blank, *size), question, answer, regions=(Region("star", (0.0, 0.0, 1.0, 0.5)),))
        for size, question, answer in zip(
            sizes, ("what colour is the star ?", "which shape is left of the cat ?"), ("red", "square"), strict=True
        )
    ]
    collate = Collator(model, made, ("question",), regions=True)
    collate.mark = str(case.image)  # this tiny processor's own word for an image
    batch = collate(examples)
    for b, example in enumerate(examples):
        own = batch["inputs"]["input_ids"][b, real(batch["asking"], b)].tolist()
        assert made.tokenizer.convert_ids_to_tokens(own) == example.question.split()
        assert made.tokenizer.convert_ids_to_tokens(real(batch["labels"], b, -100)) == [example.answer, "</s>"]
    assert batch["shows"][0, :9, 0].view(3, 3)[0].all() and not batch["shows"][0, :9, 0].view(3, 3)[2].any()
    assert batch["shows"][1, :24, 0].view(4, 6)[:2].all() and not batch["shows"][1, :24, 0].view(4, 6)[2:].any()
    assert not batch["shows"][0, 9:].any()


def test_a_processor_that_takes_the_prompt_apart_otherwise_is_refused(monkeypatch):
    made = processor()
    collate = Collator(models.model(), made, ("question",))
    genuine = made.tokenizer.convert_tokens_to_ids("colour")

    def other(self, **given):
        told = dict(genuine_call(**given))
        told["input_ids"] = told["input_ids"].masked_fill(told["input_ids"] == genuine, 4)
        return told

    genuine_call = made.__call__
    monkeypatch.setattr(type(made), "__call__", lambda self, **given: other(self, **given))
    with pytest.raises(ValueError, match="tokenises the prompt otherwise than its tokenizer does"):
        collate(OTHERS[:1])


def test_a_region_with_a_mask_holds_the_patches_that_it_covers_an_eighth_of():
    """Patches of 8 pixels on 32: eight pixels of one are an eighth, seven are not; the box is not read."""
    mask = np.zeros((32, 32), bool)
    mask[0, :8] = mask[8, :7] = mask[16:32, 20:28] = True
    example = Example(
        blank, "What colour is the star?", "red", regions=(Region("star", (0.0, 0.0, 1.0, 1.0), True, lambda: mask),)
    )
    batch = Collator(models.model(), processor(), ("question",), regions=True)([example])
    wanted = mask.reshape(4, 8, 4, 8).sum((1, 3)) >= 8
    assert wanted.sum() == 5
    assert batch["needed"][0].view(4, 4).tolist() == batch["shows"][0, :, 0].view(4, 4).tolist() == wanted.tolist()


def test_scenes_know_exactly_which_patches_a_question_needs():
    model, made = tiny.load()
    examples = [Scenes(28)[n] for n in range(28)]
    batch = Collator(model, made, ("question",), regions=True)(examples)
    for example, found in zip(examples, batch["needed"], strict=True):
        owners = patch_owner(render(example.image.args[0])[1])
        needs = [1 + n for n, region in enumerate(example.regions) if region.needed]
        wanted = np.isin(owners, needs)  # of two things on one patch the owner is the larger, and both are seen
        assert (found.numpy() & wanted).sum() == wanted.sum() and found.sum() <= 1.1 * wanted.sum() + 1
