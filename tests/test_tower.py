"""What the vision tower shows, against the plain tower, and that it is brought to the image tokens that are made of it."""

from __future__ import annotations

import pytest
import torch
from zoo import CASES, Sample, frames

from contract.test_families import EVERY, samples
from simignore import FasterVLM, UnsupportedModelError, VisionZip
from simignore.parts import parts
from simignore.splice.reading import read
from simignore.tower import Tower, _attention, _layers
from simignore.types import Look

SERVED = [name for name in CASES if parts(CASES[name].model()).family.patches]


def looked(model, inputs, looks, poke=None):
    """What a plain forward shows (by look) and the embeddings that reach the decoder. poke: (picture, patch) whose features the
    last layer that is used gives out otherwise; counted in the order in which the tower sees them."""
    p = parts(model)
    tower, seen = Tower(p, looks), {}
    count = [0]

    def change(module, args, output):
        x = output[0] if isinstance(output, tuple) else output
        flat = x if x.dim() == 3 else x[None]
        first = 1 if tower.has_class and not p.family.class_last else 0
        for n in range(len(flat)):
            patches = flat.shape[1] - tower.has_class
            if count[0] <= poke < count[0] + patches:
                flat = flat.clone()
                flat[n, first + poke - count[0]] += torch.linspace(-30, 30, flat.shape[-1])
            count[0] += patches
        flat = flat if x.dim() == 3 else flat[0]
        return (flat, *output[1:]) if isinstance(output, tuple) else flat

    def decoder_in(module, args, kwargs):
        layout = read(p, {**inputs, "inputs_embeds": None})
        seen["embeds"] = kwargs["inputs_embeds"]
        seen["layout"] = layout
        seen["shown"] = {look: tower.shown(look, layout) for look in looks}

    handles = [p.decoder.register_forward_pre_hook(decoder_in, with_kwargs=True)]
    if poke is not None:
        handles.append(_layers(p.vision)[tower.used].register_forward_hook(change, prepend=True))
    tower.install()
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        tower.remove()
        for handle in handles:
            handle.remove()
    image = seen["layout"].image
    tokens = seen["embeds"].gather(1, image.clamp(min=0)[..., None].expand(-1, -1, seen["embeds"].shape[-1]))
    seen["tokens"] = tokens.masked_fill((image < 0)[..., None], 0)
    seen["patches"] = count[0]
    return seen


