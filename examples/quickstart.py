"""Ask the bundled model with a quarter of the image tokens. Any Hugging Face LLaVA works the same."""

import simignore

model, processor = simignore.tiny.load()
question, options = simignore.tiny.EXAMPLE_QUESTION, simignore.tiny.EXAMPLE_OPTIONS
prompt = simignore.build(processor, simignore.tiny.example(), question, options=options, answer="text")

with simignore.Simignore(keep=0.25)(model, query=prompt.query("question+options")) as trace:
    output = model.generate(**prompt.inputs)  # your own line, unchanged; so is the model

print(
    question,
    *options,
    "->",
    processor.decode(output[0, prompt.inputs["input_ids"].shape[1] :], skip_special_tokens=True),
)
print(trace.selections[0], "; prompt:", trace.tokens_before[0], "->", trace.tokens_after[0], "tokens")
