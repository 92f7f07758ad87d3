"""What a model's config tells of the crops of an image that its vision tower takes."""

from __future__ import annotations

from typing import Any


def side_of(config: Any) -> int:
    """Patches along one side of the vision tower's square input; 0 where that is unknown."""
    vision = getattr(config, "vision_config", None)
    size, patch = (_one(getattr(vision, name, None)) for name in ("image_size", "patch_size"))
    return size // patch if size and patch else 0


def covers_of(config: Any) -> float:
    """The share of a crop's side that whole patches cover."""
    vision = getattr(config, "vision_config", None)
    size, patch = (_one(getattr(vision, name, None)) for name in ("image_size", "patch_size"))
    return size // patch * patch / size if size and patch else 1.0


def _one(value: Any) -> int:
    if isinstance(value, list | tuple):
        value = value[0] if value and all(v == value[0] for v in value) else None
    return value if isinstance(value, int) else 0


def has_class_token(config: Any) -> int:
    """1 if the decoder gets the tower's class token too, as the first token of each image."""
    kind = getattr(getattr(config, "vision_config", None), "model_type", "")
    strategy = getattr(config, "vision_feature_select_strategy", None)
    return int("clip" in kind and "siglip" not in kind and strategy == "full")
