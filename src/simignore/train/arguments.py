"""Settings of a run as Hugging Face's Trainer wants them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.integrations import TensorBoardCallback

from simignore.train.settings import Settings

A_DAY, HALF_AN_HOUR = 86_400, 1_800  # seconds


def arguments(folder: Path, settings: Settings) -> TrainingArguments:
    """The trainer's settings."""
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch,
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=settings.rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(settings.warmup, settings.steps // 10),  # the first of them has a rate of 0
        weight_decay=0.0,
        max_grad_norm=5.0,  # of a head's few numbers; those of hops are large in the beginning
        adam_beta2=0.98,
        bf16=settings.precision == "bfloat16",
        fp16=settings.precision == "float16",
        seed=settings.seed,
        data_seed=settings.seed,
        dataloader_num_workers=settings.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        save_steps=settings.save_every,
        save_total_limit=2,
        logging_steps=min(10, settings.steps),
        report_to=[],  # TensorBoard's callback is our own, see `boards`
        remove_unused_columns=False,
        ddp_find_unused_parameters=True,
        ddp_timeout=A_DAY if settings.prepared else HALF_AN_HOUR,  # while one process prepares, the others wait
        disable_tqdm=True,
        label_names=["labels"],
    )


def boards(folder: Path) -> list[TensorBoardCallback]:
    """TensorBoard's events in ``runs/`` of this very run; an environment variable would hold for the next run too."""
    if find_spec("tensorboard") is None:
        return []
    board = TensorBoardCallback()
    board.logging_dir = board.logging_dir or str(folder / "runs")
    return [board]
