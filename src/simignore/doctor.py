"""Whether the guarantees hold for a model: tried on it, not promised. What a user runs before trusting a new one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from simignore.methods import Method, Random
from simignore.parts import Parts, parts
from simignore.prompt import marks, rendered
from simignore.splice.reading import read

SIZES = ((336, 336), (640, 480), (480, 640), (1280, 720))  # (width, height) of pictures that tokens are counted for
NEW = 4  # tokens that are generated
CLOSE = 1e-3  # of the largest logit: what rounding may change in float32
Prompted = tuple[list[Image.Image], str]  # pictures, and what is asked about them
_QUESTIONS = (
    "What is in the picture?",
    "Which of these two pictures shows more, and what else is there to see in them?",
)


@dataclass(frozen=True)
class Finding:
    """One guarantee: whether it held, and the figure or the reason."""

    guarantee: str
    result: Literal["holds", "broken"]
    detail: str


def tokens_per_image(model: nn.Module, processor: Any) -> dict[tuple[int, int], tuple[int, str]]:
    """For some picture sizes (width, height) the image tokens, and the grids on which they lie."""
    found = {}
    p, mark = parts(model), _prompts(model, processor)[0]
    for size in SIZES:
        prompt = _inputs(processor, [([_picture(*size)], _QUESTIONS[0])], mark)
        laid = read(p, prompt)
        if laid is not None:
            grids = " + ".join(
                f"{grid.rows} x {grid.columns}" if grid.kind != "tokens" else f"{grid.columns} without places"
                for grid in laid.patches.grids[0]
            )
            found[size] = laid.counts[0], grids
    return found


def examine(model: nn.Module, processor: Any) -> Iterator[Finding]:
    """Try each guarantee on ``model`` (in float32, any weights) with prompts that its processor makes.

    Two prompts, one with one picture and one with two, are cut before the decoder and, where it can be, inside it.
    """
    p = parts(model)
    mark, prompts, inputs, plain = _prompts(model, processor)
    cuts = [Random(keep=0.3)] + ([Random(keep=0.3, layer=p.last_cut)] if p.last_cut else [])
    before = _hooks(model)

    def attempt(name: str, check: Callable[[], str | None]) -> Finding:
        try:
            detail = check()
        except Exception as error:  # whatever goes wrong is the finding
            return Finding(name, "broken", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        return Finding(name, "holds", detail or "")

    yield attempt("keeping everything changes no bit", lambda: _identity(model, inputs, plain, cuts))
    first = _inputs(processor, prompts[:1], mark)
    call = _decoder_call(p, first)
    if p.recurrent or _counts_windows(p, call):
        yield attempt("dropping is a run on the shorter prompt", lambda: _native(p, first, call))
    else:
        yield attempt("dropping is masking", lambda: _masking(model, inputs, cuts))
    single = [_inputs(processor, [prompt], mark) for prompt in prompts]
    yield attempt("a batch gives each sample what it gets alone", lambda: _alone(model, single, inputs, cuts))
    yield attempt("the promised count stays, and all text", lambda: _counts(model, inputs))
    yield attempt("the model is as before", lambda: _restored(model, inputs, plain, before))


def _identity(model: nn.Module, inputs: dict[str, Tensor], plain: Tensor, cuts: list[Random]) -> str:
    for method in cuts:
        if not torch.equal(_generated(model, inputs, replace(method, keep=1.0)), plain):
            raise ValueError(f"{replace(method, keep=1.0)} changes the logits")
    return f"{NEW} generated tokens, {_said(cuts)}"


def _masking(model: nn.Module, inputs: dict[str, Tensor], cuts: list[Random]) -> str:
    worst = 0.0
    for method in cuts:
        dropped, masked = (_generated(model, inputs, replace(method, hide=hide)) for hide in ("drop", "mask"))
        worst = max(worst, _apart(dropped, masked, str(method)))
    return f"logits differ by {worst:.0e} of the largest, {_said(cuts)}"


def _native(p: Parts, inputs: dict[str, Tensor], call: dict[str, Any]) -> str:
    """The decoder called by itself on the kept embeddings at their positions."""
    with torch.no_grad(), Random(keep=0.3)(p.model) as trace:
        last = p.model(**inputs).logits[:, -1]
    laid = read(p, inputs)
    if laid is None:
        raise ValueError("the prompt cannot be read")
    stays = torch.ones(laid.length, dtype=torch.bool)
    stays[laid.image[0][~trace.selections[0].kept[0]]] = False
    rows = stays.nonzero()[:, 0]
    positions = call.get("position_ids")
    positions = torch.arange(laid.length)[None] if positions is None else positions
    with torch.no_grad():
        out = p.decoder(
            inputs_embeds=call["inputs_embeds"][:, rows],
            position_ids=positions[..., rows],
            attention_mask=torch.ones(1, len(rows), dtype=torch.long),
        ).last_hidden_state[:, -1]
        alone = p.model.get_output_embeddings()(out)  # type: ignore[operator]
    return f"logits differ by {_apart(last, alone, 'Random(keep=0.3)'):.0e} of the largest, before the decoder"


def _decoder_call(p: Parts, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """What the plain model hands its decoder."""
    caught: dict[str, Any] = {}

    def catch(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        caught.update(kwargs)

    handle = p.decoder.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        with torch.no_grad():
            p.model(**inputs)
    finally:
        handle.remove()
    return caught


def _counts_windows(p: Parts, call: dict[str, Any]) -> bool:
    """Whether the decoder itself counts attention windows that are shorter than the prompt, among the tokens that are left."""
    text: Any = p.decoder.config
    windows = [getattr(text, name, None) for name in ("sliding_window", "attention_chunk_size")]
    mask, length = call.get("attention_mask"), call["inputs_embeds"].shape[1]
    made_outside = isinstance(mask, dict) or (isinstance(mask, Tensor) and mask.dim() == 4)
    return not made_outside and any(isinstance(window, int) and window < length for window in windows)


def _alone(model: nn.Module, single: list[dict[str, Tensor]], inputs: dict[str, Tensor], cuts: list[Random]) -> str:
    worst = 0.0
    for method in cuts:
        together = _generated(model, inputs, method)
        for b, own in enumerate(single):
            worst = max(worst, _apart(together[:, b], _generated(model, own, method)[:, 0], f"{method}, sample {b}"))
    return f"{len(single)} samples, logits differ by {worst:.0e} of the largest, {_said(cuts)}"


def _counts(model: nn.Module, inputs: dict[str, Tensor]) -> str:
    laid = read(parts(model), inputs)
    tokens = [] if laid is None else laid.counts
    for keep in (1, 3):
        with torch.no_grad(), Random(keep=keep)(model) as trace:
            model(**inputs)
        kept = trace.selections[0].count.tolist()
        longest = max(int(inputs["attention_mask"][b].sum()) - tokens[b] + keep for b in range(len(tokens)))
        if kept != [keep] * len(kept) or trace.tokens_after[0] != longest:
            raise ValueError(f"keep={keep} kept {kept}, and {trace.tokens_after[0]} tokens ran instead of {longest}")
    return f"1 and then 3 of the image tokens of prompts with {' and '.join(map(str, tokens))}"


def _restored(model: nn.Module, inputs: dict[str, Tensor], plain: Tensor, before: list[tuple[str, int, int]]) -> str:
    if _hooks(model) != before:
        raise ValueError("hooks were left behind")
    if not torch.equal(_generated(model, inputs), plain):
        raise ValueError("the logits are others than before")
    return "same hooks, same logits to the bit"


def _generated(model: nn.Module, inputs: dict[str, Tensor], method: Method | None = None) -> Tensor:
    """[steps, B, V] the logits of a greedy generation."""
    settings = {"do_sample": False, "min_new_tokens": NEW, "max_new_tokens": NEW}
    with torch.no_grad():
        if method is None:
            made = model.generate(**inputs, **settings, output_logits=True, return_dict_in_generate=True)  # type: ignore[operator]
        else:
            with method(model):
                made = model.generate(**inputs, **settings, output_logits=True, return_dict_in_generate=True)  # type: ignore[operator]
    return torch.stack(made.logits)


def _apart(one: Tensor, other: Tensor, what: str) -> float:
    share = float((one - other).abs().max() / other.abs().max())
    if not share <= CLOSE:
        raise ValueError(f"{what}: logits differ by {share:.1e} of the largest")
    return share


def _hooks(model: nn.Module) -> list[tuple[str, int, int]]:
    return [(name, len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()]


def _said(cuts: list[Random]) -> str:
    return " and ".join("before the decoder" if cut.layer is None else f"before layer {cut.layer}" for cut in cuts)


def _picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def _prompts(model: nn.Module, processor: Any) -> tuple[str, list[Prompted], dict[str, Tensor], Tensor]:
    """Prompts that the plain model takes: the mark that stands for an image, the prompts, the processor's output, logits.

    Some models take one picture for each prompt, and no more; what stands for a picture differs where no template says it.
    """
    one, two = [_picture(96, 64, 1)], [_picture(64, 112, 2), _picture(64, 64, 3)]
    failures = []
    for pictures in ((one, two), (one, two[:1])):
        prompts = list(zip(pictures, _QUESTIONS, strict=True))
        for mark in dict.fromkeys([*marks(processor), ""]):
            try:
                inputs = _inputs(processor, prompts, mark)
                return mark, prompts, inputs, _generated(model, inputs)
            except Exception as error:  # the next way may do
                failures.append(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    raise ValueError(
        f"the plain model does not run on what its processor makes of a picture and a question ({failures[0]})"
    )


def _inputs(processor: Any, prompts: list[Prompted], mark: str) -> dict[str, Tensor]:
    """What the processor makes of (pictures, question) pairs, padded on the left, floats in float32."""
    texts = [rendered(processor, question, len(pictures), mark) for pictures, question in prompts]
    nested = [pictures for pictures, _ in prompts]
    flat = [picture for pictures in nested for picture in pictures]
    tokenizer = getattr(processor, "tokenizer", processor)
    side, tokenizer.padding_side = tokenizer.padding_side, "left"
    try:
        made = _first_that_works(
            lambda: processor(images=nested, text=texts, padding=True, return_tensors="pt"),
            lambda: processor(images=flat, text=texts, padding=True, return_tensors="pt"),
        )
    finally:
        tokenizer.padding_side = side
    return {name: value.float() if value.is_floating_point() else value for name, value in made.items()}


def _first_that_works(*ways: Callable[[], Any]) -> Any:
    """Processors want pictures grouped by prompt, or in one list; which, they tell by failing."""
    for way in ways[:-1]:
        try:
            return way()
        except Exception:
            continue
    return ways[-1]()
