"""A decoder's forward, taken down layer by layer, and its end as a function of its own. Read-only, on unmodified models."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from simignore.parts import Parts


@dataclass
class Tape:
    """What went into every decoder layer of one forward, and what came out of the last.

    args, kwargs: of each layer's call; the first positional argument, or the keyword ``hidden_states``, is what entered it.
    end: [B, T, D] what the last layer gave out, before the final normalisation.
    """

    args: list[tuple[Any, ...]] = field(default_factory=list)
    kwargs: list[dict[str, Any]] = field(default_factory=list)
    end: Tensor | None = None

    def entered(self, layer: int) -> Tensor:
        """[B, T, D] what entered a layer; ``layer`` = L is what came out of the last."""
        if layer == len(self.args):
            if self.end is None:
                raise RuntimeError("the decoder's last layer did not run")
            return self.end
        args = self.args[layer]
        return args[0] if args else self.kwargs[layer]["hidden_states"]  # type: ignore[no-any-return]

    def again(self, layer: nn.Module, number: int, hidden: Tensor) -> Tensor:
        """Run a layer once more as it was called, on other hidden states; what it gives out [B, T, D]."""
        args, kwargs = self.args[number], self.kwargs[number]
        out = layer(hidden, *args[1:], **kwargs) if args else layer(**{**kwargs, "hidden_states": hidden})
        return first(out)


def record(parts: Parts, inputs: Mapping[str, Any]) -> Tape:
    """Run the model once on these inputs, without a cache and without gradients, and take its decoder's layers down."""
    tape = Tape()

    def entering(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tape.args.append(args)
        tape.kwargs.append(dict(kwargs))

    def leaving(_: nn.Module, __: Any, output: Any) -> None:
        tape.end = first(output)

    hooks = [layer.register_forward_pre_hook(entering, with_kwargs=True) for layer in parts.layers]
    hooks.append(parts.layers[-1].register_forward_hook(leaving))
    try:
        with torch.no_grad():
            parts.model(**without_labels(inputs), use_cache=False, logits_to_keep=at_last(inputs))
    finally:
        for hook in hooks:
            hook.remove()
    return tape


class Tail:
    """The model's own end, from what the last decoder layer gives out to logits: final normalisation, head, soft-capping.

    The model itself is run, on as many text tokens as there are states, and the last layer's output is replaced; so every
    family's end is its own and none has to be known here. Differentiable.

    token: id of any text token.
    """

    def __init__(self, parts: Parts, token: int) -> None:
        self.parts, self.token = parts, token
        self.speaker = _speaker(parts)

    def __call__(self, hidden: Tensor) -> Tensor:
        """[P, V] logits of states ``hidden`` [P, D], with gradient where ``hidden`` has one."""
        ids = torch.full((1, len(hidden)), self.token, device=hidden.device)
        mode = torch.is_grad_enabled()

        def replace(_: nn.Module, __: Any, output: Any) -> Any:
            torch.set_grad_enabled(mode)  # the layers before run without
            return like(output, hidden[None])

        hook = self.parts.layers[-1].register_forward_hook(replace)
        try:
            with torch.no_grad():
                out = self.speaker(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        finally:
            hook.remove()
            torch.set_grad_enabled(mode)
        return out.logits[0]  # type: ignore[no-any-return]


def _speaker(parts: Parts) -> nn.Module:
    """The innermost module around the decoder that has a head: the model itself, or a language model inside it (BLIP-2)."""
    modules: Iterator[Any] = parts.model.modules()
    heads: list[nn.Module] = [
        module
        for module in modules
        if hasattr(module, "get_output_embeddings")
        and module.get_output_embeddings() is not None
        and any(inner is parts.decoder for inner in module.modules())
    ]
    return heads[-1] if heads else parts.model


def at_last(inputs: Mapping[str, Any]) -> Tensor:
    """``logits_to_keep`` for the last token alone. As a number it would let decoders whose layers share keys (Gemma 4) run the
    last of them on that token alone; as a tensor it does not."""
    ids = inputs["input_ids"]
    return torch.tensor([ids.shape[1] - 1], device=ids.device)


def without_labels(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What a processor returned, without what it made for training (PaliGemma's)."""
    return {name: value for name, value in inputs.items() if name != "labels"}


def answered(inputs: Mapping[str, Any], answer: Tensor) -> dict[str, Any]:
    """A prompt of batch 1 about images with an answer's token ids [A] behind it: all that has a column per token grows.

    The answer's type is 0 as that of all text, but 1 where a prompt's ``token_type_ids`` are 0 for its images too: those tell
    a prefix that is read in both directions from what follows it (PaliGemma).
    """
    length = inputs["input_ids"].shape[1]
    grown = without_labels(inputs)
    for name, value in list(grown.items()):
        if isinstance(value, Tensor) and value.shape == (1, length):
            follows = name == "attention_mask" or (name == "token_type_ids" and not value.any())
            tail = answer[None] if name == "input_ids" else torch.full((1, len(answer)), int(follows))
            grown[name] = torch.cat([value, tail.to(value.device, value.dtype)], 1)
    return grown


_LOCKS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_MAKING = threading.Lock()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode and for one thread alone; every module as it was afterwards.

    Hooks see the forwards of all threads, so a second explanation of the same model waits here for the first.
    """
    with _MAKING:
        lock = _LOCKS.setdefault(model, threading.RLock())
    with lock:
        training = [module for module in model.modules() if module.training]
        model.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True


def first(output: Any) -> Tensor:
    """The hidden states among what a layer gives out."""
    return output[0] if isinstance(output, tuple) else output  # type: ignore[no-any-return]


def like(output: Any, hidden: Tensor) -> Any:
    """What a layer gave out, with other hidden states."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
