"""What the engine must equal, computed without it: plain models, explicit masks, loops."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import DynamicCache

from models import IMAGE


def merged_embeddings(model, inputs) -> Tensor:
    """[B, T, D] what the decoder gets without a method: text embeddings with the image features in place."""
    caught = {}

    def catch(module, args, kwargs):
        caught["x"] = kwargs["inputs_embeds"]

    handle = model.model.language_model.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        handle.remove()
    return caught["x"]


def dropped_places(inputs, selection) -> Tensor:
    """[B, T] True where an image token was dropped."""
    image = inputs["input_ids"] == IMAGE
    out = torch.zeros_like(image)
    for b in range(len(image)):
        places = image[b].nonzero()[:, 0]
        out[b, places[~selection.kept[b, : len(places)]]] = True
    return out


def positions(mask: Tensor) -> Tensor:
    """[B, T] position ids as generate makes them from the attention mask."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def layered_logits(
    model, x: Tensor, attention_mask: Tensor, hidden_at: dict[int, Tensor], position_ids: Tensor, blends=None
) -> Tensor:
    """[B, T, V] logits of a plain loop over the decoder's layers, with explicit additive masks and no cache.

    x: [B, T, D] embeddings. hidden_at: layer -> [B, T] places that nobody may look at from that layer on. blends: layer -> what
    tokens take in before it, see :func:`taking_in`.
    """
    decoder = model.model.language_model
    t = x.shape[1]
    blocked = attention_mask == 0
    with torch.no_grad():
        rotary = decoder.rotary_emb(x, position_ids=position_ids)
        for number, layer in enumerate(decoder.layers):
            for entries in (blends or {}).get(number, ()):
                x = taken_in(x, entries)
            if number in hidden_at:
                blocked = blocked | hidden_at[number]
            allowed = torch.ones(t, t, dtype=torch.bool).tril()[None] & ~blocked[:, None]  # [B, T, T]
            mask = torch.zeros(len(x), 1, t, t).masked_fill(~allowed[:, None], torch.finfo(torch.float32).min)
            x = layer(x, attention_mask=mask, position_embeddings=rotary, position_ids=position_ids)
        norm = getattr(decoder, "norm", None) or decoder.final_layernorm
        return model.lm_head(norm(x))


