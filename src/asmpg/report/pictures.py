"""Pictures for a page that is to stay small."""

import base64
import io
import pathlib


# Line drawings need no more.
NUM_COLOURS, WIDTH = 64, 1500


def data_url(path: pathlib.Path) -> str:
    """A PNG file as a URL that holds it, in few colours and not wider than a page shows."""
    return f"data:image/png;base64,{base64.b64encode(shrink(path.read_bytes())).decode()}"


def shrink(data: bytes) -> bytes:
    """A PNG with a palette, if that is smaller."""
    from PIL import Image

    picture = Image.open(io.BytesIO(data)).convert("RGB")
    if picture.width > WIDTH:
        picture = picture.resize(
            (WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS
        )
    stream = io.BytesIO()
    picture.quantize(NUM_COLOURS, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return min(stream.getvalue(), data, key=len)
