"""Reading and writing checkpoints a few tensors at a time, so that a model of 13 billion weights needs no 26 GB."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from simignore.convert.plan import Shape

CANDIDATES = (  # first match
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
SHARD_BYTES = 2_000_000_000  # of what is written, and about what is held in memory


@dataclass(frozen=True)
class Checkpoint:
    """The weight files of a folder. shapes: of every tensor, in the files' order, read without loading any."""

    folder: Path
    files: tuple[Path, ...]
    shapes: Mapping[str, Shape]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor, one at a time."""
        for file in self.files:
            with _readable(file):
                yield from _tensors(file)


def read(folder: Path) -> Checkpoint:
    """The checkpoint in a folder: safetensors or PyTorch files, whole or in shards.

    Raises OSError for a folder without weights or with a shard missing, ValueError for files that cannot be read, that
    hold anything but tensors, or that hold one name twice.
    """
    files = _files(folder)
    shapes: dict[str, Shape] = {}
    for file in files:
        with _readable(file):
            own = _shapes(file)
        if twice := sorted(set(own) & set(shapes)):
            raise ValueError(
                f"{file} holds {', '.join(twice)}, which an earlier shard holds too; keep one set of shards"
            )
        shapes |= own
    return Checkpoint(folder, files, shapes)


def _files(folder: Path) -> tuple[Path, ...]:
    for name in CANDIDATES:
        if not (folder / name).is_file():
            continue
        if not name.endswith(".index.json"):
            return (folder / name,)
        with _readable(folder / name):
            shards = sorted(set(json.loads((folder / name).read_text())["weight_map"].values()))
        if absent := [shard for shard in shards if not (folder / shard).is_file()]:
            raise OSError(f"{folder / name} names shards that are not there: {', '.join(absent)}; download them too")
        return tuple(folder / shard for shard in shards)
    raise OSError(f"{folder} holds no weights ({', '.join(CANDIDATES)}); {_hint(folder)}")


def _hint(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file() or (folder / "non_lora_trainables.bin").is_file():
        return "it is a LoRA adapter: merge it into its base model first, with the original code"
    if (folder / "mm_projector.bin").is_file():
        return "it holds a projector alone: merge it into its base model first, with the original code"
    return "name the folder that was downloaded"


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn what the readers raise for a bad file into ValueError with its name."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} is torn or holds more than tensors, and unpickling that could run code; use one in safetensors"
        ) from error
    except Exception as error:  # torn files raise whatever the reader stumbles over
        if str(file) in str(error):
            raise  # it says already what is wrong with which file
        raise ValueError(f"{file} cannot be read ({error}); it may be torn, download it again") from error


def _shapes(file: Path) -> dict[str, Shape]:
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    return {name: tuple(tensor.shape) for name, tensor in _unpickled(file).items()}


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                yield name, opened.get_tensor(name)
    else:
        yield from _unpickled(file).items()


def _unpickled(file: Path) -> dict[str, Tensor]:
    try:
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # files from before PyTorch 1.6 cannot be mapped into memory
        held = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(held, dict):
        raise ValueError(f"{file} holds a {type(held).__name__}, no tensors by name; it is no state dict")
    strange = [f"{name} ({type(value).__name__})" for name, value in held.items() if not isinstance(value, Tensor)]
    if strange:
        raise ValueError(f"{file} holds entries that are no tensors: {', '.join(strange)}; it is no plain state dict")
    return dict(held)


@dataclass
class Writer:
    """Writes tensors into shards of ``limit`` bytes, with the index that `from_pretrained` reads. Call :meth:`close`."""

    folder: Path
    limit: int = SHARD_BYTES
    total: int = 0
    _held: dict[str, Tensor] = field(default_factory=dict)
    _shards: list[list[str]] = field(default_factory=list)

    def add(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor, and write what is kept when it is a shard's worth."""
        size = tensor.numel() * tensor.element_size()
        if self._held and sum(t.numel() * t.element_size() for t in self._held.values()) + size > self.limit:
            self._flush()
        self._held[name] = tensor.clone(memory_format=torch.contiguous_format)  # shared or mapped memory is let go
        self.total += size

    def close(self) -> None:
        """Write the rest, the files' final names and the index."""
        self._flush()
        count = len(self._shards)
        index: dict[str, str] = {}
        for number, names in enumerate(self._shards, start=1):
            final = "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"
            (self.folder / f"part-{number}").rename(self.folder / final)
            index |= dict.fromkeys(names, final)
        if count > 1:
            whole = {"metadata": {"total_size": self.total}, "weight_map": dict(sorted(index.items()))}
            (self.folder / "model.safetensors.index.json").write_text(json.dumps(whole, indent=2) + "\n")

    def _flush(self) -> None:
        self._shards.append(list(self._held))
        save_file(self._held, self.folder / f"part-{len(self._shards)}", metadata={"format": "pt"})
        self._held.clear()
