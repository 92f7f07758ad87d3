"""How the placeholder tokens of an image or a video become rows and columns: one pure function per way of laying them out.

A function reads the model's config and what the model was called with (``image_sizes``, ``image_grid_thw`` ...), never
features, and tells for each image, in the order of its tokens, its grids and where each token lies on them. Tokens that are
no patches (line ends, a class token) have no cell; the engine keeps them always.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from simignore.crops import covers_of, has_class_token, side_of
from simignore.types import PAD, Grid


class GeometryError(ValueError):
    """The tokens of the prompt do not fit the images that came with it."""


@dataclass(frozen=True)
class Picture:
    """The placeholder tokens of one image or video.

    grids: its grids (their ``image`` is 0 here). cells: [n, 3] for each token (grid, row, column), -1 where it is no patch.
    """

    grids: tuple[Grid, ...]
    cells: Tensor


@dataclass(frozen=True)
class Run:
    """Neighbouring placeholder tokens: how many, in which sample, and the token before the first (-1: none)."""

    length: int
    sample: int
    before: int


WHOLE = (0.0, 0.0, 1.0, 1.0)
Layout = Callable[[Any, Mapping[str, Any], list[Run]], list[Picture]]  # (config, arguments of the forward, runs)


def patches(rows: int, columns: int, grid: int = 0) -> Tensor:
    """[rows * columns, 3] the cells of one grid, row by row."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.full_like(row, grid), row, column], -1).flatten(0, 1)


def nothing(count: int = 1) -> Tensor:
    """[count, 3] tokens that are no patches."""
    return torch.full((count, 3), PAD)


def loose(count: int) -> Picture:
    """Tokens without places."""
    return Picture((Grid(1, count, 0, "tokens"),), patches(1, count))


