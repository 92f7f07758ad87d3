"""The objects that every room passes on: what a method sees, what it chose, and what happened.

Shape alphabet, used in every shape comment of the project:

    B  samples in the batch            D  width of an embedding
    N  image tokens of a sample        H  attention heads
    M  text tokens of the query        L  decoder layers
    T  tokens of the prompt            K  image tokens that stay

Batches are ragged: samples may hold different numbers of image tokens. They are padded to the longest, and a boolean
mask named ``valid`` (or ``..._valid``) tells which entries are real.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

Site = Literal["projector"] | tuple[Literal["layer"], int | float]
Hide = Literal["drop", "mask"]
Positions = Literal["keep", "reindex"]
Within = Literal["sample", "image", "grid"]
PAD = -1  # stands in index tensors where a shorter sample is padded to the longest


@dataclass(frozen=True)
class Grid:
    """One rectangle of patches: a whole image, one tile of it, its small overview, or one frame of a video.

    rows, columns: patches; 1 and n where the n tokens are no grid (learned queries, or a family whose layout is not known).
    image: which image or video of the sample it belongs to, counted in reading order. kind: what it shows.
    box: the part of the image that it covers, as fractions (left, top, right, bottom) of its width and height, beyond 0 and 1
        where padding was added; None where only the processor knows (it may crop, pad or tile), see
        :func:`simignore.places.locate`. time: which frame of a video, counted as the model sees them.
    covers: the share of a crop's side that its patches cover, from the top left; a tower leaves out what makes no whole patch.
    stitched: for a grid put together from tiles (tiles down, tiles across, rows, columns): so many tiles, of whose patches so
        many rows and columns in the middle are left, before they may be made coarser; None for one picture.
    """

    rows: int
    columns: int
    image: int
    kind: Literal["image", "tile", "overview", "frame", "tokens"] = "image"
    box: tuple[float, float, float, float] | None = None
    time: int = 0
    covers: float = 1.0
    stitched: tuple[int, int, int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.rows, self.columns


@dataclass(frozen=True)
class Patches:
    """Where the image tokens of a batch lie.

    grids: for each sample its grids in the order of their tokens. grid: [B, N] which of them a token belongs to; row, column:
    [B, N] its place there; all -1 in the padding. ``image`` [B, N] tells the image or video. Tensors are on the host.
    """

    grids: tuple[tuple[Grid, ...], ...]
    grid: Tensor
    row: Tensor
    column: Tensor

    def __repr__(self) -> str:
        return f"Patches({', '.join(str([grid.size for grid in own]) for own in self.grids)})"

    @property
    def image(self) -> Tensor:
        """[B, N] which image or video of its sample each token belongs to; -1 in the padding."""
        out = torch.full_like(self.grid, PAD)
        for b, own in enumerate(self.grids):
            numbers = torch.tensor([*(grid.image for grid in own), PAD])  # the last one answers to -1
            out[b] = numbers[self.grid[b]]
        return out

    def take(self, index: Tensor) -> Patches:
        """The tokens named by ``index [B, K]``, -1 = padding."""
        index, gone = index.cpu(), (index == PAD).cpu()
        picked = (x.gather(1, index.clamp(min=0)).masked_fill(gone, PAD) for x in (self.grid, self.row, self.column))
        return Patches(self.grids, *picked)


@dataclass(frozen=True)
class Look:
    """Something to record in the vision tower, for each patch, and from there for each image token.

    what: "attention" [B, N]: what the class token pays to it, and in towers without one the mean that all patches pay to it;
        "received" [B, N]: the mean that all tokens of the tower pay to it; both after softmax, mean over heads.
        "keys" [B, N, H, d]: its keys, before any rotation. "features" [B, N, C]: the hidden states that the layer gives out.
    layer: an int counts the tower's layers from 0, or from the end if negative; a float in (0, 1) is a share of its depth,
        rounded; None: the layer whose output the projector reads.
    Where several patches make one image token, it has their mean.
    """

    what: Literal["attention", "received", "keys", "features"]
    layer: int | float | None = None


@dataclass(frozen=True)
class View:
    """What a method may look at when it chooses; read-only, and only what its ``needs`` and ``looks`` name is filled in.

    visual: [B, N, D] the projected features, as they enter the decoder, whatever the site.
    hidden: [B, N, D] image tokens as the decoder holds them at this site; before the decoder the same as ``visual``.
    valid: [B, N] True for real image tokens, on the model's device; ``real`` is the same on the host.
    text: [B, M, D] decoder input embeddings of the query's tokens; text_valid [B, M].
    questions: for each sample the query's text as a string.
    words: [B, W, D] decoder input embeddings of the prompt's own text behind its first image; words_valid [B, W].
    attention: [B, N] what the last prompt token, or the method's raters, pay to each image token in the layer before the
        site, after softmax, mean over heads and raters.
    tower: what the vision tower showed, by :class:`Look`.
    patches: where each of these tokens lies: its image, tile or frame, and its row and column there.
    layer: the decoder layer whose input this is (0 before the decoder).
    seeds: one number per sample that depends on nothing but the sample's own prompt.
    totals: image tokens of each sample before any cut; () stands for those that are there.
    """

    valid: Tensor
    layer: int
    patches: Patches
    seeds: tuple[int, ...]
    visual: Tensor | None = None
    hidden: Tensor | None = None
    text: Tensor | None = None
    text_valid: Tensor | None = None
    questions: tuple[str, ...] = ()
    words: Tensor | None = None
    words_valid: Tensor | None = None
    attention: Tensor | None = None
    tower: Mapping[Look, Tensor] = field(default_factory=dict)
    totals: tuple[int, ...] = ()

    @property
    def real(self) -> Tensor:
        """[B, N] ``valid`` on the host, so that reading it does not wait for the device."""
        return self.patches.grid != PAD

    @property
    def counts(self) -> list[int]:
        """Image tokens of each sample that reach this site; known on the host."""
        return [int(count) for count in self.real.sum(1)]


@dataclass(frozen=True)
class Blend:
    """How tokens that stay take in others: a token's embedding becomes the sum over its entries of ``weight`` times the
    embedding of ``origin``. Tokens without entries stay as they are.

    target, origin: [B, E] image tokens counted as in ``Selection.source``, -1 padding; on the host. weight: [B, E]; those of
    one target add up to 1 where an average is meant.
    """

    target: Tensor
    origin: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Selection:
    """Which image tokens stayed. Methods return it; splicing, pictures and reports all read this one object.

    index: [B, K] image tokens that stayed, counted from 0 within the sample and in reading order; -1 where a sample
        kept fewer than K.
    source: [B, N] for every image token the token that stands for it afterwards: itself if it stayed, the token it was
        merged into, -1 if it was dropped (and -1 in the padding).
    score: [B, N] what the choice was made by (higher = keep), or None for a rule without scores.
    blend: what the tokens that stayed take in of the others; None if they stay as they are.
    notes: one string per sample, empty unless the method has something to say, such as "nothing reached the threshold".
    """

    index: Tensor
    source: Tensor
    score: Tensor | None = None
    notes: tuple[str, ...] = ()
    blend: Blend | None = None

    def __repr__(self) -> str:
        kept = ", ".join(str(count) for count in self.count.tolist())
        among = f"{'' if len(self.source) == 1 else 'at most '}{self.source.shape[1]}"
        return f"Selection(image tokens kept: {kept} of {among})"

    @property
    def valid(self) -> Tensor:
        """[B, K] True where ``index`` names a token, False in the padding."""
        return self.index != PAD

    @property
    def count(self) -> Tensor:
        """[B] image tokens that stayed in each sample."""
        return self.valid.sum(1)

    @property
    def kept(self) -> Tensor:
        """[B, N] True for the image tokens that stayed."""
        places = torch.arange(self.source.shape[1], device=self.source.device)
        return self.source == places  # [B, N]


class Cut(Protocol):
    """What the splice needs of a method at one site; ``methods.Method`` fulfils it."""

    @property
    def site(self) -> Site: ...
    @property
    def hide(self) -> Hide: ...
    @property
    def positions(self) -> Positions: ...
    @property
    def within(self) -> Within: ...
    @property
    def needs(self) -> tuple[str, ...]: ...
    @property
    def looks(self) -> tuple[Look, ...]: ...
    @property
    def clears(self) -> bool: ...

    def raters(self, view: View) -> Tensor | None: ...
    def choose(self, view: View) -> Selection: ...


@dataclass(frozen=True)
class Step:
    """One cut of one prefill: where it was made and what it chose among the tokens that reached it.

    ``selection`` counts image tokens as the user does (0 is the sample's first), whatever earlier cuts took.
    """

    site: Site
    hide: Hide
    selection: Selection


@dataclass
class Trace:
    """What happened inside the ``with``: one entry per prefill, in the order in which they ran.

    selections: the image tokens that stayed at the end of each prefill; a prefill without an image has N = K = 0.
    steps: the cuts of each prefill, one for a plain method, several for a chain.
    patches: for each prefill where its image tokens lie; ``trace.patches[0].take(trace.selections[0].index)`` tells it of
        those that stayed.
    tokens_before, tokens_after: length of each prefill as the caller passed it, and as the last decoder layer ran it
        (padding included in both).
    query: where the compared text came from: "given", "user text", "whole prompt", or "not used".
    """

    selections: list[Selection] = field(default_factory=list)
    steps: list[tuple[Step, ...]] = field(default_factory=list)
    patches: list[Patches] = field(default_factory=list)
    tokens_before: list[int] = field(default_factory=list)
    tokens_after: list[int] = field(default_factory=list)
    query: str = "not used"
    _clocks: list[Callable[[], float]] = field(default_factory=list, repr=False)

    @property
    def seconds(self) -> list[float]:
        """Time spent choosing, one figure per prefill, in seconds; what had to be computed of the vision tower's or the
        decoder's attention for it is counted. On a GPU reading it waits for the device."""
        return [clock() for clock in self._clocks]

    @property
    def notes(self) -> list[str]:
        """What the methods had to say, such as "nothing reached the threshold", with prefill and sample numbers."""
        return [
            f"prefill {p}, sample {b}: {note}"
            for p, steps in enumerate(self.steps)
            for step in steps
            for b, note in enumerate(step.selection.notes)
            if note
        ]


@dataclass(frozen=True)
class Answer:
    """An answer and what it cost. Times are in seconds on the model's device, sizes in bytes.

    text: the answer. ids: its token ids [T_new]. trace: what the method did, None without a method.
    prefill: up to the end of the first forward, vision tower included. decode: all further forwards.
    selection: time spent choosing, part of the prefill.
    image_tokens: of the prompt; kept: those that stayed (the same without a method).
    cache_bytes: key-value cache at the end.
    """

    text: str
    ids: Tensor
    prefill: float
    decode: float
    selection: float
    image_tokens: int
    kept: int
    cache_bytes: int
    trace: Trace | None = None
