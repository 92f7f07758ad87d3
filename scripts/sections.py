"""The README's generated sections, by name: each makes Markdown from a folder that holds ``results/``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from simignore import tiny
from simignore.families import FAMILIES, Family
from simignore.methods import METHODS, PRESETS, Method
from simignore.tiny.evaluate import FORMS
from simignore.tiny.questions import KINDS

SPEED, ACCURACY, SCENES = "results/prefill.json", "results/tiny.json", "results/scenes.json"
CONTRACT, SELECTION, ABLATION = "results/families.json", "results/selection.json", "results/ablation.json"
AGREEMENT, CLAIMS, COMPARED = "results/agreement.json", "results/claims.json", "results/compared.json"
FLOW, MEMORY, LEARNED = "results/flow.json", "results/memory.json", "results/learned.json"
LEARNED_SPEED, NEEDED = "results/prefill-learned.json", "results/needed.json"
EXAMPLE, PRINTED = "examples/quickstart.py", "results/quickstart.txt"
MADE_BY = {
    SPEED: "python -m benchmarks.prefill --json results/prefill.json",
    ACCURACY: "python -m simignore.tiny.evaluate --dtype bfloat16 --bed 100 --embeddings 500 --out results/tiny.json",
    CONTRACT: "python scripts/contract.py --json results/families.json",
    SCENES: "python -m benchmarks.scenes --per-kind 2000 --json results/scenes.json",
    SELECTION: "python -m benchmarks.selection --json results/selection.json",
    COMPARED: "python -m benchmarks.scenes --per-kind 2000 --keep 0.125 --json results/compared.json",
    CLAIMS: "python -m benchmarks.claims --json results/claims.json",
    AGREEMENT: "python -m benchmarks.agreement --json results/agreement.json",
    FLOW: "python -m benchmarks.flow --json results/flow.json",
    LEARNED: "python -m benchmarks.learned --seed 5 --per-kind 150 --keep 0.25 --keep 0.125 --keep 0.0625 --unseen star,moon "
    "--json results/learned.json",
    NEEDED: "python -m benchmarks.needed --per-kind 25 --json results/needed.json",
    LEARNED_SPEED: "python -m benchmarks.prefill --method simignore --method simignore2 --method learned --rounds 20 "
    f"--json {LEARNED_SPEED}",
    MEMORY: "python -m benchmarks.memory --json results/memory.json",
    ABLATION: "python -m benchmarks.scenes --ablation --seed 3 --json results/ablation.json",
}


class StaleError(ValueError):
    """The README cannot be written as it is: a marker or a result is missing; the message says which and the remedy."""


# sections made from the package's own lists


def methods(_: Path) -> str:
    """One row per method: its rule, where it cuts, what it looks at, where it is from."""
    head = ("method", "cuts", "told by", "guided by the text", "merges", "source")
    return markdown(head, [_method_row(name, kind) for name, kind in METHODS.items()])


def _method_row(name: str, kind: type[Method]) -> list[str]:
    method = kind(keep=0.5)
    where = "before the decoder" if method.site == "projector" else "inside it"
    told = [_READS[need] for cut in method.cuts() for need in cut.needs]
    told += ["vision tower" for cut in method.cuts() if cut.looks]
    guided = not {"text", "question", "attention"}.isdisjoint(kind.needs)
    said = [", ".join(dict.fromkeys(told)) or "-", "yes" if guided else "no", "yes" if kind.merges else "no"]
    return [f"`{name}`", where, *said, _linked(kind.source)]


_READS = {
    "visual": "image tokens",
    "hidden": "image tokens",
    "text": "text",
    "question": "text",
    "words": "text",
    "attention": "decoder attention",
}


def presets(_: Path) -> str:
    """One row per preset, with the method written so that it can be pasted."""
    return markdown(("preset", "is"), [[f"`{name}`", f"`{method!s}`"] for name, method in PRESETS.items()])


def families(root: Path) -> str:
    """One row per model family, with what the last run of the contract found, and what is refused."""
    result = read_result(root, CONTRACT)
    by_type: dict[str, list[dict[str, Any]]] = {}
    for case in result["cases"]:
        by_type.setdefault(case["model_type"], []).append(case)
    rows = []
    for family in FAMILIES.values():
        if family.model_type not in by_type:
            raise StaleError(
                f"{CONTRACT} has no case of {family.model_type!r}; add one to tests/zoo and run {MADE_BY[CONTRACT]}"
            )
        rows.append(_family_row(family, by_type.pop(family.model_type)))
    found = ", ".join(f"`{kind}` ({_tests(cases)})" for kind, cases in by_type.items())
    return (
        markdown(("family", "`model_type`", "its image tokens are", "positions", "refused", "tests passed"), rows)
        + f"\n\nNot in the table, found by their structure and checked at the first prefill: {found}.\n\n"
        f"Run on {result['date']} with transformers {result['transformers']} and torch "
        f"{result['torch']}: `{result['command']}`."
    )


def _family_row(family: Family, cases: list[dict[str, Any]]) -> list[str]:
    laid = " ".join((family.images.__doc__ or "").split()).split(" (")[0].split(":")[0]
    refused = [
        ('`hide="mask"`', any(case["recurrent"] for case in cases)),
        ('`positions="reindex"`', any("M-RoPE" in case["positions"] for case in cases)),
        ("cuts before its last layers", any(case["shares_keys"] for case in cases)),
        ("methods told by the vision tower", any("visionzip" in case.get("not_served", ()) for case in cases)),
    ]
    return [
        f"{family.title} ({_linked(family.source)})",
        f"`{family.model_type}`",
        f"{laid[0].lower()}{laid[1:]}{'; videos too' if family.videos else ''}",
        "; ".join(dict.fromkeys(case["positions"] for case in cases)),
        ", ".join(name for name, there in refused if there) or "-",
        _tests(cases),
    ]


def _tests(cases: list[dict[str, Any]]) -> str:
    passed, failed = (sum(case[outcome] for case in cases) for outcome in ("passed", "failed"))
    return f"{passed} of {passed + failed}"


def quickstart(root: Path) -> str:
    """The example script and what it printed; a test runs it and compares."""
    lines = (root / EXAMPLE).read_text(encoding="utf-8").split("\n", 2)[2].strip()
    output = root / PRINTED
    if not output.is_file():
        raise StaleError(f"no {PRINTED}; make it: python {EXAMPLE} > {PRINTED}")
    return f"```python\n{lines}\n```\n\n```\n{output.read_text(encoding='utf-8').strip()}\n```"


# sections made from results


def speed(root: Path) -> str:
    """Prefill, decoding and cache, against all image tokens and against a prompt that is natively as short."""
    result = read_result(root, SPEED)
    parts = []
    for run in result["runs"]:
        tokens, cases = run["tokens"], run["cases"]
        head = (
            "",
            "prefill",
            "of the full prompt's",
            "of the natively short prompt's",
            "of that and its own work",
            "choosing",
            "pays from",
            "a decoding step",
            "KV cache",
        )
        rows = [
            [
                _CASES.get(name, f"`{name}`"),
                f"{one['prefill']['median'] * 1e3:.0f} ms",
                f"{one['prefill_to_full']['median']:.2f}",
                _spread(one["prefill_to_native"]),
                f"{one['to_own_work_least']:.2f}" if "to_own_work_least" in one else "",
                f"{one['selection']['median'] * 1e3:.1f} ms" if "selection" in one else "",
                f"{one['pays_from']:.0f}" if one.get("pays_from") is not None else "",
                f"{one['decode']['median'] * 1e3:.1f} ms",
                f"{one['kv_bytes'] / 1e6:.1f} MB",
            ]
            for name, one in cases.items()
        ]
        parts += [f"{tokens['keep']} of {tokens['image']} image tokens, batch {run['batch']}:", markdown(head, rows)]
    return "\n\n".join(
        [*parts, footnote(result, f"Medians of {result['rounds']} interleaved rounds, in brackets the quartiles")]
    )


_CASES = {
    "full": "all image tokens",
    "native": "natively short prompt",
    "native again": "the same once more (noise)",
    "mask": "hidden, not dropped",
}


def savings(root: Path) -> str:
    """The one sentence that says what is saved, from the first run of the speed measurement."""
    result = read_result(root, SPEED)
    run = result["runs"][0]
    name = next(name for name in run["cases"] if name not in _CASES)
    full, less = run["cases"]["full"], run["cases"][name]
    tokens = run["tokens"]
    note = footnote(result, f"Medians of {result['rounds']} interleaved rounds")
    ratio, native = less["prefill_to_full"]["median"], less["prefill_to_native"]["median"]
    again = run["cases"]["native again"]["prefill_to_native"]["median"]
    return (
        f"In a model of 12 decoder layers of width 512 with `{name}` keeping {tokens['keep']} of {tokens['image']} image "
        f"tokens, prefill (vision tower included) took {ratio:.0%} of the "
        f"full prompt's time and the key-value cache "
        f"{less['kv_bytes'] / full['kv_bytes']:.0%} of its memory ({less['kv_bytes'] / 1e6:.1f} instead of "
        f"{full['kv_bytes'] / 1e6:.1f} MB). A prompt that is natively as short is the limit: the reduced one took {native:.2f} "
        f"times its time, and it took {again:.2f} times its own, measured again. {note}"
    )


def _spread(measured: Mapping[str, float]) -> str:
    """A median with its quartiles."""
    return f"{measured['median']:.2f} ({measured['q1']:.2f}-{measured['q3']:.2f})"


def accuracy(root: Path) -> str:
    """The bundled model with all image tokens: one row per kind of question, one column per form."""
    found: Mapping[str, Any] = read_result(root, ACCURACY)["forms"]
    forms = {form: found[form] for form in FORMS if form in found}
    for form in forms.values():
        same_weights(form, ACCURACY)
    kinds = list(dict.fromkeys(kind for form in forms.values() for kind in form["kinds"]))
    rows = [[spoken(kind), *(percent(form["kinds"].get(kind)) for form in forms.values())] for kind in kinds]
    rows.append(["**all**", *(f"**{percent(form['all'])}**" for form in forms.values())])
    rows.append(["questions", *(f"{form['all']['questions']:,}" for form in forms.values())])
    legend = "\n".join(f"- {name}: {form['what']}" for name, form in forms.items())
    commands = ", ".join(dict.fromkeys(f"`{form['command']}`" for form in forms.values()))
    first = {key: value for key, value in next(iter(forms.values())).items() if key != "command"}
    note = footnote(first, "Right answers on scenes that training never drew") + f" Measured with {commands}."
    return "\n\n".join([markdown(("question", *forms), rows), legend, note])


def scenes(root: Path) -> str:
    """The bundled model with fewer image tokens: one row per method, one column per budget."""
    result = read_result(root, SCENES)
    same_weights(result, SCENES)
    rows: Sequence[Mapping[str, Any]] = result["rows"]
    budgets = sorted({row["keep"] for row in rows if row["keep"] < 1}, reverse=True)
    labels = list(dict.fromkeys(_label(row) for row in rows if row["keep"] < 1))
    whole = [row for row in rows if row["keep"] >= 1]
    table = [
        [label, *(_pooled([row for row in rows if _label(row) == label and row["keep"] == keep]) for keep in budgets)]
        for label in labels
    ]
    first = f"All image tokens: {_pooled(whole)}.\n\n" if whole else ""
    held = {_label(row): row for row in rows if row["keep"] == budgets[0] and row.get("held")}
    table = [[*row, f"{held[row[0]]['held']:.0f}" if row[0] in held else ""] for row in table]
    head = ("keeps", *(f"{keep:g} of them" for keep in budgets), f"held, at {budgets[0]:g}")
    what = f"{rows[0]['questions']:,} questions; in brackets Wilson's 95 % interval, for several seeds their range"
    what += "; bold: better than random at the same budget (the paired bootstrap's 95 % interval lies above zero)"
    return f"{first}{markdown(head, table)}\n\n{footnote(result, what)}"


def compared(root: Path) -> str:
    """Every method at one budget against chance, question by question."""
    result = read_result(root, COMPARED)
    same_weights(result, COMPARED)
    rows: Sequence[Mapping[str, Any]] = result["rows"]
    dropped = sorted((row for row in rows if row["keep"] < 1), key=lambda row: -row["accuracy"])
    chance = [row for row in dropped if row["versus_random"] is None]
    table = [["all image tokens", _pooled([row for row in rows if row["keep"] >= 1]), "196", "", ""]]
    for row in dropped:
        if row in chance[1:]:
            continue  # its seeds are one line
        cells = [str(row["label"]), _pooled(chance if row in chance else [row]), f"{row['held']:.0f}"]
        table.append([*cells, *(("", "") if row in chance else _against(row["versus_random"]))])
    budget = f"{dropped[0]['keep']:g} of the image tokens" if dropped else ""
    head = (f"keeps {budget}", "right", "held in a layer, mean", "against random, points", "better than random?")
    what = f"{rows[0]['questions']:,} questions, the same for all; in brackets 95 % intervals, for several seeds their range"
    again = MADE_BY[COMPARED].replace("2000", str(rows[0]["questions"] // len(KINDS)))
    return f"{markdown(head, table)}\n\n{footnote(result, what)} To repeat it: `{again}`."


def _against(difference: Mapping[str, Any]) -> tuple[str, str]:
    middle, low, high = (difference[name] * 100 for name in ("difference", "low", "high"))
    return f"{middle:+.1f} ({low:+.1f} to {high:+.1f})", "yes" if difference["better"] else "no"


_SHOWN = ("all image tokens", "Random", "Simignore", "Simignore2", "DivPrune", "VisionZip", "FastV, half-way")


def kinds(root: Path) -> str:
    """Where fewer image tokens hurt: one row per kind of question, at the middle budget."""
    rows: Sequence[Mapping[str, Any]] = read_result(root, SCENES)["rows"]
    budgets = sorted({row["keep"] for row in rows if row["keep"] < 1})
    if not budgets:
        raise StaleError(f"{SCENES} holds no row with fewer image tokens; make it anew: {MADE_BY[SCENES]}")
    middle = budgets[len(budgets) // 2]
    shown = [row for row in rows if row["keep"] in (1.0, middle)]
    every_label = list(dict.fromkeys(_label(row) for row in shown))
    labels = [label for label in every_label if {label, label.split(",")[0]} & {*_SHOWN}] or every_label
    every = list(dict.fromkeys(kind for row in shown for kind in row["kinds"]))
    table = [
        [spoken(kind), *(_of_kind(kind, [r for r in shown if _label(r) == label]) for label in labels)]
        for kind in every
    ]
    return f"With {middle:g} of the image tokens:\n\n" + markdown(("question", *labels), table)


def _label(row: Mapping[str, Any]) -> str:
    return str(row.get("label") or f"`{row['method']}`")


def _pooled(rows: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy with its interval; of several seeds the mean with their range."""
    if not rows:
        return ""
    mean = sum(row["accuracy"] for row in rows) / len(rows)
    one = len(rows) == 1
    low = rows[0]["low"] if one else min(row["accuracy"] for row in rows)
    high = rows[0]["high"] if one else max(row["accuracy"] for row in rows)
    right = f"{mean * 100:.1f} %"
    if one and (rows[0].get("versus_random") or {}).get("better"):
        right = f"**{right}**"
    return f"{right} ({low * 100:.1f}-{high * 100:.1f})"


