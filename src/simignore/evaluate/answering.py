"""Many prompts at once: a model's answers to a left-padded batch of questions, under one method or under several in turn."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from simignore.answer import span_of
from simignore.evaluate.benchmark import Benchmark, Item
from simignore.evaluate.pictures import opened
from simignore.methods import Method
from simignore.parts import parts
from simignore.prompt import Asked, marks, phrase


@dataclass(frozen=True)
class Told:
    """One answer. image_tokens: of the prompt. kept: of them in the decoder's last layer. held: mean over its layers."""

    text: str
    image_tokens: int | None = None
    kept: int | None = None
    held: float | None = None


@dataclass(frozen=True)
class Batch:
    """Prompts that go through the model at once: what the processor returned, each prompt's words, and what the vision tower
    made of the images, if that is known already."""

    inputs: dict[str, Tensor]
    asked: list[Asked]
    seen: Any = None


class Answerer:
    """Answers batches of a benchmark's questions. Making a batch ready and answering it are two steps, so that the next one can
    be made ready meanwhile, and so that several methods answer the same batch.

    Padding goes to the left whatever the processor's tokenizer says; the processor is as before afterwards.
    """

    def __init__(self, model: Any, processor: Any, benchmark: Benchmark) -> None:
        self.model, self.processor, self.benchmark = model, processor, benchmark
        self._mark: str | None = None
        self._tokenizer = Lock()  # a batch is made ready while another is answered, and tokenizers keep how they pad

    def ready(self, items: Sequence[Item]) -> Batch:
        """Open the images and let the processor make one batch of these questions."""
        pictures = [[opened(image, self.benchmark.square) for image in item.images] for item in items]
        with self._tokenizer:
            if self._mark is None:
                self._mark = self._marked(items[0], pictures[0])
            asked = [
                phrase(self.processor, len(own), **self.benchmark.words(item), mark=self._mark)
                for item, own in zip(items, pictures, strict=True)
            ]
            inputs = processed(self.processor, [one.text for one in asked], pictures)
        if not bool(inputs["attention_mask"][:, -1].all()):
            raise ValueError(
                "the processor pads on the right, and generation reads on; set tokenizer.padding_side='left'"
            )
        weights = next(self.model.parameters())
        on_device = {
            name: value.to(weights.device, weights.dtype if value.is_floating_point() else value.dtype)
            for name, value in inputs.items()
            if isinstance(value, Tensor)
        }
        return Batch(on_device, asked)

    def see(self, batch: Batch) -> Batch:
        """The batch with its images encoded, for methods that do not look into the vision tower; the same batch where this
        family's features cannot be handed on."""
        supported = getattr(self.model, "_supports_mm_encoder_outputs", None)
        if (
            set(batch.inputs) != {"input_ids", "attention_mask", "pixel_values"}
            or not callable(supported)
            or not supported()
        ):
            return batch
        with torch.inference_mode():
            seen = self.model.base_model.get_image_features(pixel_values=batch.inputs["pixel_values"], return_dict=True)
        return replace(batch, seen=seen)

    def _marked(self, item: Item, pictures: list[Image.Image]) -> str:
        """What stands for an image in this processor's prompts."""
        choices = marks(self.processor)
        for mark in choices[:-1]:
            try:
                text = phrase(self.processor, len(pictures), **self.benchmark.words(item), mark=mark).text
                self.processor(text=[text], images=pictures or None, return_tensors="pt")
                return mark
            except ValueError:
                continue
        return choices[-1]

    def laid(self, method: Method, batch: Batch, span: str) -> AbstractContextManager[Any]:
        """The method over the model, comparing image tokens with this span of every prompt of the batch."""
        query = [one.query(span) for one in batch.asked]
        return method(self.model, query=query, processor=self.processor)

    def handed(self, batch: Batch, method: Method | None) -> dict[str, Any]:
        """What the model is given of a batch, the tower's output instead of pixels where that is known and the method does not
        look into the tower."""
        if batch.seen is None or looks(method):
            return dict(batch.inputs)
        rest = {name: value for name, value in batch.inputs.items() if name != "pixel_values"}
        return {**rest, "mm_encoder_outputs": {"image": batch.seen}}

    def answer(self, batch: Batch, method: Method | None = None) -> list[Told]:
        """Greedy answers to a batch, under a method if one is given."""
        model, inputs = self.model, self.handed(batch, method)
        width = inputs["input_ids"].shape[1]
        with self._tokenizer:
            laid = nullcontext() if method is None else self.laid(method, batch, span_of(method))
        with torch.inference_mode(), laid as trace:
            output = model.generate(**inputs, do_sample=False, max_new_tokens=self.benchmark.max_new_tokens)
        texts = self.processor.batch_decode(output[:, width:], skip_special_tokens=True)
        if trace is None or not trace.selections:
            return [Told(text.strip()) for text in texts]
        counts = trace.selections[0].count.tolist()
        totals = [sum(n >= 0 for n in own) for own in trace.patches[0].grid.tolist()]
        held = held_tokens(trace, len(parts(model).layers))
        return [Told(text.strip(), *facts) for text, *facts in zip(texts, totals, counts, held, strict=True)]


def processed(processor: Any, texts: list[str], pictures: list[list[Image.Image]]) -> Any:
    """What the processor makes of prompts, one left-padded batch; each prompt's images in a list of its own."""
    images = _arranged(processor, pictures)
    given = {"text": texts, "padding": True, "return_tensors": "pt", **({"images": images} if images else {})}
    if not hasattr(processor, "qformer_tokenizer"):
        return processor(**given, padding_side="left")
    # InstructBLIP's processor hands every argument to its Q-Former's tokenizer too, which was trained on right padding
    tokenizer = processor.tokenizer
    before, tokenizer.padding_side = tokenizer.padding_side, "left"
    try:
        return processor(**given)
    finally:
        tokenizer.padding_side = before


def _arranged(processor: Any, pictures: list[list[Image.Image]]) -> list[Any]:
    """One list of all images where each prompt has one, a list for each prompt otherwise."""
    if all(len(own) == 1 for own in pictures):
        return [own[0] for own in pictures] if not _nested(processor) else [list(own) for own in pictures]
    if not any(pictures):
        return []
    return [list(own) for own in pictures] if _nested(processor) else [x for own in pictures for x in own]


def looks(method: Method | None) -> bool:
    """Whether a method looks into the vision tower, so that the tower has to run under it."""
    return method is not None and any(cut.looks for cut in method.cuts())


def held_tokens(trace: Any, layers: int) -> list[float]:
    """Image tokens of each sample of the first prefill, mean over the decoder's layers: what a cut inside the decoder hides."""
    rows = [[sum(n >= 0 for n in own) for own in trace.patches[0].grid.tolist()]] * layers
    for step in trace.steps[0]:
        first = 0 if step.site == "projector" else int(step.site[1])
        rows[first:] = [step.selection.count.tolist()] * (layers - first)
    return [round(sum(column) / layers, 3) for column in zip(*rows, strict=True)]


def _nested(processor: Any) -> bool:
    """Whether this processor wants a list of images for each prompt (Idefics, SmolVLM, Gemma) even for one each."""
    name = type(processor).__name__.lower()
    return any(kind in name for kind in ("idefics", "smolvlm", "gemma3", "gemma4", "mllama"))


__all__ = ["Answerer", "Batch", "Told", "held_tokens", "looks", "processed"]
