"""A similarity that is learnt: two small matrices beside a model that stays as it is."""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from simignore.hops import HELD, nearby, same_thing

BUNDLED = Path(__file__).parent / "heads" / "tiny"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
TENTH = 0.1  # a score of -0.1 is e times less likely than the best; so scores with and without hops are of one size
TINY, LOWEST = 1e-20, -1e4
UNREADABLE = (
    SafetensorError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    KeyError,
    AttributeError,
)  # what is no head raises


CARD = """---
{{ card_data }}
---

A head for simignore: it scores the image tokens of a vision-language model by the question, and the best go on.
`config.json` names the model that it was trained beside, `training.json` how.

    from simignore import LearnedSimignore

    with LearnedSimignore(keep=0.125, head="this folder, or its name on the hub")(model):
        output = model.generate(**inputs)
"""


def soft_maximum(pairs: Tensor, text_valid: Tensor, sharpness: Tensor) -> Tensor:
    """[B, N] of [B, N, M] the soft maximum over real text tokens. sharpness: the log of k."""
    sharp = sharpness.to(pairs.dtype).exp()
    pairs = (pairs * sharp).masked_fill(~text_valid[:, None], -math.inf)
    return (pairs.logsumexp(-1) - text_valid.sum(-1, keepdim=True).to(pairs.dtype).log()) / sharp


