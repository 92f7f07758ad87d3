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

import zoo  # noqa: E402
from listening import Listening  # noqa: E402
from lmms_eval import evaluator, models  # noqa: E402
from lmms_eval.tasks import TaskManager  # noqa: E402
from PIL import Image  # noqa: E402
from zoo import CASES  # noqa: E402

from simignore import FastV, Mass, Random, Simignore, build, preset, tiny  # noqa: E402
from simignore.evaluate import BENCHMARKS, evaluate  # noqa: E402
from simignore.evaluate.lmms import Lmms  # noqa: E402
from simignore.wording import wording  # noqa: E402

SCENES = BENCHMARKS["scenes"](per_kind=1)
ITEMS = SCENES.items()[:7]
BLIND = 3  # this question goes without its image
FUNCTIONS = """
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
"""
TASKS = {
    "scenes_told": "output_type: generate_until\ndoc_to_target: said\n"
    "generation_kwargs: {max_new_tokens: 8, temperature: 0, do_sample: false}",
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
            "image": item.images[0]() if number != BLIND else None,
            "options": list(item.options),
            "answer": item.options.index(item.answer["text"]),
            "said": item.answer["text"],
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
            "said": datasets.Value("string"),
        }
    )
    data = datasets.DatasetDict({"test": datasets.Dataset.from_list(rows, features=features)})
    data.save_to_disk(str(folder / "data"))
    (folder / "functions.py").write_text(FUNCTIONS)
    for name, own in TASKS.items():
        text = "" if "doc_to_text" in own else "doc_to_text: !function functions.text\n"
        text += "" if "doc_to_target" in own else "doc_to_target: answer"
        metric, aggregation = {"scenes_rounds": ("answer", "!function functions.joined")}.get(name, ("acc", "mean"))
        if name == "scenes_told":
            metric = "exact_match"
        (folder / f"{name}.yaml").write_text(
            COMMON.format(name=name, data=folder / "data", own=own, text=text, metric=metric, aggregation=aggregation)
        )
    return folder


@pytest.fixture(scope="module")
def bundled():
    return tiny.load()


def run(folder: Path, task: str, arguments: str, **settings: object) -> list[list]:
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
    return [row for number, row in enumerate(rows) if number != BLIND]


def flat(rows: list[list]) -> list:
    return [response for row in rows for response in row]


ONE_A_TOKEN = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}


def plain(model, inputs: dict, ids: list[int]) -> tuple[float, bool]:
    """The loss by stock transformers: one forward of prompt and continuation, one at a time."""
    width, more = inputs["input_ids"].shape[1], torch.tensor([ids])
    whole = {
        name: torch.cat(
            [
                value,
                {"input_ids": more, "attention_mask": 0 * more + 1}.get(name, 0 * more),
            ],
            1,
        )
        if name in ONE_A_TOKEN
        else value
        for name, value in inputs.items()
        if isinstance(value, torch.Tensor)
    }
    with torch.inference_mode():
        logits = model(**whole).logits[0, width - 1 : -1].float()
    own = logits.log_softmax(-1).gather(1, more[0][:, None])
    return -float(own.mean()), bool((logits.argmax(-1) == more[0]).all())


def close(some: list, other: list, off: float = 2e-4) -> None:
    """The same losses up to rounding, and the same verdict on greedy decoding."""
    assert len(some) == len(other)
    for (loss, greedy), (expected, also) in zip(some, other, strict=True):
        assert loss == pytest.approx(expected, abs=off, rel=1e-4) and greedy == also


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
    own = evaluate(*bundled, SCENES, method, items=with_images(ITEMS), batch=4)
    assert [row[0] for row in with_images(told)] == [row["told"] for row in own.rows]
    assert all(row[0] for row in told)


