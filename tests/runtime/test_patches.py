"""One rule decodes an image file into a patch or refuses it with a reason; nothing else ever comes out."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from histo_runtime.errors import HistoError, PatchError
from histo_runtime.patches import IMAGE_SUFFIXES, patch_from_image, read_patch

SIDE = 32
RGB = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
SMOOTH = np.linspace(20, 230, SIDE * SIDE * 3).reshape(SIDE, SIDE, 3).astype(np.uint8)
GREY = RGB[..., 0]


def encode(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def png(bit_depth: int, colour_type: int, rows: bytes, row_bytes: int, *, width: int = SIDE) -> bytes:
    """A PNG written by hand, for depths that Pillow reads but does not write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    lines = b"".join(b"\0" + rows[i : i + row_bytes] for i in range(0, len(rows), row_bytes))
    header = struct.pack(">IIBBBBB", width, width, bit_depth, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "packbits"])
def test_tiff_gives_the_pixels_that_were_written(compression: str) -> None:
    np.testing.assert_array_equal(read_patch(encode(RGB, "TIFF", compression=compression), size=SIDE), RGB)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_give_the_pixels_that_were_written(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"patch.{kind.lower()}"
    path.write_bytes(encode(RGB, kind))
    for source in (path, str(path), path.read_bytes()):
        patch = read_patch(source, size=SIDE)
        np.testing.assert_array_equal(patch, RGB)
        assert patch.dtype == np.uint8


def test_jpeg_gives_the_pixels_that_pillow_decodes() -> None:
    data = encode(SMOOTH, "JPEG", quality=90)
    np.testing.assert_array_equal(read_patch(data, size=SIDE), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
def test_grey_becomes_three_equal_channels(kind: str) -> None:
    data = encode(Image.fromarray(SMOOTH[..., 0]), kind)
    grey = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    np.testing.assert_array_equal(read_patch(data, size=SIDE), np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_black_and_white_becomes_0_and_255(kind: str) -> None:
    bits = GREY > 127
    data = encode(Image.fromarray(bits), kind)
    np.testing.assert_array_equal(read_patch(data, size=SIDE), np.where(bits, 255, 0)[..., None].repeat(3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_a_palette_is_looked_up(kind: str) -> None:
    colours = np.random.default_rng(2).integers(0, 256, (16, 3), np.uint8)
    index = GREY % 16
    image = Image.fromarray(index, "L")
    image.putpalette(colours.tobytes())
    np.testing.assert_array_equal(read_patch(encode(image, kind), size=SIDE), colours[index])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_an_opaque_alpha_channel_is_dropped(kind: str) -> None:
    opaque = np.dstack([RGB, np.full((SIDE, SIDE), 255, np.uint8)])
    np.testing.assert_array_equal(read_patch(encode(opaque, kind), size=SIDE), RGB)
    grey = Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (SIDE, SIDE), 255)])
    np.testing.assert_array_equal(read_patch(encode(grey, kind), size=SIDE)[..., 1], GREY)


def _one_pixel_transparent() -> dict[str, bytes]:
    alpha = np.full((SIDE, SIDE), 255, np.uint8)
    alpha[3, 4] = 254
    palette = Image.fromarray(GREY % 4, "L")
    palette.putpalette(bytes(range(12)))
    return {
        "RGBA": encode(np.dstack([RGB, alpha])),
        "RGBA in TIFF": encode(np.dstack([RGB, alpha]), "TIFF"),
        "LA": encode(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])),
        "palette": encode(palette, transparency=2),
        "RGB with a transparent colour": encode(RGB, transparency=tuple(map(int, RGB[3, 4]))),
        "grey with a transparent level": encode(GREY, transparency=int(GREY[3, 4])),
    }


@pytest.mark.parametrize("name", _one_pixel_transparent())
def test_transparent_pixels_are_refused(name: str) -> None:
    with pytest.raises(PatchError, match="transparent"):
        read_patch(_one_pixel_transparent()[name], size=SIDE)


