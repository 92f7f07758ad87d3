"""What the cuts of one forward look at: the tensors of a view, gathered while the forward goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from simignore.clock import Clock
from simignore.layout import Layout
from simignore.observe import AttentionRow
from simignore.parts import Parts
from simignore.query import Query
from simignore.splice.runs import Runs
from simignore.splice.tensors import take
from simignore.types import PAD, Cut, Look, View


class Tower(Protocol):
    """What was recorded in the vision tower; :class:`simignore.tower.Tower` fulfils it."""

    def shown(self, look: Look, read: Layout) -> Tensor: ...

    def seconds(self) -> Callable[[], float]: ...


class Sight:
    """The view of each cut of one forward, and the attention rows to ask the decoder for.

    cuts: by the layer before which they are made. observers: by the layer of the cut that reads them.
    """

    def __init__(
        self,
        parts: Parts,
        cuts: Mapping[int, list[Cut]],
        observers: Mapping[int, AttentionRow],
        tower: Tower | None,
        query: Query,
        read: Layout,
        clock: Clock,
    ) -> None:
        self.parts, self.cuts, self.observers, self.tower = parts, cuts, observers, tower
        self.query, self.read, self.clock = query, read, clock
        self.totals = tuple(read.counts)
        self.visual: Tensor | None = None  # [B, N, D] as they entered the decoder
        self.words: tuple[Tensor, Tensor] | None = None  # [B, W, D] and which are real [B, W], on the device
        self.word_places = torch.empty(0)  # [B, W]
        self.raters: dict[int, Tensor] = {}  # by id of the cut: [B, W] how much each word counts

    def enter(self, embeds: Tensor) -> None:
        """See the embeddings [B, T, D] that enter the decoder, before anything is cut."""
        every = [cut for group in self.cuts.values() for cut in group]
        if any("visual" in cut.needs for cut in every):
            self.visual = take(embeds.detach(), self.read.image.clamp(min=0))
        if any("words" in cut.needs for cut in every):
            self._read_words(embeds.detach())
        for number, group in self.cuts.items():
            for cut in group:
                if number and {"words", "attention"} <= set(cut.needs):
                    numbers = torch.arange(self.read.image.shape[1]).expand_as(self.read.image)
                    view = self._view(cut, 0, torch.where(self.read.image == PAD, PAD, numbers), {})
                    with torch.no_grad():
                        asked = cut.raters(view)
                    if asked is not None:
                        self.raters[id(cut)] = asked.to(embeds.device, torch.float32)

    def ask(self, number: int, last: Tensor, runs: Runs) -> None:
        """Ask layer ``number`` for the rows that cuts before the next layer read. last: [B, 1] the last visible place."""
        if number + 1 not in self.observers:
            return
        wanted = []
        for cut in self.cuts[number + 1]:
            if id(cut) in self.raters:
                wanted.append((runs.slots(self.word_places), self.raters[id(cut)]))
            elif "attention" in cut.needs:
                wanted.append((runs.slots(last), torch.ones(last.shape)))
        self.observers[number + 1].ask(wanted, self.clock)

    def view(self, cut: Cut, number: int, hidden: Tensor, among: Tensor, runs: Runs) -> View:
        """What ``cut`` sees before layer ``number``. hidden: [B, Q, D] the sequence as it is now. among: [B, N'] numbers of
        the image tokens still there, -1 padding."""
        places = self.read.image.gather(1, among.clamp(min=0)).clamp(min=0)
        slots = places if number == 0 else runs.slots(places)  # [B, N'] where they are in the sequence now
        seen: dict[str, Any] = {}
        if "hidden" in cut.needs:
            seen["hidden"] = take(hidden.detach(), slots)  # [B, N', D]
        if "attention" in cut.needs:
            asking = [c for c in self.cuts[number] if "attention" in c.needs]
            row = self.observers[number].row([id(c) for c in asking].index(id(cut)))
            seen["attention"] = take(row, slots + row.shape[1] - runs.last.rows.shape[1])  # [B, N']
        return self._view(cut, number, among, seen)

    def _view(self, cut: Cut, number: int, among: Tensor, seen: dict[str, Any]) -> View:
        device = self.parts.embed.weight.device if self.visual is None else self.visual.device
        if "visual" in cut.needs and self.visual is not None:
            seen["visual"] = take(self.visual, among)
        if "text" in cut.needs:
            ids, valid = self.query.tokens(self.read, device)
            seen["text"], seen["text_valid"] = self.parts.embed(ids).detach().to(device), valid  # [B, M, D], [B, M]
        if "words" in cut.needs and self.words is not None:
            seen["words"], seen["words_valid"] = self.words
        if "question" in cut.needs:
            seen["questions"] = self.query.told(self.read)
        if cut.looks and self.tower is not None:
            seen["tower"] = {look: take(self.tower.shown(look, self.read), among) for look in cut.looks}
        return View(
            valid=(among != PAD).to(device),
            layer=number,
            patches=self.read.patches.take(among),
            seeds=self.read.seeds,
            totals=self.totals,
            **seen,
        )

    def _read_words(self, embeds: Tensor) -> None:
        """The prompt's own text behind its first image: the only text that can look back at one.

        Raises ValueError for a sample that has an image and no such text.
        """
        read = self.read
        first = torch.where(read.image[:, :1] == PAD, read.length, read.image[:, :1])  # [B, 1]
        own = read.attended & ~read.placeholders & (torch.arange(read.length) > first)  # [B, T]
        silent = ~own.any(1) & (read.image != PAD).any(1)  # [B]
        if bool(silent.any()):
            sample = int(silent.nonzero()[0, 0])
            raise ValueError(
                f"sample {sample} ends with its image, so there is no word behind it that could look back and rate its tokens. "
                "Put the question behind the image, or use a method that reads no words, such as FastV."
            )
        longest = int(own.sum(1).max())
        places = torch.argsort((~own).to(torch.uint8), dim=1, stable=True)[:, :longest]  # [B, W]
        self.word_places = places
        self.words = take(embeds, places), own.gather(1, places).to(embeds.device)
