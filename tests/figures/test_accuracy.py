"""Plots of accuracy: every method's points are where its figures say, none hidden, and rows that say nothing are refused."""

from __future__ import annotations

import pytest

from simignore.figures import by_group, by_prefill, by_tokens

pytest.importorskip("matplotlib")


def row(method, keep, accuracy, prefill=None):
    found = {
        "method": method,
        "keep": keep,
        "at": "tokens",
        "accuracy": accuracy,
        "low": accuracy - 0.05,
        "high": accuracy + 0.04,
    }
    found["groups"] = {"type": {"count": {"accuracy": accuracy}, "two_hop": {"accuracy": accuracy / 2}}}
    if keep is not None:
        found["kept"] = keep
    if prefill is not None:
        found["cost"] = {"of_full": {"prefill_seconds": prefill}}
    return found


ROWS = [
    row("full", None, 0.9, 1.0),
    row("random", 49, 0.7, 0.5),
    row("random", 25, 0.6, 0.4),
    row("simignore", 49, 0.8, 0.5),
    row("simignore", 25, 0.8, 0.4),
    row("fastv", 49, 0.8, 0.7),
]


def lines(figure):
    """(label, xs, ys) of every method's line."""
    axis = figure.axes[0]
    handles, labels = axis.get_legend_handles_labels()
    found = {}
    for handle, label in zip(handles, labels, strict=True):
        line = handle[0] if isinstance(handle, tuple) else handle
        found[label] = (list(line.get_xdata()), list(line.get_ydata()))
    return found


def test_tokens_and_prefill_are_where_they_were_measured():
    found = lines(by_tokens(ROWS, "Scenes"))
    assert set(found) == {"all image tokens", "random", "simignore", "fastv"}
    assert found["simignore"][1] == [80, 80] and found["simignore"][0] == pytest.approx([25, 49], abs=1)
    assert found["random"][1] == pytest.approx([60, 70])
    assert found["fastv"][0] != [found["simignore"][0][1]]  # side by side where they coincide
    found = lines(by_prefill(ROWS))
    assert found["fastv"][0] == pytest.approx([0.7], abs=0.02)


def test_kinds_of_questions_at_one_budget():
    found = lines(by_group(ROWS, "type", 49))
    assert set(found) == {"full", "random", "simignore", "fastv"}
    assert found["fastv"][0] == pytest.approx([80, 40]) and found["fastv"][1] == pytest.approx([0, 1], abs=0.3)
    assert found["fastv"][1] != found["simignore"][1]


def test_rows_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match="no row says 'share'"):
        by_prefill([row("full", None, 0.9)])
    with pytest.raises(ValueError, match="no row says 'kept'"):
        by_tokens([row("full", None, 0.9)])
    with pytest.raises(ValueError, match="no row at keep=7 is grouped by 'subject'"):
        by_group(ROWS, "subject", 7)
