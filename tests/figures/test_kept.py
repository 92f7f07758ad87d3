"""The picture of what was kept: the right patches are bright, on the pixels that the model saw."""

import numpy as np
import pytest
import torch
from PIL import Image

import checkpoints
from simignore.figures import kept_picture
from simignore.figures.kept import bright_and_dark
from simignore.figures.paint import ACCENT, UNSCORED, length, viridis, wrap, written
from simignore.places import Place, locate
from simignore.select import from_kept
from simignore.types import Grid, Patches, Selection

GRID = (4, 4)


def coloured_patches(columns: int, rows: int) -> Image.Image:
    """An image whose every 8 x 8 patch has a colour of its own, all of them light."""
    generator = np.random.default_rng(0)
    colours = generator.integers(120, 256, (rows, columns, 3), dtype=np.uint8)
    return Image.fromarray(colours.repeat(8, axis=0).repeat(8, axis=1))


def selection(places: list[int], score: torch.Tensor | None = None, tokens: int = 16) -> Selection:
    kept = torch.zeros(1, tokens, dtype=torch.bool)
    kept[0, places] = True
    return from_kept(kept, score)


def place_of(part: np.ndarray, whole: np.ndarray) -> list[tuple[int, int]]:
    """All (y, x) at which ``part`` stands in ``whole``."""
    height, width = part.shape[:2]
    found = np.argwhere((whole[: 1 - height or None, : 1 - width or None] == part[0, 0]).all(-1))
    return [(int(y), int(x)) for y, x in found if np.array_equal(whole[y : y + height, x : x + width], part)]


