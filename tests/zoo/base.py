"""What a case is, and what all cases share: a word-level tokenizer that knows a family's markers, and pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import nn
from transformers import PreTrainedTokenizerFast, processing_utils
from transformers.utils import is_torchvision_available

try:
    from transformers.video_processing_utils import VideoProcessorMixin as VideoProcessor
except ImportError:  # transformers 5.17 has one base class alone, which needs torchvision

    class VideoProcessor:
        """What stand-ins for video processors derive from."""


if (
    not is_torchvision_available()
):  # processors look here for what a video processor must be, and find nothing, or a dummy
    for _name in ("VideoProcessorMixin", "BaseVideoProcessor"):
        setattr(processing_utils.transformers_module, _name, VideoProcessor)

_SAID = (
    "user assistant system a chat : \n . , ? what which where is are the colour shape size of star circle "
    "square red blue green yellow left right above below one two three in picture this cat dog yes no it "
    "there how many and who sees"
)
WORDS = _SAID.split(" ")
PAD, BOS, EOS, UNK = range(4)

TEXT = dict(  # of a decoder; 4 layers, so that cuts inside it have room
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=2048,
    bos_token_id=BOS,
    eos_token_id=EOS,
    pad_token_id=PAD,
    initializer_range=0.2,
)


@dataclass(frozen=True)
class Sample:
    """One prompt: pictures and videos (each a list of frames), and what is asked about them."""

    text: str = "what colour is the star ?"
    images: tuple[Image.Image, ...] = ()
    videos: tuple[tuple[Image.Image, ...], ...] = ()


@dataclass(frozen=True)
class Case:
    """A family's tiny model and its processor.

    model_type: of the config. build: attention implementation -> a new model, always with the same weights.
    processor: makes the processor. image, video: what a prompt writes where a picture or a video stands (None: it cannot).
    sizes: (width, height) of pictures worth trying: several shapes, few tokens each.
    nested: whether the processor wants pictures grouped by prompt. options: more arguments of the processor's call.
    least: image tokens of the smallest picture; a budget below it really cuts.
    """

    model_type: str
    build: Callable[[str], nn.Module]
    processor: Callable[[], Any]
    image: str | None
    video: str | None = None
    sizes: tuple[tuple[int, int], ...] = ((48, 48),)
    nested: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    least: int = 9

    def model(self, attention: str = "sdpa") -> Any:
        """The shared model; tests leave it as they found it."""
        return _shared_model(self, attention)

    def shared_processor(self) -> Any:
        return _shared_processor(self)

    def inputs(self, *samples: Sample) -> dict[str, Any]:
        """What the real processor makes of these prompts, padded on the left."""
        texts = ["".join([*[self.image] * len(s.images), *[self.video] * len(s.videos), s.text]) for s in samples]
        images: Any = [list(s.images) for s in samples]
        if not self.nested:
            images = [image for own in images for image in own]
        videos = [list(video) for s in samples for video in s.videos]
        given: dict[str, Any] = dict(self.options)
        if any(s.images for s in samples):
            given["images"] = images
        if videos:
            given["videos"] = videos
        made = self.shared_processor()(text=texts, padding=True, return_tensors="pt", **given)
        return dict(made)

    def __hash__(self) -> int:
        return id(self)


@cache
def _shared_model(case: Case, attention: str) -> nn.Module:
    return case.build(attention)


@cache
def _shared_processor(case: Case) -> Any:
    try:
        return case.processor()
    except ImportError as error:  # older versions of transformers want torchvision for more of their processors
        if transformers.__version__ >= "5.23":
            raise
        pytest.skip(f"transformers {transformers.__version__} cannot make this processor here: {error}")


def tokenizer(*markers: str, **named: str) -> PreTrainedTokenizerFast:
    """Words, then `markers` as special tokens of one id each; `named` gives some of them an attribute, such as
    `image_token="<image>"`."""
    specials = ["<pad>", "<s>", "</s>", "<unk>"]
    ids = {word: i for i, word in enumerate(dict.fromkeys([*specials, *WORDS]))}
    made = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    made.pre_tokenizer = Split(Regex(r"\w+|\n|[^\w\s]"), behavior="removed", invert=True)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens=named,
        padding_side="left",
    )
    fast.add_special_tokens({"additional_special_tokens": [m for m in markers if m not in named.values()]}, False)
    return fast


def finish(model: nn.Module) -> Any:
    """Ready for tests: in eval mode, and generating to the last token asked for."""
    model.eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PAD
    return model


def seeded(build: Callable[[str], nn.Module]) -> Callable[[str], nn.Module]:
    """A builder whose weights are always the same, ready for tests."""

    def made(attention: str) -> nn.Module:
        torch.manual_seed(0)
        return finish(build(attention))

    return made


def picture(width: int = 48, height: int = 48, seed: int = 0) -> Image.Image:
    """A picture of noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def frames(count: int, width: int = 48, height: int = 48, seed: int = 0) -> tuple[Image.Image, ...]:
    """A video of noise."""
    return tuple(picture(width, height, seed * 100 + i) for i in range(count))
