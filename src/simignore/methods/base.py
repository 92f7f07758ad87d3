"""What a method is: a frozen dataclass whose fields are its hyper-parameters and whose one job is to choose."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, get_args

from torch import Tensor, nn

from simignore.parts import parts
from simignore.query import Query, Template, find_template
from simignore.select import check_keep, top_k
from simignore.splice import Splice
from simignore.types import Cut, Hide, Positions, Selection, Site, View, Within


@dataclass(frozen=True)
class Method(ABC):
    """One cut at one site, laid over a model: ``with method(model) as trace:``.

    keep: image tokens kept per sample: a count (int) or a fraction of those that reach the site (float in (0, 1]).
    hide: "drop" shortens the sequence; "mask" hides tokens from attention without shortening (the paper's way).
    positions: "keep" leaves every token its position; "reindex" closes the gaps.
    within: what competes for the budget, and what it is counted in: all image tokens of a "sample", those of each "image" (or
        video), or of each "grid" (a tile of an image, a frame of a video).
    """

    keep: int | float
    hide: Hide = field(default="drop", kw_only=True)
    positions: Positions = field(default="keep", kw_only=True)
    within: Within = field(default="sample", kw_only=True)

    needs: ClassVar[tuple[str, ...]] = ()  # what the view must hold: "visual", "text", "attention"

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", check_keep(self.keep))
        for name, kind in (("hide", Hide), ("positions", Positions), ("within", Within)):
            check_choice(self, name, get_args(kind))

    def __str__(self) -> str:
        """The method without the fields that hold their defaults, but ``keep``; like its repr it builds the same method."""
        told = [f for f in fields(self) if f.name == "keep" or getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in told)})"

    @property
    def site(self) -> Site:
        """Where the cut is made: "projector" (before the decoder) or ("layer", k) (before its k-th layer)."""
        return "projector"

    @abstractmethod
    def choose(self, view: View) -> Selection:
        """Which image tokens stay."""

    def cuts(self) -> Sequence[Cut]:
        """The cuts it makes, in the order of their sites: itself, unless it is made of several."""
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
        spans = {span for cut in cuts if (span := getattr(cut, "span", "auto")) != "auto"}
        if query is None and spans:
            warnings.warn(
                f"{self} wants image tokens compared with the span {sorted(spans)[0]!r}, but no query was given, so they are "
                "compared with all that the user said; pass query=prompt.query(span), or use simignore.ask",
                stacklevel=2,
            )
        template = None
        if query is None and any("text" in cut.needs for cut in cuts):
            name = getattr(p.model.config, "_name_or_path", "")
            template = Template(processor, p.image_token) if processor else find_template(name, p.image_token)
        return Splice(model, cuts, Query(query, template, p.special, p.embed.num_embeddings))


class Scorer(Method):
    """A method that is told by a score per image token; the highest stay."""

    @abstractmethod
    def score(self, view: View) -> Tensor:
        """[B, N] one score per image token, higher = keep; padding may hold anything."""

    def choose(self, view: View) -> Selection:
        return top_k(self.score(view), view.valid, self.keep)


def check_choice(method: Any, name: str, allowed: tuple[str, ...]) -> None:
    """Raise unless the field ``name`` of ``method`` holds one of the allowed words."""
    if (value := getattr(method, name)) not in allowed:
        raise ValueError(f"{name}={value!r} is none of {', '.join(map(repr, allowed))}")


def needed(tensor: Tensor | None, name: str) -> Tensor:
    """A tensor of the view that the method's ``needs`` promised; raises if the method forgot to name it."""
    if tensor is None:
        raise RuntimeError(f"the view holds no {name!r}; name it in the method's `needs`")
    return tensor