def test_likelihoods_without_a_method_are_those_of_stock_transformers(folder, bundled):
    model, processor = bundled
    told = run(folder, "scenes_chosen", "method=none", batch_size=5)
    for number, (item, row) in enumerate(zip(ITEMS, told, strict=True)):
        images = [] if number == BLIND else [item.images[0]()]
        prompt = build(processor, images, **{**SCENES.words(item), "options": item.options})
        before = processor.tokenizer(prompt.text)["input_ids"]
        ids = [processor.tokenizer(f"{prompt.text} {option}")["input_ids"][len(before) :] for option in item.options]
        assert all(ids)
        close(row, [plain(model, dict(prompt.inputs), own) for own in ids])
    best = [min(range(len(row)), key=lambda i: row[i][0]) for row in told]
    right = [item.options.index(item.answer["text"]) for item in ITEMS]
    assert sum(a == b for a, b in with_images(list(zip(best, right, strict=True)))) >= 4  # of 6: it sees the images


@pytest.mark.parametrize("method", ["method=simignore,keep=8", "method=fastv,keep=8,layer=2", "method=random,keep=4"])
def test_likelihoods_under_a_method(folder, method):
    """Dropping is hiding; a batch is its requests one at a time; and the method has an effect."""
    dropped = run(folder, "scenes_chosen", f"{method},batch_size=6")
    close(flat(dropped), flat(run(folder, "scenes_chosen", f"{method},hide=mask,batch_size=6")))
    close(flat(dropped), flat(run(folder, "scenes_chosen", method, batch_size=1)))
    full = run(folder, "scenes_chosen", "method=full", batch_size=6)
    close(dropped[BLIND], full[BLIND])
    assert max(abs(a[0] - b[0]) for a, b in zip(flat(dropped), flat(full), strict=True)) > 0.1


def test_all_tokens_kept_is_no_method(folder):
    close(*(flat(run(folder, "scenes_chosen", typed, batch_size=4)) for typed in ("keep=1.0", "method=none")))


def test_the_continuation_takes_no_part_in_the_choice(bundled):
    """The method chooses by the prompt alone, so all continuations of a prompt are judged with the same image tokens."""
    model, processor = bundled
    method = FastV(keep=4, layer=2)  # reads the attention of the prompt's last token
    lm = lmms_of(model, processor, method)
    likely = lm.loglikelihood([request(f" {word}") for word in ("red star", "blue")])
    prompt = build(processor, picture(), "What is it?")
    for word, (found, _) in zip(("red star", "blue"), likely, strict=True):
        before = processor.tokenizer(prompt.text)["input_ids"]
        ids = torch.tensor([processor.tokenizer(f"{prompt.text} {word}")["input_ids"][len(before) :]])
        with torch.inference_mode(), method(model):
            prefilled = model(**prompt.inputs, use_cache=True)
            rest = model(input_ids=ids, past_key_values=prefilled.past_key_values).logits[:, :-1]
        logits = torch.cat([prefilled.logits[:, -1:], rest], 1)
        assert found == pytest.approx(-float(logits.log_softmax(-1).gather(2, ids[..., None]).mean()), abs=2e-4)


def test_rounds(folder, bundled):
    """A task makes the second question of the first answer; some documents have one round only."""
    told = run(folder, "scenes_rounds", "method=simignore,keep=0.5,batch_size=3")
    first = run(folder, "scenes_told", "method=simignore,keep=0.5,batch_size=3")
    assert [row[0][0] for row in told] == [row[0] for row in first]
    assert [len(row[0]) for row in told] == [1 + number % 2 for number in range(len(ITEMS))]
    model, processor = bundled
    lm = lmms_of(model, processor, Simignore(keep=0.5))
    again = f"{wording(**SCENES.words(ITEMS[1]))[0]} Not {told[1][0][0]}?"
    assert lm.generate_until([request({"max_new_tokens": 8}, again, ITEMS[1].images[0]())]) == [told[1][0][1]]


def picture() -> Image.Image:
    return Image.open(tiny.example()).convert("RGB")


def lmms_of(model, processor, method=None, **more) -> Lmms:
    lm = Lmms(model, processor, method, **more)
    lm.task_dict = {"task": {"test": [None]}}
    return lm


def request(second, text="What is it?", *images) -> SimpleNamespace:
    shown = list(images) or [picture()]
    return SimpleNamespace(args=(text, second, lambda doc: shown, 0, "task", "test"), task_name="task")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.image is not None and not case.options])
