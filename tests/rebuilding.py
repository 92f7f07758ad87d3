"""The names with which a method's repr rebuilds it."""

from simignore import budget, methods

NAMES = {**vars(budget), **vars(methods)}
