"""What a method's prefill costs beyond a natively short prompt and the work that is its own, from raw times.

    python -m benchmarks.own_work results/prefill.json

derives these figures and the bars anew from the raw times that the file holds; nothing is measured.

Noise only ever adds: another program, a colder cache, a slower clock. So the figure is taken from the rounds that were
disturbed least, the lower quartile of each case, and on a CPU from processor time, which stands still while others run. The
natively short prompt is measured twice; how far the second is from the first by the same rule is what the rest of the noise
amounts to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.measure import ratio, save

NATIVE, AGAIN, FULL, MASK = "native", "native again", "full", "mask"
RATIO_BAR, SELECTION_BAR, OWN_BAR = 1.03, 0.02, 1.05
Raw = Mapping[str, Mapping[str, Sequence[float]]]  # of each case, of each quantity: one number per round


def own_work(name: str, raw: Raw, dropped: int) -> dict[str, Any]:
    """A method's prefill beside that of a natively short prompt plus its own work, and from how many dropped tokens it pays.

    ``to_own_work``: round by round. ``to_own_work_least``: of the rounds that were disturbed least.
    """
    own, native, full = (np.asarray(raw[case]["prefill"]) for case in (name, NATIVE, FULL))
    passed = float(np.median(raw[name]["passed"]))
    expected = native + passed * (full - native)
    selection = np.asarray(raw[name]["selection"])
    found: dict[str, Any] = {"passed": passed, "to_own_work": ratio(own, expected + selection)}
    found["to_own_work_least"] = _least(name, raw, passed)
    if dropped:
        won = float(np.median((full - expected) / dropped))  # seconds for each dropped token
        found["pays_from"] = max(0.0, float(np.median(own - expected)) / won) if won > 0 else None
    return found


def _least(name: str, raw: Raw, passed: float) -> float:
    clock = "prefill_cpu" if "prefill_cpu" in raw[NATIVE] else "prefill"
    own, native, full = (float(np.quantile(raw[case][clock], 0.25)) for case in (name, NATIVE, FULL))
    chosen = float(np.quantile(raw[name].get("selection", [0.0]), 0.25))
    return own / (native + passed * (full - native) + chosen)


def bars(name: str, found: Mapping[str, Any], raw: Raw) -> list[dict[str, Any]]:
    """The promises: of the first method, and of every method's own work.

    ``known`` tells whether the machine was quiet enough to say: for ratios round by round, the quartiles lie on one side of the
    limit; for own work, the natively short prompt measured twice differs by less than the figure does from the limit.
    """
    one = found[name]
    checked = [("prefill to natively short", one["prefill_to_native"], RATIO_BAR)]
    if "prefill_cpu_to_native" in one:
        checked += [("prefill to natively short, processor time", one["prefill_cpu_to_native"], RATIO_BAR)]
    checked += [("choosing to full prefill", one["selection_to_full"], SELECTION_BAR)]
    told = [
        {
            "name": f"{name}: {what}",
            "value": figure["median"],
            "limit": limit,
            "holds": figure["median"] <= limit,
            "known": not figure["q1"] <= limit <= figure["q3"],
        }
        for what, figure, limit in checked
    ]
    noise = abs(_least(AGAIN, raw, 0.0) - 1)
    for own, case in found.items():
        if "to_own_work_least" in case and own != MASK:
            value = case["to_own_work_least"]
            held = {"value": value, "limit": OWN_BAR, "holds": value <= OWN_BAR, "known": abs(value - OWN_BAR) > noise}
            told.append({"name": f"{own}: prefill to natively short and its own work", **held})
    return told


def derived(run: dict[str, Any]) -> dict[str, Any]:
    """One run of ``benchmarks.prefill`` with its own-work figures and bars made anew from its raw times."""
    cases = run["cases"]
    raw: dict[str, dict[str, Sequence[float]]] = {}
    for name, case in cases.items():
        raw[name] = {what: told["raw"] for what, told in case.items() if isinstance(told, dict) and "raw" in told}
        if "passed" in case:
            raw[name]["passed"] = [case["passed"]]
    dropped = run["tokens"]["image"] - run["tokens"]["keep"]
    for name, case in cases.items():
        if "selection" in case:
            case |= own_work(name, raw, dropped)
    first = next(name for name in cases if name not in (FULL, NATIVE, AGAIN))
    return {**run, "bars": bars(first, cases, raw)}


def main(file: Annotated[Path, typer.Argument(help="A result of benchmarks.prefill.")]) -> None:
    """Derive the figures of own work and the bars anew."""
    result = json.loads(file.read_text(encoding="utf-8"))
    result["runs"] = [derived(run) for run in result["runs"]]
    save(file, result)
    for run in result["runs"]:
        for bar in run["bars"]:
            print(f"{bar['name']}: {bar['value']:.4f}, at most {bar['limit']}", bar["holds"], bar["known"])


if __name__ == "__main__":
    typer.run(main)