@pytest.mark.parametrize(
    ("data", "mode"),
    [
        (encode(GREY.astype(np.uint16) * 257), "I"),  # I;16 since Pillow 10.3
        (encode(GREY.astype(np.uint16) * 257, "TIFF"), "I;16"),
        (encode(GREY.astype(np.float32), "TIFF"), "F"),
        (encode(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG"), "CMYK"),
        (encode(Image.fromarray(SMOOTH).convert("CMYK"), "TIFF"), "CMYK"),
        (encode(Image.fromarray(SMOOTH).convert("LAB"), "TIFF"), "LAB"),
    ],
)
def test_modes_with_no_plain_meaning_are_refused_by_name(data: bytes, mode: str) -> None:
    with pytest.raises(PatchError, match=f"mode {mode}"):
        read_patch(data, size=SIDE)


def test_16_bit_rgb_keeps_its_high_byte() -> None:
    wide = RGB.astype(np.uint16) * 256 + 200
    data = png(16, 2, wide.astype(">u2").tobytes(), SIDE * 6)
    np.testing.assert_array_equal(read_patch(data, size=SIDE), RGB)


def test_several_pages_are_refused_with_their_number() -> None:
    pages = [Image.fromarray(RGB)] * 3
    with pytest.raises(PatchError, match="3 pages"):
        read_patch(encode(pages[0], "TIFF", save_all=True, append_images=pages[1:]), size=SIDE)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_orientation_is_ignored(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned, plain = encode(SMOOTH, kind, exif=exif), encode(SMOOTH, kind)
    assert turned != plain
    np.testing.assert_array_equal(read_patch(turned, size=SIDE), read_patch(plain, size=SIDE))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG"])
def test_icc_profiles_are_ignored(kind: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    np.testing.assert_array_equal(
        read_patch(encode(SMOOTH, kind, icc_profile=profile), size=SIDE),
        read_patch(encode(SMOOTH, kind), size=SIDE),
    )


@pytest.mark.parametrize(("width", "height"), [(31, 32), (32, 31), (96, 96), (1, 1)])
def test_a_wrong_size_is_refused_with_both_sizes(width: int, height: int) -> None:
    with pytest.raises(PatchError, match=rf"{width}x{height}.*32x32.*--resize"):
        read_patch(encode(Image.new("RGB", (width, height))), size=SIDE)


def test_resize_scales_as_pillow_does_and_leaves_the_right_size_alone() -> None:
    large = np.random.default_rng(3).integers(0, 256, (50, 70, 3), np.uint8)
    scaled = np.asarray(Image.fromarray(large).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(read_patch(encode(large), size=SIDE, resize=True), scaled)
    np.testing.assert_array_equal(read_patch(encode(RGB), size=SIDE, resize=True), RGB)


def test_a_format_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "actually_png.tif"
    path.write_bytes(encode(RGB))
    np.testing.assert_array_equal(read_patch(path, size=SIDE), RGB)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PPM"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(PatchError, match="TIFF, PNG, JPEG or BMP"):
        read_patch(encode(RGB, kind), size=SIDE)


def test_what_is_no_image_is_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "notes.tif").write_text("these are notes\n" * 20)
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    reasons = {"notes.tif": "not a TIFF", "empty.png": "empty", "folder.png": "directory", "gone.png": "No such"}
    for name, reason in reasons.items():
        with pytest.raises(PatchError, match=reason):
            read_patch(tmp_path / name, size=SIDE)
    with pytest.raises(PatchError):
        read_patch("a\0b.png", size=SIDE)


FILES = {
    **{f"TIFF {c}": encode(SMOOTH, "TIFF", compression=c) for c in ("raw", "tiff_lzw", "tiff_deflate", "jpeg")},
    "PNG": encode(SMOOTH),
    "PNG palette": encode(Image.fromarray(SMOOTH).quantize(16)),
    "JPEG": encode(SMOOTH, "JPEG"),
    "BMP": encode(SMOOTH, "BMP"),
}


def outcome(data: bytes) -> np.ndarray | None:
    """The patch, or None for a refusal; fails on every other exception and on an odd patch."""
    reason, patch = "", None
    try:
        patch = read_patch(data, size=SIDE)
    except PatchError as error:
        reason = str(error)
    assert "\n" not in reason
    assert bool(reason) == (patch is None)
    assert patch is None or (patch.shape, patch.dtype) == ((SIDE, SIDE, 3), np.uint8)
    return patch


@pytest.mark.filterwarnings("ignore:::PIL")  # that the command keeps them off the terminal: test_infer.py
@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused_or_complete(name: str) -> None:
    whole = FILES[name]
    expected = read_patch(whole, size=SIDE)
    for length in range(0, len(whole), max(1, len(whole) // 100)):
        patch = outcome(whole[:length])
        assert patch is None or np.array_equal(patch, expected), f"{length} of {len(whole)} bytes"
        assert patch is None or length > len(whole) / 2


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("name", FILES)
def test_flipped_bits_give_a_patch_or_a_refusal(name: str) -> None:
    rng = random.Random(name)
    for _ in range(120):
        damaged = bytearray(FILES[name])
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        outcome(bytes(damaged))


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("side", [9_000, 10_000, 20_000, 2_000_000_000])
@pytest.mark.parametrize("resize", [False, True])
def test_a_decompression_bomb_is_refused_unread(side: int, resize: bool) -> None:
    data = png(8, 2, b"\0" * 30, 30, width=side)  # the header alone claims that size
    with pytest.raises(PatchError) as error:
        read_patch(data, size=SIDE, resize=resize)
    assert "truncated" not in str(error.value), "it was decoded before its size was looked at"


def test_a_pil_image_obeys_the_same_rule() -> None:
    np.testing.assert_array_equal(patch_from_image(Image.fromarray(RGB), size=SIDE), RGB)
    with pytest.raises(PatchError, match="CMYK"):
        patch_from_image(Image.new("CMYK", (SIDE, SIDE)), size=SIDE)
    lazily_opened = Image.open(io.BytesIO(encode(RGB)[:1500]))
    with pytest.raises(PatchError, match="truncated"):
        patch_from_image(lazily_opened, size=SIDE)


def test_decoding_leaves_a_given_image_as_it_was() -> None:
    image = Image.fromarray(RGB).convert("RGBA")
    before = image.tobytes()
    patch_from_image(image, size=SIDE)[:] = 0
    assert (image.mode, image.tobytes()) == ("RGBA", before)


def test_the_suffixes_are_those_of_the_four_formats() -> None:
    assert {".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp"} == IMAGE_SUFFIXES


def test_a_patch_error_is_the_builtin_that_fits() -> None:
    assert issubclass(PatchError, HistoError)
    assert issubclass(PatchError, ValueError)


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_a_file_cut_off_in_its_header_is_not_said_to_be_another_kind_of_file(kind: str) -> None:
    with pytest.raises(PatchError, match=f"begins as {kind} and can't be read|is damaged: Truncated"):
        read_patch(encode(SMOOTH, kind)[:8], size=SIDE)


def test_a_tiff_of_floating_point_colour_is_not_said_to_be_no_tiff() -> None:
    bits = struct.pack("<HHH", 8, 8, 8)
    data = encode(RGB, "TIFF", compression="raw")
    assert data.count(bits) == 1
    with pytest.raises(PatchError, match="begins as TIFF and can't be read: damaged, or not 8-bit RGB"):
        read_patch(data.replace(bits, struct.pack("<HHH", 32, 32, 32)), size=SIDE)


@pytest.mark.parametrize("resize", [False, True])
def test_a_picture_of_hundreds_of_megapixels_is_too_large_and_not_damaged(*, resize: bool) -> None:
    with pytest.raises(PatchError, match="pixels, too large to be a patch"):
        read_patch(png(8, 2, b"\0" * 30, 30, width=20_000), size=SIDE, resize=resize)
