"""How long and how fast a head trains."""

from __future__ import annotations

from dataclasses import dataclass, field

from simignore.budget import check_count, check_number
from simignore.train.objective import Objective

AT_LEAST_ONE = ("steps", "batch", "accumulate", "rank", "save_every")
NOT_NEGATIVE = ("warmup", "hops", "prepared", "adapters", "workers", "seed")


@dataclass(frozen=True)
class Settings:
    """How long and how fast a head trains; together with the objective and the data all that a run follows from.

    steps: updates. batch: examples of one device at once. accumulate: batches of one update. rate: the peak learning rate, a
    cosine after ``warmup`` steps, at most a tenth of all. rank, hops: of the head. prepared: so many examples run through the
    model once, before the head learns, and then as often through the head as the steps ask for; 0 runs each through the model
    when its turn comes. adapters: rank of LoRA in decoder and projector, 0 for none; adapter_rate: their learning rate.
    precision: "float32", "bfloat16" or "float16" (mixed). workers: processes that make batches ready. square: pad images to
    squares. save_every: steps between checkpoints, of which the last two are kept.
    """

    steps: int = 600
    batch: int = 28
    accumulate: int = 1
    rate: float = 2e-3
    warmup: int = 20
    rank: int = 32
    hops: int = 0
    prepared: int = 0
    adapters: int = 0
    adapter_rate: float = 1e-4
    precision: str = "float32"
    workers: int = 0
    square: bool = False
    seed: int = 0
    save_every: int = 50
    objective: Objective = field(default_factory=Objective)

    def __post_init__(self) -> None:
        for names, least in ((AT_LEAST_ONE, 1), (NOT_NEGATIVE, 0)):
            for name in names:
                object.__setattr__(self, name, check_count(name, getattr(self, name), least))
        for name in ("rate", "adapter_rate"):
            value = check_number(name, getattr(self, name))
            if value <= 0:
                raise ValueError(f"{name}={value:g} must be above 0")
            object.__setattr__(self, name, value)
        if not isinstance(self.objective, Objective):
            raise ValueError(f"objective={self.objective!r} must be a simignore.train.Objective")
        if self.prepared and (self.objective.answer or self.objective.budget or self.adapters):
            raise ValueError(
                f"prepared={self.prepared}: answers under the cut, the budget's penalty and adapters need the model at every "
                "step; set the goals answer=0 and budget=0 and adapters=0, or leave prepared out"
            )
        if self.adapters and not (self.objective.answer or self.objective.budget):
            raise ValueError(
                f"adapters={self.adapters}: only the goals answer and budget train adapters, and both are 0; give one of "
                "them a weight, or leave the adapters out"
            )
        if self.precision not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"precision={self.precision!r} is none of float32, bfloat16, float16")
