"""Aria, Llama 4, BLIP-2 and InstructBLIP; and `REFUSED`, models whose image tokens are not in one causal sequence."""

from __future__ import annotations

from typing import Any, NoReturn

from PIL import Image
from transformers import (
    AriaImageProcessorPil,
    AriaProcessor,
    AutoConfig,
    AutoModelForImageTextToText,
    Blip2Processor,
    BlipImageProcessorPil,
    InstructBlipProcessor,
    Llama4Processor,
    SiglipImageProcessorPil,
)

from zoo.base import PAD, TEXT, Case, finish, seeded, tokenizer

SIZES = ((48, 48), (96, 40), (30, 80))
VISION = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, initializer_range=0.2)


def _aria(**options: Any) -> Case:
    side, patch, queries = 490, 49, 16  # the smaller of the two sides its image processor allows

    def words() -> Any:
        return tokenizer(image_token="<|img|>")

    @seeded
    def build(attention: str) -> Any:
        known = words()
        experts = {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1}
        config = AutoConfig.for_model(
            "aria",
            vision_config={**VISION, "model_type": "idefics3_vision", "image_size": side, "patch_size": patch},
            text_config={**TEXT, **experts, "vocab_size": len(known)},
            image_token_index=known.image_token_id,
            projector_patch_to_query_dict={(side // patch) ** 2: queries},
            initializer_range=0.2,
        )
        model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention)
        model.model.multi_modal_projector.query.data.normal_()  # zeros until trained, or all image tokens are alike
        return model

    def processor() -> AriaProcessor:
        return AriaProcessor(AriaImageProcessorPil(), words(), size_conversion={side: queries})

    options = {"max_image_size": side, "min_image_size": 98, **options}
    return Case("aria", build, processor, "<|img|>", sizes=SIZES, options=options, least=queries)


class Tiles(SiglipImageProcessorPil):
    """In the place of Llama4ImageProcessor, which exists for torchvision only: the picture, enlarged to at least a tile,
    lies in the upper left of as few tiles as hold it undistorted; if they are several, the whole picture follows them."""

    most = 4

    def preprocess(self, images: Any, **_: Any) -> Any:
        side, tiles, grids = self.size["height"], [], []
        for picture in images:
            wide, high = picture.size

            def fit(grid: tuple[int, int], wide: int = wide, high: int = high) -> tuple[bool, float, int]:
                scale = min(grid[0] * side / high, grid[1] * side / wide)
                return scale < 1, abs(scale - 1), grid[0] * grid[1]

            rows, columns = min(((r, c) for r in range(1, 5) for c in range(1, 5) if r * c <= self.most), key=fit)
            room_high, room_wide = min(max(high, side), rows * side), min(max(wide, side), columns * side)
            scale = min(room_high / high, room_wide / wide)
            canvas = Image.new("RGB", (columns * side, rows * side))
            size = [max(int(pixels * scale + 1e-6), 1) for pixels in (wide, high)]
            canvas.paste(picture.resize(size, self.resample))
            tiles += [
                canvas.crop((c * side, r * side, (c + 1) * side, (r + 1) * side))
                for r in range(rows)
                for c in range(columns)
            ]
            if rows * columns > 1:
                tiles.append(picture.resize((side, side), self.resample))
            grids.append([rows, columns])
        made = super().preprocess(tiles, do_resize=False, return_tensors="pt")
        made["aspect_ratios"] = grids
        return made


def _llama4(chunk: int) -> Case:
    side, patch = 24, 4  # a tile is 3 x 3 tokens, once the pixels of 2 x 2 patches are shuffled into one

    def words() -> Any:
        around = ("<|image|>", "<|image_start|>", "<|image_end|>", "<|tile_x_separator|>", "<|tile_y_separator|>")
        return tokenizer("<|patch|>", *around)

    @seeded
    def build(attention: str) -> Any:
        known = words()
        projector = dict.fromkeys(("vision_output_dim", "projector_input_dim", "projector_output_dim"), 32)
        experts = {"num_local_experts": 4, "interleave_moe_layer_step": 2, "intermediate_size_mlp": 48}
        layers = {"head_dim": 8, "no_rope_layer_interval": 3, "attention_chunk_size": chunk}
        config = AutoConfig.for_model(
            "llama4",
            vision_config={**VISION, **projector, "intermediate_size": 128, "image_size": side, "patch_size": patch},
            text_config={**TEXT, **experts, **layers, "vocab_size": len(known)},
            image_token_index=known.convert_tokens_to_ids("<|patch|>"),
            boi_token_index=known.convert_tokens_to_ids("<|image_start|>"),
            eoi_token_index=known.convert_tokens_to_ids("<|image_end|>"),
        )
        model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention)
        finish(model.language_model)
        return model

    def processor() -> Llama4Processor:
        return Llama4Processor(Tiles(size={"height": side, "width": side}), words(), patch_size=patch)

    return Case("llama4", build, processor, "<|image|>", sizes=((24, 24), (48, 24), (30, 60), (50, 40)))


