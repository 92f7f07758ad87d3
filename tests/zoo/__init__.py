"""Every family as a user meets it: a tiny model of the genuine class with random weights, and its real processor.

`CASES` is what tests are parametrised over; a case is added by one entry in one of the files here. `DISCOVERED` are
families of the same structure that the table does not name, `UNSURE` those whose structure only looks the same, `REFUSED`
models that cannot be served. What this version of transformers does not have, or not without torchvision, is in `ABSENT`.
"""

from __future__ import annotations

import importlib

import pytest
import transformers

from zoo.base import Case, Sample, frames, picture

__all__ = ["ABSENT", "CASES", "DISCOVERED", "EVERY", "REFUSED", "UNSURE", "Case", "Sample", "frames", "picture"]

_UNFIT = {
    "ovis2": "other tokens than its image tokens are replaced too",
    "chameleon": "images become words of the vocabulary",
}
_LATER = {  # what the plain models of older versions do not do with these tiny sizes
    "aria": "its config cannot be made",
    "aria-crops": "its config cannot be made",
    "vipllava": "its default vision layers are not there",
    "minicpmv4.6": "its tower does not take these shapes",
    "paligemma-gemma2": "its masks are not those of the prompt's prefix",
}
ABSENT: dict[str, str] = {}


class Cases(dict[str, Case]):
    """Cases by name; a test that asks for one which this version of transformers does not have is skipped."""

    def __missing__(self, name: str) -> Case:
        reason = next((why for known, why in ABSENT.items() if name == known or name.startswith(f"{known}-")), None)
        if reason is None:
            raise KeyError(name)
        pytest.skip(f"transformers {transformers.__version__} does not have {name}: {reason}")


def _cases(*files: str, name: str = "CASES") -> dict[str, Case]:
    found = {}
    for file in files:
        try:
            found |= getattr(importlib.import_module(f"zoo.{file}"), name)
        except ImportError as error:
            ABSENT[file] = str(error)
    if transformers.__version__ < "5.23":
        ABSENT.update({case: reason for case, reason in _LATER.items() if found.pop(case, None)})
    return found


CASES = Cases(_cases("llava", "tiles", "tiled_text", "qwen", "gemma", "gemma4", "rest"))
REFUSED = _cases("rest", name="REFUSED")
_unnamed = _cases("unnamed", "unnamed_qwen")
DISCOVERED = {name: case for name, case in _unnamed.items() if name not in _UNFIT}
UNSURE = {name: case for name, case in _unnamed.items() if name in _UNFIT}
EVERY = Cases(CASES | DISCOVERED)
