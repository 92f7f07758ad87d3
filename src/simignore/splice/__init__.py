"""Shortening a prompt inside an unmodified model. ``engine`` hooks, ``call`` is one forward, ``runs`` its shortened
tensors, ``cache`` what outlives it, ``tensors`` the maths."""

from simignore.splice.cache import ShortCache, UnsupportedCallError
from simignore.splice.engine import Splice

__all__ = ["ShortCache", "Splice", "UnsupportedCallError"]