def test_every_family(name):
    """Answers and likelihoods of every family, alone and in batches, against stock transformers."""
    case = CASES[name]
    model, processor = case.model(), case.shared_processor()
    shown = [zoo.picture(*case.sizes[n % len(case.sizes)], seed=n) for n in range(3)]
    texts = ["what colour is the star ?", "is there a red circle ?", "how many ?"]
    targets = [" red", " yes it is", " two and one"]
    asked = [request(t, text, image) for t, text, image in zip(targets, texts, shown, strict=True)]
    found = lmms_of(model, processor, batch_size=3).loglikelihood(asked)
    for one, text, target, image in zip(found, texts, targets, shown, strict=True):
        inputs = {k: v for k, v in build(processor, image, text).inputs.items() if isinstance(v, torch.Tensor)}
        if "paligemma" not in name:  # whose prompt would look ahead at the continuation
            close(
                [one], [plain(model, inputs, processor.tokenizer(target, add_special_tokens=False)["input_ids"])], 1e-3
            )
    method = Random(keep=case.least - 4)
    dropped = lmms_of(model, processor, method, batch_size=3).loglikelihood(asked)
    close(dropped, lmms_of(model, processor, method).loglikelihood(asked), 1e-3)
    told = [request({"max_new_tokens": 4}, *one.args[:1], *one.args[2](None)) for one in asked]
    answers = lmms_of(model, processor, method, batch_size=3).generate_until(told)
    assert answers == lmms_of(model, processor, method).generate_until(told)


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        ("kepe=0.25", ValueError, "'simignore' has no option kepe; its options are keep"),
        (
            "method=none,keep=3,foo=1",
            ValueError,
            "method=none keeps all image tokens, and keep, foo would have no effect",
        ),
        ("method=nothing", KeyError, "no method 'nothing'"),
        ("preset=fastv/64,keep=3", ValueError, "fixes the whole method"),
        ("keep=many", ValueError, "neither a count"),
        ("keep=0", ValueError, "keep"),
        ("batch_size=auto", ValueError, "batch_size='auto'"),
        ("batch_size=0", ValueError, "batch_size=0"),
        ("device=tpu", ValueError, "'tpu' is none of"),
        ("dtype=int8", ValueError, "'int8' is none of"),
        ("pretrained=/no/such/folder", OSError, "no model folder at /no/such/folder"),
        ("span=options", ValueError, "span='options'"),
        ("max_new_tokens=few", ValueError, "max_new_tokens='few'"),
    ],
)
def test_wrong_arguments_are_named(arguments, kind, said):
    with pytest.raises(kind) as error:
        models.get_model("simignore").create_from_arg_string(arguments, {"batch_size": 1, "device": None})
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "method"),
    [
        ("", Simignore(keep=0.25)),
        ("keep=1", Simignore(keep=1)),
        ("keep=1.0", Simignore(keep=1.0)),
        ("keep='Mass(0.9, cap=8)'", Simignore(keep=Mass(0.9, cap=8))),
        ("method=fastv,keep=8,layer=0.5", FastV(keep=8, layer=0.5)),
        (
            "keep=4,similarity=dot,span=prompt,within=image",
            Simignore(4, similarity="dot", span="prompt", within="image"),
        ),
        ("preset=visionzip/64", preset("visionzip/64")),
        ("method=none", None),
    ],
)
def test_arguments_become_a_method(arguments, method):
    lm = models.get_model("simignore").create_from_arg_string(arguments + ",batch_size=3", {"batch_size": "1"})
    assert lm.method == method and lm.batch_size == 3


def test_a_span_that_requests_do_not_have(bundled):
    with pytest.warns(UserWarning, match="compared with all of it"):
        lm = lmms_of(*bundled, Simignore(keep=4, span="options"))
    same = lmms_of(*bundled, Simignore(keep=4, span="user"))
    asked = [request({"max_new_tokens": 6})]
    assert lm.generate_until(asked) == same.generate_until(asked)


