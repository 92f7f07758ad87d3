"""From what was typed to a method. Which options a method has is read from its dataclass fields, never listed here."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simignore.budget import Keep
    from simignore.methods import Method

DEFAULT_METHOD = "simignore"
DEFAULT_KEEP = 0.25  # for methods without a default of their own


def read_keep(typed: str) -> Keep:
    """``64`` and ``1`` are counts; ``0.25``, ``25%`` and ``1.0`` are fractions; ``Mass(0.9, cap=64)`` and the like are
    rules. Raises ValueError for anything else."""
    text = typed.strip()
    if "(" in text:
        return _read_rule(text)
    try:
        if text.endswith("%"):
            return float(text[:-1]) / 100
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    except ValueError:
        raise ValueError(
            f"--keep {typed!r} is neither a count (64) nor a fraction (0.25 or 25%), and no rule such as 'Mass(0.9, cap=64)'"
        ) from None


def _read_rule(text: str) -> Keep:
    """A rule written as it is in Python; its arguments are literals, and nothing is evaluated."""
    from simignore.budget import Budget, Schedule

    rules: dict[str, Any] = {
        k.__name__: k for k in (*Budget.__subclasses__(), Schedule) if k.__module__ == Budget.__module__
    }
    try:
        call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id not in rules:
            raise ValueError(f"there are {', '.join(sorted(rules))}")
        given = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
        rule: Keep = rules[call.func.id](*map(ast.literal_eval, call.args), **given)
        return rule
    except (SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f"--keep {text!r} is no rule for how many tokens stay: {error}") from None


def read_layer(typed: str) -> int | float:
    """``5`` is a layer's number, ``0.5`` a share of the decoder's depth. Raises ValueError for anything else."""
    try:
        return int(typed) if typed.strip().lstrip("+-").isdigit() else float(typed)
    except ValueError:
        raise ValueError(f"--layer {typed!r} is neither a layer's number (5) nor a share of the depth (0.5)") from None


def read_settings(typed: Sequence[str], option: str = "--set") -> dict[str, Any]:
    """``["similarity=dot", "skip=1"]`` as ``{"similarity": "dot", "skip": 1}``. option: what they were typed behind."""
    settings: dict[str, Any] = {}
    for pair in typed:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise ValueError(
                f"{option} {pair!r}: write NAME=VALUE, such as {option} "
                + ("square=True" if option == "--with" else "similarity=dot")
            )
        try:
            settings[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            settings[name.strip()] = value.strip()
    return settings


def read_given(flags: Mapping[str, Any], typed: Sequence[str] | None) -> dict[str, Any]:
    """A method's options: flags that were used (the others are None), and what was typed behind ``--set``, None included."""
    return {name: value for name, value in flags.items() if value is not None} | read_settings(typed or [])


def read_options(typed: str | None) -> list[str]:
    """Answer options, separated by commas, or by ``|`` where one occurs. Empty ones are kept, to be refused by name."""
    if typed is None:
        return []
    return [option.strip() for option in typed.split("|" if "|" in typed else ",")]


def make_method(name: str | None, preset_name: str | None, given: Mapping[str, Any]) -> Method:
    """The method called ``name`` (default: simignore) with the options in ``given``, or a preset as it was published.

    Raises KeyError for unknown names, ValueError for options that the method does not have, for values that it refuses, and
    for a preset with options.
    """
    from simignore.methods import METHODS, preset

    given = dict(given)
    if preset_name is not None:
        if extra := [*([] if name is None else ["method"]), *given]:
            raise ValueError(f"--preset {preset_name} fixes the whole method; leave out {_dashed(extra)}")
        return preset(preset_name)
    name = ("learned" if "head" in given else DEFAULT_METHOD) if name is None else name
    if name not in METHODS:
        raise KeyError(f"no method {name!r}; there are {', '.join(sorted(METHODS))}")
    known = {field.name: field for field in fields(METHODS[name]) if field.init}
    if strange := [option for option in given if option not in (*known, "threshold")]:
        raise ValueError(f"method {name!r} has no option {', '.join(strange)}; its options are {', '.join(known)}")
    if (least := given.pop("threshold", None)) is not None:
        given["keep"] = _at_least(least, given.get("keep"))
    if "keep" not in given and known["keep"].default in (None, MISSING):
        given["keep"] = DEFAULT_KEEP
    try:
        return METHODS[name](**given)
    except TypeError as error:  # such as a word where a number is wanted
        raise ValueError(f"method {name!r}: {error}") from error


def _at_least(threshold: Any, cap: Any) -> Keep:
    """The budget of ``--threshold``, with ``--keep`` as the most that may stay. Raises ValueError for what is no number."""
    from simignore.budget import AtLeast

    try:
        return AtLeast(threshold, cap=cap)
    except TypeError as error:  # a rule, or a word
        raise ValueError(
            f"--threshold {threshold} keeps at most --keep {cap!r}, which must be a count (64) or a fraction (0.25) then; "
            "leave one of them out"
        ) from error


def _dashed(names: Sequence[str]) -> str:
    return ", ".join(f"--{name}" for name in names)
