"""Pictures like another one. OpenAI and Gemini, both by an edit: OpenAI has retired its own variations."""

from __future__ import annotations

from _common import SIGNATURES, image_engine, square

import allm

NOT_FOR = {"anthropic": "it makes no pictures", "local": "it makes no pictures"}

SCRIPT = [[{"image": square(190, 40, 50)}]]


def main() -> None:
    red = allm.Image.from_bytes(square(200, 30, 30))
    with image_engine(SCRIPT) as engine:
        response = allm.image_variations(engine, red)
    data = response.image.to_bytes()
    print(f"{len(data)} bytes by {response.model}; {', '.join(response.warnings)}")
    assert data.startswith(SIGNATURES)


if __name__ == "__main__":
    main()