def greedy(model, inputs, hidden_at: dict[int, Tensor], steps: int, blends=None) -> tuple[Tensor, Tensor]:
    """Greedy decoding by the plain loop, recomputing everything at each step: ids [B, steps], logits [B, steps, V]."""
    x, mask = merged_embeddings(model, inputs), inputs["attention_mask"]
    new, logits = [], []
    for _ in range(steps):
        extra = x.shape[1] - inputs["input_ids"].shape[1]
        wide = {layer: torch.nn.functional.pad(places, (0, extra)) for layer, places in hidden_at.items()}
        last = layered_logits(model, x, mask, wide, positions(mask), blends)[:, -1]
        logits.append(last)
        new.append(last.argmax(-1))
        x = torch.cat([x, model.get_input_embeddings()(new[-1])[:, None].detach()], 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    return torch.stack(new, 1), torch.stack(logits, 1)


def simignore_loop(visual: Tensor, text: Tensor, keep: int, kind: str, skip: int = 0, stride: int = 1) -> list[int]:
    """The rule as the paper's code has it, one sample, in plain loops: [N, D] x [M, D] -> kept rows in reading order."""
    pairs = []
    for i in range(len(visual)):
        for j in range(len(text)):
            v, t = visual[i].double(), text[j].double()
            if kind == "cosine":
                value = float(v @ t) / (float(v.norm()) * float(t.norm()))
            elif kind == "dot":
                value = float(v @ t)
            elif kind == "euclidean":
                value = -float((v - t).square().sum().sqrt())
            else:
                value = -float((v - t).abs().sum())
            pairs.append((value, i))
    pairs.sort(key=lambda pair: -pair[0])
    kept: list[int] = []
    for _, i in pairs[skip::stride]:
        if len(kept) < keep and i not in kept:
            kept.append(i)
    for _, i in pairs:  # a walk that ends early is filled up with the best rows that it did not meet
        if len(kept) < keep and i not in kept:
            kept.append(i)
    return sorted(kept)


# ---------------------------------------------------------------- any family


def kept_places(model, inputs, selection, patches) -> Tensor:
    """[B, T] True where a token stayed: all text and padding, and of the image tokens those that the selection kept.

    Image tokens that are no patches always stay; which those are is told by counting patches alone.
    """
    out = torch.ones_like(inputs["input_ids"], dtype=torch.bool)
    for b, places in enumerate(patch_places(model, inputs, patches)):
        out[b, places[~selection.kept[b, : len(places)]]] = False
    return out


def patch_places(model, inputs, patches) -> list[Tensor]:
    """For each sample the places of the image tokens that are patches."""
    from simignore.parts import parts

    image = torch.isin(inputs["input_ids"], torch.tensor(parts(model).placeholders))
    seen, found = captured(model, inputs), []
    for b in range(len(image)):
        places = image[b].nonzero()[:, 0]
        count = int((patches.grid[b] >= 0).sum())
        if len(places) != count:
            places = places[not_lines(model, seen[b, places])]
        assert len(places) == count
        found.append(places)
    return found


def taking_in(selection, places: list[Tensor]) -> list[dict[int, list[tuple[int, float]]]]:
    """For each sample: the place of a token that takes in others -> (place, weight) of all that go into it."""
    found: list[dict[int, list[tuple[int, float]]]] = [{} for _ in places]
    if selection.blend is not None:
        for b, own in enumerate(places):
            blend = selection.blend
            entries = (x[b].tolist() for x in (blend.target, blend.origin, blend.weight))
            for target, origin, weight in zip(*entries, strict=True):
                if target >= 0:
                    found[b].setdefault(int(own[target]), []).append((int(own[origin]), weight))
    return found


def taken_in(x: Tensor, entries: list[dict[int, list[tuple[int, float]]]]) -> Tensor:
    """Hidden states [B, T, D] after tokens took in others, by plain loops."""
    out = x.clone()
    for b, targets in enumerate(entries):
        for target, origins in targets.items():
            out[b, target] = sum(x[b, origin].double() * weight for origin, weight in origins).to(x.dtype)
    return out


def deep_taken_in(kwargs: dict, entries: list[dict[int, list[tuple[int, float]]]], layer: int = 0) -> dict:
    """The decoder's arguments with DeepStack features of such tokens taken in as well, those still to come at ``layer``."""
    mask = kwargs.get("visual_pos_masks")
    if mask is None or kwargs.get("deepstack_visual_embeds") is None:
        return kwargs
    changed = list(kwargs["deepstack_visual_embeds"][:layer])
    for features in kwargs["deepstack_visual_embeds"][layer:]:
        full = features.new_zeros(*mask.shape, features.shape[-1])
        full[mask] = features
        changed.append(taken_in(full, entries)[mask])
    return {**kwargs, "deepstack_visual_embeds": changed}


def not_lines(model, features: Tensor) -> Tensor:
    """[n] which image features are patches: line ends all hold the model's one learnt vector, class tokens come by period."""
    newline = getattr(model.model, "image_newline", None)
    if newline is not None:
        return ~(features == newline).all(-1)
    period = (model.config.vision_config.image_size // model.config.vision_config.patch_size) ** 2 + 1
    return torch.arange(len(features)) % period != 0  # Video-LLaVA: the class token of each frame


def decoder_call(model, inputs) -> dict:
    """What the plain model hands its innermost decoder in a forward, as keyword arguments."""
    from simignore.parts import parts

    caught = {}

    def catch(module, args, kwargs):
        caught.update(kwargs)

    handle = parts(model).decoder.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        with torch.no_grad():
            model.generate(**inputs, max_new_tokens=1, do_sample=False)
    finally:
        handle.remove()
    return caught


def captured(model, inputs) -> Tensor:
    return decoder_call(model, inputs)["inputs_embeds"]


def native_logits(model, inputs, kept: Tensor, new: Tensor, entries=({},)) -> Tensor:
    """[steps, V] logits of a decoder that is given the kept tokens alone, one sample, and then each new token by itself;
    ``entries`` tells which of them take in others."""
    from simignore.parts import parts

    decoder, rows = parts(model).decoder, kept[0].nonzero()[:, 0]
    call = deep_taken_in(decoder_call(model, inputs), entries)
    t = kept.shape[1]
    positions = call.get("position_ids")
    if positions is None:
        positions = torch.arange(t)[None]
    cache = DynamicCache(config=model.config)
    short = {
        "inputs_embeds": taken_in(call["inputs_embeds"], entries)[:, rows],
        "position_ids": positions[..., rows],
        "past_key_values": cache,
    }
    mask = call.get("attention_mask")
    if isinstance(mask, dict):
        short["attention_mask"] = {k: m if m is None else m[:, :, rows][..., rows] for k, m in mask.items()}
    elif mask is not None and mask.dim() == 4:
        short["attention_mask"] = mask[:, :, rows][..., rows]
    else:
        short["attention_mask"] = torch.ones(1, len(rows), dtype=torch.long)
    if call.get("per_layer_inputs") is not None:
        short["per_layer_inputs"] = call["per_layer_inputs"][:, rows]
    if call.get("moe_mm_token_type_ids") is not None:
        short["moe_mm_token_type_ids"] = call["moe_mm_token_type_ids"][:, rows]
    if call.get("visual_pos_masks") is not None:
        visual = call["visual_pos_masks"]
        short["visual_pos_masks"] = visual[:, rows]
        short["deepstack_visual_embeds"] = [x[kept[visual]] for x in call["deepstack_visual_embeds"]]
    head = model.lm_head if hasattr(model, "lm_head") else model.get_output_embeddings()
    logits, last = [], positions.max() if positions.dim() == 2 else positions[..., -1:].max()
    with torch.no_grad():
        out = decoder(**short, use_cache=True).last_hidden_state[:, -1]
        for step, token in enumerate(new):
            logits.append(capped(model, head(out)[0]))
            where = positions[..., -1:] + step + 1 if positions.dim() == 3 else (last + step + 1).view(1, 1)
            more = {"inputs_embeds": decoder.get_input_embeddings()(token.view(1, 1))}
            if "per_layer_inputs" in short:
                more["per_layer_inputs"] = decoder.get_per_layer_inputs(token.view(1, 1), None)
            if "moe_mm_token_type_ids" in short:
                more["moe_mm_token_type_ids"] = torch.zeros(1, 1, dtype=torch.long)
            full = torch.ones(1, len(rows) + step + 1, dtype=torch.long)
            out = decoder(
                **more, position_ids=where, attention_mask=full, past_key_values=cache, use_cache=True
            ).last_hidden_state[:, -1]
    return torch.stack(logits)


def capped(model, logits: Tensor) -> Tensor:
    """Gemma 2 and 4 bound their logits."""
    text = model.config.get_text_config()
    cap = getattr(text, "final_logit_softcapping", None)
    scale = getattr(text, "logit_scale", None)
    logits = logits if scale is None else logits * scale
    return logits if cap is None else torch.tanh(logits / cap) * cap


@contextmanager
def hiding(model, hidden: dict[int, Tensor], length: int, blends: dict[int, list] | None = None):
    """Hide places [B, T] of a prompt of ``length`` tokens from everyone, from each of some layers on, by their masks alone;
    before each of the layers in ``blends`` tokens take in others."""
    from simignore.parts import parts

    p = parts(model)
    handles = []

    def hook(number):
        def change(module, args, kwargs):
            blocked = torch.zeros_like(next(iter(hidden.values())))
            for layer, places in hidden.items():
                if layer <= number:
                    blocked = blocked | places
            x = args[0] if args else kwargs["hidden_states"]
            q = x.shape[1]
            cache = kwargs.get("past_key_values")
            total = before[0] + now[0]  # tokens of the prompt and of the answer so far
            mask = kwargs.get("attention_mask")
            if mask is None:
                kv = q if cache is None else total
                mask = torch.ones(q, kv, dtype=torch.bool).tril(kv - q)[None, None]
            kv = mask.shape[-1]
            wide = torch.nn.functional.pad(blocked, (0, total - length))[:, total - kv :]  # a window holds the newest
            wide = wide[:, None, None]
            if len(mask) != len(wide):
                mask = mask.expand(len(wide), -1, -1, -1)
            low = torch.finfo(x.dtype).min
            mask = mask & ~wide if mask.dtype == torch.bool else mask.masked_fill(wide, low)
            if blends and number and q == length:
                for entries in blends.get(number, ()):
                    x = taken_in(x, entries)
                args, kwargs = ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})
            return args, {**kwargs, "attention_mask": mask}

        return change

    before, now = [0], [0]

    def count(module, args, kwargs):
        tokens = kwargs.get("inputs_embeds")
        tokens = kwargs["input_ids"] if tokens is None else tokens
        now[0] = tokens.shape[1]
        before[0] = 0 if tokens.shape[1] == length else before[0]
        for layer, several in (blends or {}).items():
            for entries in several:
                kwargs = deep_taken_in(kwargs, entries, layer)
                if layer == 0 and tokens.shape[1] == length:
                    kwargs = {**kwargs, "inputs_embeds": taken_in(kwargs["inputs_embeds"], entries)}
        return args, kwargs

    def counted(module, args, output):
        before[0] += now[0]

    handles.append(p.decoder.register_forward_pre_hook(count, with_kwargs=True))
    handles.append(p.decoder.register_forward_hook(counted))
    handles += [layer.register_forward_pre_hook(hook(n), with_kwargs=True) for n, layer in enumerate(p.layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
