"""A picture in a message: the model says what it sees. OpenAI, Anthropic and Gemini."""

from __future__ import annotations

from _common import chat_engine, square

import allm

NOT_FOR = {"local": "it reads text only"}

SCRIPT = [[{"text": ["A ", "red square."]}]]


def main() -> None:
    picture = allm.ImagePart(allm.Image.from_bytes(square(200, 30, 30)))
    question = allm.user([allm.TextPart("What is this? Answer in a few words."), picture])
    with chat_engine(SCRIPT) as engine:
        response = allm.generate(engine, question)
    print(response.text)
    assert response.text
    assert response.finish_reason == "stop"


if __name__ == "__main__":
    main()
