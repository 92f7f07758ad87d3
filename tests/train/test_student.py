"""The loss by schedule, and that nothing but the head learns."""

from __future__ import annotations

import math

import pytest
import torch
from zoo import picture

import models
from processors import processor
from simignore.head import Head
from simignore.train import Example, Objective, Region, Student
from simignore.train.collator import Collator

OBJECTIVE = Objective(layers=(1, 2), keeps=(0.25,), answer_from=0.5, spans=("question",))
QUESTIONS = ("What colour is the star?", "Where is the red square in this picture?")


def goal(**changes: object) -> Objective:
    told = {name: getattr(OBJECTIVE, name) for name in ("layers", "keeps", "answer_from", "spans")}
    return Objective(**(told | changes))


def examples() -> list[Example]:
    return [
        Example(
            lambda n=n: picture(32, 32, n),
            question,
            ("red", "left")[n],
            regions=(Region("red star", (0.0, 0.0, 0.5, 0.5)), Region("cat", (0.5, 0.0, 1.0, 1.0))),
        )
        for n, question in enumerate(QUESTIONS)
    ]


def batch(model, regions: bool = False) -> dict:
    return Collator(model, processor(), ("question",), regions=regions)(examples())


def student(objective: Objective = OBJECTIVE, **rest: object) -> Student:
    model = models.fresh()
    return Student(model, Head(32, 4), objective, **rest)


def trained(one: Student) -> dict:
    return {name: p for name, p in one.named_parameters() if p.requires_grad}


def told(one: Student, progress: float = 0.0, seed: int | str = 0, **rest: object) -> dict:
    one.begin(seed, progress)
    return one(**batch(one.base, **rest))


def test_before_the_answers_turn_there_is_the_distillation_alone():
    found = told(student(), 0.49)
    assert set(found) == {"loss", "flow"} and found["loss"].item() == pytest.approx(found["flow"].item())


def test_then_the_answers_loss_joins_it_by_its_weight():
    one = student(goal(flow=2.0, answer=0.5))
    found = told(one, 0.5)
    assert set(found) == {"loss", "flow", "answer"}
    assert found["loss"].item() == pytest.approx(2 * found["flow"].item() + 0.5 * found["answer"].item())
    assert found["loss"].requires_grad and not found["answer"].requires_grad


