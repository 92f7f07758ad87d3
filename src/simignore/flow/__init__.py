"""How information travels to the answer: attention, gradients, knockout, lens; and whether dropping the rest was right."""

from __future__ import annotations