def located(file: Image.Image, covers: float = 1.0) -> Place:
    """Where the one grid of a picture lies that the processor of the random models crops."""
    grid = torch.arange(16)[None] * 0
    patches = Patches(((Grid(4, 4, 0, covers=covers),),), grid, torch.arange(16)[None] // 4, torch.arange(16)[None] % 4)
    (place,) = locate(patches, [file], checkpoints.processor())
    assert place is not None and place.grid.size == GRID
    return place


def centres(panel: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The pixels in the middle of every patch, [rows, columns, 3]."""
    cell = panel.shape[0] // rows
    return panel[cell // 2 :: cell, cell // 2 :: cell][:rows, :columns].astype(int)


@pytest.mark.parametrize(("size", "left", "top"), [((12, 4), 4, 0), ((4, 10), 0, 3), ((4, 4), 0, 0)])
def test_a_cut_out_is_the_crop_that_the_processor_made(size, left, top):
    file = coloured_patches(*size)
    seen = np.asarray(located(file).cut_out([file]))
    assert np.array_equal(seen, np.asarray(file)[top * 8 : top * 8 + 32, left * 8 : left * 8 + 32])


def test_what_makes_no_whole_patch_is_left_out():
    place = located(coloured_patches(4, 4), covers=0.75)
    assert place.box == pytest.approx((0, 0, 24, 24), abs=0.05)
    assert place.cell(3, 1) == pytest.approx((6, 18, 12, 24), abs=0.05)


@pytest.mark.parametrize("size", [(12, 4), (4, 10)])
def test_kept_patches_keep_their_colours_and_dropped_ones_are_dark(size):
    file, places = coloured_patches(*size), [1, 6, 7, 15]
    seen = located(file).cut_out([file])
    kept = np.zeros(16, dtype=bool)
    kept[places] = True
    panel = bright_and_dark(seen, kept.reshape(GRID), cell=(40, 40))
    shown, true = centres(np.asarray(panel), *GRID), centres(np.asarray(seen), *GRID)
    for place in range(16):
        now, then = shown[divmod(place, 4)], true[divmod(place, 4)]
        if kept[place]:
            assert np.abs(now - then).max() <= 3
        else:
            assert now.mean() < 0.5 * then.mean()
            assert np.ptp(now) < 0.5 * max(np.ptp(then), 8)
    sheet = np.asarray(kept_picture(seen, selection(places), GRID, size=160))
    assert len(place_of(np.asarray(panel), sheet)) == 1


def test_outlines_run_round_regions_not_between_kept_neighbours():
    kept = np.array([[False, True, True], [False, True, False]])
    panel = np.asarray(bright_and_dark(Image.new("RGB", (24, 16), (200, 200, 200)), kept, cell=(20, 20)))
    line = (panel == ACCENT).all(-1)
    assert line[0:2, 20:60].all() and line[0:20, 20:22].all() and line[0:20, 58:60].all() and line[38:40, 20:40].all()
    assert line[18:20, 40:60].all()  # under the right arm
    assert line[18:20, 38:40].all()  # the inner corner is closed
    assert not line[2:18, 22:58].any()  # no seam between the two upper patches
    assert not line[12:36, 22:38].any()  # nor between the upper and the lower one
    assert not line[:, :20].any() and not line[22:, 42:].any()  # dropped patches carry no line


def test_the_heat_map_colours_every_patch_by_its_score_and_hatches_those_without():
    score = torch.linspace(-0.2, 0.6, 16)[None].clone()
    score[0, [3, 12]] = torch.tensor([float("nan"), float("-inf")])
    image = coloured_patches(4, 4)
    sheet = np.asarray(kept_picture(image, selection([14, 15], score), GRID, size=160))
    (y, x), *more = place_of(
        np.asarray(bright_and_dark(image, selection([14, 15]).kept[0].reshape(4, 4).numpy(), (40, 40))), sheet
    )
    assert not more
    heat = sheet[y : y + 160, x + 160 + 28 : x + 160 + 28 + 160]
    expected = viridis((score[0].nan_to_num(0).double().numpy() + 0.2) / 0.8).reshape(4, 4, 3).astype(int)
    shown = centres(heat, *GRID)
    for place in set(range(16)) - {3, 12}:
        assert np.abs(shown[divmod(place, 4)] - expected[divmod(place, 4)]).max() <= 1
    for row, column in ((0, 3), (3, 0)):
        cell = heat[row * 40 : row * 40 + 40, column * 40 : column * 40 + 40].reshape(-1, 3)
        assert {tuple(pixel) for pixel in cell.tolist()} == set(UNSCORED)
    bar = sheet[y : y + 160, x + 2 * 160 + 28 + 14 + 4].astype(int)
    assert np.abs(bar[0] - viridis(np.array(1.0))).max() <= 2 and np.abs(bar[-1] - viridis(np.array(0.0))).max() <= 2
    lowest = round((1 - (float(score[0, 14]) + 0.2) / 0.8) * 159)
    assert bar[lowest].max() < 60  # the dark tick at the lowest kept score


def test_scores_over_many_powers_of_ten_are_coloured_by_their_logarithm():
    score = torch.tensor([[0.1, 1e-3, 1e-5, *[1e-9] * 12, 0.0]])
    image, chosen = coloured_patches(4, 4), selection([0, 15], score)
    sheet = np.asarray(kept_picture(image, chosen, GRID, size=160))
    [(y, x)] = place_of(np.asarray(bright_and_dark(image, chosen.kept[0].reshape(4, 4).numpy(), (40, 40))), sheet)
    heat = centres(sheet[y : y + 160, x + 188 : x + 348], *GRID).reshape(16, 3)
    for place, part in ((0, 1), (1, 4 / 6), (2, 2 / 6), (3, 0), (15, 0)):  # six powers of ten below 0.1
        assert np.abs(heat[place] - viridis(np.array(part))).max() <= 1


def test_without_scores_there_is_no_heat_map():
    image = coloured_patches(4, 4)
    plain = kept_picture(image, selection([0]), GRID)
    scored = kept_picture(image, selection([0], torch.rand(1, 16)), GRID)
    assert scored.width > plain.width + 480
    assert place_of(np.asarray(viridis(np.array([[1.0, 1.0]]))), np.asarray(plain)) == []


@pytest.mark.parametrize("score", [torch.full((1, 16), 0.3), torch.full((1, 16), float("nan")), torch.arange(16)[None]])
@pytest.mark.filterwarnings("error")
def test_equal_missing_and_whole_scores_are_drawn(score):
    kept_picture(coloured_patches(4, 4), selection([2, 3], score), GRID)


def test_each_of_several_images_shows_its_own_tokens():
    first, second = coloured_patches(4, 4), coloured_patches(2, 4)
    chosen = selection([5, 16, 23], tokens=24)
    sheet = np.asarray(kept_picture([first, second], chosen, [(4, 4), (4, 2)], size=160))
    kept = chosen.kept[0].numpy()
    upper = place_of(np.asarray(bright_and_dark(first, kept[:16].reshape(4, 4), (40, 40))), sheet)
    lower = place_of(np.asarray(bright_and_dark(second, kept[16:].reshape(4, 2), (40, 40))), sheet)
    assert len(upper) == len(lower) == 1 and lower[0][0] >= upper[0][0] + 160


def test_a_merged_token_counts_as_dropped():
    chosen = selection([0])
    merged = Selection(chosen.index, torch.zeros_like(chosen.source))  # all went into token 0
    both = [np.asarray(kept_picture(coloured_patches(4, 4), s, GRID)) for s in (chosen, merged)]
    assert np.array_equal(*both)


@pytest.mark.parametrize(
    ("images", "grids", "tokens"), [(1, [(4, 5)], 16), (1, [(3, 4)], 16), (2, [(4, 4)], 16), (0, [], 16)]
)
def test_grids_that_do_not_fit_are_refused(images, grids, tokens):
    with pytest.raises(ValueError, match="grid"):
        kept_picture([coloured_patches(4, 4)] * images, selection([15], tokens=tokens), grids)


def test_captions_of_any_length_and_script_stay_inside_the_picture():
    words = ["Which", "of", "the", "many"] * 60
    picture = kept_picture(
        coloured_patches(4, 4),
        selection([0]),
        GRID,
        question=" ".join(words),
        subtitle="Würfel 你好 " + "x" * 500,
        answers=[("all 16 image tokens", "ä" * 300), ("1 image token", "")],
        method="Method(" + "y" * 300 + ")",
    )
    pixels = np.asarray(picture)
    assert (pixels[:, :20] == 255).all() and (pixels[:, -20:] == 255).all() and (pixels[-20:] == 255).all()


def test_wrapping_loses_no_word_and_stays_within_the_width():
    text = "Is the big red circle left of the small blue star?\nAnswer in one word."
    lines = wrap(text, 16, 120, lines=20)
    assert " ".join(lines).split() == text.split()
    assert len(lines) > 3 and all(length(line, 16) <= 120 for line in lines)
    short = wrap(text, 16, 120, lines=2)
    assert len(short) == 2 and short[1].endswith("...") and length(short[1], 16) <= 120


def test_accents_are_folded_because_pillows_font_has_none():
    assert written("“Wie groß ist der Würfel?”") == ('"Wie gross ist der Wurfel?"', None)


def test_viridis_grows_steadily_brighter():
    light = viridis(np.linspace(0, 1, 200)) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(light) > -0.8).all() and light[-1] > light[0] + 150
    assert np.array_equal(viridis(np.array([-3.0, 4.0])), viridis(np.array([0.0, 1.0])))


def test_viridis_runs_from_purple_to_yellow():
    assert viridis(np.array([0.0, 1.0])).tolist() == [[68, 1, 84], [253, 231, 37]]
