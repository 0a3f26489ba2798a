"""Pictures of every kind become the same pixels in training and in prediction."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from few_shot.data.pictures import decode, preprocessing, read_file, read_pictures
from few_shot.errors import BadInput

SQUARE = preprocessing((3, 32, 32), crop="center")
SAME = preprocessing((3, 20, 30))  # of the size of the pictures below, so that nothing is resized


@pytest.fixture
def colours():
    """Random pixels ``[20, 30, 3]``."""
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "suffix", ["png", "bmp", "tif", "webp", "gif", "jpg", "ppm", "tga", "avif", "jp2", "ico", "pcx"]
)
def test_every_format_of_pillow_is_read(tmp_path, colours, suffix):
    path = tmp_path / f"x.{suffix}"
    smooth = Image.fromarray(colours[:4, :4]).resize((64, 64), Image.Resampling.BICUBIC)
    smooth.save(path, **({"lossless": True} if suffix == "webp" else {}))
    read = read_pictures(path, preprocessing((3, 64, 64)))
    assert read.shape == (1, 3, 64, 64) and read.dtype == np.uint8
    exact = suffix in ("png", "bmp", "tif", "webp", "ppm", "tga", "pcx", "ico")
    error = np.abs(read[0].transpose(1, 2, 0).astype(int) - np.asarray(smooth))
    assert error.max() == 0 if exact else error.mean() < 12


def test_a_picture_is_cropped_to_its_middle_and_not_squashed():
    """A disc in the middle of a wide picture stays a disc; what is beside the square is cut off."""
    y, x = np.mgrid[:100, :300]
    disc = (np.hypot(x - 149.5, y - 49.5) < 40).astype(np.uint8) * 255
    disc[:, :90] = disc[:, 210:] = 128
    (read,) = read_pictures(Image.fromarray(disc), preprocessing((1, 50, 50), crop="center"))
    y, x = np.mgrid[:50, :50]
    inside = np.hypot(x - 24.5, y - 24.5)
    assert (read[0][inside < 18] > 240).all() and (read[0][inside > 22] < 15).all()
    (squashed,) = read_pictures(Image.fromarray(disc), preprocessing((1, 50, 50)))
    assert squashed[0, 0, 0] == 128


def test_small_pictures_are_enlarged_and_a_pixel_wide_one_is_read():
    assert read_pictures(np.zeros((5, 1), np.uint8), SQUARE).shape == (1, 3, 32, 32)
    assert read_pictures(np.zeros((1, 900), np.uint8), SQUARE).shape == (1, 3, 32, 32)


def test_shrinking_takes_every_pixel_into_account():
    """Stripes finer than a pixel of the result become their mean; picking pixels would make black or white."""
    stripes = np.tile(np.array([0, 255], np.uint8), (640, 320))
    read = read_pictures(stripes, SQUARE)
    assert np.abs(read.astype(int) - 127.5).max() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp"])
def test_a_picture_is_turned_by_its_exif(tmp_path, orientation, kind):
    """Red lies top left, after turning, in all eight orientations."""
    upright = Image.new("RGB", (64, 48), "white")
    upright.paste("red", (0, 0, 32, 24))
    # How a camera stores it, so that the orientation brings it back (EXIF 2.3, table 4).
    stored = upright
    for step in {
        1: [], 2: ["FLIP_LEFT_RIGHT"], 3: ["ROTATE_180"], 4: ["FLIP_TOP_BOTTOM"], 5: ["TRANSPOSE"],
        6: ["ROTATE_90"], 7: ["TRANSVERSE"], 8: ["ROTATE_270"],
    }[orientation]:  # fmt: skip
        stored = stored.transpose(Image.Transpose[step])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{kind}"
    stored.save(path, exif=exif, **({"quality": 95, "subsampling": 0} if kind == "jpg" else {}))
    for picture in (path, Image.open(path)):
        (read,) = read_pictures(picture, preprocessing((3, 48, 64)))
        assert np.abs(read.transpose(1, 2, 0).astype(int) - np.asarray(upright)).mean() < 4


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_does_not_make_a_picture_unreadable(colours):
    file = io.BytesIO()
    Image.fromarray(colours).save(file, "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert np.array_equal(decode(file.getvalue(), "x", SAME), colours.transpose(2, 0, 1))


def test_transparent_parts_are_white(colours, tmp_path):
    alpha = np.zeros((20, 30), np.uint8)
    alpha[:, 10:20], alpha[:, 20:] = 51, 255  # a fifth
    Image.fromarray(np.dstack([colours, alpha])).save(tmp_path / "rgba.png")
    expected = np.rint(255 + (colours.astype(float) - 255) * (alpha / 255)[:, :, None])
    read = read_pictures(tmp_path / "rgba.png", SAME)[0].transpose(1, 2, 0)
    assert np.abs(read - expected).max() <= 1

    Image.fromarray(np.dstack([colours[:, :, 0], alpha])).save(tmp_path / "la.png")
    read = read_pictures(tmp_path / "la.png", SAME)[0].transpose(1, 2, 0)
    assert np.abs(read - np.rint(255 + (colours[:, :, :1].astype(float) - 255) * (alpha / 255)[:, :, None])).max() <= 1

    palette = Image.new("P", (30, 20), 7)
    palette.putpalette([0, 0, 0] * 256)
    palette.save(tmp_path / "p.png", transparency=7)
    assert (read_pictures(tmp_path / "p.png", SAME) == 255).all()


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_16_bits_are_scaled(tmp_path, kind):
    values = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"x.{kind}")
    for picture in (tmp_path / f"x.{kind}", values, torch.from_numpy(values)):
        read = read_pictures(picture, preprocessing((1, 20, 30)))
        assert np.array_equal(read[0, 0], np.rint(values / 257))


def test_grey_palette_and_bilevel_pictures_become_colour(tmp_path):
    grey = np.arange(600, dtype=np.uint32).reshape(20, 30).astype(np.uint8)
    for mode in ("L", "P", "1", "CMYK"):
        image = Image.fromarray(grey).convert(mode)
        image.save(tmp_path / "x.tif")
        read = read_pictures(tmp_path / "x.tif", SAME)[0]
        expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(read, expected)


def test_floating_point_files_are_from_0_to_1(tmp_path):
    values = np.linspace(0, 1, 600).reshape(20, 30).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "x.tif")
    read = read_pictures(tmp_path / "x.tif", preprocessing((1, 20, 30)))
    assert np.array_equal(read[0, 0], np.rint(values.astype(np.float64) * 255))
    Image.fromarray(values * 2).save(tmp_path / "y.tif")
    with pytest.raises(BadInput, match=r"y\.tif cannot be decoded .*not from 0 to 1"):
        read_pictures(tmp_path / "y.tif", SAME)


def test_arrays_tensors_images_and_files_of_the_same_pixels_agree(tmp_path, colours):
    path = tmp_path / "x.png"
    Image.fromarray(colours).save(path)
    tensor = torch.from_numpy(colours)
    forms = [
        path,
        str(path),
        Image.open(path),
        Image.fromarray(colours),
        colours,
        colours.astype(np.int64),
        colours.transpose(2, 0, 1),
        colours / 255,
        (colours / 255).astype(np.float32),
        tensor,
        tensor.permute(2, 0, 1),
        tensor.permute(2, 0, 1).float() / 255,
        tensor.permute(2, 0, 1).double() / 255,
        tensor.permute(2, 0, 1).long(),
        np.dstack([colours, np.full((20, 30), 255, np.uint8)]),
    ]
    for how in (SAME, SQUARE):
        all_at_once = read_pictures(forms, how)
        assert all_at_once.shape == (len(forms), *((3, 20, 30) if how is SAME else (3, 32, 32)))
        assert (all_at_once == all_at_once[:1]).all()
        assert all(np.array_equal(read_pictures(form, how), all_at_once[:1]) for form in forms)
    assert np.array_equal(all_at_once[0], read_file(path, SQUARE))
    assert np.array_equal(read_pictures(forms[0], SAME)[0], colours.transpose(2, 0, 1))


def test_many_pictures_may_be_a_list_a_generator_or_an_array_of_four_dimensions(colours):
    many = np.stack([colours, 255 - colours])
    expected = many.transpose(0, 3, 1, 2)
    for form in (many, expected, list(many), (x for x in many), torch.from_numpy(many), torch.from_numpy(expected)):
        assert np.array_equal(read_pictures(form, SAME), expected)


def test_where_a_shape_could_be_either_arrays_end_and_tensors_begin_with_channels():
    values = np.random.default_rng(0).integers(0, 256, (3, 9, 3), dtype=np.uint8)
    assert np.array_equal(read_pictures(values, preprocessing((3, 3, 9)))[0], values.transpose(2, 0, 1))
    assert np.array_equal(read_pictures(torch.from_numpy(values), preprocessing((3, 9, 3)))[0], values)


def test_a_drawing_is_inverted_and_made_binary_from_its_nearest_pixels():
    ink = np.full((28, 28), 255, np.uint8)
    ink[10:12] = 0
    read = read_pictures(ink, preprocessing((1, 28, 28), invert=True))
    assert np.array_equal(read[0, 0], 255 - ink)
    drawing = np.random.default_rng(0).integers(0, 256, (105, 105), dtype=np.uint8)
    middles = ((np.arange(28) + 0.5) * 105 / 28).astype(int)
    nearest = drawing[middles][:, middles]
    read = read_pictures(drawing, preprocessing((1, 28, 28), binary_from=105, invert=True))
    assert np.array_equal(read[0, 0], np.where(nearest >= 128, 0, 255))


def test_a_large_drawing_is_thinned_before_its_nearest_pixels_are_taken():
    """Or else a thin stroke would fall between them."""
    drawing = np.full((1050, 1050), 255, np.uint8)
    drawing[500:530] = 0
    read = read_pictures(drawing, preprocessing((1, 28, 28), binary_from=105, invert=True))
    assert set(np.unique(read)) == {0, 255} and (read[0, 0].max(axis=1) == 255).sum() == 1


def test_a_large_jpeg_is_nearly_what_its_pixels_are(tmp_path):
    """Read at a fraction of its size, as cameras' files are: within two grey levels."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    small.resize((3200, 2400), Image.Resampling.BICUBIC).save(tmp_path / "x.jpg", quality=95)
    with Image.open(tmp_path / "x.jpg") as image:
        whole = np.asarray(image)
    file, pixels = read_pictures([tmp_path / "x.jpg", whole], SQUARE).astype(int)
    assert np.abs(file - pixels).max() <= 2


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ([], "There are no pictures"),
        ("nowhere.jpg", r"nowhere\.jpg cannot be read .No such file"),
        (b"bytes", "The picture is of type bytes"),
        (None, "The picture is of type NoneType: give a path"),
        ([np.zeros((4, 4)), 7], "Picture 2 of 2 is of type int"),
        (np.zeros(5), r"shape \(5,\)"),
        (np.zeros((0, 5)), r"shape \(0, 5\)"),
        (np.zeros((10, 28, 28)), r"shape \(10, 28, 28\), of which neither end is a number of channels"),
        (np.full((4, 4), 128.0), "floating point values outside 0 to 1"),
        (np.full((4, 4), np.nan), "floating point values outside 0 to 1"),
        (np.full((4, 4), 256), "int64 values that are not whole numbers from 0 to 255"),
        (np.full((4, 4), "a"), "not whole numbers"),
        (Image.new("I", (4, 4), 70000), "do not fit in 16 bits"),
    ],
)
def test_what_is_no_picture_is_named(picture, message):
    with pytest.raises(BadInput, match=message):
        read_pictures(picture, SQUARE)


def test_a_folder_and_a_heic_file_are_named(tmp_path):
    with pytest.raises(BadInput, match="is a folder, not a picture"):
        read_pictures(tmp_path, SQUARE)
    (tmp_path / "x.heic").write_bytes(b"\x00\x00\x00\x18ftypheic")
    with pytest.raises(BadInput, match=r"x\.heic cannot be decoded .*save it as JPEG"):
        read_pictures(tmp_path / "x.heic", SQUARE)
