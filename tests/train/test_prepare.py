"""Examples prepared once: what is kept, that it teaches what the model would, and who may share a folder."""

from __future__ import annotations

import json
import pickle
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from zoo import CASES, picture

from simignore import tiny
from simignore.head import Head
from simignore.train import Example, Objective, Region, Scenes, Student
from simignore.train.collator import Collator
from simignore.train.prepare import Prepared, gathered, prepare

GOAL = Objective(answer=0, needed=1, separate=1, alignment=1, layers=(1, 2), spans=("question",))
LESS = Objective(answer=0, flow=0, needed=1, spans=("question",))
ABOUT = {"base": "a model", "data": "scenes", "layers": [1, 2], "spans": ["question"], "measure": "attention"}


def head(width: int, hops: int = 1) -> Head:
    """One that has learnt something: at first most gradients are 0."""
    made, generator = Head(width, 4, hops=hops), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made


def bundled(objective: Objective = GOAL, hops: int = 1) -> tuple[Student, Collator, Scenes]:
    model, processor = tiny.load()
    regions = bool(objective.needed)
    return (
        Student(model, head(192, hops), objective),
        Collator(model, processor, ("question",), regions=regions),
        Scenes(9),
    )


def other() -> tuple[Student, Collator, list[Example]]:
    """A family with as many image tokens as an image is large, no chat template, and regions of one example only."""
    case, top = CASES["qwen2-vl"], (0.0, 0.0, 1.0, 0.4)
    collator = Collator(case.model(), case.shared_processor(), ("question",), regions=True)
    collator.mark = str(case.image)
    told = [
        ((24, 24), "what star ?", (Region("star", top, True), Region("cat", (0.0, 0.5, 1.0, 1.0)))),
        ((48, 32), "which shape is left of the cat ?", ()),
        ((32, 48), "where ?", (Region("star", top),)),
    ]
    examples = [Example(partial(picture, *size, 0), question, "red", regions=own) for size, question, own in told]
    return Student(case.model(), head(case.model().get_input_embeddings().embedding_dim), GOAL), collator, examples


