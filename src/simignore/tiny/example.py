"""Draw the bundled example picture: `python -m simignore.tiny.example`.

The first scene of the test split's last seeds in which the example question has the wanted answer, among five things of
which another one is a star and another one is blue: a glance at the wrong thing gives a wrong answer.
"""

from __future__ import annotations

from . import EXAMPLE_OPTIONS, EXAMPLE_QUESTION, example
from .scenes import SPLITS, Scene, render, sample_scene
from .solve import solve


def example_scene(answer: str = EXAMPLE_OPTIONS[0]) -> Scene:
    """The scene that `example.png` shows."""
    for seed in reversed(SPLITS["test"]):
        scene = sample_scene(seed, fewest=5, most=5)
        if _telling(scene) and solve(EXAMPLE_QUESTION, scene) == answer:
            return scene
    raise LookupError(f"no test scene answers {EXAMPLE_QUESTION!r} with {answer!r}; ask for another colour")


def _telling(scene: Scene) -> bool:
    """Whether there is a blue star, another star and another blue thing, and the colours of all options are seen."""
    names = {thing.name for thing in scene.things}
    stars = sum(thing.shape == "star" for thing in scene.things)
    blues = sum(thing.colour == "blue" for thing in scene.things)
    colours = {thing.colour for thing in scene.things}
    return "blue star" in names and stars > 1 and blues > 1 and colours.issuperset(EXAMPLE_OPTIONS)


def main() -> None:
    """Render the scene into the package."""
    picture, _ = render(example_scene())
    picture.save(example())


if __name__ == "__main__":
    main()
