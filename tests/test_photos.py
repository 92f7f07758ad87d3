"""Photos that lie on their side, with the EXIF data that cameras write and editors break."""

from __future__ import annotations

import base64
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from zoo import CASES

from simignore import Random, figures, locate
from simignore.evaluate.benchmarks.mmbench import picture_from
from simignore.evaluate.copies import read_copy
from simignore.evaluate.pictures import opened
from simignore.images import open_image

BROKEN = {"no TIFF": b"Exif\0\0hello world, this is no TIFF", "cut off": b"Exif\0\0II*\0"}


@pytest.fixture
def lying(tmp_path) -> Path:
    """A wide photo whose camera says that it stands."""
    drawn = Image.new("RGB", (112, 56), "blue")
    drawn.paste("red", (0, 0, 28, 28))
    exif = Image.Exif()
    exif[0x0112] = 6
    drawn.save(tmp_path / "photo.png", exif=exif)
    return tmp_path / "photo.png"


@pytest.mark.parametrize("name", ["qwen2-vl", "llava-clip-llama"])
def test_an_opened_photo_is_drawn_and_located_as_the_users_own_processor_call_saw_it(lying, name):
    """The README's lines: the processor turns no opened picture, so neither may what is drawn of it."""
    case = CASES[name]
    model, processor = case.model(), case.processor()
    with Image.open(lying) as photo:
        inputs = processor(images=[photo], text=[f"{processor.image_token}what"], return_tensors="pt")
        with torch.no_grad(), Random(keep=0.5)(model) as trace:
            model(**inputs)
        upright = Image.new("RGB", photo.size)
        upright.paste(photo)
        assert locate(trace.patches[0], photo, processor) == locate(trace.patches[0], upright, processor)
        drawn, expected = (figures.draw(trace, picture, processor) for picture in (photo, upright))
    assert drawn.tobytes() == expected.tobytes() and drawn.size == expected.size


@pytest.mark.parametrize("what", sorted(BROKEN))
@pytest.mark.parametrize("ending", ["png", "webp", "jpg"])
def test_a_photo_with_broken_exif_data_is_opened_as_it_is_stored(tmp_path, what, ending):
    file = tmp_path / f"a.{ending}"
    Image.new("RGB", (40, 20), "red").save(file, exif=BROKEN[what])
    with Image.open(file) as opened:
        for source in (file, opened):
            assert open_image(source).size == (40, 20)


@pytest.mark.parametrize("kind", ["cell", "parquet"])
def test_pictures_inside_the_files_of_benchmarks_are_turned_like_files(lying, tmp_path, kind):
    if kind == "cell":
        source = partial(picture_from, base64.b64encode(lying.read_bytes()).decode(), "row 1")
    else:
        table = {"image": [{"bytes": lying.read_bytes(), "path": None}]}
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(table), tmp_path / "test-0.parquet")
        ((source,),) = (row.values() for row in read_copy(tmp_path, "test"))
    expected = opened(lying)
    assert expected.size == (56, 112)
    assert opened(source).tobytes() == expected.tobytes() and opened(source).size == expected.size


def test_sixteen_bits_of_grey_as_older_pillows_open_them(tmp_path, monkeypatch):
    """Up to Pillow 10 such a PNG opens in mode "I"; Pillow's own conversion makes it white."""
    Image.new("I;16", (3, 2), 20000).save(tmp_path / "a.png")
    plain = Image.open

    def older(file):
        image = plain(file)
        image.load()
        image.im, image._mode = image.im.convert("I"), "I"
        return image

    monkeypatch.setattr(Image, "open", older)
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == (78, 78, 78)
    assert open_image(Image.open(tmp_path / "a.png")).getpixel((0, 0)) == (78, 78, 78)
    assert open_image(Image.new("I", (2, 2), 200)).getpixel((0, 0)) == (200, 200, 200)  # as Pillow converts it


def test_what_is_no_picture_inside_a_file_is_told_in_words():
    with pytest.raises(ValueError, match="the image cannot be read as an image.*may be truncated or of another type"):
        open_image(b"no picture")
