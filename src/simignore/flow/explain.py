"""One verb: what the model looked at for this answer, what a method kept of it, and whether that was right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from simignore.answer import ask
from simignore.cost import cost
from simignore.families import UnsupportedModelError
from simignore.flow.asked import MOST, generation, told, word
from simignore.flow.capture import Tail, evaluating
from simignore.flow.hypothesis import correlations, projection
from simignore.flow.kept import kept
from simignore.flow.knockout import knockout
from simignore.flow.lens import chosen, lens
from simignore.flow.measure import VIEWS, Measured, measure
from simignore.flow.removal import removal
from simignore.flow.report import Array, FlowReport, Kept, Lens, Sinks
from simignore.flow.sinks import UNSHUFFLED, sinks
from simignore.flow.swap import swaps
from simignore.methods import Method
from simignore.surroundings import surroundings


def explain(
    model: nn.Module,
    inputs: Any,
    processor: Any = None,
    *,
    method: Method | None = None,
    faithful: bool = True,
    most: int = MOST,
    max_new_tokens: int = 48,
    rounds: int = 3,
    seed: int = 0,
) -> FlowReport:
    """Explain the model's answer to one prompt:

        prompt = simignore.build(processor, "photo.png", "What colour is the bus?")
        report = simignore.flow.explain(model, prompt, processor, method=Simignore(keep=0.25))

    model: any supported model, whatever attention implementation it runs on; it is left as it was. Explanations of one model
        wait for each other; let no other thread run it meanwhile.
    inputs: a prompt of :func:`simignore.build`, or what a processor returned for one prompt with its images. processor: the
        model's; needed for words and for what a method kept.
    method: whose choice is looked at beside the flow. faithful: whether to test the views by dropping what they name and by
        knocking attention out; by far the most forwards.
    most: tokens of the answer that are explained, the first ones; each takes one backward pass. max_new_tokens: of the answer.
    rounds: timed runs for the cost; 0 leaves it out. seed: of all random draws.
    Raises ValueError for a batch or a prompt without an image, UnsupportedModelError for a model whose attention cannot
    be read.
    """
    if method is not None and processor is None:
        raise ValueError(
            f"what {method} kept is asked of the model, whose answer the processor decodes; pass the processor"
        )
    if not isinstance(seed, int) or seed < 0 or rounds < 0:
        raise ValueError(f"seed={seed!r}, rounds={rounds}: a seed is a whole number from 0 on, and so are the rounds")
    if method is not None and not isinstance(method, Method):
        raise TypeError(f"method={method!r} is a {type(method).__name__}; pass a method such as Simignore(keep=0.25)")
    with torch.inference_mode(False), evaluating(model):
        found = measure(model, inputs, processor, most=most, max_new_tokens=max_new_tokens)
        return _Explanation(model, found, processor, method, seed, max_new_tokens).report(faithful, rounds)


class _Explanation:
    """The further steps of one explanation, and what several of them need."""

    def __init__(
        self, model: nn.Module, found: Measured, processor: Any, method: Method | None, seed: int, length: int
    ) -> None:
        self.model, self.found, self.processor, self.method = model, found, processor, method
        self.seed, self.length = seed, length
        self.own, self.prompt, self.asking = found.asked, found.prompt, found.asking
        self.notes: list[str] = []

    def report(self, faithful: bool, rounds: int) -> FlowReport:
        """All of it, each part with what it needs of the others."""
        own, found, query = self.own, self.found, self.prompt.query("auto")
        means = {name: view.mean(0) for name, view in found.views.items()}
        choice, cost_of = self.choice(rounds)
        sunk = self.sinks()
        words = tuple(word(own.tokenizer, int(token)) for token in query)
        self.tell()
        return FlowReport(
            question=self._question(),
            options=self.prompt.options,
            answer=own.text,
            tokens=told(own.answer, found.swept.logits, own.tokenizer),
            image=own.image,
            patches=found.seen.patches,
            curves=found.curves,
            views=found.views,
            similarity=found.seen.similarity,
            span=self.prompt.span_for("auto"),
            kept=choice,
            correlations=correlations(found.seen.similarity, found.curves, seed=self.seed),
            projection=projection(found.seen.image, found.seen.text, words),
            sinks=sunk,
            lens=self.lens(means, choice, sunk),
            **(self.tested(means, choice) if faithful else {}),
            cost=cost_of,
            settings=self.settings(faithful, rounds),
            notes=tuple(self.notes),
            cut=own.cut,
        )

    def choice(self, rounds: int) -> tuple[Kept | None, dict[str, Any]]:
        """What the method kept, and what a prefill costs with and without it."""
        methods: dict[str, Method | None] = {"all tokens": None}
        found = None
        if self.method is not None:
            how = generation(self.model, self.own.parts, self.length)
            answer = ask(self.model, self.processor, self.prompt, self.method, **how)
            found = kept(self.method, answer, self.found.views, self.seed)
            methods[found.name] = self.method
        if not rounds or self.processor is None:
            return found, {}
        return found, cost(self.model, self.processor, self.prompt, methods, rounds=rounds, tokens=2)

    def sinks(self) -> Sinks | None:
        """Image tokens that gather attention whatever the question."""
        own = self.own
        if own.tokenizer is None:
            self.notes.append("Sinks and the logit lens need words: pass the processor.")
            return None
        found = sinks(self.model, own.inputs, self.asking.cpu(), own.tokenizer, seed=self.seed)
        if found is None:
            self.notes.append(UNSHUFFLED[:1].upper() + UNSHUFFLED[1:] + ".")
        return found

    def lens(self, means: Mapping[str, Array], choice: Kept | None, sunk: Sinks | None) -> Lens | None:
        """What the model's end reads off some image tokens."""
        if self.own.tokenizer is None:
            return None
        looked = {"similarity": means["similarity"], "flow": means["saliency"]}
        if sunk is not None:
            looked["sink"] = sunk.asked
        stays = None if choice is None else choice.selection.kept[0].cpu().numpy()
        tail = Tail(self.own.parts, self.found.asked.word)
        return lens(self.found.swept.tape, tail, self.own.tokenizer, self.own.image, chosen(looked, stays))

    def tested(self, means: Mapping[str, Array], choice: Kept | None) -> dict[str, Any]:
        """Whether the views name what the answer needs."""
        own, model = self.own, self.model
        found: dict[str, Any] = {"removal": removal(model, own.inputs, own.answer, means, seed=self.seed)}
        try:
            found["knockout"] = knockout(model, own.inputs, own.answer, torch.as_tensor(own.image), self.asking)
        except UnsupportedModelError as error:  # all that was measured so far is worth showing without it
            self.notes.append(f"Knockout: {error}")
        if self.processor is not None:
            stays = torch.ones(len(own.image), dtype=torch.bool) if choice is None else choice.selection.kept[0]
            how = {"max_new_tokens": self.length, "layer": None if choice is None else choice.layer, "seed": self.seed}
            found["swaps"] = swaps(model, self.processor, own.inputs, own.answer, stays, **how)  # type: ignore[arg-type]
        return found

    def tell(self) -> None:
        """What a reader must know of how this was done."""
        own = self.own
        if own.cut:
            self.notes.append(
                f"The answer has {own.cut} more tokens; the first {len(own.answer)} are explained (most={len(own.answer)})."
            )
        without = [n for n, attention in enumerate(own.parts.attentions) if attention is None]
        if without:
            self.notes.append(
                f"Layers {', '.join(map(str, without))} mix tokens without attention: they have no flow to show, and rollout "
                "and relevancy pass them as if they moved nothing."
            )
        if len({*own.parts.key_sources}) < len(own.parts.layers):
            self.notes.append(
                "The last layers of this decoder reuse the keys and values of earlier ones; saliency and relevancy of "
                "the layers before leave out what flows through those."
            )

    def settings(self, faithful: bool, rounds: int) -> dict[str, Any]:
        """What the numbers depend on."""
        own, config = self.own, self.model.config
        return {
            "model": str(getattr(config, "_name_or_path", "") or type(self.model).__name__),
            "model type": own.parts.family.model_type,
            "dtype": str(next(self.model.parameters()).dtype).removeprefix("torch."),
            "device": str(own.answer.device),
            "attention implementation": own.parts.attention_implementation,
            "method": None if self.method is None else repr(self.method),
            "prompt tokens": own.length,
            "image tokens": len(own.image),
            "decoder layers": len(own.parts.layers),
            "faithful": faithful,
            "rounds": rounds,
            "seed": self.seed,
            **surroundings(self.model),
        }

    def _question(self) -> str:
        if self.prompt.question:
            return self.prompt.question
        ids = self.own.inputs["input_ids"][0, self.asking]
        return "" if self.own.tokenizer is None else str(self.own.tokenizer.decode(ids)).strip()


__all__ = ["VIEWS", "explain"]
