"""From what a model said to the option that it means."""

from __future__ import annotations

import re

from simignore.wording import LETTERS

_ALONE = re.compile(r"^\W*([A-Za-z])\W*$")  # B  (B)  B.  **B**
_FIRST = re.compile(r"^\W*(?:\(([A-Z])\)|([A-Z])[).:,])(?:\s|$)")  # (B) red   B. red   B) red   B: red
_NAMED = re.compile(
    r"\b(?:answer|option|choice)\b(?:\s+(?:is|would be|should be))?(?:\s+(?:option|choice))?\s*:?\s*"
    r"[*\"'(\[]*([A-Z])\b(?![’'])([^\n]{0,2})",
    re.IGNORECASE,
)  # The answer is B.   Answer: (B)   the correct option is B because ...


def read_letter(told: str, options: int) -> str | None:
    """The letter of the option that an answer names, None if it names none of these ``options``, or several.

    Read are ``B``, ``(B)``, ``B.``, ``B) red``, ``(B) red``, ``B: red``, `` B ``, ``b``, ``The answer is B.``, ``Answer: (B)``,
    ``option B`` and the like. A sentence that begins with the word "A" names nothing, and neither does an option's own text.
    """
    known = LETTERS[:options]
    if alone := _ALONE.match(told):
        letter = alone.group(1).upper()
        return letter if letter in known else None
    if first := _FIRST.match(told):
        letter = first.group(1) or first.group(2)
        return letter if letter in known else None
    named = {match.group(1) for match in _NAMED.finditer(told) if _is_letter(match)}
    return named.pop() if len(named) == 1 and named <= set(known) else None


def _is_letter(match: re.Match[str]) -> bool:
    """Whether a match is an option's letter, and not the first word of a sentence ("the answer is A bird") or a small word."""
    letter, following = match.group(1), match.group(2)
    if not letter.isupper():
        return False
    return letter not in "AI" or not re.match(r"\s\w", following)
