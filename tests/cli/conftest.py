"""A checkpoint folder and pictures for the commands to work on, made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

import checkpoints
from simignore.cli import app


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine make these small models many times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.save(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wide picture, 96 x 32, of which the processor sees the middle third."""
    pixels = np.random.default_rng(1).integers(120, 256, (4, 12, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(pixels.repeat(8, axis=0).repeat(8, axis=1)).save(path)
    return path


@pytest.fixture
def simignore() -> Callable[..., Result]:
    """Run the command line with some arguments."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def ask(simignore: Callable[..., Result], checkpoint: Path, photo: Path) -> Callable[..., Result]:
    """Run ``simignore ask`` on the picture and the checkpoint, once and shortly."""

    def run(*arguments: object, image: object = photo, question: str = "What colour is the bus?") -> Result:
        return simignore("ask", image, question, "--model", checkpoint, "--runs", 1, "--max-new-tokens", 3, *arguments)

    return run
