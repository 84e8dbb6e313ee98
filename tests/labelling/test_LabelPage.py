"""The API of the label page: its answers, its pictures, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.testclient import TestClient

from MLPipeline.decoding.ReadImage import cv2
from MLPipeline.labelling.LabelPage import label_api
from MLPipeline.serve.Guard import Access, Guard
from tests.support.label_cases import CLASSES, draw_photographs, labelling

PAGE = "0123456789abcdef"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with labelling(draw_photographs(tmp_path / "photos", 20), tmp_path / "labels.csv") as session:
        yield client_of(session)


def client_of(session, **more) -> TestClient:
    api = label_api(session, "photos", "python Engine.py --labels labels.csv", **more)
    return TestClient(Guard(api), base_url="http://127.0.0.1")


def post(client: TestClient, path: str, **body: object) -> dict:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_a_picture_is_shown_labelled_and_undone(client: TestClient) -> None:
    outcome = post(client, "/classes", names=CLASSES)
    assert outcome["classes"] == list(CLASSES)
    (picture,) = post(client, "/next", page=PAGE, number=1)["pictures"]
    shown = [{"number": picture["number"], "stamp": picture["stamp"]}]
    outcome = post(client, "/label", page=PAGE, name="cat", pictures=shown)
    assert outcome["message"] == "" and outcome["progress"]["counts"] == [["cat", 1], ["dog", 0], ["emu", 0]]
    outcome = post(client, "/undo", page=PAGE)
    assert [each["name"] for each in outcome["pictures"]] == [picture["name"]]
    assert outcome["progress"]["line"].startswith("0 of 20 labelled")
    outcome = post(client, "/skip", number=picture["number"], why="cannot be read")
    assert outcome["progress"]["notes"] == [f"{picture['name']}: cannot be read"]
    assert client.get("/group").json() is None
    assert client.get("/progress").json()["classes"] == list(CLASSES)


def test_photographs_come_as_jpeg_in_the_size_asked_for_and_as_they_are_now(client: TestClient, tmp_path: Path) -> None:
    post(client, "/classes", names=CLASSES)
    (picture,) = post(client, "/next", page=PAGE, number=1)["pictures"]
    file = tmp_path / "photos" / picture["name"]
    address = f"/photo/{picture['number']}?stamp={picture['stamp']}"
    response = client.get(address)
    assert response.headers["content-type"] == "image/jpeg"
    assert "max-age=3600" in response.headers["cache-control"], "a picture loaded ahead is not loaded twice"
    assert cv2.imdecode(np.frombuffer(response.content, np.uint8), 1).shape == (6, 6, 3)
    cv2.imwrite(str(file), np.zeros((300, 200, 3), np.uint8))
    gone = client.get(address)
    assert gone.status_code == 410 and gone.json()["detail"] == "the file has changed or is gone"
    (again,) = post(client, "/next", page=PAGE, number=1)["pictures"]
    small = client.get(f"/photo/{again['number']}?stamp={again['stamp']}&side=30").content
    assert cv2.imdecode(np.frombuffer(small, np.uint8), 1).shape == (30, 20, 3)
    file.write_bytes(b"no picture")
    (again,) = post(client, "/next", page=PAGE, number=1)["pictures"]
    unreadable = client.get(f"/photo/{again['number']}?stamp={again['stamp']}")
    assert unreadable.status_code == 410 and unreadable.json()["detail"]
    assert client.get("/photo/99?stamp=x").status_code == 410


def test_a_thermal_picture_is_shown_with_many_greys(client: TestClient, tmp_path: Path) -> None:
    post(client, "/classes", names=CLASSES)
    (picture,) = post(client, "/next", page=PAGE, number=1)["pictures"]
    warm = 51500 + np.linspace(0, 500, 6400).reshape(80, 80).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "photos" / picture["name"]), warm)
    (again,) = post(client, "/next", page=PAGE, number=1)["pictures"]
    shown = client.get(f"/photo/{again['number']}?stamp={again['stamp']}").content
    greys = cv2.imdecode(np.frombuffer(shown, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert greys.min() < 10 and greys.max() > 245 and len(np.unique(greys)) > 100


@pytest.mark.parametrize(
    ("path", "body", "what"),
    [
        ("/classes", {"names": ["cat", "Cat"]}, "differ only in spelling"),
        ("/next", {"page": "x"}, "page: String should match"),
        ("/next", {"page": PAGE, "number": 1000}, "number: Input should be less than"),
        ("/label", {"page": PAGE, "name": "cat", "pictures": []}, "no class 'cat'"),
        ("/skip", {"number": 20}, "no picture 20"),
        ("/skip", {"number": -1}, "number: Input should be greater"),
    ],
)
def test_what_cannot_be_is_refused_readably(client: TestClient, path: str, body: dict, what: str) -> None:
    response = client.post(path, json=body)
    assert response.status_code == 422 and what in response.json()["detail"]


def test_other_sites_can_neither_read_nor_label(client: TestClient) -> None:
    for path in ("/", "/progress", "/photo/0?stamp=x"):
        assert client.get(path, headers={"Host": "evil.example"}).status_code == 403
    foreign = client.post("/classes", json={"names": ["cat"]}, headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 403
    assert client.get("/progress").json()["classes"] == []


def test_names_that_are_not_utf8_are_shown_and_labelled(tmp_path: Path) -> None:
    folder = draw_photographs(tmp_path / "photos", 1)
    (folder / "cat-000.png").rename(folder / "cat-\udcff.png")
    with labelling(folder, tmp_path / "labels.csv", with_features=False) as session:
        client = client_of(session)
        post(client, "/classes", names=["cat", "<b>\udcfe".encode("utf-8", "backslashreplace").decode()])
        (picture,) = post(client, "/next", page=PAGE, number=1)["pictures"]
        assert picture["name"] == "cat-\\udcff.png"
        shown = [{"number": picture["number"], "stamp": picture["stamp"]}]
        outcome = post(client, "/label", page=PAGE, name="cat", pictures=shown)
        assert outcome["message"] == "" and session.file.labels["cat-\udcff.png"].name == "cat"
    assert "cat-\\udcff.png,cat,train" in (tmp_path / "labels.csv").read_text()


def test_the_page_has_what_it_needs_and_loads_nothing_else(client: TestClient) -> None:
    response = client.get("/")
    assert "python Engine.py --labels labels.csv" in response.text and "&lt;" not in response.text.split("<main")[0]
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "connect-src 'self'" in policy


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("described")
    with labelling(draw_photographs(folder / "photos", 20), folder / "labels.csv") as session:
        session.add_classes(CLASSES)
        guard = Guard(label_api(session, "photos", ""), Access(frozenset({"testserver"})))
        schema = schemathesis.openapi.from_asgi("/openapi.json", guard)
        yield {operation.label: operation for operation in (found.ok() for found in schema.get_all_operations())}


@given(data=st.data())
@settings(max_examples=25, derandomize=True, suppress_health_check=list(HealthCheck))
def test_requests_made_up_from_the_description_get_described_answers(
    operations: dict[str, Any], data: st.DataObject
) -> None:
    """Schemathesis sends what the description allows and what it does not; each answer must be one it describes."""
    operation = operations[data.draw(st.sampled_from(sorted(operations)))]
    mode = data.draw(st.sampled_from(schemathesis.GenerationMode))
    case = data.draw(operation.as_strategy(generation_mode=mode))
    case.call_and_validate(excluded_checks=[positive_data_acceptance])  # the description does not list the pictures
