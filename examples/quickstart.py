"""Ask the bundled model with a quarter of the image tokens. Any Hugging Face LLaVA works the same."""

import simignore

model, processor = simignore.tiny.load()
prompt = simignore.build(processor, simignore.tiny.example(), "What colour is the shape left of the blue star?")

with simignore.Simignore(keep=0.25)(model) as trace:  # the model is unmodified, and as before afterwards
    output = model.generate(**prompt.inputs)  # your own line, unchanged

print(processor.decode(output[0, prompt.inputs["input_ids"].shape[1] :], skip_special_tokens=True))
print(trace.selections[0], "compared with the", trace.query)
print("prompt tokens:", trace.tokens_before[0], "->", trace.tokens_after[0])