def square(config: Any, given: Mapping[str, Any], runs: list[Run]) -> list[Picture]:
    """Images of one size, whose patches are one square grid (LLaVA-1.5, Gemma 3, PaliGemma); runs may hold several."""
    side, class_token = side_of(config), has_class_token(config)
    wanted = getattr(config, "mm_tokens_per_image", None)  # Gemma 3 pools its patches
    side = math.isqrt(wanted) if isinstance(wanted, int) else side
    size = side * side + class_token
    total = sum(run.length for run in runs)
    if size == 0 or ((count := _count(given)) and total % count == 0 and total // count != size):
        return queries(config, given, runs)
    cells = torch.cat([nothing(class_token), patches(side, side)])
    grid = Grid(side, side, 0, covers=covers_of(config))
    return [Picture((grid,), cells) for run in runs for _ in range(_whole(run.length, size))]


def queries(config: Any, given: Mapping[str, Any], runs: list[Run]) -> list[Picture]:
    """Tokens of learned queries, without places in the image (BLIP-2, Idefics 2, Aria)."""
    size, count, total = getattr(config, "num_query_tokens", None), _count(given), sum(run.length for run in runs)
    if not isinstance(size, int):
        size = total // count if count and total % count == 0 else None
    if size is None or any(run.length % size for run in runs):
        return [loose(run.length) for run in runs]
    return [loose(size) for run in runs for _ in range(run.length // size)]


def runs_alone(config: Any, given: Mapping[str, Any], runs: list[Run]) -> list[Picture]:
    """Every run is an image, and nothing is known of its places: what a family that was discovered gets. Images without any
    token between them look like one."""
    return [loose(run.length) for run in runs]


def merged(config: Any, given: Mapping[str, Any], runs: list[Run]) -> list[Picture]:
    """Images of any size, neighbouring patches merged (Qwen-VL from the second on, GLM-4V): ``image_grid_thw``."""
    return _merged(config, given, "image_grid_thw", "image")


def merged_frames(config: Any, given: Mapping[str, Any], runs: list[Run]) -> list[Picture]:
    """Videos of such families: ``video_grid_thw``, frame after frame."""
    return _merged(config, given, "video_grid_thw", "frame")


def merged_either(config: Any, given: Mapping[str, Any], runs: list[Run]) -> list[Picture]:
    """Images of any size, neighbouring patches merged, or videos under the same placeholder (GLM-4V)."""
    return (merged if given.get("video_grid_thw") is None else merged_frames)(config, given, runs)


def _merged(config: Any, given: Mapping[str, Any], name: str, kind: Any) -> list[Picture]:
    merge = config.vision_config.spatial_merge_size
    found = []
    for frames, height, width in _needed(given, name).tolist():
        rows, columns = height // merge, width // merge
        grids = tuple(Grid(rows, columns, 0, kind, WHOLE, time) for time in range(frames))
        found.append(Picture(grids, torch.cat([patches(rows, columns, time) for time in range(frames)])))
    return found


def pooled(config: Any, given: Mapping[str, Any], runs: list[Run]) -> list[Picture]:
    """Images of any size, squares of patches pooled into one token (Gemma 4): ``image_position_ids [n, patches, 2]``, the
    column and row of each patch, -1 for padding."""
    grids = [Grid(*_pooled(places, config), 0, box=WHOLE) for places in _needed(given, "image_position_ids")]
    return [Picture((grid,), patches(grid.rows, grid.columns)) for grid in grids]


def pooled_videos(config: Any, given: Mapping[str, Any], runs: list[Run]) -> list[Picture]:
    """Videos of such a family: ``video_position_ids [frames, patches, 2]``, and how many frames each video has."""
    every = [_pooled(places, config) for places in _needed(given, "video_position_ids").flatten(0, -3)]
    found = []
    for count in torch.as_tensor(_needed(given, "num_frames_per_video")).flatten().tolist():
        own, every = every[:count], every[count:]
        grids = tuple(Grid(rows, columns, 0, "frame", WHOLE, time) for time, (rows, columns) in enumerate(own))
        found.append(Picture(grids, torch.cat([patches(*size, time) for time, size in enumerate(own)])))
    return found


def _pooled(places: Tensor, config: Any) -> tuple[int, int]:
    """(rows, columns) of one image's tokens."""
    columns, rows = ((places.amax(0) + 1) // config.vision_config.pooling_kernel_size).tolist()
    return rows, columns


def rows_of_runs(config: Any, given: Mapping[str, Any], runs: list[Run]) -> list[Picture]:
    """Images of any size whose rows end with a token of its own (Mistral 3, Pixtral): ``image_sizes``."""
    patch = config.vision_config.patch_size * getattr(config, "spatial_merge_size", 1)
    found = []
    for height, width in _needed(given, "image_sizes").tolist():
        rows, columns = height // patch, width // patch
        found.append(Picture((Grid(rows, columns, 0, box=WHOLE),), patches(rows, columns)))
    return found


def square_or_rows(config: Any, given: Mapping[str, Any], runs: list[Run]) -> list[Picture]:
    """Images of one size, or of any size with Pixtral's tower (LLaVA), which ``image_sizes`` come with."""
    return (square if given.get("image_sizes") is None else rows_of_runs)(config, given, runs)


def anyres(config: Any, given: Mapping[str, Any], runs: list[Run]) -> list[Picture]:
    """An overview, then the whole image in full resolution, its rows ended by tokens that are no patches (LLaVA-NeXT,
    LLaVA-OneVision): ``image_sizes``.

    Where several images share a prompt, LLaVA-OneVision gives each the overview only, ended by one such token.
    """
    from transformers.image_processing_utils import select_best_resolution
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    side, tile = side_of(config), config.vision_config.image_size
    most = str(getattr(config, "vision_aspect_ratio", "")).removeprefix("anyres_max_")
    sharing = given.get("batch_num_images")
    alone = None if sharing is None else [count == 1 for count in sharing.tolist() for _ in range(count)]
    found = []
    for number, size in enumerate(_needed(given, "image_sizes").tolist()):
        if alone is not None and not alone[number]:
            square_box = tuple((1 + sign * max(size) / length) / 2 for sign in (-1, 1) for length in reversed(size))
            grid = Grid(side, side, 0, box=square_box)
            found.append(Picture((grid,), torch.cat([patches(side, side), nothing()])))
            continue
        canvas = select_best_resolution(size, config.image_grid_pinpoints)
        height, width = (length // tile * side for length in canvas)
        rows, columns = unpad_image(torch.empty(1, height, width, device="meta"), size).shape[1:]
        box = _unpadded(size, canvas, (rows * tile // side, columns * tile // side))
        stitched = canvas[0] // tile, canvas[1] // tile, rows, columns
        if most.isdigit() and (ratio := math.sqrt(rows * columns / (int(most) * side**2))) > 1.1:
            rows, columns = int(rows // ratio), int(columns // ratio)
        full = torch.cat([patches(rows, columns, 1).view(rows, columns, 3), nothing(rows)[:, None]], 1)
        share = covers_of(config)
        grids = (
            Grid(side, side, 0, "overview", (0.0, 0.0, share, share)),
            Grid(rows, columns, 0, box=box, stitched=stitched),
        )
        found.append(Picture(grids, torch.cat([patches(side, side), full.flatten(0, 1)])))
    return found


def _unpadded(size: list[int], canvas: tuple[int, int], kept: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part of an image of ``size`` that is left of its middle in a canvas; all (height, width) in pixels, ``kept`` what is
    left. The image is scaled to fit the canvas; padding is taken off in whole patches, so some of it may be left too."""
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    ends = []
    for length, whole, left in zip(size, canvas, kept, strict=True):
        scaled = min(math.ceil(length * scale), whole)
        start = (whole - left) / 2 - (whole - scaled) // 2
        ends.append((start / scaled, (start + left) / scaled))
    (top, bottom), (first, last) = ends
    return first, top, last, bottom


def pooled_frames(config: Any, given: Mapping[str, Any], runs: list[Run]) -> list[Picture]:
    """Videos of square frames, made coarser (LLaVA-NeXT-Video), with a token behind the last one (LLaVA-OneVision) or a class
    token before each (Video-LLaVA): ``pixel_values_videos [n, frames, ...]``."""
    shape = _needed(given, "pixel_values_videos").shape
    length = _whole(sum(run.length for run in runs), shape[0])
    side, frames = side_of(config), shape[1]
    for rows in (side // getattr(config, "spatial_pool_stride", 1), math.ceil(side / 2), side):
        for before, after in ((0, 0), (0, 1), (1, 0)):
            if frames * (rows * rows + before) + after == length:
                cells = [torch.cat([nothing(before), patches(rows, rows, time)]) for time in range(frames)]
                grids = tuple(Grid(rows, rows, 0, "frame", time=time) for time in range(frames))
                return [Picture(grids, torch.cat([*cells, nothing(after)]))] * shape[0]
    raise GeometryError(
        f"{frames} frames of {side} x {side} patches do not make {length} video tokens. Pass the processor's output for whole "
        "videos, all frames of each in pixel_values_videos"
    )


def tiles_in_a_run(config: Any, given: Mapping[str, Any], runs: list[Run]) -> list[Picture]:
    """Tiles of an image in one run, the overview last if there is more than one (InternVL)."""
    side = round(side_of(config) * getattr(config, "downsample_ratio", 1.0))
    return [_tiled(config, [side * side] * _whole(run.length, side * side), side) for run in runs]


def tiles_with_markers(config: Any, given: Mapping[str, Any], runs: list[Run]) -> list[Picture]:
    """Tiles of an image with tokens between them, the overview last (Aya Vision, Idefics 3, SmolVLM, Llama 4); it has a
    marker of its own, which therefore stands before the last run of every sample."""
    ends = {run.sample: run.before for run in runs}
    if any(before == PAD for before in ends.values()) and len(runs) > len(ends):
        raise GeometryError(
            "which tiles make one image is told by the tokens between them; pass input_ids, not embeddings"
        )
    found: list[Picture] = []
    tiles: list[int] = []
    for run in runs:
        tiles.append(run.length)
        if run.before == ends[run.sample]:
            found.append(_tiled(config, tiles, math.isqrt(tiles[0])))
            tiles = []
    return found


def _tiled(config: Any, lengths: list[int], side: int) -> Picture:
    """One image of square tiles. Where its tiles lie, the model is not told: only the processor knows."""
    last = len(lengths) - 1
    if side * side != lengths[0] or len(set(lengths)) > 1:
        raise GeometryError(
            f"tiles of {sorted(set(lengths))} tokens are no squares of one size. Pass the processor's output for whole images, "
            "with the tokens that it puts between their tiles"
        )
    share = covers_of(config)
    grids = [Grid(side, side, 0, "tile", covers=share) for _ in range(last)]
    grids.append(Grid(side, side, 0, "overview" if last else "image", covers=share))
    return Picture(tuple(grids), torch.cat([patches(side, side, tile) for tile in range(len(lengths))]))


def _count(given: Mapping[str, Any]) -> int:
    pixels = given.get("pixel_values")
    return int(pixels.shape[0]) if isinstance(pixels, Tensor) else 0


def _whole(length: int, size: int) -> int:
    if length % size:
        raise GeometryError(
            f"{length} image tokens are no multiple of the {size} that one image has. Pass the processor's output for whole "
            "images, none of their tokens cut off by truncation"
        )
    return length // size


def _needed(given: Mapping[str, Any], name: str) -> Tensor:
    value = given.get(name)
    if value is None:
        raise GeometryError(
            f"the prompt holds image tokens, and {name!r}, which tells where they lie, was not passed; pass all that the "
            "processor returned: model(**inputs)"
        )
    return torch.as_tensor(value)
