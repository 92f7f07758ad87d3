"""Models with a method laid over them, for lmms-eval: its tasks ask, this answers.

lmms-eval (https://github.com/EvolvingLMMs-Lab/lmms-eval, written against 0.7.3) finds models through the entry-point group
``lmms_eval.models``. Its requests hold a context (the user's text), what to do with it and where the images are.
:mod:`simignore.cli.lmms` reads what was typed; the model can also be made in Python and passed on:

    lmms_eval.evaluator.simple_evaluate(model=Lmms(model, processor, Simignore(keep=0.25)), tasks=["mme"])

Only this file and :mod:`simignore.cli.plugins` import lmms_eval.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from lmms_eval.utils import simple_parse_args_string
from PIL import Image
from tqdm import tqdm

from simignore.answer import span_of
from simignore.evaluate.answering import Answerer, Batch
from simignore.evaluate.benchmark import Benchmark, Item
from simignore.evaluate.likelihood import likelihoods
from simignore.methods import Method

SPANS = (
    "auto",
    "user",
    "question",
    "prompt",
)  # what is known of a request's text; its options have no place of their own
MAX_NEW_TOKENS = 1024  # where neither the task nor the caller says; as the models that come with lmms-eval
_SAMPLING = ("temperature", "top_p", "top_k", "min_p")
_PASSED_ON = (
    "max_new_tokens",
    "min_new_tokens",
    "num_beams",
    "length_penalty",
    "repetition_penalty",
    "no_repeat_ngram_size",
)
_NOT_OURS = ("until", "do_sample", *_SAMPLING, *_PASSED_ON)
_MARK = re.compile(r"<image>[ \t]*\n?")


@dataclass(frozen=True)
class Turn:
    """What one request asks: the user's text, what its images come from, and how to answer."""

    text: str
    visuals: Callable[[], Any]
    settings: Mapping[str, Any]
    task: str

    def item(self, number: int) -> Item:
        """The turn as the harness knows questions, its images opened. Raises ValueError for what cannot be asked."""
        text = _MARK.sub("", self.text)
        if not text.strip():
            raise ValueError(
                f"task {self.task!r} asks with no text (context {self.text!r}), so there is nothing to put into the chat "
                "template and to compare image tokens with; give the task a doc_to_text"
            )
        found = self.visuals() or []
        for visual in (visuals := found if isinstance(found, list | tuple) else [found]):
            if not isinstance(visual, Image.Image):
                raise ValueError(
                    f"task {self.task!r} shows {type(visual).__name__} {str(visual)[:80]!r}, and this model takes PIL images "
                    "only; let the task's doc_to_visual return images, such as the frames of a video"
                )
        return Item(str(number), text, tuple(_given(visual) for visual in visuals), None)


def _given(image: Image.Image) -> Callable[[], Image.Image]:
    return lambda: image


@dataclass(frozen=True)
class _Requests(Benchmark):
    """The words of a request are its text alone; lmms-eval keeps the questions and scores the answers."""

    def items(self) -> list[Item]:
        return []

    def score(self, item: Item, told: str) -> float:
        raise NotImplementedError("lmms-eval scores the answers")

    def words(self, item: Item) -> dict[str, Any]:
        return {"question": item.question}


class Loss(tuple[float, bool], GenerationResult):  # type: ignore[misc]
    """(loss, whether greedy decoding gives the continuation), in a form that lmms-eval hands on.

    lmms-eval 0.7.3 turns a plain pair into a string before it scores it (``unwrap_generation_output``), and takes the ``text``
    of a GenerationResult as it is. It is false, so that its response cache keeps none: they too would come back as strings.
    """

    token_counts = None

    def __new__(cls, loss: float, greedy: bool) -> Loss:
        return super().__new__(cls, (loss, greedy))

    def __init__(self, loss: float, greedy: bool) -> None:
        """Nothing is left to set."""

    def __bool__(self) -> bool:
        return False

    @property
    def text(self) -> Loss:
        return self


