"""Images by path: read before anything is sent, on both faces, and every mistake named at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import allm
from allm.drivers.files import loaded
from allm.validation import MAX_IMAGE
from tests.faces import Face

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)


def asking(*paths: Path) -> allm.Thread:
    return allm.Thread((allm.user([allm.ImagePart(allm.Image.from_file(str(path))) for path in paths]),))


def test_a_path_is_sent_as_bytes(face: Face, tmp_path: Path) -> None:
    path = tmp_path / "a.dat"  # the type is read from the bytes
    path.write_bytes(PNG)
    with allm.testing.fake([{"text": "A kestrel."}]) as model:
        result = face.chat(allm.Engine("m", adapter=model), asking(path))
    expected = allm.ImagePart(allm.Image.from_bytes(PNG, "image/png"))
    assert model.requests[0].messages[0].content == (expected,)
    assert result.thread.messages[0].content == (expected,)  # goes on without the file
    assert allm.from_json(allm.to_json(result.thread)) == result.thread


def test_every_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(MAX_IMAGE + 1)
    paths = [tmp_path / "none.png", tmp_path, large]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        paths.append(tmp_path / "pipe.png")
    with pytest.raises(allm.ValidationError) as caught:
        allm.stream(allm.Engine("fake"), asking(*paths))
    assert [path for path, _ in caught.value.errors] == [
        f"messages[0].content[{i}]" for i in range(len(paths))
    ]
    assert all(reason.startswith("unresolvable_image: ") for _, reason in caught.value.errors)


def test_a_thread_without_files_is_kept(tmp_path: Path) -> None:
    thread = allm.Thread((allm.user("Hi"), allm.assistant([allm.TextPart("Hello")])))
    assert loaded(thread) == thread


@pytest.mark.parametrize("kind", ["image", "part", "list"])
def test_a_tool_may_return_a_path(face: Face, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    path.write_bytes(PNG)
    image = allm.Image.from_file(str(path))

    @allm.tool
    def draw() -> object:
        """The map."""
        return {"image": image, "part": allm.ImagePart(image), "list": ["The map:", image]}[kind]

    call = {"tool_call": {"id": "c1", "name": "draw", "arguments": {}}}
    with allm.testing.fake([call], [{"text": "A map."}]) as model:
        result = face.chat(allm.Engine("m", adapter=model, tools=[draw]), "Where?")
    drawn = allm.ImagePart(allm.Image.from_bytes(PNG, "image/png"))
    assert result.thread.messages[2].parts[-1] == drawn
    assert model.requests[1].messages[2].parts[-1] == drawn


def test_a_path_that_a_tool_returns_and_that_is_not_there_is_told_to_the_model(face: Face) -> None:
    @allm.tool
    def draw() -> allm.Image:
        """The map."""
        return allm.Image.from_file("nowhere.png")

    call = {"tool_call": {"id": "c1", "name": "draw", "arguments": {}}}
    with allm.testing.fake([call], [{"text": "No map."}]) as model:
        result = face.chat(allm.Engine("m", adapter=model, tools=[draw]), "Where?")
    assert result.thread.messages[2].is_error
    assert "nowhere.png" in result.thread.messages[2].text
