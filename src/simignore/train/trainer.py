"""The training run: Hugging Face's Trainer around a student, a folder that a killed run goes on from, and what it was."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from simignore.flow.measure import measure
from simignore.head import WEIGHTS, Head
from simignore.parts import parts
from simignore.prompt import build
from simignore.train.adapters import ADAPTER, adapt
from simignore.train.arguments import arguments, boards
from simignore.train.collator import Collator
from simignore.train.data import Example
from simignore.train.goals import check_labels
from simignore.train.prepare import gathered, prepare
from simignore.train.record import RECORD, base_name, finished, followed, remembered, write
from simignore.train.settings import Settings
from simignore.train.student import Student, restoring

TRIALS = 8  # examples by which the convergence layers are found


def train(
    model: nn.Module,
    processor: Any,
    examples: Dataset[Example],
    folder: str | Path,
    settings: Settings,
    data: str = "",
    prepared: str | Path | None = None,
    tick: Callable[[int], None] = lambda done: None,
) -> Head:
    """Train a head beside ``model`` on ``examples`` and write it to ``folder``; a run that was killed goes on where it was, and
    of one that was finished the head is only read.

    data: what the examples are, in words, for the record. Beside it the record holds the examples' own ``about``, where they
    have one, as scenes and records have. prepared: the folder of what was prepared, which several runs may share; by default
    in ``folder``. tick: told how many examples are prepared. The folder then holds the head (safetensors and config), the
    record ``training.json``, TensorBoard's events in ``runs/``, checkpoints, and with adapters the folder ``adapter``. The
    head comes back in evaluation. ``model`` is moved to the device of training and is otherwise as before; with adapters it
    carries these, unmerged, from then on: load it anew for another run, and to use it through ``adapted``.
    Raises ValueError for a folder that holds a run with other settings or examples, and for a goal that learns from regions
    where no example has one; UnsupportedModelError for a model that cannot be cut.
    """
    folder, where = Path(folder), Path(folder) / "prepared" if prepared is None else Path(prepared)
    if not len(examples):  # type: ignore[arg-type]
        raise ValueError(
            f"there is nothing to train on: {data or type(examples).__name__} holds no examples; give some"
        )
    check_labels(settings.objective, examples, settings.prepared, data)
    record = remembered(folder, settings, data, model, getattr(examples, "about", None))
    with restoring(model):
        if finished(folder, bool(settings.adapters)):
            return _as_written(folder, model, bool(settings.adapters))
        return _trained(model, processor, examples, folder, settings, record, where, tick)


def _trained(
    model: nn.Module,
    processor: Any,
    examples: Any,
    folder: Path,
    settings: Settings,
    record: dict[str, Any],
    where: Path,
    tick: Callable[[int], None],
) -> Head:
    """The run of :func:`train`, begun or gone on with. where: the folder of prepared examples."""
    o, how = settings.objective, arguments(folder, settings)
    layers = o.layers or record.get("layers") or ()
    if o.flow and not layers:
        layers = convergence(_moved(model, how.device), processor, examples, settings.square)
    record["layers"] = list(layers)
    student = _student(model, settings, record["layers"])
    record["parameters"] = _parameters(student, model)
    collator: Any = Collator(model, processor, o.spans, settings.square, bool(o.alignment or o.needed or o.separate))
    if settings.prepared:
        about, began = followed(record, settings), time.monotonic()
        with how.main_process_first():  # the others find everything done
            examples = prepare(student.to(how.device), collator, examples, where, settings.prepared, about, tick=tick)
        collator = gathered
        record["seconds_preparing"] = round(record.get("seconds_preparing", 0.0) + time.monotonic() - began, 1)
    trainer = HeadTrainer(
        student,
        how,
        data_collator=collator,
        train_dataset=examples,
        adapter_rate=settings.adapter_rate,
        callbacks=boards(folder),
    )
    main = trainer.args.should_save
    if main:
        write(folder / RECORD, record)
    trainer.go_on(last_whole(folder))
    record["seconds"] = round(trainer.seconds, 1)
    record["losses"] = _last_losses(trainer.state.log_history)
    if main:
        trainer.write(folder)
        write(folder / RECORD, record | {"finished": True})
    return student.head.eval()


def _as_written(folder: Path, model: nn.Module, adapters: bool) -> Head:
    """The head of a finished run; its adapters are put into the model, as training them does."""
    if adapters:
        from peft import PeftModel

        PeftModel.from_pretrained(model, folder / ADAPTER)
    head: Head = Head.from_pretrained(folder).to(next(model.parameters()).device)
    return head


def _parameters(student: Student, model: nn.Module) -> dict[str, int]:
    """How many numbers head, adapters and model have."""
    return {
        "head": sum(x.numel() for x in student.head.parameters()),
        "adapters": sum(x.numel() for name, x in student.named_parameters() if "lora_" in name),
        "model": sum(x.numel() for name, x in model.named_parameters() if "lora_" not in name),
    }


def _student(model: nn.Module, settings: Settings, layers: Sequence[int]) -> Student:
    """A new head beside the model, whose flow is read in these layers, and adapters in it if there are to be some."""
    o = settings.objective
    adapted = adapt(model, settings.adapters, seed=settings.seed) if settings.adapters else None
    width, judges = parts(model).embed.embedding_dim, bool(o.separate or o.budget)
    head = Head(width, settings.rank, base_name(model), settings.seed, settings.hops, judges)
    return Student(model, head, o, layers, adapted)


class HeadTrainer(Trainer):  # type: ignore[misc]
    """Hugging Face's Trainer for a :class:`Student`: saves only what learns, and logs the parts of the loss."""

    def __init__(self, student: Student, args: TrainingArguments, adapter_rate: float = 1e-4, **rest: Any) -> None:
        super().__init__(student, args, **rest)
        self.student, self.adapter_rate = student, adapter_rate
        self.model_accepts_loss_kwargs = False
        self._told: dict[str, list[float]] = {}
        self._micro = (-1, 0)
        self._clock = time.monotonic()

    @property
    def seconds(self) -> float:
        """What all steps took, those of earlier starts included, as far as they were logged; checkpoints hold the log."""
        return max((line["seconds"] for line in self.state.log_history if "seconds" in line), default=0.0)

    def compute_loss(
        self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        step = self.state.global_step
        self._micro = (step, self._micro[1] + 1 if self._micro[0] == step else 0)
        seed = f"{self.args.seed}/{step}/{self._micro[1]}/{self.args.process_index}"
        self.student.begin(seed, step / max(1, self.state.max_steps))
        told = model(**inputs)
        parts_ = {name: float(part) for name, part in told.items() if name != "loss"}
        if not math.isfinite(loss := float(told["loss"].detach())):
            raise ValueError(self._diverged(f"the loss of step {step + 1} is {loss}", parts_))
        for name, part in parts_.items():
            self._told.setdefault(name, []).append(part)
        return (told["loss"], told) if return_outputs else told["loss"]

    def _diverged(self, what: str, parts_: Mapping[str, float]) -> str:
        """What is said of a run that cannot go on; its folder holds the checkpoints from before."""
        told = ", ".join(f"{name} {part:.5g}" for name, part in parts_.items())
        whole = last_whole(Path(str(self.args.output_dir)))
        left = f"{whole} is the last checkpoint from before" if whole else "there is no checkpoint from before"
        return (
            f"{what}{f' ({told})' if told else ''}: training has diverged, and no head was written; {left}. Train with a lower "
            f"rate than {self.args.learning_rate:g}, or with precision float32, in another folder"
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        parts_ = {name: round(sum(values) / len(values), 5) for name, values in self._told.items() if values}
        if "loss" in logs:
            logs = {**logs, **parts_}
            self._told.clear()
        before, self._clock = self._clock, time.monotonic()
        super().log({**logs, "seconds": round(self.seconds + self._clock - before, 2)}, start_time)

    def create_optimizer(self, *_: Any) -> torch.optim.Optimizer:
        if self.optimizer is None:  # type: ignore[has-type]
            own = list(self.student.head.parameters())
            others = [p for p in self.student.base.parameters() if p.requires_grad]
            groups: list[dict[str, Any]] = [{"params": own, "lr": self.args.learning_rate}]
            if others:
                groups.append({"params": others, "lr": self.adapter_rate})
            self.optimizer = torch.optim.AdamW(groups, betas=(0.9, self.args.adam_beta2), weight_decay=0.0)
        return self.optimizer

    def go_on(self, checkpoint: str | None) -> None:
        """Train to the end from a checkpoint. One that is the end is only read: Trainer would take another step from it."""
        state = None if checkpoint is None else TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        self._clock = time.monotonic()
        if checkpoint is None or state is None or state.global_step < self.args.max_steps:
            self.train(resume_from_checkpoint=checkpoint)
        else:
            self._load_from_checkpoint(checkpoint)
            self.state = state

    def write(self, folder: Path) -> None:
        """The head, and adapters if there are some. Raises ValueError where either has diverged."""
        lora = [(name, value) for name, value in self.student.base.named_parameters() if "lora_" in name]
        learnt = [*self.student.head.named_parameters(), *lora]
        if broken := [name for name, value in learnt if not bool(value.isfinite().all())]:
            raise ValueError(self._diverged(f"after step {self.state.global_step} {broken[0]} is not finite", {}))
        self.student.head.save_pretrained(folder)
        if self.student.adapted is not None:
            self.student.adapted.save_pretrained(folder / ADAPTER)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self.write(Path(output_dir or str(self.args.output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        self.student.head.load_state_dict(load_file(folder / WEIGHTS))
        if self.student.adapted is not None:
            from peft import set_peft_model_state_dict

            state = load_file(folder / ADAPTER / "adapter_model.safetensors")
            set_peft_model_state_dict(self.student.adapted, state)


def _moved(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on the device that it will be trained on; a model that is there is left alone, as quantised ones must be."""
    return model if next(model.parameters()).device == device else model.to(device)


def convergence(model: nn.Module, processor: Any, examples: Any, square: bool = False) -> tuple[int, ...]:
    """The decoder layers in which flow into the answer converges, as :mod:`simignore.flow` finds them in the first examples:
    from the median of their first layers to that of their last. It runs where the model is; square: pad images to squares."""
    from simignore.evaluate.pictures import opened

    found = []
    for number in range(min(TRIALS, len(examples))):
        example = examples[number]
        prompt = build(processor, opened(example.image, square), **example.words)
        told = measure(model, prompt, processor, max_new_tokens=8).curves["attention"].convergence
        if told.layer >= 0:
            found.append((told.first, told.last))
    if not found:
        raise ValueError("nothing flows from the image into the answer of the first examples; name layers=(...)")
    first, last = (sorted(ends)[len(ends) // 2] for ends in zip(*found, strict=True))
    there = [number for number, attention in enumerate(parts(model).attentions) if attention is not None]
    return tuple(number for number in there if first <= number <= last)


def last_whole(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end."""
    numbers = sorted(int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoint-*") if path.is_dir())
    for number in reversed(numbers):
        try:
            json.loads(
                (folder / f"checkpoint-{number}" / TRAINER_STATE_NAME).read_text()
            )  # the last file that is written
            return str(folder / f"checkpoint-{number}")
        except (OSError, json.JSONDecodeError):
            continue
    return None


def _last_losses(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    lines = [line for line in history if "loss" in line][-5:]
    names = {name for line in lines for name in line} - {"epoch", "step", "learning_rate", "grad_norm", "seconds"}
    return {
        name: round(sum(line[name] for line in lines if name in line) / sum(name in line for line in lines), 5)
        for name in sorted(names)
    }
