"""A similarity that is learnt: two small matrices beside a model that stays as it is."""

from __future__ import annotations

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

BUNDLED = Path(__file__).parent / "heads" / "tiny"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
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


class Head(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="simignore",
    tags=["vision-language", "token-pruning"],
    model_card_template=CARD,
):
    """Scores image tokens by a text: cosine similarity plus a learnt correction of low rank, less a learnt threshold.

    The similarity of an image token v and a text token t, both of length 1, is ``v.t + (A v).(B t + b)``. Of all text tokens'
    similarities the soft maximum ``log(mean(exp(k s))) / k`` is taken, which for a large k is the largest plus a constant. From
    that the threshold ``c + mean(w.t)`` over the text's tokens is taken away; it is the same for all image tokens of a
    question, so it never changes their order: a token stays by the head's own judgement where its score is at least 0.

    Why it works: embeddings of image and text are only as alike as the model's training happened to make them. A correction
    of rank r can make a word look for what its question needs ("closest": every object), and costs one matrix product of r
    columns. A new head has B = 0 and is the paper's similarity. Source: this project; the low-rank form is LoRA's (arXiv
    2106.09685).

    width: D, of the decoder's input embeddings. rank: r. base: the model it was trained beside, for people to read.
    Saved by ``save_pretrained`` as safetensors with a config; ``from_pretrained`` and ``push_to_hub`` are the hub's own.
    """

    def __init__(self, width: int, rank: int = 32, base: str = "", seed: int = 0) -> None:
        super().__init__()
        if width < 1 or rank < 1:
            raise ValueError(f"a head of width={width} and rank={rank} has nothing to learn; both must be at least 1")
        self.width, self.rank, self.base = width, rank, base
        drawn = torch.randn(rank, width, generator=torch.Generator().manual_seed(seed))
        self.image = nn.Parameter(drawn / math.sqrt(rank))  # A [r, D]
        self.text = nn.Parameter(torch.zeros(rank, width))  # B [r, D]
        self.bias = nn.Parameter(torch.zeros(rank))  # b [r]
        self.sharpness = nn.Parameter(torch.tensor(math.log(10.0)))  # log k
        self.threshold = nn.Parameter(torch.zeros(()))  # c
        self.demand = nn.Parameter(torch.zeros(width))  # w [D]

    def forward(self, visual: Tensor, text: Tensor, text_valid: Tensor) -> Tensor:
        """[B, N] scores of image tokens [B, N, D] by text tokens [B, M, D], of which ``text_valid`` [B, M] are real, in
        float32 or better.

        Raises ValueError for embeddings of another width.
        """
        if visual.shape[-1] != self.width:
            raise ValueError(
                f"this head was trained beside {self.base or 'a model'} with embeddings of width {self.width}, and "
                f"those here have {visual.shape[-1]}; train one with `simignore train --model ...` and name its folder as head="
            )
        with torch.autocast(visual.device.type, enabled=False):
            return self.ranked(visual, text, text_valid) - self.demanded(text, text_valid)[:, None]

    def ranked(self, visual: Tensor, text: Tensor, text_valid: Tensor) -> Tensor:
        """[B, N] the scores before the threshold is taken away."""
        exact = torch.promote_types(visual.dtype, torch.float32)
        seen, said = normalize(visual.to(exact), dim=-1), normalize(text.to(exact), dim=-1)
        low = said @ self.text.T.to(exact) + self.bias  # [B, M, r]
        wanted = said + low @ self.image.to(exact)  # [B, M, D]: one product with the many image tokens
        pairs = seen @ wanted.transpose(1, 2)  # [B, N, M]
        sharp = self.sharpness.to(exact).exp()
        pairs = (pairs * sharp).masked_fill(~text_valid[:, None], -math.inf)
        return (pairs.logsumexp(-1) - text_valid.sum(-1, keepdim=True).to(exact).log()) / sharp

    def demanded(self, text: Tensor, text_valid: Tensor) -> Tensor:
        """[B] the threshold of each question."""
        exact = torch.promote_types(text.dtype, torch.float32)
        said = normalize(text.to(exact), dim=-1) @ self.demand.to(exact)  # [B, M]
        return self.threshold + said.masked_fill(~text_valid, 0).sum(-1) / text_valid.sum(-1)

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
