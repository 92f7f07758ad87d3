"""Ask the bundled model with a quarter of the image tokens. Any Hugging Face LLaVA works the same."""

import simignore

model, processor = simignore.tiny.load()
question, options = "What number is on the blue star?", ["7", "2", "4"]
prompt = simignore.build(processor, simignore.tiny.example(), question, options=options, answer="text")

with simignore.Simignore(keep=0.25)(model, query=prompt.query("question+options")) as trace:
    output = model.generate(**prompt.inputs)  # your own line, unchanged; so is the model

print(question, processor.decode(output[0, prompt.inputs["input_ids"].shape[1] :], skip_special_tokens=True))
print(trace.selections[0], "| prompt tokens:", trace.tokens_before[0], "->", trace.tokens_after[0])
