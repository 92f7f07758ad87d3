"""Adapters beside the head: the projector, and low-rank ones in the decoder's attention, so that the model learns to live with
fewer image tokens. The weights themselves are not touched."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simignore.parts import parts

ADAPTER = "adapter"  # the folder beside a head's files
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "query", "key", "value", "c_attn", "c_proj")


def adapt(model: nn.Module, rank: int, projector: bool = True, seed: int = 0) -> Any:
    """A peft model around ``model`` with LoRA of this rank in every attention of the decoder, and in the projector's linear
    layers. ``model`` itself gets the adapters, all else is frozen. They begin as ``seed`` says; torch's own random state stays.

    Raises ImportError without peft, ValueError for a model in which nothing to adapt is found.
    """
    if rank < 1:
        raise ValueError(f"adapters of rank {rank} hold nothing; give at least 1")
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("adapters need the package peft: pip install 'simignore[train]'") from error
    p, targets = parts(model), []
    names = {module: name for name, module in model.named_modules()}
    for attention in p.attentions:
        if attention is not None:
            own = [name for name, module in attention.named_modules() if isinstance(module, nn.Linear)]
            targets += [f"{names[attention]}.{name}" for name in own if name.rpartition(".")[2] in _PROJECTIONS]
    if projector and p.projector is not None:
        inside = [name for name, module in p.projector.named_modules() if isinstance(module, nn.Linear)]
        targets += [".".join(part for part in (names[p.projector], name) if part) for name in inside]
    if not targets:
        raise ValueError(
            f"{type(model).__name__} has no linear layers named {', '.join(_PROJECTIONS)} to adapt; train the head alone"
        )
    pattern = "|".join(map(re.escape, targets))
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=f"({pattern})", bias="none")
    devices = sorted({parameter.device.index for parameter in model.parameters() if parameter.is_cuda})
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def adapted(model: Any, head: str | Path) -> Any:
    """``model`` with the adapters that lie beside a head merged into its weights; the same model where there are none.

    Raises ImportError without peft.
    """
    folder = Path(head) / ADAPTER
    if not (folder / "adapter_config.json").is_file():
        return model
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ImportError(
            f"{folder} holds adapters, which need the package peft: pip install 'simignore[train]'"
        ) from error
    return PeftModel.from_pretrained(model, folder).merge_and_unload().eval()
