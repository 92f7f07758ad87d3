"""The processor of the converted model: the original's tokenizer with an image token, its images, its prompt's wording."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from simignore.convert.configs import Original

IMAGE, PAD = "<image>", "<pad>"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
SYSTEM = (  # conv_vicuna_v1 in haotian-liu/LLaVA llava/conversation.py, conv_phi_v0 in zhuyiche/llava-phi mipha/conversation.py
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_TEMPLATE = """\
{% if messages[0]['role'] != 'system' %}@system@{{ ' ' }}{% endif %}\
{% for message in messages %}\
{% set parts = [{'type': 'text', 'text': message['content']}] if message['content'] is string else message['content'] %}\
{% if message['role'] == 'user' %}USER: {% elif message['role'] == 'assistant' %}ASSISTANT: {% endif %}\
{% for part in parts if part['type'] == 'image' %}{{ '@image@' }}{% endfor %}\
{% for part in parts if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}\
{% if message['role'] == 'assistant' %}@end@{% else %}{{ ' ' }}{% endif %}\
{% endfor %}\
{% if add_generation_prompt %}ASSISTANT:{% endif %}"""


def tokenizer(folder: Path) -> tuple[Any, list[str]]:
    """The fast tokenizer in a folder with ``<image>``, and ``<pad>`` if it had no padding token of its own.

    Returns it and the tokens that were added. Raises ValueError if the files cannot be read.
    """
    from transformers import AddedToken, AutoTokenizer

    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if lacking := _lacking({file.name for file in files}):
        raise ValueError(
            f"{folder / 'tokenizer.model'} is read with packages that are not installed: pip install {' '.join(lacking)}"
        )
    with tempfile.TemporaryDirectory() as alone:  # without config.json, whose model type transformers does not know
        for file in files:
            shutil.copy(file, alone)
        try:
            made = AutoTokenizer.from_pretrained(alone, local_files_only=True)
        except Exception as error:  # each kind of file raises its own
            raise ValueError(
                f"the tokenizer in {folder} cannot be read ({error}); it needs tokenizer.json or tokenizer.model"
            ) from error
    for name in ("local_files_only", "is_local"):  # of the call above, and else kept in tokenizer_config.json
        made.init_kwargs.pop(name, None)
    if not made.is_fast:
        raise ValueError(
            f"the tokenizer in {folder} is no fast one ({type(made).__name__}); put a tokenizer.json there"
        )
    before = set(made.get_vocab())
    made.add_tokens([AddedToken(IMAGE, special=True, normalized=False)], special_tokens=True)
    if made.pad_token is None or made.pad_token in (made.unk_token, made.eos_token, made.bos_token):
        made.add_special_tokens({"pad_token": AddedToken(PAD, special=True, normalized=False)})
    made.padding_side = "left"  # as generation needs it; the original was padded on the right for training
    made.chat_template = None
    return made, [token for token in (IMAGE, PAD) if token in set(made.get_vocab()) - before]


def _lacking(names: set[str]) -> list[str]:
    """What has to be installed to read a SentencePiece model, which LLaVA-1.5 comes with; nothing for tokenizer.json."""
    from transformers.utils import is_protobuf_available, is_sentencepiece_available

    if "tokenizer.json" in names or "tokenizer.model" not in names:
        return []
    there = {"sentencepiece": is_sentencepiece_available(), "protobuf": is_protobuf_available()}
    return [name for name, found in there.items() if not found]


def image_text(made: Any) -> str:
    """How the template writes an image, so that the token ids are those that the original code makes.

    It tokenises the texts before and after an image by themselves (tokenizer_image_token in llava/mm_utils.py), which
    with SentencePiece may put a blank before the second; then the template writes one.
    """
    before, after = f"{SYSTEM} USER: ", "\nWhat is this? ASSISTANT:"
    first, second = made(before)["input_ids"], made(after)["input_ids"]
    begins = int(bool(second) and second[0] == made.bos_token_id)
    wanted = [*first, made.convert_tokens_to_ids(IMAGE), *second[begins:]]
    for blank in ("", " "):
        if made(f"{before}{IMAGE}{blank}{after}")["input_ids"] == wanted:
            return f"{IMAGE}{blank}\n"
    return f"{IMAGE}\n"


def processor(made: Any, original: Original, config: Any, folders: Iterable[Path]) -> Any:
    """A LlavaProcessor. folders: where a preprocessor_config.json may say how the tower's images are normalised."""
    from transformers import LlavaProcessor

    clip = config.vision_config.model_type == "clip_vision_model"
    template = _TEMPLATE.replace("@system@", SYSTEM).replace("@end@", made.eos_token or "")
    return LlavaProcessor(
        image_processor=_images(original, config.vision_config.image_size, clip, folders),
        tokenizer=made,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(clip),
        chat_template=template.replace("@image@", image_text(made).replace("\n", "\\n")),
    )


def _images(original: Original, side: int, clip: bool, folders: Iterable[Path]) -> Any:
    """Squares of ``side`` pixels: padded, as the original was trained, or else cut out (CLIP) or squeezed (SigLIP)."""
    from transformers import LlavaImageProcessorPil
    from transformers.image_utils import IMAGENET_STANDARD_MEAN, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    square = {"height": side, "width": side}
    crop = clip and not original.pad
    settings = {
        "image_mean": OPENAI_CLIP_MEAN if clip else IMAGENET_STANDARD_MEAN,  # SigLIP: a half, both of them
        "image_std": OPENAI_CLIP_STD if clip else IMAGENET_STANDARD_MEAN,
        "resample": 3,
    }
    for folder in folders:
        if (file := folder / "preprocessor_config.json").is_file():
            said = json.loads(file.read_text())
            settings |= {key: said[key] for key in settings if key in said}
            break
    return LlavaImageProcessorPil(
        do_pad=original.pad,
        do_center_crop=crop,
        size={"shortest_edge": side} if crop else square,
        crop_size=square,
        **settings,
    )
