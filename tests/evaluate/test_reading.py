"""What models say when asked for a letter."""

from __future__ import annotations

import pytest

from simignore.evaluate.reading import read_letter


@pytest.mark.parametrize(
    "told",
    [
        "B",
        " B ",
        "b",
        "(B)",
        "(b)",
        "B.",
        "B)",
        "**B**",
        "B. blue",
        "B) blue",
        "(B) blue",
        "B: blue",
        "B, because it is blue",
        "The answer is B.",
        "The answer is B",
        "The answer is (B).",
        "the correct answer is B because the star is blue",
        "Answer: B",
        "ANSWER: (B)",
        "Option B",
        "The correct option is B.",
        "The answer is option B.",
        "The star is blue. The answer is B.\nBECAUSE: it looks so.",
        "The answer is B. Again, the answer is B.",
        "_B_",
        "B (blue)",
        "(b) blue",
        "Answer is: b",
        "B\nBecause the star is blue",
        "B, because A is wrong",
        "(A) is wrong, the answer is (B)",
        "A. is incorrect. The answer is B.",
    ],
)
def test_wordings_of_b(told):
    assert read_letter(told, 3) == "B"


@pytest.mark.parametrize(
    "told",
    [
        "",
        "   ",
        "blue",
        "E",  # only three options
        "(E) blue",
        "The answer is E.",
        "A bird sits on a branch",  # the article, not the option
        "The answer is A bird",
        "The answer is I think blue",
        "The answer is blue",
        "The answer is A. No, the answer is B.",  # two answers are none
        "Because of that",
        "7",
        "AB",
        "(A) and (B)",
        "A, B",
        "A. or B.",
        "The answer is B or C",
        "Not option B",
    ],
)
def test_what_names_no_option(told):
    assert read_letter(told, 3) is None


@pytest.mark.parametrize(
    "told",
    [
        "A",
        "A.",
        "The answer is A.",
        "The answer is A",
        "A) a bird",
        "(A) A bird",
        "Answer: A, a bird",
        "Option A is correct.",
        "The answer is A because it is red",
    ],
)
def test_wordings_of_a(told):
    assert read_letter(told, 2) == "A"