class Calls:
    """How many examples go through the model."""

    def __init__(self, student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        plain = student.parts.model.forward

        def forward(*args, **inputs):
            self.sizes.append(len(inputs["input_ids"]))
            return plain(*args, **inputs)

        monkeypatch.setattr(student.parts.model, "forward", forward)


def learnt(student: Student, batch: dict) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """The parts of the loss, and the gradients of the head."""
    student.head.zero_grad()
    student.begin(0, 0.5)
    told = student(**batch)
    told["loss"].backward()
    gradients = {n: p.grad.clone() for n, p in student.head.named_parameters() if p.grad is not None}
    return {name: part.item() for name, part in told.items()}, gradients


@pytest.mark.parametrize("made", [bundled, other])
def test_a_prepared_batch_teaches_what_its_examples_do_through_the_model(tmp_path, made, monkeypatch):
    """But for the rounding of the image tokens; with the model's rounded too there is no difference left."""
    student, collator, examples = made()
    picked = [2, 0, 1]
    records = prepare(student, collator, examples, tmp_path, 3, ABOUT, batch=2)
    mine, own = learnt(student, gathered([records[n] for n in picked]))
    through = collator([examples[n] for n in picked])
    near, _ = learnt(student, through)
    look = student.look
    monkeypatch.setattr(student, "look", lambda *told: (seen := look(*told)) | {"visual": seen["visual"].bfloat16()})
    exact, expected = learnt(student, through)
    assert set(mine) == set(exact) == {"loss", "flow", "needed", "separate", "alignment"}
    assert mine == pytest.approx(exact, rel=1e-4) and mine == pytest.approx(near, rel=0.05)
    assert own.keys() == expected.keys() == {name for name, _ in student.head.named_parameters()}
    for name, gradient in expected.items():
        assert bool(gradient.any()), name
        assert torch.allclose(own[name], gradient, rtol=0.01, atol=0.01 * gradient.abs().max().item() + 1e-7), name


def test_a_record_holds_the_models_own_image_tokens_and_their_places(tmp_path):
    student, collator, examples = other()
    records = prepare(student, collator, examples, tmp_path, 3, ABOUT)
    for number, (columns, rows) in enumerate([(3, 3), (6, 4), (4, 6)]):
        record, alone = records[number], collator([examples[number]])["inputs"]
        features = student.base.get_image_features(
            pixel_values=alone["pixel_values"], image_grid_thw=alone["image_grid_thw"]
        )
        expected = torch.cat(list(getattr(features, "pooler_output", features)))
        assert record["visual"].dtype == torch.bfloat16 and record["visual"].shape == expected.shape
        assert torch.allclose(record["visual"].float(), expected, rtol=0.01, atol=0.01)
        side = max(columns, rows)
        places = [[0.0, (x + 0.5) / side, (y + 0.5) / side] for y in range(rows) for x in range(columns)]
        assert torch.allclose(record["where"], torch.tensor(places))
        words = collator.processor.tokenizer.convert_ids_to_tokens(record["query"].tolist())
        assert words == examples[number].question.split()
        assert (record["flow"] > 0).all() and record["flow"].shape == (columns * rows,)
    assert records[0]["needed"].tolist() == [True] * 3 + [False] * 6
    assert not records[1]["needed"].any() and not records[2]["needed"].any()
    with pytest.raises(IndexError, match="record 3 of 3"):
        records[3]
    assert len(list(records)) == 3  # a sequence ends


def test_what_is_there_is_not_computed_again(tmp_path, monkeypatch):
    student, collator, examples = bundled()
    calls, ticks = Calls(student, monkeypatch), []
    (tmp_path / "00001.abc.part").write_bytes(b"torn")
    (tmp_path / "prepared.abc.part").write_bytes(b"{")
    make = partial(prepare, student, collator, examples, tmp_path, about=ABOUT, batch=2, tick=ticks.append)
    assert len(make(3)) == 3
    assert calls.sizes == [2, 2] and ticks == [2, 3]  # whole files, for another run may want more
    assert len(make(5)) == 5 and calls.sizes == [2, 2, 2]
    assert len(make(4)) == 4 and len(calls.sizes) == 3
    assert ticks == [2, 3, 2, 4, 5, 2, 4]
    file = tmp_path / "00001.safetensors"
    before = file.read_bytes()
    file.unlink()
    records = make(99)  # more than there are
    assert len(records) == 9 and calls.sizes[3:] == [2, 2, 1] and ticks[-1] == 9
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.glob("*.part")) == ["00001.abc.part", "prepared.abc.part"]
    assert len(gathered([records[8], records[0]])["query"]) == 2


def test_a_kill_while_a_file_is_written_leaves_none_of_its_name(tmp_path, monkeypatch):
    student, collator, examples = bundled()
    from simignore.train import prepare as module

    def killed(tensors, file) -> None:
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "save_file", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(student, collator, examples, tmp_path, 2, ABOUT, batch=2)
    assert not list(tmp_path.glob("*.safetensors")) and json.loads((tmp_path / "prepared.json").read_text())
    records = prepare(student, collator, examples, tmp_path, 2, ABOUT, batch=2)
    assert records[1]["visual"].shape == (196, 192)


def test_a_run_that_wants_less_shares_the_folder_and_leaves_it_right(tmp_path, monkeypatch):
    """What it adds has no flow; who needs flow makes those files anew and no others."""
    full, collator, examples = bundled()
    lesser, _, _ = bundled(LESS, hops=0)
    calls = Calls(full, monkeypatch)
    prepare(full, collator, examples, tmp_path, 2, ABOUT, batch=2)
    records = prepare(lesser, collator, examples, tmp_path, 6, ABOUT | {"layers": [], "measure": "saliency"}, batch=2)
    assert calls.sizes == [2]  # the lesser one has a model of its own
    assert "flow" in records[0] and "flow" not in records[4] and "where" not in records[4]
    for order in ([0, 4], [4, 0]):
        mine, _ = learnt(lesser, gathered([records[n] for n in order]))
        expected, _ = learnt(lesser, collator([examples[n] for n in order]))
        assert mine == pytest.approx(expected, rel=0.05) and set(mine) == {"loss", "needed"}
    again = prepare(full, collator, examples, tmp_path, 6, ABOUT, batch=2)
    assert calls.sizes == [2, 2, 2]
    assert all(one["flow"].shape == (196,) and "where" in one for one in again)
    assert set(learnt(full, gathered([again[0], again[5]]))[0]) == {"loss", "flow", "needed", "separate", "alignment"}


