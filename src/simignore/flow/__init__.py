"""How information travels to the answer: attention, gradients, knockout, lens; and whether dropping the rest was right."""

from __future__ import annotations

from simignore.flow.explain import VIEWS, explain
from simignore.flow.plain import plain
from simignore.flow.report import FlowReport

__all__ = ["VIEWS", "FlowReport", "explain", "plain"]