def _of_kind(kind: str, rows: Iterable[Mapping[str, Any]]) -> str:
    told = [row["kinds"][kind] for row in rows if kind in row["kinds"]]
    asked = sum(one["asked"] for one in told)
    return f"{sum(one['right'] for one in told) / asked * 100:.1f} %" if asked else ""


def percent(share: Mapping[str, Any] | None) -> str:
    return f"{share['accuracy'] * 100:.1f} %" if share else ""


SECTIONS: dict[str, Callable[[Path], str]] = {
    "methods": methods,
    "presets": presets,
    "families": families,
    "quickstart": quickstart,
    "speed": speed,
    "savings": savings,
    "accuracy": accuracy,
    "scenes": scenes,
    "compared": compared,
    "kinds": kinds,
}

# words and tables


def read_result(root: Path, path: str) -> dict[str, Any]:
    if not (root / path).is_file():
        raise StaleError(f"no {path}; make it: {MADE_BY[path]}")
    try:
        found: dict[str, Any] = json.loads((root / path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise StaleError(f"{path} is no JSON ({error}); make it anew: {MADE_BY[path]}") from error
    return found


def same_weights(measured: Mapping[str, Any], path: str) -> None:
    """Raise StaleError if this was measured on other weights than the bundled ones."""
    if measured.get("weights") != tiny.fingerprint():
        raise StaleError(f"{path} was measured on other weights than the bundled ones; make it anew: {MADE_BY[path]}")


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def footnote(result: Mapping[str, Any], what: str) -> str:
    """Where a table's figures come from, as far as the result says."""
    versions = result.get("versions", {})
    told = [f"{name} {v}" for name in ("torch", "transformers") if (v := versions.get(name) or result.get(name))]
    hardware = result.get("hardware", {})
    if hardware:
        machine = (
            hardware.get("gpu")
            or f"{hardware.get('cpu')}, {hardware.get('threads')} thread{'s' if hardware.get('threads') != 1 else ''}"
        )
        told.insert(0, machine)
    elif result.get("machine"):
        told.insert(0, str(result["machine"]))
    command = f" (`{result['command']}`)" if result.get("command") else ""
    return f"{what}; {', '.join(told)}{command}." if told else f"{what}{command}."


def _sentence(doc: str) -> str:
    """The first sentence of a docstring, in Markdown."""
    flat = " ".join(doc.split("\n\n")[0].split())
    return _code(re.split(r"(?<=[.!?]) (?=[A-Z])", flat)[0])


def _source(doc: str) -> str:
    """What a docstring names behind ``Source:``, up to the end of the sentence."""
    told = re.search(r"Source:\s*(.+?)(?:[.;](?=\s|$)|\n\s*\n|$)", doc, re.DOTALL)
    return " ".join(told[1].split()) if told else ""


def _linked(source: str) -> str:
    return re.sub(r"arXiv[ :](\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", source)


def _code(text: str) -> str:
    return text.replace("``", "`")


def spoken(name: str) -> str:
    return name.replace("_", " ")
