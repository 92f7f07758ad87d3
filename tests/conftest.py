"""Shared by tests: this folder (``import models``) and the checkout (``benchmarks``) can be imported; torch has one thread."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).resolve().parents[1]))
torch.set_num_threads(1)  # the tensors are small: more threads only wait for each other
