"""``lmms-eval --model simignore --model_args ...``: from what was typed there to a model under a method.

    lmms-eval --model simignore --model_args pretrained=llava-hf/llava-1.5-7b-hf,method=fastv,keep=0.25,layer=2 --tasks mme

lmms-eval learns of it from :func:`simignore.cli.plugins.lmms_eval`.
"""

from __future__ import annotations

import os
from typing import Any

from simignore.cli.evaluate import NO_METHOD
from simignore.cli.models import head_of, load
from simignore.cli.options import make_method, read_keep, read_layer, read_settings
from simignore.evaluate.lmms import MAX_NEW_TOKENS, SPANS, Lmms
from simignore.methods import Method


class Typed(Lmms):
    """The model that ``--model_args`` describes.

    pretrained: a folder, a name on the hub, or "tiny". method: one of `simignore list`, or "full" or "none" for all image
    tokens. preset: a published setting instead. keep, layer, span, seed, ...: the method's options. device: auto, cpu, cuda or
    cuda:N. dtype: auto, float32, bfloat16 or float16. batch_size: requests at once. max_new_tokens: longest answer where the
    task gives no limit.
    Raises ValueError or KeyError for arguments and values that are not known.
    """

    def __init__(
        self,
        pretrained: str = "tiny",
        method: str | None = None,
        preset: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        **options: Any,
    ) -> None:
        if max_batch_size is not None or not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(
                f"batch_size={batch_size!r}, max_batch_size={max_batch_size!r}: batches are not sized automatically; give "
                "batch_size a whole number from 1, and leave max_batch_size out"
            )
        if not str(max_new_tokens).isdecimal() or int(max_new_tokens) < 1:
            raise ValueError(
                f"max_new_tokens={max_new_tokens!r} is no whole number from 1; the longest answer is meant"
            )
        chosen = read_method(method, preset, options)
        model, processor = load(pretrained, _device(str(device)), str(dtype), head_of(chosen))
        super().__init__(model, processor, chosen, batch_size=int(batch_size), max_new_tokens=int(max_new_tokens))


def read_method(name: str | None, preset: str | None, options: dict[str, Any]) -> Method | None:
    """The method, or None for "full" and "none"."""
    if name in NO_METHOD:
        if extra := [*([] if preset is None else ["preset"]), *options]:
            raise ValueError(
                f"method={name} keeps all image tokens, and {', '.join(extra)} would have no effect; leave out"
            )
        return None
    given = {option: _value(option, typed) for option, typed in options.items()}
    if (span := given.get("span", "auto")) not in SPANS:
        raise ValueError(f"span={span!r}: lmms-eval's requests are one text, of which {', '.join(SPANS)} are known")
    return make_method(name, preset, given)


def _value(option: str, typed: Any) -> Any:
    """lmms-eval has made numbers of what looks like one; quotes around a text with commas are still there."""
    text = str(typed)
    if text[:1] in ("'", '"') and text[-1:] == text[:1]:
        text = text[1:-1]
    if option == "keep":
        return read_keep(text)
    return read_layer(text) if option == "layer" else read_settings([f"{option}={text}"])[option]


def _device(typed: str) -> str:
    """The device for :func:`simignore.cli.models.load`; of several GPUs the one that was named, or this process's own."""
    import torch

    number = typed.removeprefix("cuda:") if typed.startswith("cuda:") else os.environ.get("LOCAL_RANK", "")
    if typed == "cpu" or not number.isdecimal() or not torch.cuda.is_available():
        return "cuda" if typed.startswith("cuda:") else typed
    if int(number) >= (there := torch.cuda.device_count()):
        raise ValueError(f"device={typed}: GPU {number} was wanted, and there are {there}, numbered from 0")
    torch.cuda.set_device(int(number))
    return "cuda"


__all__ = ["Typed", "read_method"]
