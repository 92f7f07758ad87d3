"""What is typed becomes the right numbers."""

import pytest

from simignore.cli.compare import apart
from simignore.cli.options import make_method, read_given, read_keep, read_options, read_settings
from simignore.cli.table import duration, size


@pytest.mark.parametrize(
    ("typed", "keep"),
    [
        ("64", 64),
        ("1", 1),
        ("1.0", 1.0),
        ("0.25", 0.25),
        ("25%", 0.25),
        ("100%", 1.0),
        (" 12 ", 12),
        ("-1", -1),
        ("1e-1", 0.1),
    ],
)
def test_keep(typed, keep):
    assert read_keep(typed) == keep and type(read_keep(typed)) is type(keep)


@pytest.mark.parametrize("typed", ["", "%", "a", "1/4", "0,25", "--"])
def test_keep_refuses(typed):
    with pytest.raises(ValueError, match="neither a count"):
        read_keep(typed)


def test_settings():
    typed = ["a=1", "b = 0.5", "c=dot", "d='x=y'", "e=x=y", "f=None"]
    assert read_settings(typed) == {"a": 1, "b": 0.5, "c": "dot", "d": "x=y", "e": "x=y", "f": None}


@pytest.mark.parametrize(
    ("typed", "options"),
    [(None, []), ("", [""]), ("a, b ,c", ["a", "b", "c"]), ("a, b|c", ["a, b", "c"]), ("a,,b", ["a", "", "b"])],
)
def test_options(typed, options):
    assert read_options(typed) == options


def test_units():
    assert [duration(s) for s in (0.00042, 0.0123, 1.5, 12.34)] == ["0.42 ms", "12.3 ms", "1.5 s", "12.3 s"]
    assert [size(b) for b in (12, 1_000, 599_040, 1_668_096, 5.5e9)] == ["12 B", "1 kB", "599 kB", "1.67 MB", "5.5 GB"]


def test_none_that_was_typed_is_an_option_and_a_flag_that_was_not_is_none():
    given = read_given({"keep": None, "head": None, "span": "user"}, ["sharpness=None"])
    assert given == {"span": "user", "sharpness": None}
    assert make_method("learned", None, {**given, "keep": 9}).sharpness is None
    assert read_given({"keep": 4}, None) == {"keep": 4}


def test_budgets_are_split_outside_of_brackets():
    assert apart("25,0.125") == ["25", "0.125"]
    assert apart("25,AtLeast(0, cap=0.125),Mass(0.9)") == ["25", "AtLeast(0, cap=0.125)", "Mass(0.9)"]
    assert apart("Schedule([(2, 0.5), (6, 0.3)]),4") == ["Schedule([(2, 0.5), (6, 0.3)])", "4"]
