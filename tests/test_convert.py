"""Original checkpoints in the transformers layout: the same numbers, every tensor accounted for, whole or not at all."""

import json

import numpy as np
import originals
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Metaspace
from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPVisionModel, PreTrainedTokenizerFast

from simignore.convert import convert, shards, words
from simignore.convert.head import fold_bias, grow, unfuse

PIXELS = torch.randn(1, 3, originals.SIDE, originals.SIDE, generator=torch.Generator().manual_seed(0))
BEFORE, AFTER = [1, 5, 9, 7], [12, 4, 30, 21, 8]


def load(folder):
    """The model and processor as a user loads them; nothing may be missing, left over or initialised."""
    model, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert {name: list(found) for name, found in info.items() if found} == {}
    return model.eval(), AutoProcessor.from_pretrained(folder)


@torch.no_grad()
def expected(original: originals.Original) -> torch.Tensor:
    """Logits of the original about words, an image and words, put together as its own code does: by embeddings."""
    merger = original.model.model
    features = merger.get_image_features(PIXELS, return_dict=True).pooler_output[0]
    embed = merger.get_input_embeddings()
    parts = [embed(torch.tensor(BEFORE)), features, embed(torch.tensor(AFTER))]
    hidden = merger.language_model(inputs_embeds=torch.cat(parts)[None]).last_hidden_state
    return original.model.lm_head(hidden) + original.state.get("lm_head.bias", torch.zeros(()))


@torch.no_grad()
def converted(folder, original: originals.Original) -> torch.Tensor:
    """The same of the converted model, for the tokens that the original has."""
    model, _ = load(folder)
    ids = torch.tensor([[*BEFORE, *[model.config.image_token_id] * 16, *AFTER]])
    logits = model(input_ids=ids, pixel_values=PIXELS).logits
    return logits[..., : original.model.config.text_config.vocab_size]


@pytest.fixture
def tower(tmp_path):
    return originals.save_tower(tmp_path / "clip", originals.llava().model)


@pytest.mark.parametrize("container", originals.CONTAINERS)
@pytest.mark.parametrize("own_tower", [True, False])
def test_llava_gives_the_same_logits_to_the_bit(tmp_path, tower, container, own_tower):
    original = originals.llava(own_tower)
    report = convert(original.save(tmp_path / "llava", container), tmp_path / "out", vision_tower=tower)
    assert torch.equal(converted(tmp_path / "out", original), expected(original))
    assert report.mapped == {"language model": 2 * 9 + 3, "projector": 4, "vision tower": 3 * 16 + 7}
    assert report.dropped["rotary table, computed from the config"] == 2


def test_a_tower_that_was_trained_along_wins_over_the_one_that_is_named(tmp_path, tower):
    original = originals.llava()
    with torch.no_grad():
        for name, tensor in original.state.items():
            if "vision_tower" in name and tensor.is_floating_point():
                tensor.mul_(1.5)
    report = convert(original.save(tmp_path / "llava"), tmp_path / "out", vision_tower=tower)
    assert torch.equal(converted(tmp_path / "out", original), expected(original))
    assert any("its weights are those of" in note for note in report.notes)


def test_a_config_that_transformers_saved_once_is_still_an_originals(tmp_path, tower):
    original = originals.llava(text_config={"model_type": "llama"}, image_token_index=32000)
    convert(original.save(tmp_path / "llava"), tmp_path / "out", vision_tower=tower)
    assert torch.equal(converted(tmp_path / "out", original), expected(original))


def test_the_vision_half_alone_will_do(tmp_path):
    original = originals.llava(tower=False)
    folder = tmp_path / "clip-vision"
    half = CLIPVisionModel(original.model.config.vision_config)
    half.load_state_dict(original.model.model.vision_tower.state_dict())
    half.save_pretrained(folder)
    convert(original.save(tmp_path / "llava"), tmp_path / "out", vision_tower=folder)
    assert torch.equal(converted(tmp_path / "out", original), expected(original))


@pytest.mark.parametrize("container", ["safetensors in shards", "bin"])
@pytest.mark.parametrize("fused", [False, True])
def test_mipha_gives_the_same_logits_to_the_bit(tmp_path, container, fused):
    original = originals.mipha(fused=fused)
    report = convert(original.save(tmp_path / "mipha", container), tmp_path / "out")
    assert torch.equal(converted(tmp_path / "out", original), expected(original))
    assert report.rows == (originals.KNOWN + 20, originals.KNOWN + 20) and report.fused == (4 if fused else 0)
    assert report.dropped == {"bias of the head, all of it zero": 1} and report.folded == 0


