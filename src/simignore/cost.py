"""What one prompt costs: floating-point operations, memory of the cache, and the time of each phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median, quantiles
from typing import Any

import torch

from simignore.answer import ask, span_of
from simignore.methods import Method
from simignore.prompt import Prompt

PHASES = ("prefill", "decode", "selection")


def flops(model: Any, prompt: Prompt, method: Method | None = None, processor: Any = None) -> int:
    """Floating-point operations of one prefill, vision tower and choosing included, by torch's own counter.

    It counts matrix products, convolutions and attention (a multiplication and an addition are two), nothing elementwise;
    the same number on every machine. processor: for methods that read the question as words.
    """
    from torch.utils.flop_counter import FlopCounterMode

    weights = next(model.parameters())
    inputs = {
        name: value.to(weights.device, weights.dtype if value.is_floating_point() else value.dtype)
        for name, value in prompt.inputs.items()
        if isinstance(value, torch.Tensor)
    }
    # torch's counter knows attention on GPUs only; on a CPU the same attention is an operation of another name
    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={on_cpu: _attention_flops})
    with torch.inference_mode(), counter:
        if method is None:
            model(**inputs, use_cache=True, logits_to_keep=1)
        else:
            with method(model, query=prompt.query(span_of(method)), processor=processor):
                model(**inputs, use_cache=True, logits_to_keep=1)
    return int(counter.get_total_flops())


def _attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Of the products of queries with keys and of weights with values; shapes [B, H, q, d] and [B, H, kv, d]."""
    b, h, q, d = query
    return 2 * b * h * q * key[2] * (d + value[3])


def cost(
    model: Any, processor: Any, prompt: Prompt, methods: Mapping[str, Method | None], rounds: int = 5, tokens: int = 8
) -> dict[str, dict[str, Any]]:
    """What a prompt costs under each method (None: all image tokens): FLOPs, KV bytes, and seconds as medians and quartiles.

    Methods take turns in every round, so that the machine's moods fall on all alike. tokens: decoded in each run; a decoding
    step is their mean. The first round warms up and is not counted. Raises ValueError for fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"{rounds} rounds: at least 1 is needed to time anything")
    times: dict[str, dict[str, list[float]]] = {name: {phase: [] for phase in PHASES} for name in methods}
    sizes = {}
    for number in range(rounds + 1):
        for name, method in methods.items():
            told = ask(model, processor, prompt, method, max_new_tokens=tokens, min_new_tokens=tokens)
            sizes[name] = {"kv_bytes": told.cache_bytes, "image_tokens": told.image_tokens, "kept": told.kept}
            if number:
                own = (told.prefill, told.decode / max(1, tokens - 1), told.selection)
                for phase, seconds in zip(PHASES, own, strict=True):
                    times[name][phase].append(seconds)
    return {
        name: {
            "prefill_flops": flops(model, prompt, method, processor),
            **sizes[name],
            **{f"{phase}_seconds": _spread(times[name][phase]) for phase in PHASES},
        }
        for name, method in methods.items()
    }


def _spread(values: list[float]) -> dict[str, float]:
    q1, middle, q3 = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [median(values)] * 3
    return {"median": middle, "q1": q1, "q3": q3}
