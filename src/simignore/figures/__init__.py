"""Pictures of what happened: one pure function per file, from a Selection to a Pillow image.

kept   which image tokens stayed, and the scores they were chosen by (paint: its fonts, colours and text)
"""

from simignore.figures.kept import kept_picture

__all__ = ["kept_picture"]
