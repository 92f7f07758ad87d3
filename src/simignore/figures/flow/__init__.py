"""The page of an explanation: one pure function per section, from a FlowReport to HTML.

``page`` puts the sections together; ``stage`` paints tokens where they lie on the pictures, ``chart`` draws curves, ``looks``
says which colour, dash and marker belongs to what, ``words`` writes numbers and HTML; look.css and choose.js are in every page.
"""

from __future__ import annotations

from simignore.figures.flow.page import flow_page

__all__ = ["flow_page"]
