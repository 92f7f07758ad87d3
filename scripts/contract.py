"""Run the contract of every family and write down how it went: ``python scripts/contract.py --json results/families.json``.

The tables of families in the README and in docs/families.md are made from that file.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("tests/contract/test_families.py", "tests/test_places.py", "tests/test_doctor.py")


class Count:
    """A pytest plugin that counts passed, failed and skipped tests of each case, which is the last of their parameters."""

    def __init__(self, cases: list[str]) -> None:
        self.cases = cases
        self.results: dict[str, collections.Counter[str]] = {case: collections.Counter() for case in cases}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        parameters = report.nodeid.rpartition("[")[2].rstrip("]")
        case = max(
            (case for case in self.cases if parameters == case or parameters.endswith(f"-{case}")),
            key=len,
            default=None,
        )
        if case:
            self.results[case][report.outcome] += 1


def positions(model: Any, inputs: dict[str, Any]) -> str:
    """How the decoder numbers its tokens."""
    sys.path.insert(0, str(ROOT / "tests"))
    import oracles
    from simignore.parts import parts

    given = oracles.decoder_call(model, inputs).get("position_ids")
    if given is not None and given.dim() == 3:
        return "time, row and column (M-RoPE)"
    return "a line, learned" if parts(model).rotary is None else "a line"


def not_served(model: Any, p: Any) -> dict[str, str]:
    """The methods that this model cannot be served with, and why."""
    from simignore.methods import METHODS
    from simignore.parts import UnsupportedModelError

    found = {}
    for method, kind in METHODS.items():
        if "attention" in kind.needs and not any(p.attentions[: p.last_cut]):
            found[method] = "no attention in the decoder that can be read"
            continue
        try:
            kind(keep=0.5)(model)
        except UnsupportedModelError:
            found[method] = "image tokens cannot be traced to the tower's patches"
        except ValueError:
            found[method] = "only at layers behind one that attends"
    return found


def main() -> None:
    """Run the tests and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from zoo import ABSENT, CASES, DISCOVERED, Sample, picture

    from simignore.parts import parts

    every = {**CASES, **DISCOVERED}
    count = Count(list(every))
    pytest.main(["-q", "-p", "no:cacheprovider", *(str(ROOT / test) for test in TESTS)], plugins=[count])
    rows = []
    for name, case in every.items():
        model = case.model()
        p, inputs = parts(model), case.inputs(Sample(images=(picture(*case.sizes[0]),)))
        rows.append(
            {
                "not_served": not_served(model, p),
                "case": name,
                "model_type": case.model_type,
                "positions": positions(model, inputs),
                "recurrent": p.recurrent,
                "shares_keys": p.last_cut < len(p.layers) - 1,
                "discovered": name in DISCOVERED,
                **{outcome: count.results[name][outcome] for outcome in ("passed", "failed", "skipped")},
            }
        )
    report = {
        "date": datetime.date.today().isoformat(),
        "command": "python scripts/contract.py --json results/families.json",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "absent": ABSENT,
        "cases": rows,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