def test_who_wants_more_than_a_folder_was_begun_for_is_refused(tmp_path):
    lesser, collator, examples = bundled(LESS, hops=0)
    prepare(lesser, collator, examples, tmp_path, 1, ABOUT, batch=1)
    full, _, _ = bundled()
    with pytest.raises(
        ValueError, match="was prepared with another flow, where; take the same, or name another folder"
    ):
        prepare(full, collator, examples, tmp_path, 1, ABOUT, batch=1)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"base": "another"}, "base"),
        ({"data": "others"}, "data"),
        ({"layers": [2]}, "layers"),
        ({"spans": ["user"], "measure": "saliency"}, "measure, spans"),
    ],
)
def test_a_folder_of_other_records_is_refused_and_stays(tmp_path, changed, named):
    student, collator, examples = bundled()
    prepare(student, collator, examples, tmp_path, 1, ABOUT, batch=1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError) as refused:
        prepare(student, collator, examples, tmp_path, 1, ABOUT | changed, batch=1)
    assert str(refused.value) == (
        f"{tmp_path} was prepared with another {named}; take the same, or name another folder with --prepared"
    )
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("examples", [Scenes(9, seed=1), Scenes(8), [*list(Scenes(9))[1:], Scenes(9)[0]]])
def test_other_examples_under_the_same_words_are_refused(tmp_path, examples):
    student, collator, first = bundled(LESS, hops=0)
    prepare(student, collator, first, tmp_path, 1, ABOUT, batch=1)
    with pytest.raises(ValueError, match="was prepared with another examples"):
        prepare(student, collator, examples, tmp_path, 1, ABOUT, batch=1)
    prepare(student, collator, list(first), tmp_path, 1, ABOUT, batch=1)


def test_a_folder_of_strange_files_is_refused(tmp_path):
    student, collator, examples = bundled()
    (tmp_path / "model.safetensors").write_bytes(b"a head")
    with pytest.raises(ValueError, match="holds files of something else; name an empty folder with --prepared"):
        prepare(student, collator, examples, tmp_path, 1, ABOUT)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_worker_opens_the_files_itself(tmp_path):
    student, collator, examples = bundled()
    records = prepare(student, collator, examples, tmp_path, 3, ABOUT, batch=2)
    plain = gathered(list(records))  # all files are open now
    sent: Prepared = pickle.loads(pickle.dumps(records))
    assert torch.equal(sent[2]["visual"], load_file(tmp_path / "00001.safetensors")["0.visual"])
    (batch,) = DataLoader(records, 3, num_workers=1, collate_fn=gathered)
    assert set(batch) == set(plain) and set(batch["seen"]) == {"valid", "visual", "flow", "where"}
    for name, value in batch["seen"].items():
        assert torch.equal(value, plain["seen"][name]), name


def test_records_of_all_lengths_are_padded_as_what_is_not_there():
    """In a head padding has no place, and in the losses no weight."""
    short = {"visual": torch.ones(2, 3), "query": torch.tensor([5]), "where": torch.zeros(2, 3), "flow": torch.ones(2)}
    long = {
        "visual": torch.ones(4, 3),
        "query": torch.tensor([6, 7]),
        "where": torch.zeros(4, 3),
        "flow": torch.ones(4),
    }
    batch = gathered([short, long])
    assert batch["seen"]["valid"].tolist() == [[True, True, False, False], [True] * 4]
    assert batch["seen"]["where"][0, 2:].isnan().all() and not batch["seen"]["where"][0, :2].isnan().any()
    assert batch["seen"]["flow"][0].tolist() == [1, 1, 0, 0]
    assert batch["query"].tolist() == [[5, 0], [6, 7]] and batch["query_valid"].tolist() == [
        [True, False],
        [True, True],
    ]
