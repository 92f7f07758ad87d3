"""Tokens lie where a change of the picture changes them: the model itself is the oracle, its vision tower kept from mixing."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from zoo import CASES, Case, Sample

import oracles
from simignore import Random, figures, locate
from simignore.figures.drawn import names
from simignore.parts import parts

PLACELESS = {"idefics2", "aria", "blip-2", "instructblip"}  # learned queries look everywhere
PLACED = [name for name, case in CASES.items() if case.model_type not in PLACELESS]


@contextmanager
def unmixed(model):
    """Every image token depends on its own pixels alone: attention in the vision tower adds nothing."""

    def silent(module, args, output):
        nothing = torch.zeros_like(output[0] if isinstance(output, tuple) else output)
        return (nothing, *output[1:]) if isinstance(output, tuple) else nothing

    towers = [parts(model).vision, getattr(getattr(model, "model", None), "video_tower", None)]
    every = [m for tower in towers if tower is not None for m in tower.modules() if "Attention" in type(m).__name__]
    mixing = [m for m in every if not any("Attention" in type(inner).__name__ for inner in list(m.modules())[1:])]
    handles = [module.register_forward_hook(silent) for module in mixing]
    assert handles
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def changed(model, case: Case, before: Sample, after: Sample) -> torch.Tensor:
    """[T] how much each place of the merged embeddings changes, as a share of the largest change."""
    with unmixed(model):
        one, two = (oracles.captured(model, case.inputs(sample))[0] for sample in (before, after))
    moved = (one - two).norm(dim=-1)
    return moved / moved.max()


def poked(picture: Image.Image, x: float, y: float, size: float) -> Image.Image:
    pixels = np.array(picture)
    pixels[int(y - size / 2) : int(y + size / 2) + 1, int(x - size / 2) : int(x + size / 2) + 1] = 255
    return Image.fromarray(pixels)


def lying(model, case: Case, sample: Sample):
    """Places in the prompt of the image tokens, and the trace's word on where they lie."""
    inputs = case.inputs(sample)
    with torch.no_grad(), Random(keep=1.0)(model) as trace:
        model(**inputs)
    kept = oracles.kept_places(model, inputs, _none_of(trace.selections[0]), trace.patches[0])
    return (~kept[0]).nonzero()[:, 0], trace.patches[0]


def _none_of(selection):
    """A selection that kept nothing, to be told by the oracle where the patches are."""
    return type(selection)(selection.index, torch.full_like(selection.source, -1))


@pytest.mark.parametrize("name", PLACED)
def test_a_poke_moves_the_tokens_that_lie_there(name):
    case = CASES[name]
    model = copy.deepcopy(case.model())
    for size in case.sizes[:3]:
        picture = Image.new("RGB", size, (40, 60, 50))
        other = Image.new("RGB", case.sizes[0], (90, 20, 40))
        places, patches = lying(model, case, Sample(images=(picture, other)))
        placed = locate(patches, (picture, other), case.shared_processor(), **case.options)
        big = min(size) / 6
        for across, down in ((0.5, 0.5), (0.3, 0.6), (0.75, 0.3)):
            x, y = across * size[0], down * size[1]
            moved = changed(
                model, case, Sample(images=(picture, other)), Sample(images=(poked(picture, x, y, big), other))
            )
            seen = set()
            for n, place in enumerate(places.tolist()):
                number = int(patches.grid[0, n])
                at = placed[number]
                box = at.cell(int(patches.row[0, n]), int(patches.column[0, n]))
                if moved[place] > 0.02:  # it must look at the poke, up to the blur of scaling
                    assert at.picture == 0, f"token {n} is said to show the other picture"
                    blur = 0.5 * max(box[2] - box[0], box[3] - box[1]) + big / 2 + 1
                    assert box[0] - blur <= x <= box[2] + blur and box[1] - blur <= y <= box[3] + blur, (n, box, (x, y))
                if box[0] <= x <= box[2] and box[1] <= y <= box[3] and at.picture == 0:
                    assert moved[place] > 0.02, f"token {n} at {box} does not see ({x}, {y})"
                    seen.add(number)
            boxes = [at.box for at in placed if at.picture == 0]  # a centre crop may leave the poke out
            assert seen or not any(box[0] < x < box[2] and box[1] < y < box[3] for box in boxes)


def test_frames_of_a_video_lie_on_their_frame():
    case = CASES["qwen2-vl"]
    model = copy.deepcopy(case.model())
    still = tuple(Image.new("RGB", case.sizes[1], (40, 60, 50)) for _ in range(4))
    inputs = case.inputs(Sample(videos=(still,)))
    with torch.no_grad(), Random(keep=1.0)(model) as trace:
        model(**inputs)
    placed = locate(trace.patches[0], still[::2], case.shared_processor())  # two frames are merged into one
    assert [place.picture for place in placed] == [0, 1]
    assert all(place.box == (0, 0, *case.sizes[1]) for place in placed)


def traced(case: Case, *pictures: Image.Image):
    """A trace of one prompt with these pictures."""
    model, inputs = case.model(), case.inputs(Sample(images=pictures))
    with torch.no_grad(), Random(keep=0.5)(model) as trace:
        model(**inputs)
    return trace


def test_what_does_not_fit_together_is_refused(tmp_path):
    wide, tall = Image.new("RGB", (90, 40)), Image.new("RGB", (40, 90))
    tiled, whole = CASES["aya-vision"], CASES["qwen2-vl"]
    for case, message in ((whole, "made of 2 images, and 3 were passed"), (tiled, "the processor makes")):
        patches = traced(case, wide, tall).patches[0]
        with pytest.raises(ValueError, match=message):
            locate(patches, [wide, tall, wide], case.shared_processor())
        with pytest.raises(ValueError, match="of this sample alone"):
            locate(patches, wide, case.shared_processor())
    with pytest.raises(TypeError, match=r"trace\.patches\[0\]"):
        locate([patches], [wide, tall], tiled.shared_processor())
    wide.save(tmp_path / "wide.png")
    alone = traced(whole, wide)
    assert locate(alone.patches[0], tmp_path / "wide.png", whole.shared_processor())[0].box == (0, 0, 90, 40)


def test_a_trace_is_drawn_in_one_call():
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8))
    for name, panels in (("qwen2-vl", 1), ("aya-vision", 4), ("llava-next-clip-llama", 2)):
        case = CASES[name]
        drawn = figures.draw(traced(case, wide), wide, case.shared_processor(), question="Where?")
        assert drawn.height > 150 * panels
    with pytest.raises(ValueError, match="learned queries"):
        figures.draw(traced(CASES["idefics2"], wide), wide, CASES["idefics2"].shared_processor())


def test_panels_are_named_by_what_they_show():
    wide, tall = Image.new("RGB", (90, 40)), Image.new("RGB", (40, 90))

    def named(name: str, *pictures: Image.Image) -> list[str]:
        case = CASES[name]
        placed = locate(traced(case, *pictures).patches[0], pictures, case.shared_processor())
        return names(placed, len(pictures))

    assert named("llava-next-clip-llama", wide) == ["overview", "full resolution"]
    tiles = named("aya-vision", wide, tall)
    assert (
        tiles[0].startswith("image 1, tile 1 of ") and "image 1, overview" in tiles and tiles[-1] == "image 2, overview"
    )
    assert named("qwen2-vl", wide, tall) == ["image 1", "image 2"]
