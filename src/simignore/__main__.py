"""``python -m simignore``, for launchers that start modules: ``accelerate launch -m simignore train ...``."""

from simignore.cli import app

if __name__ == "__main__":
    app()