@pytest.mark.parametrize("name", SERVED)
def test_patches_are_brought_to_the_tokens_made_of_them(name):
    """A patch of the tower is poked, and the image tokens whose look changes are those whose embedding changes."""
    case = CASES[name]
    model = case.model()
    prompts = [case.inputs(*samples(case))]
    if case.video and name != "video-llava":  # whose videos pass a tower of their own
        prompts.append(case.inputs(Sample("what ?", videos=(frames(4, *case.sizes[0]),))))
    for inputs in prompts:
        look = Look("features")
        plain = looked(model, inputs, [look])
        total = looked(model, inputs, [look], poke=-1)["patches"]
        reached = 0
        for patch in {0, 1, total // 3, total // 2 + 1, total - 2, total - 1, *range(5, total, max(1, total // 9))}:
            poked = looked(model, inputs, [look], poke=patch)
            told = (poked["shown"][look] - plain["shown"][look]).abs().amax(-1) > 1e-3
            true = (poked["tokens"] - plain["tokens"]).abs().amax(-1) > 1e-4
            assert torch.equal(told, true), (patch, total, told.nonzero().tolist(), true.nonzero().tolist())
            reached += int(true.any())
        assert reached >= 3


EAGER = (
    "llava-clip-llama",
    "llava-siglip-llama",
    "llava-pixtral",
    "internvl",
    "gemma3",
    "idefics3",
    "mistral3",
    "llama4",
)


@pytest.mark.parametrize("name", [name for name in EAGER if name in CASES])
def test_attention_is_that_of_the_eager_tower(name):
    """Maps of the plain tower under eager attention, averaged by loops; the tower that is looked into stays on SDPA."""
    case = CASES[name]
    model, inputs = case.model(), case.inputs(*samples(case))
    p = parts(model)
    number = Tower(p, []).used
    attention, maps, masks = _attention(_layers(p.vision)[number]), [], []

    def keep(module, args, kwargs, output):
        maps.append(output[1].double().mean(1))  # [pictures, S, S]
        masks.append(kwargs.get("attention_mask"))

    before = p.vision.config._attn_implementation
    p.vision.set_attn_implementation("eager")
    handle = attention.register_forward_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        handle.remove()
        p.vision.set_attn_implementation(before)
    tower = Tower(p, [Look("attention"), Look("received")])
    tower.install()
    try:
        with torch.no_grad():
            model(**inputs)
        for what in {tower._meant(look) for look in tower.looks}:
            shown = torch.cat([x.flatten() for x in tower._thread.seen[number, what]])
            expected = []
            for paid, mask in zip(maps, masks, strict=True):
                for b in range(len(paid)):
                    size = paid.shape[-1]
                    if what == "class":
                        expected += paid[b, size - 1 if p.family.class_last else 0].tolist()
                        continue
                    allowed = torch.ones(size, size, dtype=torch.bool)
                    if mask is not None:
                        own = mask[min(b, len(mask) - 1), 0].expand(size, size)
                        allowed = own if own.dtype == torch.bool else own == 0
                    for j in range(size):
                        rows = [i for i in range(size) if allowed[i, i] and allowed[i, j]]
                        expected.append(sum(float(paid[b, i, j]) for i in rows) / max(1, len(rows)))
            torch.testing.assert_close(shown, torch.tensor(expected), atol=1e-6, rtol=1e-4)
    finally:
        tower.remove()


@pytest.mark.parametrize("name", ["llava-clip-llama", "qwen2-vl", "qwen2.5-vl"])
def test_keys_are_those_of_the_projection_before_rotation(name):
    """From what goes into the attention, multiplied by its weights by hand."""
    case = CASES[name]
    model, inputs = case.model(), case.inputs(samples(case)[0])
    p, caught = parts(model), []
    attention = _attention(_layers(p.vision)[Tower(p, []).used])
    handle = attention.register_forward_pre_hook(
        lambda module, args, kwargs: caught.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    try:
        tower = Tower(p, [Look("keys")])
        tower.install()
        with torch.no_grad():
            model(**inputs)
    finally:
        tower.remove()
        handle.remove()
    (keys,), (x,) = tower._thread.seen[tower.used, "keys"], caught
    one = getattr(attention, "k_proj", None)
    width = x.shape[-1]
    weight, bias = (
        (one.weight, one.bias)
        if one
        else (attention.qkv.weight[width : 2 * width], attention.qkv.bias[width : 2 * width])
    )
    expected = (x.double() @ weight.double().T + bias.double()).reshape(1, -1, width)
    torch.testing.assert_close(keys.flatten(2).double(), expected, atol=1e-5, rtol=1e-4)
    assert keys.shape[2] == attention.num_heads


@pytest.mark.parametrize("name", ["llava-clip-llama", "llava-pixtral", "qwen2.5-vl", "llava-onevision", "gemma3"])
def test_a_batch_shows_what_its_samples_show(name):
    case = CASES[name]
    model, own = case.model(), samples(case)
    looks = [Look("attention"), Look("received", 0), Look("keys", -1), Look("features", 0.5)]
    together = looked(model, case.inputs(*own), looks)
    for b, sample in enumerate(own):
        alone = looked(model, case.inputs(sample), looks)
        count = alone["layout"].counts[0]
        for look in looks:
            torch.testing.assert_close(
                together["shown"][look][b, :count], alone["shown"][look][0], atol=1e-5, rtol=1e-4
            )
            assert not together["shown"][look][b, count:].any()


@pytest.mark.parametrize("name", ["llava-clip-llama", "llava-onevision", "qwen2-vl"])
def test_beams_and_generate_see_what_a_forward_sees(name):
    case = CASES[name]
    model, inputs = case.model(), case.inputs(*samples(case)[:1] * 2)
    with torch.no_grad():
        with FasterVLM(keep=4)(model) as plain:
            model(**inputs)
        for beams in (1, 3):
            with FasterVLM(keep=4)(model) as trace:
                model.generate(**inputs, max_new_tokens=2, do_sample=False, num_beams=beams)
            index = trace.selections[0].index
            assert torch.equal(index, plain.selections[0].index.repeat_interleave(len(index) // 2, 0))


@pytest.mark.parametrize("name", [name for name in EVERY if not parts(EVERY[name].model()).family.patches])
def test_other_families_are_refused_with_a_remedy(name):
    with pytest.raises(UnsupportedModelError, match=r"its tower's attention cannot be had.*Simignore or DivPrune"):
        FasterVLM(keep=4)(EVERY[name].model())


def test_the_tower_is_as_before_also_after_an_error():
    case = CASES["llava-clip-llama"]
    model, inputs = case.model(), case.inputs(*samples(case))
    attentions = [_attention(layer) for layer in _layers(parts(model).vision)]
    before = [id(a.config) for a in attentions]
    method = VisionZip(keep=4)
    with torch.no_grad(), pytest.raises(ZeroDivisionError), method(model):
        model(**inputs)
        raise ZeroDivisionError
    assert [id(a.config) for a in attentions] == before
    with torch.no_grad(), method(model), pytest.raises(ValueError, match="the vision tower did not run"):
        model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])


def test_layers_are_named_from_either_end_and_by_depth():
    p = parts(CASES["llava-clip-llama"].model())
    depth = len(_layers(p.vision))
    tower = Tower(p, [Look("keys", 0), Look("keys", -1), Look("keys", 0.5), Look("keys")])
    used = p.model.config.vision_feature_layer
    assert list(tower.looks.values()) == [0, depth - 1, round(0.5 * depth), used % depth]
    with pytest.raises(ValueError, match=rf"this vision tower has {depth} layers"):
        Tower(p, [Look("keys", depth)])


def chosen(trace):
    return trace.selections[-1].index


@pytest.fixture
def scene():
    """A model, a prompt with one picture, three other pictures, and what a method chooses there by itself."""
    case = CASES["llava-clip-llama"]
    model, inputs = case.model(), case.inputs(samples(case)[0])
    generator = torch.Generator().manual_seed(5)
    others = torch.randn(3, *inputs["pixel_values"].shape[1:], generator=generator)
    with torch.no_grad(), FasterVLM(keep=4)(model) as trace:
        model(**inputs)
    return model, inputs, others, chosen(trace)


@pytest.mark.parametrize("count", [2, 3])
def test_a_forward_that_failed_shows_nothing_to_the_next(scene, count):
    """Three pictures too many would be taken for one of four times the patches."""
    model, inputs, others, alone = scene
    for call in (model, lambda **given: model.generate(**given, max_new_tokens=1)):
        with torch.no_grad(), FasterVLM(keep=4)(model) as trace:
            with pytest.raises(ValueError):
                call(**{**inputs, "pixel_values": others[:count]})
            call(**inputs)
        assert torch.equal(chosen(trace), alone)


def test_pictures_encoded_by_hand_are_not_those_of_the_next_call(scene):
    model, inputs, others, alone = scene
    for call in (model, lambda **given: model.generate(**given, max_new_tokens=1)):
        with torch.no_grad(), FasterVLM(keep=4)(model) as trace:
            model.model.get_image_features(pixel_values=others)
            call(**inputs)
        assert torch.equal(chosen(trace), alone)


def test_features_encoded_by_hand_are_looked_at_where_they_are_handed_on(scene):
    model, inputs, _, alone = scene
    given = dict(inputs)
    with torch.no_grad(), FasterVLM(keep=4)(model) as trace:
        for call in (model, lambda **more: model.generate(**more, max_new_tokens=1)):
            seen = model.model.get_image_features(pixel_values=inputs["pixel_values"], return_dict=True)
            given.pop("pixel_values", None)
            call(**given, mm_encoder_outputs={"image": seen})
            assert torch.equal(chosen(trace), alone)


def test_features_encoded_by_hand_are_not_mixed_with_those_of_a_generate_that_failed_between(scene):
    """It encodes its images before the model's forward, so no door of the model's hears of the error."""
    model, inputs, others, alone = scene
    given = {name: value for name, value in inputs.items() if name != "pixel_values"}
    with torch.no_grad(), FasterVLM(keep=4)(model) as trace:
        handle = parts(model).projector.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.generate(**{**inputs, "pixel_values": others}, max_new_tokens=1)
        handle.remove()
        seen = model.model.get_image_features(pixel_values=inputs["pixel_values"], return_dict=True)
        model(**given, mm_encoder_outputs={"image": seen})
    assert torch.equal(chosen(trace), alone)


@pytest.mark.parametrize("where", ["generate", "forward"])
def test_an_interrupted_use_shows_nothing_to_the_next(scene, where):
    """No hook hears of a KeyboardInterrupt; the next ``generate``, the next forward and the next ``with`` begin anew."""
    model, inputs, others, alone = scene

    def stop(*_):
        raise KeyboardInterrupt

    calls = {"forward": model, "generate": lambda **given: model.generate(**given, max_new_tokens=1)}
    splice = FasterVLM(keep=4)(model)
    for inside in (True, False):
        with torch.no_grad(), splice as trace:
            handle = parts(model).projector.register_forward_pre_hook(stop)
            try:
                with pytest.raises(KeyboardInterrupt):
                    calls[where](**{**inputs, "pixel_values": others[:2]})
            finally:
                handle.remove()
            if inside:
                calls[where](**inputs)
                assert torch.equal(chosen(trace), alone)
    with torch.no_grad(), splice as trace:
        seen = model.model.get_image_features(pixel_values=inputs["pixel_values"], return_dict=True)
        given = {name: value for name, value in inputs.items() if name != "pixel_values"}
        model(**given, mm_encoder_outputs={"image": seen})
    assert torch.equal(chosen(trace), alone)
