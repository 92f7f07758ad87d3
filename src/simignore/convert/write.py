"""The conversion itself: everything is checked first, written beside the target, and renamed when it is whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from simignore.convert import configs, shards, words
from simignore.convert.head import fold_bias, grow, unfuse
from simignore.convert.layouts import EMBEDDING, FINAL_NORM, HEAD, HEAD_BIAS, TOWER, TOWER_PREFIX, released
from simignore.convert.plan import MappingError, Plan, Shape, plan

Head = Literal["none", "zero", "folded"]  # what became of the bias of the head
DTYPES = ("float16", "bfloat16", "float32")
MULTIPLE = 64  # a vocabulary that grows, grows to a multiple of it, as in transformers' own converter
FOLDED = (
    "LlavaForConditionalGeneration has no lm_head.bias: it was folded into lm_head.weight and final_layernorm, which give "
    "the same logits up to rounding"
)
PARTS = {"language_model": "language model", "multi_modal_projector": "projector", "vision_tower": "vision tower"}


@dataclass(frozen=True)
class Report:
    """What became of a checkpoint.

    layout: how its tensors were named. mapped: part of the model -> how many tensors it got. dropped: reason -> how
    many were left out. fused: how many were cut into query, key and value. folded: how many went into others (the bias
    of the head). tokens: added token -> its id.
    rows: (before, after) of the vocabulary. notes: what else to know. size: bytes of weights.
    """

    source: str
    target: str
    layout: str
    mapped: dict[str, int]
    dropped: dict[str, int]
    fused: int
    folded: int
    tokens: dict[str, int]
    rows: tuple[int, int]
    notes: tuple[str, ...]
    dtype: str
    size: int


@dataclass(frozen=True)
class _Job:
    """All that is known before the first byte is written: checkpoints with their plans, config, processor, dtype."""

    original: configs.Original
    sources: tuple[tuple[shards.Checkpoint, Plan], ...]
    config: Any
    processor: Any
    added: tuple[str, ...]
    dtype: torch.dtype
    notes: tuple[str, ...]


def convert(source: Path, target: Path, *, vision_tower: Path | None = None, dtype: str | None = None) -> Report:
    """Write the checkpoint in folder ``source`` to the new folder ``target``, for `from_pretrained`.

    vision_tower: a folder with the CLIP or SigLIP that the original names, where its own weights hold none.
    dtype: of the weights that are written; None: the original's. Nothing is fetched from the network.
    Raises MappingError, listing every tensor, if any is missing, left over or misshapen; ValueError or OSError for
    anything else that cannot be converted. The target is there whole or not at all.
    """
    target = target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OSError(f"{target} is there already and not empty; name a new folder, or remove that one yourself")
    job = _prepare(source, vision_tower, dtype)
    before = job.config.text_config.vocab_size
    with _whole(target) as staging:
        size, head = _write(job, staging)
    moves = [names for _, own in job.sources for names in own.moves.values() if names != (HEAD_BIAS,)]
    moved = Counter(PARTS[name.split(".")[0]] for names in moves for name in names)
    dropped = Counter(why for _, own in job.sources for why in own.drops.values())
    made = job.processor.tokenizer
    return Report(
        source=str(source),
        target=str(target),
        layout=job.original.layout.title,
        mapped={part: moved[part] for part in PARTS.values()},
        dropped=dict(dropped) | ({"bias of the head, all of it zero": 1} if head == "zero" else {}),
        fused=sum(len(names) > 1 for names in moves),
        folded=int(head == "folded"),
        tokens={token: made.convert_tokens_to_ids(token) for token in job.added},
        rows=(before, job.config.text_config.vocab_size),
        notes=(*job.notes, *([FOLDED] if head == "folded" else [])),
        dtype=str(job.dtype).removeprefix("torch."),
        size=size,
    )


def _prepare(source: Path, folder: Path | None, dtype: str | None) -> _Job:
    original = configs.read(source)
    wanted_dtype = dtype or original.dtype or "float16"
    if wanted_dtype not in DTYPES:
        raise ValueError(f"dtype {wanted_dtype!r} is none of {', '.join(DTYPES)}; choose with --dtype")
    own = shards.read(source)
    has_tower = any(name.startswith("model.vision_tower.") for name in own.shapes)
    if not has_tower and folder is None:
        raise ValueError(
            f"{source} does not hold its vision tower, {original.tower!r}; download that checkpoint and name its folder: "
            "--vision-tower FOLDER (nothing is fetched from the network)"
        )
    tower = None if has_tower or folder is None else shards.read(folder)
    names = own.shapes if tower is None else tower.shapes
    try:
        config = configs.llava(original, configs.vision(original, folder, names))
    except ValueError:
        raise
    except Exception as error:  # transformers has its own kind for a value of the wrong type
        raise ValueError(f"the config of {source} cannot be used: {error}") from error
    sources = _plans(source, original, own, tower, config)
    made, added = words.tokenizer(source)
    folders = [source, *([] if folder is None else [folder])]
    notes = [f"{folder} gave the vision tower's settings; its weights are those of {source}"] * (
        has_tower and folder is not None
    )
    processor = words.processor(made, original, config, folders)
    return _Job(original, sources, config, processor, tuple(added), getattr(torch, wanted_dtype), tuple(notes))


def _plans(
    source: Path, original: configs.Original, own: shards.Checkpoint, tower: shards.Checkpoint | None, config: Any
) -> tuple[tuple[shards.Checkpoint, Plan], ...]:
    """A plan for each checkpoint. Raises MappingError with the problems of all of them."""
    wanted = parameters(config, own.shapes)
    if original.layout.head_bias:
        wanted[HEAD_BIAS] = (config.text_config.vocab_size,)
    if tower is None:
        sources = [(own, plan(own.shapes, original.layout.rules, wanted))]
    else:
        seen = {name: shape for name, shape in wanted.items() if name.startswith(TOWER_PREFIX)}
        rest = {name: shape for name, shape in wanted.items() if name not in seen}
        sources = [(own, plan(own.shapes, original.layout.rules, rest)), (tower, plan(tower.shapes, TOWER, seen))]
    if problems := [problem for _, made in sources for problem in made.problems]:
        raise MappingError(str(source), problems)
    return tuple(sources)


def parameters(config: Any, found: Mapping[str, Shape]) -> dict[str, Shape]:
    """Name -> shape of every parameter of the converted model, its vocabulary still as it was."""
    from transformers import LlavaForConditionalGeneration

    with torch.device("meta"):  # shapes without memory
        model = LlavaForConditionalGeneration(config)
    wanted = {released(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings and "lm_head.weight" not in found:
        del wanted[HEAD]  # it is the embedding
    return wanted


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` that takes its name at the end, or is gone if anything went wrong."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield staging
        umask = os.umask(0)
        os.umask(umask)
        staging.chmod(0o777 & ~umask)  # mkdtemp lets nobody else in
        staging.rename(target)  # over an empty folder too
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _write(job: _Job, staging: Path) -> tuple[int, Head]:
    """Everything into ``staging``. Returns the bytes of weights, and what became of the head's bias."""
    from transformers import GenerationConfig

    made, text = job.processor.tokenizer, job.config.text_config
    needed = max(made.get_vocab().values()) + 1
    rows = text.vocab_size if needed <= text.vocab_size else -(-needed // MULTIPLE) * MULTIPLE
    writer = shards.Writer(staging)
    head = _weights(job, writer, rows)
    writer.close()
    ids = {"bos_token_id": made.bos_token_id, "eos_token_id": made.eos_token_id, "pad_token_id": made.pad_token_id}
    for name, value in ids.items():  # the tokenizer's, since an original's config may say nothing or a default
        setattr(text, name, value)
    text.vocab_size = rows
    job.config.image_token_index = made.convert_tokens_to_ids(words.IMAGE)
    job.config.dtype = text.dtype = job.config.vision_config.dtype = job.dtype
    job.config.save_pretrained(staging)
    GenerationConfig(**ids).save_pretrained(staging)
    job.processor.save_pretrained(staging)
    return writer.total, head


def _weights(job: _Job, writer: shards.Writer, rows: int) -> Head:
    """All tensors under their new names; those of the head are kept until they are all there."""
    late = {EMBEDDING, HEAD, HEAD_BIAS, f"{FINAL_NORM}.weight", f"{FINAL_NORM}.bias"}
    kept: dict[str, Tensor] = {}
    for checkpoint, own in job.sources:
        for name, tensor in checkpoint.tensors():
            targets = own.moves.get(name, ())
            heads = job.config.text_config.num_attention_heads
            pieces = unfuse(tensor, heads) if len(targets) == 3 else (tensor,) * len(targets)
            for new, piece in zip(targets, pieces, strict=True):
                if new in late:
                    kept[new] = piece.clone()
                else:
                    writer.add(new, piece.to(job.dtype))
    head = _fold(kept)
    for new, tensor in kept.items():
        grown = grow(tensor, rows) if new in (EMBEDDING, HEAD) and len(tensor) < rows else tensor
        writer.add(new, grown.to(job.dtype))
    return head


def _fold(kept: dict[str, Tensor]) -> Head:
    """Take the head's bias out of ``kept``, its effect into head and final norm."""
    bias = kept.pop(HEAD_BIAS, None)
    if bias is None:
        return "none"
    if not bias.any():
        return "zero"
    names = HEAD, f"{FINAL_NORM}.weight", f"{FINAL_NORM}.bias"
    weight, scale, shift = (kept[name].to(torch.float32) for name in names)
    kept |= dict(zip(names, fold_bias(weight, bias, scale, shift), strict=True))
    return "folded"