def test_what_ends_an_answer_and_how_it_is_drawn(bundled):
    lm = lmms_of(*bundled, max_new_tokens=12)
    (whole,) = lm.generate_until([request({}, "Describe the image.")])
    word = whole.split()[1]
    settings = [{"until": word}, {"until": ["never", word]}, {"until": ["\n\n", ""]}, {"until": None}]
    cut = lm.generate_until([request(some, "Describe the image.") for some in settings])
    assert cut == [whole.split()[0]] * 2 + [whole] * 2
    (short,) = lm.generate_until(
        [request({"max_new_tokens": 2, "temperature": 0, "top_p": None}, "Describe the image.")]
    )
    assert whole.startswith(short) and len(short) < len(whole)
    torch.manual_seed(0)
    drawn = {*lm.generate_until([request({"temperature": 5.0, "do_sample": True}, "Describe the image.")] * 4)}
    assert len(drawn) > 1
    with pytest.warns(UserWarning, match="generation_kwargs image_aspect_ratio are unknown"):
        assert lm.generate_until([request({"image_aspect_ratio": "pad"}, "Describe the image.")]) == [whole]


def test_marks_of_images_in_the_text_are_left_out(bundled):
    lm = lmms_of(*bundled)
    texts = ("What is it?", "<image>\nWhat is it?", "<image> What is it?")
    told = lm.generate_until([request({"max_new_tokens": 6}, text) for text in texts])
    assert len({*told}) == 1


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (request(" red", " \n"), "asks with no text"),
        (request(" red", "What?", "film.mp4"), "shows str 'film.mp4'"),
        (SimpleNamespace(args=("", " red"), task_name="task"), "acc_mutual_info"),
    ],
)
def test_requests_that_cannot_be_asked(bundled, asked, said):
    with pytest.raises(ValueError, match=said):
        lmms_of(*bundled).loglikelihood([asked])


def test_a_continuation_without_tokens_and_one_with_the_end_token(bundled):
    lm = lmms_of(*bundled, batch_size=3)
    end = bundled[1].tokenizer.eos_token
    targets = ("", f" red{end} star", " red")
    empty, ended, red = lm.loglikelihood([request(target) for target in targets])
    assert empty == (0.0, True) and not ended[1] and red[0] > 0
    prompt = build(bundled[1], picture(), "What is it?")
    before = bundled[1].tokenizer(prompt.text)["input_ids"]
    ids = bundled[1].tokenizer(prompt.text + targets[1])["input_ids"][len(before) :]
    close([ended], [plain(bundled[0], dict(prompt.inputs), ids)])


def test_the_command_line(folder, tmp_path):
    """What a user types, in a process of its own."""
    command = [sys.executable, "-m", "lmms_eval", "--model", "simignore", "--include_path", str(folder)]
    surely = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    typed = ["--model_args", "pretrained=tiny,method=simignore,keep=0.25", "--tasks", "scenes_told,scenes_chosen"]
    done = subprocess.run(
        [*command, *typed, "--batch_size", "4", "--log_samples", "--output_path", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env=surely,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = tmp_path.rglob("*_results.json")
    results = json.loads(found.read_text())["results"]
    told = run(folder, "scenes_told", "method=simignore,keep=0.25,batch_size=4")
    right = [item.answer["text"] == row[0] for item, row in zip(ITEMS, told, strict=True)]
    assert results["scenes_told"]["exact_match,none"] == pytest.approx(sum(right) / len(right)) != 0
    assert results["scenes_chosen"]["acc,none"] > 0.5
    wrong = subprocess.run(
        [*command, "--model_args", "kepe=0.25", "--tasks", "scenes_told"], capture_output=True, text=True, env=surely
    )
    assert "has no option kepe" in wrong.stdout + wrong.stderr  # lmms-eval reports errors and leaves with 0


def test_a_method_that_reads_the_question_gets_it_from_the_processor(monkeypatch):
    model, processor = tiny.load()
    monkeypatch.setattr(model.config, "_name_or_path", "")  # where a tokenizer could be found
    Listening.heard.clear()
    lmms_of(model, processor, Listening(keep=20)).generate_until([request({}, "what colour is it?")])
    assert [told.replace(" ", "") for told in Listening.heard] == ["whatcolourisit?"]