def test_the_bias_of_miphas_head_is_kept_though_the_target_has_none(tmp_path):
    original = originals.mipha(bias=3.0)
    report = convert(original.save(tmp_path / "mipha"), tmp_path / "out")
    told, wanted = converted(tmp_path / "out", original), expected(original)
    torch.testing.assert_close(told, wanted, atol=2e-5, rtol=2e-5)
    without = wanted - original.state["lm_head.bias"]
    assert (told - without).abs().max() > 3  # it matters
    assert report.folded == 1 and any("lm_head.bias" in note for note in report.notes)


def test_llava_phi_and_a_siglip_without_pooling_head(tmp_path):
    original = originals.mipha(bias=1.0, fused=True, model_type="llava_phi")
    for name in [name for name in original.state if ".head." in name]:
        del original.state[name]
    convert(original.save(tmp_path / "llava-phi"), tmp_path / "out")
    torch.testing.assert_close(converted(tmp_path / "out", original), expected(original), atol=2e-5, rtol=2e-5)


@given(seed=st.integers(0, 10**6), width=st.integers(2, 40), scale=st.sampled_from([0.1, 1.0, 30.0]))
@settings(max_examples=40, deadline=None)
def test_a_folded_bias_gives_the_logits_of_any_hidden_state(seed, width, scale):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    weight, bias, gamma, beta, hidden = draw(11, width), draw(11) * scale, draw(width), draw(width), draw(7, width)
    gamma[0] = 0.0  # a dead channel must not be divided by
    norm = lambda a, b: torch.nn.functional.layer_norm(hidden, (width,), a, b)  # noqa: E731
    head, one, shift = fold_bias(weight, bias, gamma, beta)
    torch.testing.assert_close(norm(one, shift) @ head.T, norm(gamma, beta) @ weight.T + bias, atol=1e-9, rtol=1e-9)


def test_cutting_a_fused_attention_apart_by_hand():
    rows = torch.tensor([0, 1, 10, 11, 20, 21, 2, 3, 12, 13, 22, 23])  # q q k k v v of two heads of width two
    assert [part.tolist() for part in unfuse(rows, 2)] == [[0, 1, 2, 3], [10, 11, 12, 13], [20, 21, 22, 23]]


def test_new_tokens_get_the_mean_and_are_never_the_likeliest(tmp_path, tower):
    original = originals.llava()
    report = convert(original.save(tmp_path / "llava"), tmp_path / "out", vision_tower=tower)
    before, after = report.rows
    assert (before, after) == (originals.KNOWN, 64)
    assert report.tokens == {"<image>": before, "<pad>": before + 1}
    model, processor = load(tmp_path / "out")
    for table, old in (
        (model.get_input_embeddings().weight, original.model.get_input_embeddings().weight),
        (model.lm_head.weight, original.model.lm_head.weight),
    ):
        assert torch.equal(table[:before], old)
        torch.testing.assert_close(table[before:], old.mean(0).expand(after - before, -1))
    hidden = torch.randn(200, 32) * 5
    assert (hidden @ model.lm_head.weight.T).argmax(1).max() < before
    assert (processor.tokenizer.pad_token, processor.tokenizer.padding_side) == ("<pad>", "left")
    assert (model.config.image_token_id, model.generation_config.eos_token_id) == (before, 2)
    assert grow(torch.zeros(2, 3), 2).shape == (2, 3)


def test_a_tokenizer_that_has_both_tokens_gets_none(tmp_path, tower):
    original = originals.llava()
    original.tokenizer.add_special_tokens({"pad_token": "<own>", "additional_special_tokens": ["<image>"]})
    made = originals.model("llava", originals.KNOWN + 2)
    original = originals.Original(made, originals.llava_state(made), originals.llava_config(made), original.tokenizer)
    report = convert(original.save(tmp_path / "llava"), tmp_path / "out", vision_tower=tower)
    assert report.tokens == {} and report.rows[0] == report.rows[1]
    assert load(tmp_path / "out")[1].tokenizer.pad_token == "<own>"


@pytest.mark.parametrize(
    ("said", "asked", "written"), [("bfloat16", None, "bfloat16"), ("float16", "float32", "float32")]
)
def test_dtypes(tmp_path, said, asked, written):
    report = convert(originals.mipha(1.0, torch_dtype=said).save(tmp_path / "mipha"), tmp_path / "out", dtype=asked)
    assert report.dtype == written
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto")
    assert {str(p.dtype) for p in model.parameters()} == {f"torch.{written}"}


def test_large_models_are_written_in_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(shards.Writer, "__init__", _with_limit(shards.Writer.__init__, 20_000))
    original = originals.mipha()
    report = convert(original.save(tmp_path / "mipha"), tmp_path / "out")
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert (
        json.loads((tmp_path / "out/model.safetensors.index.json").read_text())["metadata"]["total_size"] == report.size
    )
    assert torch.equal(converted(tmp_path / "out", original), expected(original))


