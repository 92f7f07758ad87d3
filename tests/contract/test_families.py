"""The guarantees for every family of the zoo, through real processors, against oracles that never heard of simignore."""

from __future__ import annotations

import copy
import dataclasses
import itertools

import pytest
import torch
import transformers
from zoo import ABSENT, CASES, DISCOVERED, REFUSED, UNSURE, Case, Sample, frames, picture

import oracles
from benchmarks.heads import fitting
from simignore import (
    EVS,
    METHODS,
    Chain,
    Diverse,
    FastV,
    FrameBudget,
    Merged,
    Pooled,
    Random,
    Simignore,
    UnsupportedCallError,
    UnsupportedModelError,
)
from simignore.geometry import GeometryError
from simignore.parts import parts

EVERY = {**CASES, **DISCOVERED}
QUERY = torch.tensor([10, 11, 12])
CLOSE = dict(atol=5e-5, rtol=1e-4)
NEW = 4
GENERATE = dict(max_new_tokens=NEW, do_sample=False, output_logits=True, return_dict_in_generate=True)
# attention windows shorter than the prompt: counted by the decoder among the tokens that are left, so that a native run is the
# oracle, or handed to it as masks made for the whole prompt, so that masking is
NATIVE = {"llama4-chunk"}
MASKED = {"gemma3-window", "gemma4-window", "gemma4-moe"}
LIVELY = pytest.mark.parametrize("name", EVERY)


def methods(name: str, keep: int | float, **options):
    """Every method of ``METHODS``, compositions, and chance inside, as far as the family can take them."""
    model = EVERY[name].model()
    p = parts(model)
    width = p.embed.embedding_dim
    inside = [n for n in range(1, p.last_cut + 1) if p.attentions[n - 1] is not None]
    wide = min(1.0, keep * 2) if isinstance(keep, float) else keep + 2
    found = [Random(keep=keep, layer=1, **options), Merged(Random(keep=keep, layer=1, **options))]
    found += [Diverse(Simignore(keep=keep, **options))]
    for kind in METHODS.values():
        if kind.video or not (method := adapted(kind, keep, inside, {**options, **fitting(kind, width)})):
            continue
        try:
            method(model)
        except UnsupportedModelError:
            continue  # tests/contract/test_served.py says which those are
        found.append(method)
    if inside:
        found.append(Chain(Random(keep=wide, **options), FastV(keep=keep, layer=inside[-1], **options)))
    return found


def adapted(kind, keep, inside, options):
    """A method at layers that this decoder has; None where it has none."""
    names = {field.name for field in dataclasses.fields(kind)}
    if "layers" in names:
        return kind(keep=keep, layers=tuple(dict.fromkeys((inside[0], inside[-1]))), **options) if inside else None
    if "attention" in kind.needs:
        return kind(keep=keep, layer=inside[0], **options) if inside else None
    return kind(keep=keep, **options)


def some(name: str, keep: int | float, **options):
    """One method of each way of working, for what does not depend on the rule: scores, attention, merging, several cuts."""
    wanted = ("Random", "Simignore", "Chain", "Merged", "SparseVLM", "VisionZip", "Pooled")
    return [m for m in methods(name, keep, **options) if type(m).__name__ in wanted]


def samples(case: Case) -> tuple[Sample, ...]:
    """Prompts of different lengths with one image and two, of different sizes, where the processor takes that."""
    one = Sample("what colour is the star ?", (picture(*case.sizes[0]),))
    if case.model_type in ("blip-2", "instructblip"):  # one image per prompt, and nothing else
        return one, Sample("who sees the red circle and the blue square below ?", (picture(*case.sizes[-1], seed=2),))
    two = tuple(
        picture(*size, seed=2 + i) for i, size in enumerate(itertools.islice(itertools.cycle(case.sizes), 1, 3))
    )
    return one, Sample("who sees the red circle and the blue square below ?", two)


def generated(model, inputs, method=None):
    with torch.no_grad():
        if method is None:
            return model.generate(**inputs, **GENERATE), None
        with method(model, query=QUERY) as trace:
            return model.generate(**inputs, **GENERATE), trace


def new_ids(output):
    return output.sequences[:, -NEW:]


