"""Shared by all tests: the folder itself is importable (``import models``), and torch uses one thread."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)  # the tensors are small: more threads only wait for each other
