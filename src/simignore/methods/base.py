"""What a method is: a frozen dataclass whose fields are its hyper-parameters and whose one job is to choose."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn

from simignore.budget import Budget, Keep, OfAll, Schedule, budget, check_keep, check_layer
from simignore.parts import parts
from simignore.query import Query, Template, find_template
from simignore.select import top_k
from simignore.splice import Splice
from simignore.types import Cut, Hide, Look, Positions, Selection, Site, View, Within


@dataclass(frozen=True)
class Method(ABC):
    """One cut at one site, laid over a model: ``with method(model) as trace:``.

    keep: image tokens kept per sample: a count (int), a fraction of those that reach the site (float in (0, 1]), a
        :class:`~simignore.budget.Schedule` over decoder layers, or, for methods with scores, another
        :class:`~simignore.budget.Budget` such as ``Mass(0.9, cap=64)``.
    layer: the decoder layer before which to cut, counted from 0, or as a share of the decoder's depth (float in (0, 1)); None:
        before the decoder.
    hide: "drop" shortens the sequence; "mask" hides tokens from attention without shortening (the paper's way).
    positions: "keep" leaves every token its position; "reindex" closes the gaps.
    within: what competes for the budget, and what it is counted in: all image tokens of a "sample", those of each "image" (or
        video), or of each "grid" (a tile of an image, a frame of a video).
    """

    keep: Keep
    layer: int | float | None = field(default=None, kw_only=True)
    hide: Hide = field(default="drop", kw_only=True)
    positions: Positions = field(default="keep", kw_only=True)
    within: Within = field(default="sample", kw_only=True)

    source: ClassVar[str] = ""  # the paper: "arXiv 2412.09817 (AAAI 2025)"
    needs: ClassVar[tuple[str, ...]] = ()  # what the view must hold: "visual", "hidden", "text", "words", "attention"
    score_name: ClassVar[str] = "score"  # what its scores are, as a caption says it; "" where it has none
    merges: ClassVar[bool] = False  # whether dropped tokens are averaged into kept ones
    video: ClassVar[bool] = False  # whether it compares frames, and so serves videos only
    composed: ClassVar[bool] = False  # whether it is laid over other methods
    scored: ClassVar[bool] = False  # whether it has scores that a Budget can read
    clears: ClassVar[bool] = False  # whether it may leave a sample with an image without any image token

    def __post_init__(self) -> None:
        if isinstance(self.keep, Budget) and not (self.scored or isinstance(self.keep, OfAll)):
            raise TypeError(
                f"keep={self.keep!r} reads scores, and {type(self).__name__} has none; give a count or a fraction"
            )
        if not isinstance(self.keep, Budget | Schedule):
            object.__setattr__(self, "keep", check_keep(self.keep))
        if self.layer is not None:
            object.__setattr__(self, "layer", check_layer(self.layer))
            asked = any(f.name == "layer" and f.init and self.layer != f.default for f in fields(self))
            if asked and isinstance(self.keep, Schedule):
                raise ValueError(f"layer={self.layer!r}: keep={self.keep!r} names its layers itself; leave layer out")
        for name, kind in (("hide", Hide), ("positions", Positions), ("within", Within)):
            check_choice(self, name, get_args(kind))

    def __str__(self) -> str:
        """The method without the fields that hold their defaults, but ``keep``; like its repr it builds the same method."""
        told = [f for f in fields(self) if f.name == "keep" or getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in told)})"

    @property
    def site(self) -> Site:
        """Where the cut is made: "projector" (before the decoder) or ("layer", k) (before its k-th layer)."""
        return "projector" if self.layer is None else ("layer", self.layer)

    @property
    def looks(self) -> tuple[Look, ...]:
        """What the vision tower must show it, found in ``view.tower`` under the same :class:`~simignore.types.Look`."""
        return ()

    @property
    def score_kind(self) -> str:
        """What its scores are, with their unit, as a picture's caption says it; "" where it has none."""
        return self.score_name

    def with_keep(self, keep: Keep) -> Method:
        """The same method with another budget. Raises ValueError for one that has several."""
        if isinstance(self.keep, Schedule):
            raise ValueError(
                f"{self} has a budget for each of its layers, and keep={keep!r} would be one for all; make one with its own "
                "schedule for each budget (to compare it: simignore.evaluate.compare.Entry(label, keep, method, fixed=True))"
            )
        return replace(self, keep=keep)

    @property
    def weights_sha256(self) -> str:
        """A digest of the weights that it reads from files of its own, which its repr only names; "" for one without any."""
        return ""

    def raters(self, view: View) -> Tensor | None:
        """[B, W] which of the prompt's words (``view.words``) are asked for their attention; None: the last prompt token.

        Called once per prefill, before the decoder, for methods whose ``needs`` name "words" and "attention".
        """
        return None

    @abstractmethod
    def choose(self, view: View) -> Selection:
        """Which image tokens stay."""

    def amounts(self, view: View) -> list[int]:
        """How many image tokens of each sample stay, where no scores are needed to know."""
        if isinstance(self.keep, OfAll):
            totals = view.totals or view.counts
            return [self.keep.count(torch.zeros(n), total)[0] for n, total in zip(view.counts, totals, strict=True)]
        return [budget(check_keep(self.keep), n) for n in view.counts]

    def cuts(self) -> Sequence[Cut]:
        """The cuts it makes, in the order of their sites: itself, unless ``keep`` is a schedule or it is made of several."""
        if isinstance(self.keep, Schedule):
            return tuple(replace(self, layer=layer, keep=keep) for layer, keep in self.keep.cuts())
        return (self,)

    def __call__(self, model: nn.Module, query: Any = None, processor: Any = None) -> Splice:
        """A context manager under which ``model`` runs on fewer image tokens, and which yields a Trace.

        model: any supported Hugging Face vision-language model; it is left as it was afterwards.
        query: token ids of the text to compare with: [M] for all samples, or a list with one tensor per sample.
            Default: the words of the prompt's last user turn.
        processor: tells those words from the chat template's. Default: the one found beside the model's weights.
        Raises UnsupportedModelError (a ValueError) for a model that no family serves, ValueError for a bad query.
        """
        p = parts(model)
        cuts = self.cuts()
        if query is None and (spans := sorted(_wishes(self))):
            warnings.warn(
                f"{self} wants image tokens compared with the span {spans[0]!r}, but no query was given, so they are "
                "compared with all that the user said; pass query=prompt.query(span), or use simignore.ask",
                stacklevel=2,
            )
        template = None
        words, question = (any(need in cut.needs for cut in cuts) for need in ("text", "question"))
        if question or (query is None and words):
            name = getattr(p.model.config, "_name_or_path", "")
            template = Template(processor, p.image_token) if processor else find_template(name, p.image_token)
        return Splice(model, cuts, Query(query, template, p.special, p.embed.num_embeddings))


class Scorer(Method):
    """A method that is told by a score per image token; the highest stay."""

    scored: ClassVar[bool] = True

    @property
    def plain(self) -> bool:
        """Whether it keeps what scores highest and does nothing else, so that its scores are all there is of it."""
        return type(self).choose is Scorer.choose

    def with_keep(self, keep: Keep) -> Scorer:
        return super().with_keep(keep)  # type: ignore[return-value]

    @abstractmethod
    def score(self, view: View) -> Tensor:
        """[B, N] one score per image token, higher = keep; padding may hold anything."""

    def counted(self, view: View, score: Tensor) -> tuple[list[int], tuple[str, ...]]:
        """How many tokens of each sample stay, where the budget may read the scores [B, N], and its notes."""
        if isinstance(self.keep, Budget) and not isinstance(self.keep, OfAll):
            flat = top_k(score, view.real, self.keep, view.totals)
            return flat.count.tolist(), flat.notes
        return self.amounts(view), ()

    def choose(self, view: View) -> Selection:
        return top_k(self.score(view), view.real, self.keep, view.totals)  # type: ignore[arg-type]


def inside(method: Method) -> list[Method]:
    """The methods that ``method`` is laid over, in order; none for one that is not composed."""
    held = [part for value in vars(method).values() for part in (value if isinstance(value, tuple) else (value,))]
    return [part for part in held if isinstance(part, Method)]


def weights_digest(method: Method) -> str:
    """What tells methods apart whose reprs name the same files: :attr:`Method.weights_sha256` of it and of all inside it."""
    return "+".join(filter(None, (method.weights_sha256, *map(weights_digest, inside(method)))))


def _wishes(method: Method) -> set[str]:
    """The spans that were asked for in ``method`` and the methods inside it; one's own default is no wish."""
    if held := inside(method):
        return set().union(*map(_wishes, held))
    default = next((f.default for f in fields(method) if f.name == "span"), "auto")
    return {getattr(method, "span", "auto")} - {"auto", default}


def check_plain(wrapper: str, scorer: Scorer) -> None:
    """Raise for a method of which a wrapper that reads scores would lose something."""
    if scorer.merges:
        raise TypeError(f"{scorer} merges what it drops, and {wrapper} reads scores only; write Merged({wrapper}(...))")
    if not scorer.plain:
        raise TypeError(
            f"{scorer} chooses by more than its scores, and {wrapper} would lose the rest; switch that off, as "
            'LearnedSimignore(sharpness=None, fill="highest") does, or lay it over a method that keeps its highest scores, '
            "such as Simignore(keep=64)"
        )


def common_span(methods: Sequence[Method]) -> str:
    """The part of the prompt that methods laid over a model together compare with: the one that was asked for, or else the
    first that is one's own default; "auto" if none says. Raises ValueError if two were asked for: one query serves all."""
    asked = sorted(set().union(*map(_wishes, methods)))
    if len(asked) > 1:
        raise ValueError(
            f"span={asked[0]!r} and span={asked[1]!r}: methods that work together compare image tokens with the same part of "
            "the prompt; give all of them the same span"
        )
    own = (getattr(method, "span", "auto") for method in methods)
    return asked[0] if asked else next((span for span in own if span != "auto"), "auto")


def check_choice(method: Any, name: str, allowed: tuple[str, ...]) -> None:
    """Raise unless the field ``name`` of ``method`` holds one of the allowed words."""
    if (value := getattr(method, name)) not in allowed:
        raise ValueError(f"{name}={value!r} is none of {', '.join(map(repr, allowed))}")


def looked(view: View, look: Look) -> Tensor:
    """What the vision tower showed under ``look``; raises if the method forgot to name it in ``looks``."""
    if look not in view.tower:
        raise RuntimeError(f"the view holds no {look!r}; name it in the method's `looks`")
    return view.tower[look]


def needed(tensor: Tensor | None, name: str) -> Tensor:
    """A tensor of the view that the method's ``needs`` promised; raises if the method forgot to name it."""
    if tensor is None:
        raise RuntimeError(f"the view holds no {name!r}; name it in the method's `needs`")
    return tensor