class Onward(nn.Module):
    """The hops of a :class:`Head`. Beside two matrices and their biases it has single numbers, most of them kept as logarithms.

    With s and s' the two similarities, each divided by its temperature, and maps that are divided by their sum, the first map
    is p = spread(exp s) and each next one is spread(exp(s') nearby(p) (1 - 0.98 p / max p)^away), where spread(x) =
    same_thing(x^contrast). Their shares in the mixture are the softmax over maps of the text's summed tokens times ``turns``,
    plus ``turn``.
    """

    def __init__(self, width: int, rank: int, hops: int) -> None:
        super().__init__()
        self.text = nn.Parameter(torch.zeros(rank, width))  # B' [r, D]
        self.bias = nn.Parameter(torch.zeros(rank))  # b' [r]
        self.turns = nn.Parameter(torch.zeros(hops + 1, width))  # how the text mixes the maps
        self.turn = nn.Parameter(torch.zeros(hops + 1))

        def number(value: float) -> nn.Parameter:
            return nn.Parameter(torch.tensor(value))

        self.sharpness = number(math.log(10.0))  # of the second similarity
        self.heat = number(math.log(0.07))  # temperature of the first map
        self.next_heat = number(math.log(0.1))  # and of the hops'
        self.reach = number(math.log(0.05))  # of a hop, in sides of the picture
        self.size = number(math.log(0.14))  # of a thing
        self.likeness = number(math.log(4.0))  # how much alike its tokens must look
        self.contrast = number(1.0)  # power of a map before it is spread
        self.away = number(2.0)  # how much a hop avoids what is in the map already

    def forward(
        self, head: Head, likeness: Tensor, seen: Tensor, said: Tensor, text_valid: Tensor, where: Tensor
    ) -> Tensor:
        """[B, N] a tenth of the log of the mixed maps; their best token has 0. likeness: [B, N] the first similarity; the
        rest as in :meth:`Head.ranked`, of length 1. So many samples at once as weights of pairs can be held for."""
        few = max(1, HELD // max(1, where.shape[1] ** 2))
        groups = zip(*(torch.split(x, few) for x in (likeness, seen, said, text_valid, where)), strict=True)
        return torch.cat([self._mixed(head, *group) for group in groups])

    def _mixed(
        self, head: Head, likeness: Tensor, seen: Tensor, said: Tensor, text_valid: Tensor, where: Tensor
    ) -> Tensor:
        """What :meth:`forward` tells, of all these samples at once."""
        real = ~where.isnan().any(-1)
        if bool((~where[..., 0].isnan() & ~real).any()):
            raise ValueError(
                "this head looks beside what a question names, and image tokens of this model have no places to be beside; "
                "train a head with hops=0"
            )
        real, where = real.to(seen.device), where.nan_to_num(0.0).to(seen.device, seen.dtype)
        seen = seen.masked_fill(~real[..., None], 0)  # 0 times what padding holds must be 0
        n = {name: value.to(seen.dtype).exp() for name, value in self.named_parameters() if not value.dim()}
        contrast, away = (value.to(seen.dtype) for value in (self.contrast, self.away))

        around, over = nearby(where, n["reach"]), same_thing(seen, where, n["size"], n["likeness"])

        def spread(raw: Tensor) -> Tensor:
            mass = (contrast * (raw - raw.amax(-1, keepdim=True))).masked_fill(~real, LOWEST).exp()  # 0 in the padding
            return over(mass).clamp(min=TINY).log().masked_fill(~real, LOWEST).log_softmax(-1)

        wanted = head.lowered(said, self.text, self.bias)
        asked = soft_maximum(seen @ wanted.transpose(1, 2), text_valid, self.sharpness) / n["next_heat"]
        words = said.masked_fill(~text_valid[..., None], 0).sum(1)  # [B, D]
        shares = (words @ self.turns.T.to(words.dtype) + self.turn.to(words.dtype)).log_softmax(-1)  # [B, hops + 1]
        maps = [spread((likeness / n["heat"]).masked_fill(~real, LOWEST))]
        for _ in range(len(self.turn) - 1):
            last = maps[-1]
            taken = (last - last.amax(-1, keepdim=True)).exp()
            hop = asked + around(last.exp()).clamp(min=TINY).log() + away * torch.log1p(-0.98 * taken)
            maps.append(spread(hop.masked_fill(~real, LOWEST)))
        mixed = torch.logsumexp(torch.stack(maps, 1) + shares[..., None], 1)
        return (mixed - mixed.amax(-1, keepdim=True)) * TENTH


class Head(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="simignore",
    tags=["vision-language", "token-pruning"],
    model_card_template=CARD,
):
    """Scores image tokens by a text: cosine similarity plus a learnt correction of low rank, and what lies beside that.

    The similarity of an image token v and a text token t, both of length 1, is ``v.t + (A v).(B t + b)``. Of all text tokens'
    similarities the soft maximum ``log(mean(exp(k s))) / k`` is taken, which for a large k is the largest plus a constant.

    With ``hops`` the head goes on from there, as the question does that asks for "the object closest to the ring". What was
    found is a map p, the softmax of the similarities. It is spread over the things that it lies on (over tokens close by that
    look alike, :func:`simignore.hops.same_thing`), and each hop takes it to what the text asks for beside them: the softmax of
    a second similarity ``(A v).(B' t + b')``, plus the log of how much of p lies nearby (:func:`simignore.hops.nearby`), less
    what is in p already, spread again. The maps are mixed in shares that the text decides, and the score is a tenth of the log
    of the mixture, 0 for the sample's best token.

    From the score the threshold ``c + mean(w.t)`` over the text's tokens is taken away; it is the same for all image tokens of
    a question, so it never changes their order: a token stays by the head's own judgement where its score is at least 0.

    Why it works: embeddings of image and text are only as alike as the model's training happened to make them, and what a
    question needs may lie beside what it names. A correction of rank r costs one matrix product of r columns, and a hop a few
    sums over all pairs of image tokens. A new head has B = 0 and, without hops, is the paper's similarity. Source: this
    project; the low-rank form is LoRA's (arXiv 2106.09685).

    width: D, of the decoder's input embeddings. rank: r. base: the model it was trained beside, for people to read.
    hops: how often the map is carried on; needs to know where image tokens lie. judges: whether its threshold was learnt.
    Saved by ``save_pretrained`` as safetensors with a config; ``from_pretrained`` and ``push_to_hub`` are the hub's own.
    """

    def __init__(
        self, width: int, rank: int = 32, base: str = "", seed: int = 0, hops: int = 0, judges: bool = False
    ) -> None:
        super().__init__()
        if width < 1 or rank < 1:
            raise ValueError(f"a head of width={width} and rank={rank} has nothing to learn; both must be at least 1")
        if hops < 0:
            raise ValueError(f"hops={hops} must not be negative; 0 scores tokens by what they show alone")
        self.width, self.rank, self.base, self.hops, self.judges = width, rank, base, hops, judges
        drawn = torch.randn(rank, width, generator=torch.Generator().manual_seed(seed))
        self.image = nn.Parameter(drawn / math.sqrt(rank))  # A [r, D]
        self.text = nn.Parameter(torch.zeros(rank, width))  # B [r, D]
        self.bias = nn.Parameter(torch.zeros(rank))  # b [r]
        self.sharpness = nn.Parameter(torch.tensor(math.log(10.0)))  # log k
        self.threshold = nn.Parameter(torch.zeros(()))  # c
        self.demand = nn.Parameter(torch.zeros(width))  # w [D]
        self.onward = Onward(width, rank, hops) if hops else None

    def forward(self, visual: Tensor, text: Tensor, text_valid: Tensor, where: Tensor | None = None) -> Tensor:
        """[B, N] scores of image tokens [B, N, D] by text tokens [B, M, D], of which ``text_valid`` [B, M] are real, in
        float32 or better.

        where: [B, N, 3] of :func:`simignore.hops.spots`, for a head with hops. Raises ValueError for embeddings of another
        width, and where hops are to be made among tokens without places.
        """
        if visual.shape[-1] != self.width:
            raise ValueError(
                f"this head was trained beside {self.base or 'a model'} with embeddings of width {self.width}, and "
                f"those here have {visual.shape[-1]}; train one with `simignore train --model ...` and name its folder as head="
            )
        with torch.autocast(visual.device.type, enabled=False):
            return self.ranked(visual, text, text_valid, where) - self.demanded(text, text_valid)[:, None]

    def ranked(self, visual: Tensor, text: Tensor, text_valid: Tensor, where: Tensor | None = None) -> Tensor:
        """[B, N] the scores before the threshold is taken away."""
        exact = torch.promote_types(visual.dtype, torch.float32)
        seen, said = normalize(visual.to(exact), dim=-1), normalize(text.to(exact), dim=-1)
        wanted = said + self.lowered(said, self.text, self.bias)  # [B, M, D]: one product with the many image tokens
        likeness = soft_maximum(seen @ wanted.transpose(1, 2), text_valid, self.sharpness)
        if self.onward is None:
            return likeness
        if where is None:
            raise ValueError("a head with hops must be told where the image tokens lie; pass where=spots(view.patches)")
        found: Tensor = self.onward(self, likeness, seen, said, text_valid, where)
        return found

    def lowered(self, said: Tensor, text: Tensor, bias: Tensor) -> Tensor:
        """[B, M, D] what text tokens of length 1 look for by the low-rank correction: (B t + b) A."""
        return (said @ text.T.to(said.dtype) + bias.to(said.dtype)) @ self.image.to(said.dtype)

    def demanded(self, text: Tensor, text_valid: Tensor) -> Tensor:
        """[B] the threshold of each question."""
        exact = torch.promote_types(text.dtype, torch.float32)
        said = normalize(text.to(exact), dim=-1) @ self.demand.to(exact)  # [B, M]
        return self.threshold + said.masked_fill(~text_valid, 0).sum(-1) / text_valid.sum(-1)

    def digest(self) -> str:
        """What tells heads apart: of what it was made with, and of all its weights, wherever they lie."""
        told = hashlib.sha256(f"{self.width} {self.rank} {self.hops} {self.judges}".encode())
        for name, value in self.state_dict().items():
            told.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            told.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return told.hexdigest()[:16]

    def similarity(self) -> list[nn.Parameter]:
        """What the first similarity is made of; hops learn quicker while it stands still."""
        return [self.image, self.text, self.bias, self.sharpness]

    @classmethod
    def _from_pretrained(cls, *, model_id: str, map_location: str = "cpu", strict: bool = True, **rest: Any) -> Head:
        """A local folder is read in silence; the hub's own way reports on stdout, where a command may print JSON."""
        folder = Path(model_id)
        if not folder.is_dir():
            found: Head = super()._from_pretrained(model_id=model_id, map_location=map_location, strict=strict, **rest)
            return found
        known = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        head = cls(**{name: value for name, value in rest.items() if name not in known})
        head.load_state_dict(load_file(folder / WEIGHTS, device=map_location), strict=strict)
        return head.eval()


def load_head(where: str | Path | None = None, device: torch.device | str = "cpu") -> Head:
    """The head in a folder or under a name of the hub; None: the one that is bundled, for the bundled model.

    A folder is read again when its files change. Raises ValueError naming the folder, the reason and the remedy.
    """
    if not isinstance(where, str | Path | None):
        raise ValueError(
            f"head={where!r} must be a folder or a name on the hub; write a head with save_pretrained(FOLDER) and name that"
        )
    folder = BUNDLED if where is None else Path(where)
    if not folder.exists() and where is not None and str(where).count("/") == 1:
        return _from_hub(str(where), str(device))
    if not folder.exists():
        raise ValueError(f"head {str(where)!r} is no folder here; name one that `simignore train --out FOLDER` wrote")
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"head {str(where)!r} holds no {' and no '.join(missing)}; name a folder that `simignore train --out FOLDER` wrote"
        )
    return _read(folder, tuple((folder / name).stat().st_mtime_ns for name in (CONFIG, WEIGHTS)), str(device))


@lru_cache(maxsize=8)
def _read(folder: Path, changed: tuple[int, ...], device: str) -> Head:
    try:
        head = Head.from_pretrained(folder)
    except UNREADABLE as error:
        raise ValueError(f"{folder} cannot be read as a head ({error}); train it anew, or name another") from error
    return head.requires_grad_(False).to(device)


@lru_cache(maxsize=8)
def _from_hub(name: str, device: str) -> Head:
    try:
        return Head.from_pretrained(name).requires_grad_(False).to(device)
    except UNREADABLE as error:
        raise ValueError(f"head {name!r} is no folder here, and the hub gave none of that name ({error})") from error
