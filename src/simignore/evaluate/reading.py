"""From what a model said to the option that it means."""

from __future__ import annotations

import re

from simignore.wording import LETTERS

_ALONE = re.compile(r"^[\W_]*([A-Za-z])[\W_]*$")  # B  (B)  B.  **B**  _B_
_FIRST = re.compile(
    r"^[\W_]*(?:\(([A-Za-z])\)|([A-Z])(?:[).:,]|\s+\())(?:.|\s|$)|^[\W_]*([A-Z])\s*\n"
)  # (B) red  B. red  B (red)
_NAMED = re.compile(
    r"(?P<negated>\bnot\s+(?:the\s+)?)?\b(?P<word>answer|option|choice)\b(?:\s+(?:is|would be|should be))?"
    r"(?:\s+(?:option|choice))?\s*:?\s*[*\"'(\[]*(?P<letter>[A-Za-z])\b(?![’'])(?=(?P<after>[^\n]*))",
    re.IGNORECASE,
)  # The answer is B.   Answer: (B)   the correct option is B because ...
_ANOTHER = re.compile(r"^[)\]*\"'.,]*\s*(?:(?:or|and|/|,)\s*)?[*\"'(\[]*(?!I\b)[A-Z]\b")
_REASON = re.compile(r"\s+(?:because|since|as|due|for|which|is|was)\b", re.IGNORECASE)


def read_letter(told: str, options: int) -> str | None:
    """The letter of the option that an answer names, None if it names none of these ``options``, or several.

    Read are ``B``, ``(B)``, ``B.``, ``B) red``, ``(B) red``, ``B: red``, ``B (red)``, `` B ``, ``b``, ``The answer is B.``,
    ``Answer: (B)``, ``option B`` and the like. What is said to be the answer counts before what stands first. A sentence that
    begins with the word "A" names nothing, and neither does an option's own text.
    """
    known = LETTERS[:options]
    if alone := _ALONE.match(told):
        letter = alone.group(1).upper()
        return letter if letter in known else None
    named = {letter for match in _NAMED.finditer(told) for letter in _letters(match)}
    if named:
        return named.pop() if len(named) == 1 and named <= set(known) else None
    if first := _FIRST.match(told):
        letter = next(group for group in first.groups() if group).upper()
        rest = told[first.end() - 1 :]
        others = {other for other in known if other != letter and _stands_in(other, rest)}
        return letter if letter in known and not others else None
    return None


def _letters(match: re.Match[str]) -> list[str]:
    """The letter that a match names; two where another one follows with "or"; none for a word ("the answer is A bird")."""
    letter, after = match["letter"], match["after"]
    if match["negated"]:
        return []
    if _ANOTHER.match(after):
        return ["?", letter]
    ends = not re.match(r"\s*\w", after)
    if letter.islower():
        return [letter.upper()] if ends else []
    if letter in "AI" and not ends and match["word"].lower() == "answer" and not _REASON.match(after):
        return []
    return [letter]


def _stands_in(letter: str, text: str) -> bool:
    """Whether a letter is named by itself: in brackets, or, unless it is a word ("A", "I"), alone."""
    return f"({letter})" in text or (
        letter not in "AI" and re.search(rf"(?<![\w']){letter}(?![\w'])", text) is not None
    )
