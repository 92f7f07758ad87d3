"""What the tests of faithfulness share: prompts of some families, and their oracles, which never heard of simignore.flow."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import LogitsProcessor
from zoo import CASES, Case, Sample, picture

from simignore.parts import parts

ANSWER = torch.tensor([7, 9, 12])
# plain, tiled with line ends, tiled in text, M-RoPE, DeepStack, dict of masks, a window, a bidirectional prompt, shared keys,
# linear attention
FAMILIES = (
    "llava-clip-llama",
    "llava-next-clip-llama",
    "idefics3",
    "qwen2-vl",
    "qwen3-vl",
    "gemma3",
    "gemma3-window",
    "paligemma",
    "gemma4",
    "qwen3.5",
)


def asking(name: str, images: int = 1) -> tuple[Case, dict]:
    """A family's case, and the inputs of one prompt."""
    case = CASES[name]
    sizes = [case.sizes[k % len(case.sizes)] for k in range(images)]
    inputs = case.inputs(Sample(images=tuple(picture(*size, seed=k) for k, size in enumerate(sizes))))
    return case, {key: value for key, value in inputs.items() if key != "labels"}


def told(inputs: dict, answer: Tensor = ANSWER, model_type: str = "") -> dict:
    """A prompt with an answer behind it, every argument by its name."""
    grown = dict(inputs)
    kinds = {"input_ids": answer, "attention_mask": torch.ones_like(answer)}
    kinds["token_type_ids"] = torch.full_like(answer, int(model_type == "paligemma"))
    kinds["mm_token_type_ids"] = torch.zeros_like(answer)
    for name, tail in kinds.items():
        if name in grown:
            grown[name] = torch.cat([grown[name], tail[None].to(grown[name].dtype)], 1)
    return grown


def mean_log_probability(logits: Tensor, answer: Tensor = ANSWER) -> float:
    """Of logits [A, V], token by token."""
    return sum(float(row.float().log_softmax(-1)[token]) for row, token in zip(logits, answer, strict=True)) / len(
        answer
    )


def told_step_by_step(model, inputs: dict, answer: Tensor = ANSWER) -> float:
    """The mean log-probability of an answer's tokens by ``generate`` with its cache, which is made to say them."""
    output = model.generate(
        **inputs,
        max_new_tokens=len(answer),
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        logits_processor=[_Say(answer)],
    )
    assert output.sequences[0, -len(answer) :].tolist() == answer.tolist()
    return mean_log_probability(torch.cat(output.logits), answer)


class _Say(LogitsProcessor):
    def __init__(self, answer):
        self.answer, self.step = answer, 0

    def __call__(self, input_ids, scores):
        token, self.step = self.answer[self.step], self.step + 1
        return torch.full_like(scores, -1e9).index_fill(1, token, 0.0)


@contextmanager
def layers_without(model, pairs: Tensor, layers):
    """Pairs [T, T] that may not look, taken out of the masks that some decoder layers are handed, by their pre-hooks."""

    def change(module, args, kwargs):
        mask = kwargs.get("attention_mask")
        q = (args[0] if args else kwargs["hidden_states"]).shape[1]
        if mask is None:
            mask = torch.ones(pairs.shape, dtype=torch.bool).tril()[None, None, -q:]
        own = pairs[-q:]
        mask = mask & ~own if mask.dtype == torch.bool else mask.masked_fill(own, float("-inf"))
        return args, {**kwargs, "attention_mask": mask}

    every = parts(model).layers
    handles = [every[n].register_forward_pre_hook(change, with_kwargs=True) for n in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def state(model, inputs: dict) -> tuple:
    """All that a run must leave alone, the logits to the bit among it."""
    with torch.no_grad():
        logits = model(**inputs).logits
    modules = [
        (name, len(m._forward_hooks), len(m._forward_pre_hooks), m.training, id(getattr(m, "config", None)))
        for name, m in model.named_modules()
    ]
    return modules, model.config.to_dict(), logits.numpy().tobytes()


@contextmanager
def breaking(model):
    """The model's last decoder layer raises."""

    def fail(*_):
        raise KeyboardInterrupt("in the last layer")

    handle = parts(model).layers[-1].register_forward_pre_hook(fail)
    try:
        yield
    finally:
        handle.remove()
