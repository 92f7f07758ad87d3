"""Reading attention: one row beside the model's own implementation, equal to the eager maps, and nothing left behind."""

from __future__ import annotations

import pytest
import torch

import models
from simignore.observe import AttentionRow, attention_row


@pytest.mark.parametrize("kind", ["clip-llama", "clip-phi", "clip-qwen2", "clip-mistral"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_equals_the_eager_map(kind, side):
    inputs = models.batch(models.prompt(), models.prompt(words=11, seed=2), side=side)
    last = torch.tensor([int(mask.nonzero()[-1]) for mask in inputs["attention_mask"]])
    with torch.no_grad():
        maps = models.model(kind, "eager")(**inputs, output_attentions=True).attentions
        for attention in ("sdpa", "eager"):
            model = models.model(kind, attention)
            module = model.model.language_model.layers[2].self_attn
            row = AttentionRow(module)
            config = module.config
            row.install()
            try:
                row.ask([(last[:, None], torch.ones(2, 1))])
                model(**inputs)
                found = row.row()
            finally:
                row.remove()
            assert module.config is config and config._attn_implementation == attention
            expected = torch.stack([maps[2][b, :, last[b]].mean(0) for b in range(2)])
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_nothing_is_recorded_unless_asked():
    model, inputs = models.model(), models.batch(models.prompt())
    row = AttentionRow(model.model.language_model.layers[1].self_attn)
    row.install()
    try:
        with torch.no_grad():
            model(**inputs)
        with pytest.raises(RuntimeError, match="cannot be read"):
            row.row()
        row.ask([(torch.tensor([[3]]), torch.ones(1, 1))])
        with torch.no_grad():
            model(**inputs)
        assert row.row().shape == (1, inputs["input_ids"].shape[1])
        row.forget()
        with pytest.raises(RuntimeError):
            row.row()
    finally:
        row.remove()


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_the_row_is_the_formula(softcap):
    """Plain loops over samples, heads and asking places; two query heads share a key head."""
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 4, 3, 5, generator=generator), torch.randn(2, 2, 6, 5, generator=generator)
    places, weight = torch.tensor([[2, 0], [1, 2]]), torch.tensor([[3.0, 1.0], [1.0, 0.0]])
    row = attention_row(query, key, None, places, weight, scaling=0.3, softcap=softcap)
    for b in range(2):
        expected = torch.zeros(6)
        for place, share in zip(places[b].tolist(), (weight[b] / weight[b].sum()).tolist(), strict=True):
            for h in range(4):
                logits = torch.stack([query[b, h, place] @ key[b, h // 2, j] * 0.3 for j in range(6)])
                if softcap:
                    logits = softcap * torch.tanh(logits / softcap)
                logits[place + 3 + 1 :] = -torch.inf  # causal: 3 keys lie before the first query
                expected += logits.softmax(0) / 4 * share
        torch.testing.assert_close(row[b], expected)
