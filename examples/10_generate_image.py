"""A picture from a prompt, saved to a file. OpenAI and Gemini."""

from __future__ import annotations

import tempfile
from pathlib import Path

from _common import SIGNATURES, image_engine, square

import allm

NOT_FOR = {"anthropic": "it makes no pictures", "local": "it makes no pictures"}

SCRIPT = [[{"image": square(200, 30, 30)}]]


def main() -> None:
    with image_engine(SCRIPT) as engine:
        response = allm.generate_image(engine, "A red square, flat, nothing else.", size="1024x1024")
    with tempfile.TemporaryDirectory() as folder:
        path = response.image.save(Path(folder) / "square.png")
        print(f"{path.name}: {response.image.width} x {response.image.height} by {response.model}")
        assert path.read_bytes().startswith(SIGNATURES)


if __name__ == "__main__":
    main()
