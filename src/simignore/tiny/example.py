"""Draw the bundled example picture: `python -m simignore.tiny.example`.

The first scene among the test split's last seeds in which the example question has the wanted answer, with six things
of which another one is a star, another one is blue, and another one carries the number of a wrong option: a glance at
the wrong thing gives a wrong answer.
"""

from __future__ import annotations

from . import EXAMPLE_OPTIONS, EXAMPLE_QUESTION, example
from .scenes import SPLITS, Scene, render, sample_scene
from .solve import solve


def example_scene() -> Scene:
    """The scene that `example.png` shows. Raises LookupError if the constants ask for what no scene shows."""
    for seed in SPLITS["test"][-100_000:]:
        scene = sample_scene(seed, fewest=6, most=6)
        if _telling(scene) and solve(EXAMPLE_QUESTION, scene) == EXAMPLE_OPTIONS[0]:
            return scene
    raise LookupError(f"no scene answers {EXAMPLE_QUESTION!r} with {EXAMPLE_OPTIONS[0]!r}; ask for another number")


def _telling(scene: Scene) -> bool:
    """Whether the scene holds a blue star, another star, another blue thing and the number of a wrong option."""
    others = [thing for thing in scene.things if thing.name != "blue star"]
    tempting = {"star", "blue"} <= {word for thing in others for word in thing.name.split()}
    wrong = {thing.number for thing in others} & set(EXAMPLE_OPTIONS[1:])
    return len(others) < len(scene.things) and tempting and bool(wrong)


def main() -> None:
    """Render the scene into the package."""
    picture, _ = render(example_scene())
    picture.save(example())


if __name__ == "__main__":
    main()
