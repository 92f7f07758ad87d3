"""simignore: ask a vision-language model with fewer image tokens."""
