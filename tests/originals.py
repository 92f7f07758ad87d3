"""Small checkpoints as the original LLaVA, Mipha and LLaVA-Phi code saved them, made from random models of transformers.

The renaming here goes the other way than the one that is tested, and shares nothing with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PhiConfig,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)

SIDE, PATCH, HEADS, LAYERS = 32, 8, 4, 2
WORDS = (
    "a chat between curious user and an artificial intelligence assistant . the gives helpful , detailed polite answers to "
    "'s questions USER ASSISTANT : \n what What is this ? which colour star red green blue yes no it there"
)
TOKENS = list(dict.fromkeys(["<unk>", "<s>", "</s>", *WORDS.split(" ")]))
KNOWN = len(TOKENS)
State = dict[str, Tensor]


def tokenizer(pad: str | None = "<unk>") -> PreTrainedTokenizerFast:
    """Words; like LLaVA-1.5's it has no ``<image>`` and pads with ``<unk>``."""
    ids = {word: number for number, word in enumerate(TOKENS)}
    made = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    made.pre_tokenizer = Split(Regex(r"\w+|\n|'s|[^\w\s]"), behavior="removed", invert=True)
    made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token=pad, padding_side="right"
    )


def model(kind: str, vocabulary: int) -> LlavaForConditionalGeneration:
    """A random model: "llava" is Llama with CLIP, "mipha" is Phi with SigLIP. Biases and norms are random too."""
    torch.manual_seed(5)
    vision: dict[str, Any] = dict(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
        hidden_act="gelu",  # what the classes take for granted would hide a setting that was not carried over
        layer_norm_eps=1e-2,
    )
    text: dict[str, Any] = dict(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=512,
        initializer_range=0.2,
    )
    llava = kind == "llava"
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision, projection_dim=16) if llava else SiglipVisionConfig(**vision),
        text_config=LlamaConfig(**text, rms_norm_eps=1e-2)
        if llava
        else PhiConfig(**text, partial_rotary_factor=0.25, layer_norm_eps=1e-2),
        image_token_index=vocabulary - 1,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default" if llava else "full",
    )
    made = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
        made.model.multi_modal_projector.linear_2.weight.mul_(10)  # so that the image matters
    return made


