"""The bundled model and a few of its questions, loaded once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from simignore import tiny
from simignore.evaluate import BENCHMARKS


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine make this small model many times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def bundled():
    return tiny.load()


@pytest.fixture(scope="package")
def scenes():
    return BENCHMARKS["scenes"](per_kind=1)


@pytest.fixture(scope="package")
def items(scenes):
    return scenes.items()
