"""From a PNG or JPEG file to an input of the network.

A server decodes by the same code, so for the same file both have the same x to the last bit; that takes the
same release of Pillow, whose filters round.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor

from eidetic_runtime import pictures
from eidetic_runtime.contract import MAX_PIXELS, usual_pixels
from eidetic_runtime.errors import BadRequest
from eideticnet.errors import DataError, DataWarning
from eideticnet.files import UnreadableError, read_regular
from eideticnet.inputs import ImageInput, Inputs

SUFFIXES = (".png", ".jpg", ".jpeg")
UNREAD = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jp2", ".tif", ".tiff", ".webp")
"""What else is a picture by its name."""


def read_image(path: Path, image: ImageInput) -> Tensor:
    """The picture in a file as x, float32 of ``image.shape``.

    Turned upright as its EXIF tag says, transparency dropped, converted to ``image.mode``, resized,
    divided by ``image.scale``. ``DataError`` names the file, also one whose parts take too long to read.
    """
    return _read(path, image)[0]


def _read(path: Path, image: ImageInput) -> tuple[Tensor, int]:
    """A picture as x, and how many pixels it has if a server would take it for too large, else 0."""
    pillow = pictures.Image
    if pillow is None:
        raise DataError("reading images needs Pillow: pip install 'eideticnet[images]'")
    try:
        data = read_regular(path)
        with pictures.opened(data, "", 2 * (pillow.MAX_IMAGE_PIXELS or 0)) as picture:
            pictures.check_shape(picture, "", vars(image))
            pixels, most = int(picture.width * picture.height), usual_pixels(vars(image))
            pictures.reduce(picture, data, most)  # as a server does, whatever it was exported for
            large = pixels > MAX_PIXELS or picture.width * picture.height > most
            x = pictures.decode(picture, "", vars(image)).reshape(image.shape)
            return torch.from_numpy(x), pixels if large else 0
    except BadRequest as error:
        raise DataError(f"{path} {error.message}") from None
    except UnreadableError as error:
        raise DataError(str(error)) from None
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error


def read_folder(
    folder: Path, classes: Sequence[str], inputs: Inputs, others: Collection[str] = ()
) -> tuple[Tensor, Tensor]:
    """All pictures in ``folder``, which holds a folder for each class, and may hold those of ``others``:
    x (N, *shape), y (N,) int64, class by class, each sorted by file name. ``DataError`` says what is
    missing, and what would not be read; a ``DataWarning`` what a server would refuse as too large."""
    if inputs.image is None:
        raise DataError(f"{folder} is a folder of images: say in [input.image] how they become inputs")
    files = [_files(folder / name) for name in classes]
    known = {Path(name).parts[0] for name in (*classes, *others)}
    _refuse_unread(folder, known, SUFFIXES, f"the classes are {', '.join(classes)}")
    x, pixels = zip(*(_read(path, inputs.image) for paths in files for path in paths), strict=True)
    y = [label for label, paths in enumerate(files) for _ in paths]
    if large := sum(map(bool, pixels)):
        found = f"{large} of {len(y)} pictures are larger than a server takes"
        how = f"`eidetic export --max-pixels {max(pixels)}` makes one that does"
        warnings.warn(f"{folder}: {found}; {how}", DataWarning, stacklevel=2)
    return torch.stack(x), torch.tensor(y)


def _files(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{folder} holds no images ({', '.join(SUFFIXES)}) of the class of that name")
    _refuse_unread(folder, {path.name for path in files}, (), f"read are {', '.join(SUFFIXES)}")
    return files


def _refuse_unread(folder: Path, known: Collection[str], suffixes: Sequence[str], why: str) -> None:
    """``DataError`` for a folder beside those ``known``, and for a picture that has one of ``suffixes`` or
    is of a format that isn't read."""
    for path in sorted(folder.iterdir()):
        if path.name in known or path.name.startswith("."):
            continue
        if path.is_dir() or path.suffix.lower() in (*UNREAD, *suffixes):
            raise DataError(f"{folder} holds {path.name!r}, which would not be read ({why}); move it away")