def _with_limit(init, limit):
    return lambda self, folder: init(self, folder, limit)


SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)


def test_the_prompt_is_worded_as_the_original_words_it(tmp_path):
    convert(originals.mipha().save(tmp_path / "mipha"), tmp_path / "out")
    _, processor = load(tmp_path / "out")
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]
    rendered = lambda turns, more: processor.apply_chat_template(turns, add_generation_prompt=more)  # noqa: E731
    assert rendered(chat, True) == f"{SYSTEM}USER: <image>\nWhat is this? ASSISTANT:"
    chat += [
        {"role": "assistant", "content": [{"type": "text", "text": "A star."}]},
        {"role": "user", "content": "Red?"},
    ]
    asked = f"{SYSTEM}USER: <image>\nWhat is this? ASSISTANT: A star.</s>USER: Red? "
    assert rendered(chat, False) == asked and rendered(chat, True) == f"{asked}ASSISTANT:"
    assert rendered([{"role": "system", "content": "Hush."}, chat[-1]], True) == "Hush. USER: Red? ASSISTANT:"


@torch.no_grad()
@pytest.mark.parametrize("feature", ["patch", "cls_patch"])
@pytest.mark.parametrize("kind", ["llava", "mipha"])
def test_the_processor_makes_as_many_image_tokens_as_the_model_wants(tmp_path, tower, kind, feature):
    original = originals.llava(mm_vision_select_feature=feature) if kind == "llava" else originals.mipha()
    convert(original.save(tmp_path / kind), tmp_path / "out", vision_tower=tower if kind == "llava" else None)
    model, processor = load(tmp_path / "out")
    inputs = processor(images=[Image.new("RGB", (40, 30))], text="USER: <image>\nWhat?", return_tensors="pt")
    count = int((inputs["input_ids"] == processor.image_token_id).sum())
    assert count == model.config.image_seq_length == (17 if (kind, feature) == ("llava", "cls_patch") else 16)
    model(**inputs)  # which raises if they are not as many as the tower gives


def test_the_blank_that_sentencepiece_puts_before_a_text_is_kept():
    letters = {letter: i for i, letter in enumerate(dict.fromkeys(f"▁\n{SYSTEM}USER: What is this? ASSISTANT:"))}
    made = Tokenizer(BPE(letters, []))
    made.pre_tokenizer = Metaspace(prepend_scheme="first", split=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=made, additional_special_tokens=["<image>"])
    assert words.image_text(fast) == "<image> \n"
    plain = originals.tokenizer()
    plain.add_special_tokens({"additional_special_tokens": ["<image>"]})
    assert words.image_text(plain) == "<image>\n"


@pytest.mark.parametrize("size", [(50, 20), (20, 50), (32, 32)])
def test_images_are_padded_as_the_original_pads_them(tmp_path, tower, size):
    convert(originals.llava(False).save(tmp_path / "llava"), tmp_path / "out", vision_tower=tower)
    image = Image.effect_noise(size, 90).convert("RGB")
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.4])  # of the tower's preprocessor_config.json
    square = Image.new("RGB", (max(size), max(size)), tuple(int(255 * x) for x in mean))
    square.paste(image, ((max(size) - size[0]) // 2, (max(size) - size[1]) // 2))
    wanted = np.asarray(square.resize((32, 32), Image.Resampling.BILINEAR)) / 255  # resample 2
    given = AutoProcessor.from_pretrained(tmp_path / "out").image_processor(image, return_tensors="pt")["pixel_values"][
        0
    ]
    np.testing.assert_allclose(given.permute(1, 2, 0).numpy(), (wanted - mean) / std, atol=1e-4)


def test_images_that_are_not_padded(tmp_path, tower):
    convert(originals.llava(image_aspect_ratio="square").save(tmp_path / "a"), tmp_path / "b", vision_tower=tower)
    convert(originals.mipha(image_aspect_ratio=None).save(tmp_path / "c"), tmp_path / "d")
    clip, siglip = (AutoProcessor.from_pretrained(tmp_path / name).image_processor for name in "bd")
    assert (clip.do_pad, clip.do_center_crop, siglip.do_pad, siglip.do_center_crop) == (False, True, False, False)
    assert tuple(siglip.image_mean) == (0.5, 0.5, 0.5) and siglip.size["height"] == 32
    for made in (clip, siglip):
        assert made(Image.new("RGB", (90, 40)), return_tensors="pt")["pixel_values"].shape == (1, 3, 32, 32)
