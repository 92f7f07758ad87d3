"""What tells one run from another: digests of its questions, its model and its method."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from simignore.evaluate.benchmark import Benchmark, Item
from simignore.evaluate.pictures import Picture
from simignore.methods import Method
from simignore.methods.base import weights_digest


def identified(
    about: Mapping[str, Any], benchmark: Benchmark, method: Method | None, items: Sequence[Item], batch: int
) -> dict[str, Any]:
    """Everything that the answers depend on, apart from versions and hardware. about: what :func:`about` said of the model.

    A method with a head is told by the head's weights as well: its repr names their folder, which may be written anew.
    """
    weights = "" if method is None else weights_digest(method)
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps([item.id, benchmark.words(item), item.answer], default=str, sort_keys=True).encode())
        for image in item.images:
            digest.update(_digest(image))
    return {
        "benchmark": repr(benchmark),
        "version": benchmark.version,
        "questions": len(items),
        "questions_sha256": digest.hexdigest(),
        **about,
        "method": None if method is None else repr(method),
        **({"method_weights_sha256": weights} if weights else {}),
        "batch": batch,
        "generation": {"do_sample": False, "max_new_tokens": benchmark.max_new_tokens},
    }


def _digest(image: Picture) -> bytes:
    """What tells an image from another: of a file its name, its size and its first part; of what draws one, all of it."""
    if isinstance(file := getattr(image, "file", image), Path):
        with file.open("rb") as opened:
            return f"{file.name} {file.stat().st_size}".encode() + opened.read(65536)
    return pickle.dumps(image)


def about(model: Any, name: str = "", processor: Any = None) -> dict[str, Any]:
    """What the answers depend on in the model and its chat template. name: what it is called in the record."""
    template = str(getattr(processor, "chat_template", None)).encode()
    weights = next(model.parameters())
    return {
        "model": name or getattr(model, "name_or_path", "") or type(model).__name__,
        "weights_sha256": fingerprint(model),
        "dtype": str(weights.dtype).removeprefix("torch."),
        "device": weights.device.type,
        "attention": getattr(model.config, "_attn_implementation", None),
        "chat_template_sha256": hashlib.sha256(template).hexdigest()[:16],
    }


def fingerprint(model: Any) -> str:
    """A digest that tells models apart: of every parameter's name, shape, first values and the sum of its bytes."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        with suppress(RuntimeError, TypeError, NotImplementedError):  # quantised kinds
            raw = value.detach().contiguous().flatten().view(torch.uint8)
            digest.update(raw[:256].cpu().numpy().tobytes() + str(int(raw.sum(dtype=torch.int64))).encode())
    return digest.hexdigest()[:16]


__all__ = ["about", "fingerprint", "identified"]