def test_the_answers_loss_is_that_of_the_tokens_which_the_head_ranks_highest():
    one = student(goal(flow=0.0, noise=0.0, answer_from=0.0))
    found, given = told(one)["answer"], batch(one.base)
    from test_under_cut import Fixed

    one.head.requires_grad_(False)
    inputs, p = given["inputs"], one.parts
    features = one.base.get_image_features(pixel_values=inputs["pixel_values"])
    visual = torch.stack(list(getattr(features, "pooler_output", features))).detach()
    score = one.head.ranked(visual, p.embed(given["query"]), given["query_valid"])
    kept = torch.zeros(2, models.PATCHES, dtype=torch.bool)
    for b in range(2):
        kept[b, sorted(range(models.PATCHES), key=lambda n: -score[b, n].item())[: models.PATCHES // 4]] = True
    with Fixed(keep=1.0, kept=[kept])(one.base):
        logits = one.base(**inputs).logits.log_softmax(-1)
    labels, lost = given["labels"], []
    for b, t in (labels != -100).nonzero().tolist():
        lost.append(-logits[b, t - labels.shape[1] - 1, labels[b, t]].item())
    assert found.item() == pytest.approx(sum(lost) / len(lost), rel=1e-5)


def test_alignment_needs_regions_and_joins_from_the_beginning():
    one = student(goal(alignment=0.3))
    assert "alignment" not in told(one)
    found = told(one, regions=True)
    assert found["loss"].item() == pytest.approx(found["flow"].item() + 0.3 * found["alignment"].item(), rel=1e-5)


def test_needed_regions_are_a_teacher_that_looks_at_all_of_them_alike():
    one = student(goal(flow=0.0, needed=0.7))
    given = batch(one.base, True)
    needed = given["needed"] = given["shows"].any(-1)
    one.begin(0, 0.0)
    found = one(**given)
    features = one.base.get_image_features(pixel_values=given["inputs"]["pixel_values"])
    visual = torch.stack(list(getattr(features, "pooler_output", features))).detach()
    score = one.head.ranked(visual, one.parts.embed(given["query"]), given["query_valid"])
    lost = []
    for b in range(2):
        powers = [math.exp(s.item() / one.objective.temperature) for s in score[b]]
        own = [n for n in range(models.PATCHES) if needed[b, n]]
        lost.append(sum(-math.log(len(own)) - math.log(powers[n] / sum(powers)) for n in own) / len(own))
    assert found["needed"].item() == pytest.approx(sum(lost) / 2, rel=1e-4)
    assert found["loss"].item() == pytest.approx(0.7 * found["needed"].item(), rel=1e-5)


def test_alignment_compares_each_word_by_itself():
    one = student(goal(flow=0.0, alignment=1.0))
    given, found = batch(one.base, True), told(one, regions=True)
    features = one.base.get_image_features(pixel_values=given["inputs"]["pixel_values"])
    visual = torch.stack(list(getattr(features, "pooler_output", features))).detach()
    lost, by_word = [], []
    for b in range(2):
        scores = []
        for w in range(2):
            ids = given["words"][b, w][given["words_valid"][b, w]][None]
            scores.append(one.head.ranked(visual[b : b + 1], one.parts.embed(ids), torch.ones_like(ids).bool())[0])
        for n in range(models.PATCHES):
            shown = given["shows"][b, n].tolist()
            if sum(shown) == 1:
                powers = [math.exp(score[n].item() / one.objective.temperature) for score in scores]
                lost.append(-math.log(powers[shown.index(True)] / sum(powers)))
        for w, score in enumerate(scores):
            powers = [math.exp(x.item() / one.objective.temperature) for x in score]
            right = sum(power for power, shows in zip(powers, given["shows"][b, :, w], strict=True) if shows)
            by_word.append(-math.log(right / sum(powers)))
    assert len(lost) == 2 * (4 + 8) and len(by_word) == 4
    wanted = (sum(lost) / len(lost) + sum(by_word) / len(by_word)) / 2
    assert found["alignment"].item() == pytest.approx(wanted, rel=1e-4)


def test_before_its_turn_the_answer_alone_teaches_nothing_but_runs():
    one = student(goal(flow=0.0))
    found = told(one)
    found["loss"].backward()
    assert set(found) == {"loss"} and found["loss"].item() == 0
    assert not any(bool(p.grad.any()) for p in one.head.parameters() if p.grad is not None)


@pytest.mark.parametrize("into", ["question", "answer"])
@pytest.mark.parametrize("measure", ["attention", "saliency"])
def test_every_teacher_gives_a_loss_that_reaches_the_head(measure, into):
    one = student(goal(measure=measure, into=into))
    found = told(one)
    found["loss"].backward()
    assert found["flow"].item() > 0
    assert bool(one.head.text.grad.any()) and bool(one.head.text.grad.isfinite().all())


def test_the_threshold_is_held_to_its_share_and_gets_a_gradient():
    one = student(goal(flow=0.0, answer=0.0, budget=1.0, share=0.125, answer_from=0.0, noise=0.0, slope=0.2))
    with torch.no_grad():
        one.head.threshold.fill_(-0.5)  # most stay
    found = told(one)
    assert set(found) == {"loss", "budget", "kept", "answer"}
    assert found["kept"].item() > 0.7
    assert found["budget"].item() == pytest.approx(((found["kept"].item() - 0.125) / 0.125) ** 2, rel=1e-4)
    before = told(one)["budget"].item()
    optimiser = torch.optim.Adam([one.head.threshold], lr=0.2)
    for _ in range(15):
        optimiser.zero_grad()
        told(one)["loss"].backward()
        optimiser.step()
    assert told(one)["budget"].item() < before / 2


def test_of_threshold_and_budgets_both_are_learnt():
    one = student(goal(budget=1.0, answer_from=0.0))
    kinds = [frozenset(told(one, seed=n)) for n in range(12)]
    assert {frozenset({"loss", "flow", "answer"}), frozenset({"loss", "flow", "answer", "budget", "kept"})} == set(
        kinds
    )


def test_without_a_weight_for_the_budget_the_threshold_is_left_alone():
    one = student(goal(answer_from=0.0))
    told(one)["loss"].backward()
    assert one.head.threshold.grad is None and one.head.demand.grad is None


def test_the_same_seed_gives_the_same_loss_and_another_one_another():
    one = student(goal(noise=1.0, answer_from=0.0))
    losses = [told(one, seed=seed)["loss"].item() for seed in ("1/2", "1/3", "1/2")]
    assert losses[0] == losses[2] != losses[1]


def test_the_model_is_bit_identical_after_steps_and_only_the_head_learns():
    one = student(goal(answer_from=0.0, budget=0.5))
    fresh = models.fresh()
    logits = fresh(**batch(fresh)["inputs"]).logits
    assert set(trained(one)) == {f"head.{name}" for name, _ in one.head.named_parameters()}
    optimiser = torch.optim.AdamW(list(trained(one).values()), lr=0.01)
    before = one.head.text.detach().clone()
    for n in range(4):
        optimiser.zero_grad()
        told(one, seed=n)["loss"].backward()
        optimiser.step()
    assert not torch.equal(one.head.text, before)
    for (name, old), new in zip(fresh.state_dict().items(), one.base.state_dict().values(), strict=True):
        assert torch.equal(old, new), name
    assert all(parameter.grad is None for parameter in one.base.parameters())
    assert torch.equal(one.base(**batch(one.base)["inputs"]).logits, logits)


def test_a_few_steps_make_the_flow_better_known():
    one = student()
    first = told(one)["flow"].item()
    optimiser = torch.optim.Adam(list(trained(one).values()), lr=0.02)
    for _ in range(25):
        optimiser.zero_grad()
        told(one)["loss"].backward()
        optimiser.step()
    assert told(one)["flow"].item() < 0.8 * first


def test_the_model_beside_the_head_is_never_in_training_mode():
    one = student().train()
    assert one.head.training and not any(module.training for module in one.base.modules())


def test_a_batch_with_a_sample_without_image_is_refused():
    one = student()
    given = batch(one.base)
    other = models.batch(models.prompt(), models.prompt(images=0))
    with pytest.raises(ValueError, match="a sample of this batch holds no image; every sample needs one"):
        one(**(given | {"inputs": other, "labels": other["input_ids"]}))


def test_flow_without_layers_is_refused_and_the_objectives_layers_come_first():
    with pytest.raises(ValueError, match="no layers to learn flow from: pass those of simignore.train.convergence"):
        student(goal(layers=()))
    assert student(goal(layers=()), layers=[2]).layers == (2,)
    assert student(goal(layers=(0,)), layers=[2]).layers == (0,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flow": -1}, "flow=-1 must not be negative"),
        ({"noise": -0.5}, "noise=-0.5 must not be negative"),
        ({"temperature": 0}, "temperature=0 must be above 0"),
        ({"slope": 0}, "slope=0 must be above 0"),
        ({"flow": 0, "answer": 0}, "nothing to learn; give flow or answer a weight"),
        ({"answer_from": 1}, "answer_from=1 is a share"),
        ({"hops_alone": 1}, "hops_alone=1 is a share"),
        ({"hops_alone": -0.1}, "hops_alone=-0.1 is a share"),
        ({"separate": -1}, "separate=-1 must not be negative"),
        ({"lost": 0}, "lost=0 must be above 0"),
        ({"lost": -1}, "lost=-1 must be above 0"),
        ({"lost": "all"}, "lost"),
        ({"share": 0}, "share=0"),
        ({"share": 1.5}, "share=1.5"),
        ({"keeps": ()}, r"keeps=\(\): give fractions"),
        ({"keeps": (0.5, 2)}, "keeps=.*: give fractions"),
        ({"measure": "loudness"}, "measure='loudness': choose among 'attention', 'saliency'"),
        ({"into": "image"}, "into='image': choose among 'question', 'answer'"),
        ({"spans": ("question", "songs")}, "spans=.*choose among 'auto'"),
        ({"layers": (-1,)}, "layers=.*counted from 0"),
        ({"layers": (True,)}, "layers=.*counted from 0"),
        ({"flow": "much"}, "flow"),
        ({"flow": math.nan}, "flow"),
    ],
)
def test_aims_that_make_no_sense_are_refused(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Objective(**changes)