@LIVELY
def test_keeping_everything_changes_no_bit_and_the_model_is_as_before(name):
    case = EVERY[name]
    model, inputs = case.model(), case.inputs(*samples(case))
    with torch.no_grad():
        model(**inputs)  # transformers adds hooks of its own at the first call
    hooks = [(n, len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()]
    with torch.no_grad():
        plain = model(**inputs).logits
        words, _ = generated(model, inputs)
        for method in some(name, 1.0):
            with method(model, query=QUERY):
                assert torch.equal(model(**inputs).logits, plain)
            again, _ = generated(model, inputs, method)
            assert torch.equal(torch.stack(words.logits), torch.stack(again.logits))
        assert [(n, len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()] == hooks
        assert torch.equal(model(**inputs).logits, plain)


@LIVELY
def test_dropping_is_a_native_run_on_the_shorter_sequence(name):
    """The decoder called directly on the kept embeddings at their positions gives the same logits, and so do its next steps."""
    case = EVERY[name]
    model = case.model()
    if name in MASKED:
        pytest.skip("its windows are counted in the whole prompt; masking is their oracle")
    for sample in samples(case):
        inputs = case.inputs(sample)
        for method in (Simignore(keep=5), Pooled(keep=5)):
            output, trace = generated(model, inputs, method)
            kept = oracles.kept_places(model, inputs, trace.selections[0], trace.patches[0])
            assert int(kept.sum()) == trace.tokens_after[0] < trace.tokens_before[0]
            places = oracles.patch_places(model, inputs, trace.patches[0])
            entries = oracles.taking_in(trace.steps[0][0].selection, places)
            assert bool(entries[0]) == method.merges
            logits = oracles.native_logits(model, inputs, kept, new_ids(output)[0], entries)
            torch.testing.assert_close(torch.stack(output.logits, 1)[0], logits, **CLOSE)


@LIVELY
def test_dropping_is_masking(name):
    """Hooks of the test's own hide the dropped places in every layer behind the cut, in the plain model at full length."""
    case = EVERY[name]
    model = case.model()
    if parts(model).recurrent:
        pytest.skip("recurrent layers see every token that is there; the native run is their oracle")
    inputs = case.inputs(*samples(case))
    for method in methods(name, 5):
        if name in NATIVE and method.site == "projector":
            continue
        output, trace = generated(model, inputs, method)
        if name in NATIVE and isinstance(method, Chain):
            continue
        hidden, blends = {}, {}
        places = oracles.patch_places(model, inputs, trace.patches[0])
        for step in trace.steps[0]:
            layer = 0 if step.site == "projector" else step.site[1]
            hidden[layer] = ~oracles.kept_places(model, inputs, step.selection, trace.patches[0])
            blends.setdefault(layer, []).append(oracles.taking_in(step.selection, places))
        with oracles.hiding(model, hidden, inputs["input_ids"].shape[1], blends):
            masked, _ = generated(model, inputs)
        assert torch.equal(new_ids(output), new_ids(masked))
        torch.testing.assert_close(torch.stack(output.logits), torch.stack(masked.logits), **CLOSE)


def stayed(trace, sample=0):
    """The image tokens of a sample that stayed."""
    return [n for n in trace.selections[0].index[sample].tolist() if n >= 0]


def prefilled(model, inputs, method):
    """The trace of one prefill in the model's own precision."""
    inputs = {k: v.to(model.dtype) if torch.is_tensor(v) and v.is_floating_point() else v for k, v in inputs.items()}
    with torch.no_grad(), method(model) as trace:
        model(**inputs)
    return trace


@LIVELY
@pytest.mark.parametrize("keep", [5, 0.3])
def test_a_batch_gives_each_sample_what_it_gets_alone(name, keep):
    case = EVERY[name]
    model, own = case.model(), samples(case)
    if model.config.model_type in ("deepseek_vl",):
        own = own[:1] * 2  # two images side by side look like one to a family that is not in the table
    for method in methods(name, keep):
        together, trace = generated(model, case.inputs(*own), method)
        for b, sample in enumerate(own):
            alone, single = generated(model, case.inputs(sample), method)
            if stayed(trace, b) != stayed(
                single
            ):  # a tie that rounding breaks, otherwise on other processors: none in float64
                exact = copy.deepcopy(model).double()
                assert stayed(prefilled(exact, case.inputs(*own), method), b) == stayed(
                    prefilled(exact, case.inputs(sample), method)
                ), method
                continue
            assert torch.equal(new_ids(together)[b], new_ids(alone)[0])
            logits = torch.stack(together.logits, 1)[b], torch.stack(alone.logits, 1)[0]
            torch.testing.assert_close(*logits, **CLOSE)


@LIVELY
def test_counts_are_kept_per_sample_per_image_and_per_grid(name):
    """And everything that is no patch stays: words, separators, line ends that share the image token's id."""
    case = EVERY[name]
    model, inputs = case.model(), case.inputs(*samples(case))
    for within in ("sample", "image", "grid"):
        with torch.no_grad(), Random(keep=3, within=within)(model) as trace:
            model(**inputs)
        patches, selection = trace.patches[0], trace.selections[0]
        stayed = patches.take(selection.index)
        for b in range(2):
            groups = {"sample": stayed.grid[b] >= 0, "image": stayed.image[b], "grid": stayed.grid[b]}[within]
            real = groups[stayed.grid[b] >= 0]
            counts = real.unique(return_counts=True)[1].tolist()
            wanted = {"sample": 1, "image": patches.image[b].max() + 1, "grid": len(patches.grids[b])}[within]
            assert counts == [3] * int(wanted)
        gone = (patches.grid >= 0).sum(1) - selection.count
        lengths = inputs["attention_mask"].sum(1) - gone
        assert trace.tokens_after[0] == int(lengths.max())


@LIVELY
def test_a_batch_mixes_one_image_two_and_none(name):
    case = EVERY[name]
    model, own = case.model(), (*samples(case), Sample("is it red or blue ?"))
    if case.model_type in ("blip-2", "instructblip", "paligemma", "got_ocr2", "chameleon"):
        pytest.skip("the plain model or its processor does not take a prompt without an image beside others")
    inputs = case.inputs(*own)
    for method in some(name, 3):
        output, trace = generated(model, inputs, method)
        assert trace.selections[0].count.tolist() == [3, 3, 0]
        assert [len({grid.image for grid in grids}) for grids in trace.patches[0].grids][2] == 0
        alone, _ = generated(model, case.inputs(own[2]))
        torch.testing.assert_close(torch.stack(output.logits, 1)[2], torch.stack(alone.logits, 1)[0], **CLOSE)


@LIVELY
def test_beams_are_as_with_a_mask(name):
    case = EVERY[name]
    model, inputs = case.model(), case.inputs(*samples(case))
    if parts(model).recurrent or name in NATIVE:
        pytest.skip("masking is not equivalent here")
    beams = dict(max_new_tokens=3, do_sample=False, num_beams=3)
    if not _beams_work(model, inputs, beams):
        pytest.skip("the plain model does not do beams with these images")
    found = {}
    if transformers.__version__ < "5.18" and model.config.model_type in (
        "llava_next",
        "llava_next_video",
        "llava_onevision",
    ):
        pytest.skip("that version hands the images of a prompt with two to other beams")
    for hide in ("drop", "mask"):
        with torch.no_grad(), Simignore(keep=5, hide=hide)(model, query=QUERY) as trace:
            found[hide] = model.generate(**inputs, **beams)
        assert trace.selections[0].count.tolist() == [5] * len(trace.selections[0].count)
    assert torch.equal(found["drop"], found["mask"])


def _beams_work(model, inputs, beams) -> bool:
    try:
        with torch.no_grad():
            model.generate(**inputs, **beams)
    except (ValueError, RuntimeError, IndexError):
        return False
    return True


@LIVELY
def test_a_prompt_without_an_image_passes_untouched(name):
    case = EVERY[name]
    model = case.model()
    ids = {"input_ids": torch.tensor([[1, 9, 10, 11, 12]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
    if case.model_type in ("blip-2", "instructblip"):
        pytest.skip("the plain model needs an image")
    if case.model_type == "paligemma":
        ids["token_type_ids"] = torch.zeros_like(ids["input_ids"])
    with torch.no_grad():
        plain = model(**ids).logits
        with Simignore(keep=5)(model, query=QUERY) as trace:
            assert torch.equal(model(**ids).logits, plain)
    assert trace.selections[0].count.tolist() == [0]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.video])
def test_videos_have_frames_and_stand_beside_images(name):
    case = CASES[name]
    model = case.model()
    size = case.sizes[0]
    video = Sample("what is the colour ?", videos=(frames(4, *size),))
    _, trace = generated(model, case.inputs(video), Simignore(keep=2, within="grid"))
    grids = trace.patches[0].grids[0]
    assert trace.selections[0].count.tolist() == [2 * len(grids)] and len(grids) >= 2
    _, kept = generated(model, case.inputs(video), EVS(keep=0.5))  # which compares the frames
    assert kept.selections[0].count.tolist() == [max(1, int(0.5 * kept.selections[0].source.shape[1] + 0.5))]
    shared = FrameBudget(EVS(keep=len(grids) + 1), floor=1)
    _, spread = generated(model, case.inputs(video), shared)
    stayed = trace.patches[0].take(spread.selections[0].index).grid[0]
    assert sorted({*stayed.tolist()}) == list(range(len(grids))) and len(stayed) == len(grids) + 1
    own_id = parts(model).video_token is not None or "glm" in name
    assert all(grid.kind == "frame" for grid in grids) == own_id  # else frames come as images, and are shown as such
    if own_id:
        assert [grid.time for grid in grids] == list(range(len(grids))) and {grid.image for grid in grids} == {0}
    if "glm" in name or name == "smolvlm":
        return  # the plain model, or its processor, does not take both in one prompt
    both = Sample("what is the colour ?", (picture(*size, seed=5),), (frames(4, *size),))
    together, trace = generated(model, case.inputs(both, video), Random(keep=6))
    assert trace.selections[0].count.tolist() == [6, 6]
    assert [len({grid.image for grid in own}) for own in trace.patches[0].grids] == ([2, 1] if own_id else [5, 4])
    alone, single = generated(model, case.inputs(both), Random(keep=6))
    assert trace.selections[0].index[0].tolist() == single.selections[0].index[0].tolist()
    torch.testing.assert_close(together.logits[0][0], alone.logits[0][0], **CLOSE)


@pytest.mark.parametrize("name", [*REFUSED, *UNSURE])
def test_what_cannot_be_served_is_refused_with_the_reason(name):
    case = {**REFUSED, **UNSURE}[name]
    model = case.model()
    reason = pytest.raises(UnsupportedModelError, match=r"run it without|table|Nothing was changed")
    with reason, Simignore(keep=5)(model, query=QUERY), torch.no_grad():
        model(**case.inputs(Sample(images=(picture(*case.sizes[0]),))))


def test_no_case_is_left_out_by_the_newest_transformers():
    assert not ABSENT or transformers.__version__ < "5.23"


def test_frames_cannot_be_compared_where_there_are_none():
    case = CASES["llava-clip-llama"]
    model, inputs = case.model(), case.inputs(samples(case)[0])
    with pytest.raises(ValueError, match="sample 0 is no video"), torch.no_grad(), EVS(keep=3)(model):
        model(**inputs)


def test_other_versions_of_transformers_are_refused(monkeypatch):
    model = CASES["llava-clip-llama"].model()
    for version in ("5.16.1", "4.57.6", "6.0.0.dev0"):
        monkeypatch.setattr("simignore.parts.transformers.__version__", version)
        with pytest.raises(UnsupportedModelError, match=rf"transformers {version} is installed.*pip install"):
            Random(keep=3)(model)


def test_a_video_that_a_family_has_no_tokens_for_is_refused():
    """A family that was discovered: its video tokens are not known, so nothing would be dropped, silently."""
    case = DISCOVERED["video-llama-3"]
    model, inputs = case.model(), case.inputs(Sample("what is the colour ?", (picture(48, 48),)))
    ids, config = inputs["input_ids"], model.config
    inputs["input_ids"] = torch.where(ids == config.image_token_id, config.video_token_id, ids)
    for image, video in (("pixel_values", "pixel_values_videos"), ("image_grid_thw", "video_grid_thw")):
        inputs[video] = inputs.pop(image)
    inputs["video_merge_sizes"] = inputs.pop("image_merge_sizes")
    with torch.no_grad():
        model(**inputs)
        with Random(keep=2)(model), pytest.raises(UnsupportedCallError, match="a video came in"):
            model(**inputs)


@pytest.mark.parametrize("name", ["idefics3", "aya-vision"])
def test_tiles_cannot_be_told_from_embeddings(name):
    """Which tiles make one image is told by the markers between them."""
    case = CASES[name]
    model, inputs = case.model(), case.inputs(Sample(images=(picture(90, 40),)))
    with torch.no_grad(), pytest.raises(GeometryError, match="pass input_ids"), Random(keep=2)(model):
        ids = inputs.pop("input_ids")
        model(inputs_embeds=model.get_input_embeddings()(ids), **inputs)


def test_layers_that_carry_a_state_are_known_by_their_class_too():
    """Some keep a linear attention under the name of an attention, or a convolution somewhere inside."""

    class ToyLinearAttention(torch.nn.Module):
        pass

    model = copy.deepcopy(CASES["llava-clip-llama"].model())
    model.model.language_model.layers[1].self_attn = ToyLinearAttention()
    found = parts(model)
    assert found.recurrent and found.attentions[1] is None and found.attentions[0] is not None
    with pytest.raises(ValueError, match='hide="drop"'):
        Random(keep=3, hide="mask")(model)
