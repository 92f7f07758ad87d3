"""The tables of results, of figures that a run can hold."""

from __future__ import annotations

import pytest

from simignore.cli.results import _ratios


def row(method, decode):
    ratios = {"prefill_seconds": 0.5, "prefill_flops": 0.4, "kv_bytes": 0.3}
    cost = {"decode_seconds": {"median": decode}, "selection_seconds": {"median": 0.0}, "of_full": ratios}
    return {"method": method, "kept": 4, "cost": cost}


@pytest.mark.parametrize(("seconds", "cells"), [(0.02, ["1.00", "0.25"]), (0.0, ["", ""])])
def test_the_ratio_of_a_decoding_step_is_left_out_where_none_was_decoded(seconds, cells):
    table = _ratios([row("full", seconds), row("FastV", seconds / 4)])
    (column,) = [column for column in table.columns if column.header == "decoding step"]
    assert list(column.cells) == cells
