"""What other programs are told through entry points (see pyproject.toml), before anything heavy is imported."""

from __future__ import annotations

from typing import Any


def lmms_eval() -> Any:
    """lmms-eval's ModelManifest: which class is the model called simignore. Read whenever lmms-eval lists its models."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="simignore", simple_class_path="simignore.cli.lmms.Typed")


__all__ = ["lmms_eval"]