def llava_state(made: LlavaForConditionalGeneration, tower: bool = True) -> State:
    """What LlavaLlamaForCausalLM.state_dict() gives: with the tower if DeepSpeed saved it, with the old buffers."""
    state: State = {}
    for name, tensor in made.state_dict().items():
        if name.startswith("model.language_model."):
            state["model." + name[len("model.language_model.") :]] = tensor
        elif name.startswith("model.multi_modal_projector.linear_"):
            layer, kind = name[len("model.multi_modal_projector.linear_") :].split(".")
            state[f"model.mm_projector.{ {'1': 0, '2': 2}[layer] }.{kind}"] = tensor
        elif name.startswith("model.vision_tower."):
            if tower:
                state["model.vision_tower.vision_tower.vision_model." + name[len("model.vision_tower.") :]] = tensor
        else:
            assert name == "lm_head.weight"
            state[name] = tensor
    for layer in range(LAYERS):
        state[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    if tower:
        state["model.vision_tower.vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    return state


def mipha_state(made: LlavaForConditionalGeneration, bias: Tensor, fused: bool = False) -> State:
    """What MiphaPhiForCausalLM.state_dict() gives; ``fused``: with transformers 4.36's attention, as Mipha-1.6B's."""
    state = {
        name.replace("model.vision_tower.vision_tower.", "model.vision_tower."): tensor
        for name, tensor in llava_state(made).items()
        if not name.endswith(("inv_freq", "position_ids"))
    }
    state["lm_head.bias"] = bias
    for layer in range(LAYERS) if fused else ():
        for kind in ("weight", "bias"):
            parts = [state.pop(f"model.layers.{layer}.self_attn.{part}_proj.{kind}") for part in "qkv"]
            width = len(parts[0]) // HEADS
            rows = [part[head * width : (head + 1) * width] for head in range(HEADS) for part in parts]
            state[f"model.layers.{layer}.self_attn.query_key_value.{kind}"] = torch.cat(rows)
    return state


def llava_config(made: LlavaForConditionalGeneration, **changes: Any) -> dict[str, Any]:
    """config.json as LLaVA-1.5's training code writes it: everything at the top, the tower only named."""
    text = made.config.text_config
    said = {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "image_aspect_ratio": "pad",
        "max_length": 4096,
        "mm_hidden_size": 24,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-small-patch8-32",
        "pad_token_id": 0,
        "rms_norm_eps": 1e-2,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": False,
    }
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {**said, **{key: getattr(text, key) for key in (*sizes, "max_position_embeddings")}, **changes}


def mipha_config(made: LlavaForConditionalGeneration, **changes: Any) -> dict[str, Any]:
    """config.json as Mipha's code writes it: Phi's at the top, tower and projector in a ``vision_config``."""
    text, vision = made.config.text_config, made.config.vision_config
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    tower = {key: getattr(vision, key) for key in (*sizes, "image_size", "patch_size", "hidden_act", "layer_norm_eps")}
    said = {
        "architectures": ["MiphaPhiForCausalLM"],
        "model_type": "mipha_phi",
        "hidden_act": "gelu_new",
        "image_aspect_ratio": "pad",
        "layer_norm_eps": 1e-2,
        "mm_use_im_start_end": False,
        "num_key_value_heads": None,
        "partial_rotary_factor": 0.25,
        "qk_layernorm": False,
        "resid_pdrop": 0.1,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "torch_dtype": "float32",
        "vision_config": {
            "vision_tower": {
                "model_type": "mipha_vision_model",
                "mm_vision_select_feature": "patch",
                "mm_vision_select_layer": -2,
                "projection_dim": 512,
                "vision_model_name_or_path": "google/siglip-so400m-patch14-384",
                **tower,
            },
            "mm_projector": {"mm_hidden_size": 24, "hidden_size": 32, "mm_projector_type": "mlp2x_gelu"},
        },
    }
    return {**said, **{key: getattr(text, key) for key in ("vocab_size", *sizes, "max_position_embeddings")}, **changes}


def _index(folder: Path, state: State, name: str, write: Callable[[State, Path], None]) -> None:
    names = sorted(state)
    shards = {f"{name[0]}-0000{i + 1}-of-00003.{name[1]}": names[i::3] for i in range(3)}
    for file, own in shards.items():
        write({key: state[key].clone() for key in own}, folder / file)
    index = {"weight_map": {key: file for file, own in shards.items() for key in own}}
    (folder / f"{'.'.join(name)}.index.json").write_text(json.dumps(index))


def _old_pickle(state: State, file: Path) -> None:
    torch.save(state, file, _use_new_zipfile_serialization=False)


CONTAINERS: dict[str, Callable[[Path, State], None]] = {  # the ways in which weights are found on disk
    "safetensors": lambda folder, state: save_file(
        {name: tensor.clone() for name, tensor in state.items()}, folder / "model.safetensors"
    ),
    "safetensors in shards": lambda folder, state: _index(folder, state, ("model", "safetensors"), save_file),
    "bin": lambda folder, state: torch.save(state, folder / "pytorch_model.bin"),
    "bin in shards": lambda folder, state: _index(folder, state, ("pytorch_model", "bin"), torch.save),
    "bin of before 2020": lambda folder, state: _old_pickle(state, folder / "pytorch_model.bin"),
}


@dataclass(frozen=True)
class Original:
    """A checkpoint before it is written. model: what it was made from; the conversion has to give it back."""

    model: LlavaForConditionalGeneration
    state: State
    config: dict[str, Any]
    tokenizer: PreTrainedTokenizerFast = field(default_factory=tokenizer)

    def save(self, folder: Path, container: str = "safetensors") -> Path:
        folder.mkdir()
        CONTAINERS[container](folder, self.state)
        (folder / "config.json").write_text(json.dumps(self.config))
        self.tokenizer.save_pretrained(folder)
        return folder


def llava(tower: bool = True, **changes: Any) -> Original:
    """LLaVA-1.5, whose vocabulary is as large as its tokenizer."""
    made = model("llava", KNOWN)
    return Original(made, llava_state(made, tower), llava_config(made, **changes))


def mipha(bias: float = 0.0, fused: bool = False, **changes: Any) -> Original:
    """Mipha, whose vocabulary has unused rows; ``bias``: how large the head's are."""
    made = model("mipha", KNOWN + 20)
    drawn = torch.randn(KNOWN + 20, generator=torch.Generator().manual_seed(1)) * bias
    return Original(made, mipha_state(made, drawn, fused), mipha_config(made, **changes), tokenizer(pad=None))


def save_tower(folder: Path, made: LlavaForConditionalGeneration) -> Path:
    """The CLIP that a released LLaVA-1.5 names, whole: with its text half, and what its images are normalised with."""
    vision = made.config.vision_config
    text = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    clip = CLIPModel(CLIPConfig(vision_config=vision.to_dict(), text_config=text, projection_dim=16))
    clip.vision_model.load_state_dict(made.model.vision_tower.state_dict())
    clip.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "resample": 2})
    )
    return folder