class Lmms(lmms):  # type: ignore[misc]
    """A model of lmms-eval that answers under a method, batch by batch.

    model, processor: any family that simignore serves. method: None for all image tokens. batch_size: requests at once.
    max_new_tokens: longest answer where a task gives no limit.

    A method that compares image tokens with text compares them with the request's text. The images come before the text,
    in their order; marks of the form ``<image>`` in a task's text are left out.
    """

    is_simple = True

    def __init__(
        self,
        model: Any,
        processor: Any,
        method: Method | None = None,
        *,
        batch_size: int = 1,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> None:
        super().__init__()
        self.method, self.batch_size, self.max_new_tokens = method, batch_size, max_new_tokens
        self.model, self.processor = model, processor
        self.device = next(model.parameters()).device
        self.span = "auto" if method is None else span_of(method)
        if self.span not in SPANS:
            warnings.warn(
                f"{method} wants image tokens compared with the span {self.span!r}, and lmms-eval's requests are one text; "
                "they are compared with all of it",
                stacklevel=2,
            )
            self.span = "user"
        marked = [Answerer(model, processor, _Requests()) for _ in range(2)]  # a processor may mark no image otherwise
        self._answerers = {False: marked[0], True: marked[1]}

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Lmms:
        """Made of ``--model_args``. What stands there has precedence over lmms-eval's options of the same name."""
        given = {name: value for name, value in (additional_config or {}).items() if value is not None}
        return cls(**{**given, **simple_parse_args_string(arg_string)})

    def clean(self) -> None:
        """Let the model go, as lmms-eval wants it before it starts a judge."""
        self._answerers.clear()
        super().clean()

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answers to requests, in their order."""
        turns = []
        for context, settings, visuals, doc_id, task, split in (request.args for request in requests):
            turns.append(Turn(context, self._seen(visuals, doc_id, task, split), settings or {}, task))
        return self._answers(turns)

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """For each request the answers of its rounds. A task makes the next round of the answers to those before; each round
        is a prompt of its own."""
        told: list[Any] = [[] for _ in requests]
        carried: list[Any] = [None] * len(requests)
        live: dict[int, Turn] = {}
        for i, (context, settings, visuals, _, doc_id, task, split) in enumerate(r.args for r in requests):
            live[i] = Turn(context, self._seen(visuals, doc_id, task, split), settings or {}, task)
        number = 0
        while live:
            for i, text in zip(live, self._answers(list(live.values())), strict=True):
                told[i] = [*told[i], text]
            number += 1
            for i, turn in list(live.items()):
                _, _, _, go_on, doc_id, task, split = requests[i].args
                seen, context, over, said, carried[i] = go_on(
                    self.task_dict[task][split][doc_id],
                    previous_output=told[i],
                    round_idx=number,
                    previous_round_info=carried[i],
                )
                told[i] = list(said)
                if over:
                    del live[i]
                else:
                    live[i] = Turn(context, lambda seen=seen: seen, turn.settings, turn.task)  # type: ignore[misc]
        return told

    def loglikelihood(self, requests: Sequence[Any]) -> list[Loss]:
        """For each request the loss of its continuation (the mean over its tokens of -log p) and whether greedy decoding
        would give it.

        lmms-eval's tasks take the option with the least, and its own models return the loss, whatever the name says.
        """
        turns, targets = [], []
        for request in requests:
            if len(request.args) < 6:
                raise ValueError(
                    f"a request of task {request.task_name!r} has no image and no document ({request.args!r}), as "
                    "acc_mutual_info asks; leave that metric out"
                )
            context, target, visuals, doc_id, task, split = request.args
            turns.append(Turn(context, self._seen(visuals, doc_id, task, split), {}, task))
            targets.append(str(target(self.task_dict[task][split][doc_id]) if callable(target) else target))
        out = [Loss(0.0, True)] * len(turns)
        for numbers, batch in self._batches(turns):
            found = likelihoods(self._generate, self.processor.tokenizer, batch, [targets[i] for i in numbers])
            for i, one in zip(numbers, found, strict=True):
                out[i] = Loss(-one.logprob / max(one.tokens, 1), one.greedy)
        return out

    def _seen(self, visuals: Callable[[Any], Any], doc_id: Any, task: str, split: str) -> Callable[[], Any]:
        """What opens a document's images, once they are needed."""
        return lambda: visuals(self.task_dict[task][split][doc_id])

    def _batches(self, turns: Sequence[Turn]) -> Iterator[tuple[list[int], Batch]]:
        """Turns that are answered alike, some at once, with their numbers; those with images apart from those without."""
        groups: dict[str, list[int]] = {}
        for i, turn in enumerate(turns):
            groups.setdefault(json.dumps(turn.settings, sort_keys=True, default=str), []).append(i)
        bar = tqdm(total=len(turns), disable=self.rank != 0, desc="simignore")
        for group in groups.values():
            for start in range(0, len(group), self.batch_size):
                items = {i: turns[i].item(i) for i in group[start : start + self.batch_size]}
                for shown in (True, False):
                    if own := [i for i, item in items.items() if bool(item.images) == shown]:
                        yield own, self._answerers[shown].ready([items[i] for i in own])
                        bar.update(len(own))
        bar.close()

    def _answers(self, turns: Sequence[Turn]) -> list[str]:
        out = [""] * len(turns)
        for numbers, batch in self._batches(turns):
            settings = turns[numbers[0]].settings
            output = self._generate(batch, **_generation(settings, self.max_new_tokens, turns[numbers[0]].task))
            width = batch.inputs["input_ids"].shape[1]
            texts = self.processor.batch_decode(output[:, width:], skip_special_tokens=True)
            for i, text in zip(numbers, texts, strict=True):
                out[i] = _until(text.strip(), settings.get("until"))
        return out

    def _generate(self, batch: Batch, **settings: Any) -> Any:
        laid = nullcontext() if self.method is None else self._answerers[True].laid(self.method, batch, self.span)
        with torch.inference_mode(), laid:
            return self.model.generate(**batch.inputs, **settings)


def _generation(settings: Mapping[str, Any], longest: int, task: str) -> dict[str, Any]:
    """A task's ``generation_kwargs`` as arguments of ``generate``: greedy unless it gives a temperature."""
    if strange := [name for name in settings if name not in _NOT_OURS]:
        warnings.warn(
            f"task {task!r}: generation_kwargs {', '.join(strange)} are unknown here and left out", stacklevel=2
        )
    given = {name: value for name, value in settings.items() if value is not None}
    sample = bool(given.get("do_sample", True)) and float(given.get("temperature", 0)) > 0
    names = (*_PASSED_ON, *(_SAMPLING if sample else ()))
    passed = {name: given[name] for name in names if name in given}
    return {"max_new_tokens": longest, "num_beams": 1, **passed, "do_sample": sample}


def _until(text: str, until: Any) -> str:
    """The text before the first of the strings that end it.

    The empty line is no end: lmms-eval puts it in for every task that names none, and its own models leave it out, because
    answers with steps hold empty lines.
    """
    for end in [until] if isinstance(until, str) else until or []:
        text = text.split(end)[0] if end.strip("\n") else text
    return text.strip()


__all__ = ["Lmms"]
