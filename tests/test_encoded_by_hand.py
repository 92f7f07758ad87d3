"""Images that a user encodes by hand beside those of the prompt."""

from __future__ import annotations

import pytest
import torch
from zoo import CASES

from contract.test_families import samples
from simignore import FasterVLM
from simignore.parts import parts


def handed_on(name: str) -> bool:
    """Whether the model's tower is looked into, and features that were encoded by hand can be handed to it."""
    model = CASES[name].model()
    supported = getattr(model, "_supports_mm_encoder_outputs", None)
    return bool(parts(model).family.patches and callable(supported) and supported() and hasattr(model, "model"))


@pytest.mark.parametrize("name", [name for name in CASES if handed_on(name)])
@pytest.mark.parametrize("more", [1, 3])
def test_pictures_encoded_by_hand_beside_the_prompts_own_are_told(name, more):
    """Three more of the same size would pass for one of four times the patches."""
    case = CASES[name]
    model, inputs = case.model(), case.inputs(samples(case)[0])
    pixels = {key: value for key, value in inputs.items() if key.startswith(("pixel_", "image_"))}
    rest = {key: value for key, value in inputs.items() if not key.startswith("pixel_values")}
    encode = model.model.get_image_features
    with torch.no_grad(), FasterVLM(keep=4)(model) as trace:
        for _ in range(more):
            encode(**pixels)
        seen = encode(**pixels, return_dict=True)
        with pytest.raises(ValueError, match="saw .*, and the prompt holds .*so it ran on other images too. Pass"):
            model(**rest, mm_encoder_outputs={"image": seen})
        seen = encode(**pixels, return_dict=True)
        model(**rest, mm_encoder_outputs={"image": seen})
    with torch.no_grad(), FasterVLM(keep=4)(model) as alone:
        model(**inputs)
    assert torch.equal(trace.selections[-1].index, alone.selections[0].index)
