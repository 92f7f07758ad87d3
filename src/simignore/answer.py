"""Ask a model, with or without a method, and say what the answer cost."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin

from simignore.clock import Clock
from simignore.methods import Method
from simignore.parts import parts
from simignore.prompt import Prompt
from simignore.splice.reading import read
from simignore.types import Answer


def ask(model: nn.Module, processor: Any, prompt: Prompt, method: Method | None = None, **generation: Any) -> Answer:
    """The model's answer to ``prompt`` (greedy unless ``generation`` says otherwise), under ``method`` if one is given.

    The method compares image tokens with the span that it names (``span``).
    generation: arguments for ``model.generate``, such as ``max_new_tokens``.
    """
    weights = next(model.parameters())
    if fixed := {"return_dict_in_generate", "num_return_sequences"}.intersection(generation):
        raise ValueError(
            f"{', '.join(sorted(fixed))}: `ask` gives one answer; call model.generate under the method yourself"
        )
    inputs = {
        name: value.to(weights.device, weights.dtype if value.is_floating_point() else value.dtype)
        for name, value in prompt.inputs.items()
    }
    width = inputs["input_ids"].shape[1]
    found = read(parts(model), inputs)
    image_tokens = 0 if found is None else sum(found.counts)
    settings = {"do_sample": False, "max_new_tokens": 48, **generation}
    with _laid(method, model, processor, prompt) as trace, Stopwatch(model) as watch, torch.inference_mode():
        output = model.generate(**inputs, **settings, return_dict_in_generate=True)  # type: ignore[operator]
    ids = output.sequences[0, width:]
    return Answer(
        text=processor.decode(ids, skip_special_tokens=True).strip(),
        ids=ids.cpu(),
        prefill=watch.first,
        decode=watch.rest,
        selection=sum(trace.seconds) if trace else 0.0,
        image_tokens=image_tokens,
        kept=int(trace.selections[0].count[0]) if trace and trace.selections else image_tokens,
        cache_bytes=cache_bytes(output.past_key_values),
        trace=trace,
    )


def _laid(method: Method | None, model: nn.Module, processor: Any, prompt: Prompt) -> AbstractContextManager[Any]:
    if method is None:
        return nullcontext()
    return method(model, query=prompt.query(span_of(method)), processor=processor)


def span_of(method: Method) -> str:
    """The part of the prompt that a method wants image tokens compared with; "auto" if it does not say."""
    return getattr(method, "span", "auto")


def cache_bytes(cache: Any) -> int:
    """Bytes of the keys and values that a cache holds; states of recurrent layers, which do not grow, are not counted."""
    layers = getattr(cache, "layers", ())
    tensors = [getattr(layer, name, None) for layer in layers for name in ("keys", "values")]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))


class Stopwatch:
    """Times one generation: all up to the end of the first forward (vision tower and prefill) apart from the further
    forwards (decoding), in seconds.

    The first span begins on entering, because generate may run the vision tower before it calls the model. A forward is one of
    whatever can generate, for BLIP-2 hands generation on to its language model; one inside another counts as part of it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.first = self.rest = 0.0

    def __enter__(self) -> Stopwatch:
        self._clocks: list[Clock] = []
        self._spans = ExitStack()
        self._depth = 0
        self._hooks: list[Any] = []
        for module in self.model.modules():
            if module is self.model or isinstance(module, GenerationMixin):
                self._hooks.append(module.register_forward_pre_hook(lambda *_: self._forward_in(), prepend=True))
                self._hooks.append(module.register_forward_hook(lambda *_: self._forward_out(), always_call=True))
        self._begin()
        return self

    def __exit__(self, *_: Any) -> None:
        self._spans.close()
        for hook in self._hooks:
            hook.remove()
        seconds = [clock.seconds() for clock in self._clocks]
        self.first, self.rest = seconds[0], sum(seconds[1:])

    def _begin(self) -> None:
        self._clocks.append(Clock(self.device))
        self._spans.enter_context(self._clocks[-1].span())
        self._running = True

    def _forward_in(self) -> None:
        if not self._running:
            self._begin()
        self._depth += 1

    def _forward_out(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._spans.close()
            self._running = False


__all__ = ["Stopwatch", "ask", "cache_bytes", "span_of"]