def _blip(model_type: str, decoder: str, **text: Any) -> Case:
    """One picture to a prompt, which does not mention it: its tokens come first, before the padding."""
    side, queries = 32, 12
    instructed = model_type == "instructblip"

    def words() -> Any:
        return tokenizer("<image>")

    @seeded
    def build(attention: str) -> Any:
        known = words()
        config = AutoConfig.for_model(
            model_type,
            vision_config={**VISION, "image_size": side, "patch_size": 8},
            qformer_config={**VISION, "vocab_size": len(known), "cross_attention_frequency": 1},
            text_config={**TEXT, "model_type": decoder, "vocab_size": len(known), **text},
            num_query_tokens=queries,
            image_token_index=known.convert_tokens_to_ids("<image>"),
            initializer_range=0.2,
        )
        model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention)
        model.query_tokens.data.normal_()  # zeros until trained, or all image tokens are alike
        finish(model.language_model)  # which is what generates
        return model

    def processor() -> Any:
        pictures = BlipImageProcessorPil(size={"height": side, "width": side})
        if not instructed:
            return Blip2Processor(pictures, words(), num_query_tokens=queries)
        known, asked = words(), tokenizer()
        known.init_kwargs.pop("padding_side")  # or the processor would pad the Q-Former's question on the left, too
        asked.padding_side = "right"
        return InstructBlipProcessor(pictures, known, asked, num_query_tokens=queries)

    return Case(model_type, build, processor, "", sizes=SIZES, least=queries)


OPT = dict(ffn_dim=48, init_std=0.2)
CASES = {
    "aria": _aria(),
    "aria-crops": _aria(split_image=True, split_resolutions=[[490, 980], [980, 490]]),  # always two crops
    "llama4": _llama4(512),
    "llama4-chunk": _llama4(16),
    "blip-2": _blip("blip-2", "opt", **OPT),
    "instructblip": _blip("instructblip", "llama"),
    "instructblip-opt": _blip("instructblip", "opt", **OPT),
}


def _refused(model_type: str, **settings: Any) -> Case:
    @seeded
    def build(attention: str) -> Any:
        return AutoModelForImageTextToText.from_config(AutoConfig.for_model(model_type, **settings))

    def processor() -> NoReturn:
        raise NotImplementedError(f"{model_type} is to be refused before anything is processed")

    return Case(model_type, build, processor, "<image>")


ENDS = dict(vocab_size=64, pad_token_id=PAD, bos_token_id=1, eos_token_id=2)
SEQ2SEQ = dict(d_model=32, decoder_start_token_id=2, encoder_layers=2, decoder_layers=2)
HEADS = dict(encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48)
STAGES = dict(depths=[1, 1], patch_size=[7, 3], patch_stride=[4, 2], patch_padding=[3, 1], patch_prenorm=[False, True])
REFUSED = {
    "florence2": _refused(
        "florence2",
        text_config={**ENDS, **SEQ2SEQ, **HEADS, "model_type": "bart"},
        vision_config={
            **STAGES,
            "embed_dim": [16, 32],
            "num_heads": [2, 2],
            "num_groups": [2, 2],
            "projection_dim": 32,
        },
        image_token_id=40,
    ),
    "mllama": _refused(
        "mllama",
        text_config={
            **TEXT,
            "vocab_size": 64,
            "cross_attention_layers": [1, 3],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
        vision_config={
            **VISION,
            "num_global_layers": 1,
            "vision_output_dim": 96,
            "image_size": 32,
            "patch_size": 8,
            "intermediate_layers_indices": [0, 1],
        },
        image_token_index=40,
    ),
    "blip-2-t5": _refused(
        "blip-2",
        text_config={**ENDS, "model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
        vision_config={**VISION, "image_size": 32, "patch_size": 8},
        qformer_config={**VISION, "vocab_size": 64},
        image_token_index=40,
    ),
    "kosmos-2": _refused(
        "kosmos-2",
        text_config={**ENDS, "embed_dim": 32, "layers": 2, "ffn_dim": 48, "attention_heads": 2},
        vision_config={**VISION, "image_size": 32, "patch_size": 8},
        latent_query_num=8,
    ),
    "git": _refused("git", **{**TEXT, "vocab_size": 64}, vision_config={**VISION, "image_size": 32, "patch_size": 8}),
}
