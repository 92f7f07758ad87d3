"""Draw the bundled example picture: `python -m simignore.tiny.example`.

The first scene among the test split's last seeds in which the example question has the wanted answer, with six things
of which another one is a star and another one is blue: a glance at the wrong thing gives a wrong answer.
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
    raise LookupError(f"no scene answers {EXAMPLE_QUESTION!r} with {EXAMPLE_OPTIONS[0]!r}; ask for another colour")


def _telling(scene: Scene) -> bool:
    """Whether there is a blue star, another star and another blue thing, nothing straight above or below the blue star,
    and what stands left of it stands at its height."""
    anchor = next((thing for thing in scene.things if thing.name == "blue star"), None)
    if anchor is None:
        return False
    others = [thing for thing in scene.things if thing is not anchor]
    beside = all(abs(thing.x - anchor.x) > 11 for thing in others)
    level = all(abs(thing.y - anchor.y) < 20 for thing in others if thing.x < anchor.x)
    tempting = {"star", "blue"} <= {word for thing in others for word in thing.name.split()}
    return beside and level and tempting


def main() -> None:
    """Render the scene into the package."""
    picture, _ = render(example_scene())
    picture.save(example())


if __name__ == "__main__":
    main()
