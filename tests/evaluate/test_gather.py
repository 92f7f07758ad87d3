"""From folders to rows: what belongs together stands together, and what is no run is refused."""

from __future__ import annotations

import pytest

from simignore import Random
from simignore.evaluate import BENCHMARKS, evaluate, paired
from simignore.evaluate.gather import gather


def test_runs_over_the_same_questions_make_one_section(bundled, scenes, items, tmp_path):
    full = evaluate(*bundled, scenes, items=items, batch=7, folder=tmp_path / "full")
    few = evaluate(*bundled, scenes, Random(keep=5), items=items, batch=7, folder=tmp_path / "five")
    other = BENCHMARKS["scenes"](per_kind=1, seed=1)
    evaluate(*bundled, other, limit=2, batch=2, folder=tmp_path / "other")
    found = gather([tmp_path / "full", tmp_path / "other", tmp_path / "five"])
    assert [[row["method"] for row in section.rows] for section in found] == [["full", "five"], ["full"]]
    assert found[0].rows[1]["versus_full"] == paired(few.scores, full.scores)
    assert found[0].rows[1]["kept"] == 5 and "seed=1" in found[1].facts["benchmark"]
    assert found[0].title.startswith("Rendered scenes, 14 questions, ") and str(tmp_path / "full") in found[0].title
    assert found[0].facts["versions"]["torch"]


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(OSError, match="there is no folder"):
        gather([tmp_path / "nothing"])
    with pytest.raises(ValueError, match=r"holds neither comparison\.json nor config\.json"):
        gather([tmp_path])
