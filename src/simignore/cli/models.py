"""Loading a model by the name that was typed: the bundled one, a folder, or a name on the Hugging Face hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from simignore.methods import Method

BUNDLED = "tiny"
_DTYPES = ("auto", "float32", "bfloat16", "float16", "4bit")
_DEVICES = ("auto", "cpu", "cuda")


def load(name: str | None, device: str = "auto", dtype: str = "auto", head: str | None = None) -> tuple[Any, Any]:
    """A model in eval mode and its processor, see :func:`_load`. head: a head's folder, see :func:`head_of`; adapters that were
    trained with it are merged in. Raises ValueError where those need a package that is not there, before a model is loaded."""
    if not has_adapters(head):
        return _load(name, device, dtype)
    check_peft(f"{head} holds adapters")
    from simignore.train import adapted

    model, processor = _load(name, device, dtype)
    return adapted(model, str(head)), processor


def head_of(method: Method | None) -> str | None:
    """Where the head of the method lies that is laid over the model, None for a method without one."""
    return getattr(method, "head", None)


def has_adapters(head: str | None) -> bool:
    """Whether adapters lie beside a head, so that it serves the model that they change and no other."""
    return head is not None and (Path(head) / "adapter" / "adapter_config.json").is_file()


def check_peft(why: str) -> None:
    """Raise ValueError without the package that adapters need. why: what is done with them, in words."""
    from importlib.util import find_spec

    if find_spec("peft") is None:
        raise ValueError(f"{why}, which needs the package peft: pip install 'simignore[train]'")


def _load(name: str | None, device: str, dtype: str) -> tuple[Any, Any]:
    """A model in eval mode and its processor.

    name: None or "tiny" for the bundled model, else a folder or a hub name. device: "auto" takes a GPU if there is one.
    dtype: "auto" is float32 on a CPU and the checkpoint's own on a GPU; "4bit" quantises weights to NF4 as they are read, by
        bitsandbytes, and computes in bfloat16.
    Raises UnsupportedModelError (a ValueError) for a model that takes no images, before any weights are read;
    ValueError for a device or dtype that is not there; OSError or ValueError, naming it, for what cannot be loaded.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()  # ours shows that something is going on
    where, four = _device(device), dtype == "4bit"
    if four:
        _check_four_bits(name, where)
    kind = _dtype("bfloat16" if four else dtype)
    if name is None or name == BUNDLED:
        from simignore import tiny

        return tiny.load(device=where, dtype=kind)
    name = checked(name)
    from transformers import AutoModelForImageTextToText, AutoProcessor

    wanted = kind if kind is not None else "auto" if where == "cuda" else _dtype("float32")
    try:
        processor = AutoProcessor.from_pretrained(name)
        more = {"quantization_config": _four_bits(), "device_map": {"": 0}} if four else {}
        model = AutoModelForImageTextToText.from_pretrained(name, dtype=wanted, **more)
    except Exception as error:  # safetensors, tokenizers and JSON each raise their own
        hint = " (install the torchvision that fits your torch)" if "orchvision" in str(error) else ""
        raise ValueError(f"the model {name!r} cannot be loaded{hint}: {error}") from error
    return (model if four else model.to(where)).eval(), processor


def _check_four_bits(name: str | None, where: str) -> None:
    """Refuse 4 bits where they cannot be had, before anything is loaded."""
    from importlib.util import find_spec

    if name is None or name == BUNDLED:
        raise ValueError("--dtype 4bit: the bundled model has a few megabytes; leave it out")
    if where != "cuda" or find_spec("bitsandbytes") is None:
        raise ValueError("--dtype 4bit needs a GPU and the package bitsandbytes: pip install bitsandbytes")


def _four_bits() -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


@dataclass(frozen=True)
class Loader:
    """What was typed of a model, to be loaded where it is called: in a worker of a cluster."""

    name: str | None
    device: str = "auto"
    dtype: str = "auto"
    head: str | None = None

    def __call__(self) -> tuple[Any, Any]:
        return load(self.name, self.device, self.dtype, self.head)


def checked(name: str) -> str:
    """The folder or hub name, once its config turned out to be that of a family which can be served."""
    from transformers import PretrainedConfig

    from simignore.families import FAMILIES, UnsupportedModelError

    folder = Path(name).expanduser()
    if not folder.exists() and (folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1):
        raise OSError(f"no model folder at {name}; check the path")
    if folder.exists() and not (folder / "config.json").is_file():
        raise OSError(f"{name} is no model: it holds no config.json; name the folder that `save_pretrained` wrote")
    try:
        config, _ = PretrainedConfig.get_config_dict(name)
    except Exception as error:  # the hub client raises many kinds
        raise OSError(
            f"no model {name!r}: there is no such folder in {os.getcwd()}, and the Hugging Face hub gave none ({error})"
        ) from error
    if (kind := config.get("model_type")) not in FAMILIES and not _takes_images(kind):
        raise UnsupportedModelError(
            f"simignore cannot serve {name}: model type {kind!r} is none of {', '.join(sorted(FAMILIES))} "
            "(`simignore list families`), and no other model that transformers knows to take images with text"
        )
    if _is_original(config):
        raise UnsupportedModelError(
            f"{name} is an original checkpoint, not in the layout of transformers; write one that is: "
            f"simignore convert {name} TARGET"
        )
    return str(folder) if folder.exists() else name


def _takes_images(kind: Any) -> bool:
    """Whether transformers has an image-text class for this model type; simignore may discover its parts."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def _is_original(config: dict[str, Any]) -> bool:
    return "mm_projector_type" in config or "mm_vision_tower" in config


def _device(typed: str) -> str:
    import torch

    if typed not in _DEVICES:
        raise ValueError(f"--device {typed!r} is none of {', '.join(_DEVICES)}")
    if typed == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this PyTorch sees no GPU; use --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if typed == "auto" else typed


def _dtype(typed: str) -> torch.dtype | None:
    import torch

    if typed not in _DTYPES:
        raise ValueError(f"--dtype {typed!r} is none of {', '.join(_DTYPES)}")
    return None if typed == "auto" else getattr(torch, typed)
