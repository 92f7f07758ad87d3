"""The real lmms-eval asks the bundled model, through its registry, its tasks and its command line; all files are local."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

lmms_eval = pytest.importorskip("lmms_eval", reason="pip install 'simignore[lmms]'")
datasets = pytest.importorskip("datasets")

from lmms_eval import evaluator, models  # noqa: E402
from lmms_eval.tasks import TaskManager  # noqa: E402
from PIL import Image  # noqa: E402

from simignore import FastV, Random, Simignore, build, tiny  # noqa: E402
from simignore.evaluate import BENCHMARKS, evaluate  # noqa: E402
from simignore.evaluate.lmms import Lmms  # noqa: E402
from simignore.wording import wording  # noqa: E402

SCENES = BENCHMARKS["scenes"](per_kind=1)
ITEMS = SCENES.items()[:7]
FUNCTIONS = '''
def visuals(doc):
    return [doc["image"].convert("RGB")] if doc["image"] else []

def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]

def rounds(doc, lmms_eval_specific_kwargs=None, previous_output=None, round_idx=None, previous_round_info=None):
    if round_idx is None:
        return doc["question"]
    if round_idx == 1 + doc["number"] % 2:  # some have two rounds
        return None, None, True, previous_output, None
    return visuals(doc), f"{doc['question']} Not {previous_output[-1]}?", False, previous_output, {"round": round_idx}

def told(doc, results):
    return {"answer": results[0] if isinstance(results[0], str) else results[0][0]}

def joined(items):
    return "|".join(items)
'''
TASKS = {
    "scenes_told": "output_type: generate_until\ngeneration_kwargs: {max_new_tokens: 8, temperature: 0, do_sample: false}",
    "scenes_chosen": "output_type: multiple_choice\ndoc_to_choice: options",
    "scenes_rounds": "output_type: generate_until_multi_round\ndoc_to_text: !function functions.rounds\n"
    "process_results: !function functions.told\ngeneration_kwargs: {max_new_tokens: 8}",
}
COMMON = """
task: {name}
dataset_path: {data}
dataset_kwargs: {{load_from_disk: true}}
test_split: test
doc_to_visual: !function functions.visuals
doc_to_target: answer
{text}
{own}
metric_list:
  - {{metric: {metric}, aggregation: {aggregation}, higher_is_better: true}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of tasks, as ``--include_path`` takes it, about seven rendered scenes; one question goes without its image."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {
            "number": number,
            "question": wording(**SCENES.words(item))[0],
            "image": item.images[0]() if number != 3 else None,
            "options": list(item.options),
            "answer": item.options.index(item.answer["text"]),
        }
        for number, item in enumerate(ITEMS)
    ]
    features = datasets.Features(
        {
            "number": datasets.Value("int64"),
            "question": datasets.Value("string"),
            "image": datasets.Image(),
            "options": datasets.Sequence(datasets.Value("string")),
            "answer": datasets.Value("int64"),
        }
    )
    data = datasets.DatasetDict({"test": datasets.Dataset.from_list(rows, features=features)})
    data.save_to_disk(str(folder / "data"))
    (folder / "functions.py").write_text(FUNCTIONS)
    for name, own in TASKS.items():
        text = "" if "doc_to_text" in own else "doc_to_text: !function functions.text"
        metric, aggregation = {"scenes_rounds": ("answer", "!function functions.joined")}.get(name, ("acc", "mean"))
        if name == "scenes_told":
            metric = "exact_match"
        (folder / f"{name}.yaml").write_text(
            COMMON.format(
                name=name, data=folder / "data", own=own, text=text, metric=metric, aggregation=aggregation
            ).replace("aggregation: !function", "aggregation: !function")
        )
    return folder


@pytest.fixture(scope="module")
def bundled():
    return tiny.load()


def run(folder: Path, task: str, arguments: str, **settings: object) -> list[object]:
    """The model's responses to a task's questions, in order."""
    result = evaluator.simple_evaluate(
        model="simignore",
        model_args=arguments,
        tasks=[task],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
        **settings,
    )
    samples = sorted(result["samples"][task], key=lambda sample: sample["doc_id"])
    return [[response[0] for response in sample["resps"]] for sample in samples]


def with_images(rows: list) -> list:
    return [row for number, row in enumerate(rows) if number != 3]


@pytest.mark.parametrize(
    ("arguments", "method"),
    [
        ("method=full", None),
        ("keep=0.25", Simignore(keep=0.25, span="user")),
        ("method=fastv,keep=8,layer=0.5", FastV(keep=8, layer=0.5)),
        ("method=random,keep=25%,seed=3,hide=mask", Random(keep=0.25, seed=3, hide="mask")),
    ],
)
def test_answers_are_the_harness_own(folder, bundled, arguments, method):
    told = run(folder, "scenes_told", f"pretrained=tiny,{arguments}", batch_size=4)
    items = with_images(ITEMS)
    own = evaluate(*bundled, SCENES, method, items=items, batch=4)
    assert [row[0] for row in with_images(told)] == [row["told"] for row in own.rows]
