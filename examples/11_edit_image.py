"""A picture changed after a prompt, where a mask allows it. OpenAI and Gemini, which takes no masks."""

from __future__ import annotations

from _common import SIGNATURES, image_engine, provider, square

import allm

NOT_FOR = {"anthropic": "it makes no pictures", "local": "it makes no pictures"}

SCRIPT = [[{"image": square(30, 30, 200)}]]


def main() -> None:
    red = allm.Image.from_bytes(square(200, 30, 30))
    anywhere = allm.Image.from_bytes(square(0, 0, 0, alpha=0))  # transparent is where it may change
    mask = anywhere if provider() == "openai" else None
    with image_engine(SCRIPT) as engine:
        response = allm.edit_image(engine, red, "Make the square blue.", mask=mask)
    data = response.image.to_bytes()
    print(f"{len(data)} bytes by {response.model}")
    assert data.startswith(SIGNATURES)


if __name__ == "__main__":
    main()
