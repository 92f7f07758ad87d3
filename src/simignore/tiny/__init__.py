"""The bundled model: a real LLaVA of a few million parameters that answers questions about coloured shapes.

Four files tell the story: `scenes` (what there is to see), `questions` (what is asked), `model` (what answers) and `train`
(how it learns). The others serve them: `prompts`, `words` and `start` the model; `pictures`, `vision`, `symbols`,
`curriculum`, `packing`, `losses`, `muon` and `loop` training; `solve`, `probe` and `evaluate` judge; `export` and `example`
make the bundled files.

    model, processor = simignore.tiny.load()

`example()` is a picture to try it on; `EXAMPLE_QUESTION` about it is answered right, with options and without.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["EXAMPLE_OPTIONS", "EXAMPLE_QUESTION", "example", "fingerprint", "folder", "load"]

EXAMPLE_QUESTION = "What number is on the blue star?"
EXAMPLE_OPTIONS = ("7", "2", "4")


def folder() -> Path:
    """Folder of the bundled weights, processor and training record; `from_pretrained` reads it."""
    return Path(__file__).parent / "weights"


def example() -> Path:
    """A bundled picture, a scene of the test split that training never drew."""
    return Path(__file__).parent / "example.png"


def fingerprint(path: Path | None = None) -> str:
    """The first 16 digits of the SHA-256 of a folder's weights: what a measurement was made on."""
    import hashlib

    return hashlib.sha256(((path or folder()) / "model.safetensors").read_bytes()).hexdigest()[:16]


def load(device: str = "cpu", dtype: torch.dtype | None = None, path: Path | None = None) -> tuple[Any, Any]:
    """Load the bundled model and its processor with the Auto classes, ready to answer.

    `dtype` is float32 unless given (the file holds bfloat16). `path` loads another exported folder instead. Raises
    FileNotFoundError where there is none.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    path = folder() if path is None else path
    if not (path / "model.safetensors").exists():
        raise FileNotFoundError(f"no model in {path}; train one with `python -m simignore.tiny.train`, then export it")
    model = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype or torch.float32)
    return model.to(device).eval(), AutoProcessor.from_pretrained(path)
