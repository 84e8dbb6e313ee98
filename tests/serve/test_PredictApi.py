"""The API of `serve`: what it answers, what it refuses and how, and that it keeps nothing unless told to."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.testclient import TestClient

from MLPipeline.decoding.ReadImage import decode_image
from MLPipeline.Errors import ResourceError, one_line
from MLPipeline.files import AtomicFile
from MLPipeline.images.LabelTable import scan_table
from MLPipeline.serve.Guard import Access, Guard
from MLPipeline.serve.PredictApi import Service, make_api
from MLPipeline.serve.Uploads import MAX_IMAGES
from tests.support.served_model import HOSTILE, SIZE, picture, random_run, service_of

HERE = "http://127.0.0.1"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_run(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def service(run: Path) -> Iterator[Service]:
    with service_of(run) as service:
        yield service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    guard = Guard(make_api(service), observe=service.metrics.request)
    with TestClient(guard, base_url=HERE, raise_server_exceptions=False) as client:
        yield client


def as_sent(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def test_an_image_is_answered_as_predict_does(client: TestClient, service: Service) -> None:
    content = client.post("/predict", content=picture()).json()
    (expected,) = service.classifier.predict(picture(), topk=3)
    (answer,) = content["answers"]
    assert [(each["class"], each["confidence"]) for each in answer["top"]] == [
        (as_sent(name), round(share, 6)) for name, share in expected.top
    ]
    assert answer["predicted"] == as_sent(expected.predicted) and answer["answered"] is True
    assert answer["confidence"] == answer["top"][0]["confidence"] and answer["error"] is answer["id"] is None
    assert content["model"] == "001-random" and content["milliseconds"] > 0


def test_several_images_are_answered_in_order_and_bad_ones_have_an_error(client: TestClient) -> None:
    parts = [("image", ("one.png", picture(1))), ("other", ("<b>.txt", b"text")), ("image", ("two.png", picture(2)))]
    answers = client.post("/predict?topk=1", files=parts).json()["answers"]
    alone = [client.post("/predict?topk=1", content=picture(seed)).json()["answers"][0] for seed in (1, 2)]
    assert [answer["name"] for answer in answers] == ["one.png", "<b>.txt", "two.png"]
    assert [answers[0]["top"], answers[2]["top"]] == [each["top"] for each in alone]
    assert answers[1]["error"] == "not an image (text)" and answers[1]["answered"] is False
    assert answers[1]["top"] == [] and answers[1]["predicted"] is answers[1]["confidence"] is None


def test_the_heat_map_is_a_picture_of_what_the_model_sees(client: TestClient) -> None:
    (answer,) = client.post("/predict?heatmap=1", content=picture()).json()["answers"]
    kind, _, data = answer["heatmap"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert decode_image(base64.b64decode(data)).pixels.shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize(
    ("query", "body", "why"),
    [
        ("", b"", "the request has no image"),
        ("", b"plain text, which is no image", "not an image (text). Send a JPEG or PNG file"),
        ("", picture()[:300], "the image cannot be read: "),
        ("?topk=0", picture(), "topk: Input should be greater than or equal to 1"),
        ("?topk=many", picture(), "topk: "),
        ("?heatmap=perhaps", picture(), "heatmap: "),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_reason(
    client: TestClient, query: str, body: bytes, why: str
) -> None:
    answer = client.post(f"/predict{query}", content=body)
    assert answer.status_code == 422 and why in answer.json()["detail"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"no boundary"),
        ("multipart/form-data; boundary=x", b"--y\r\n\r\n"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\ntext\r\n--x--\r\n',
        ),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: nothing\r\n\r\n1\r\n--x--\r\n"),
        (
            "multipart/form-data; boundary=x; charset=none",
            b'--x\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n',
        ),
    ],
)
def test_a_damaged_form_is_refused(client: TestClient, kind: str, body: bytes) -> None:
    answer = client.post("/predict", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 422 and "the form " in answer.json()["detail"]


def test_a_form_has_no_more_images_than_allowed(client: TestClient) -> None:
    answer = client.post("/predict", files=[("image", ("a.png", b"x"))] * (MAX_IMAGES + 1))
    assert answer.status_code == 422 and f"Maximum number of files is {MAX_IMAGES}" in answer.json()["detail"]


def test_a_full_queue_says_when_to_come_again(run: Path) -> None:
    with service_of(run, max_waiting=1) as service:
        client = TestClient(Guard(make_api(service)), base_url=HERE)
        answer = client.post("/predict", files=[("image", ("a.png", picture()))] * 2)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "busy" in answer.json()["detail"]
        assert client.post("/predict", content=picture()).status_code == 200


def test_no_upload_is_written_to_disk(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: object) -> None:
        raise AssertionError("a temporary file was written")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", refuse)
    large = picture(size=1000)
    assert len(large) > 2 * 2**20
    answer = client.post("/predict", files=[("image", ("large.png", large))])
    assert answer.json()["answers"][0]["answered"] is True


def test_the_model_is_described(client: TestClient) -> None:
    about = client.get("/model").json()
    assert about["classes"] == list(map(as_sent, HOSTILE)) and about["image_size"] == SIZE
    assert (about["run"], about["model"], about["device"]) == ("001-random", "cnn", "cpu")
    assert about["test_accuracy"] is None and about["min_confidence"] is None and about["collects"] is False


def test_the_description_of_the_api_names_every_route(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/predict", "/correct", "/model", "/health", "/metrics"}
    assert set(paths["/predict"]["post"]["requestBody"]["content"]) == {
        "application/octet-stream",
        "multipart/form-data",
    }
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


def test_the_metrics_count_requests_images_and_batches(run: Path) -> None:
    with service_of(run) as service:
        client = TestClient(Guard(make_api(service), observe=service.metrics.request), base_url=HERE)
        for body in (picture(), picture(), b"text"):
            client.post("/predict", content=body)
        for number in range(3):
            client.get(f"/guess/{number}")
        lines = client.get("/metrics").text.splitlines()
    assert 'classifier_requests_total{route="/predict",status="200"} 2.0' in lines
    assert 'classifier_requests_total{route="/predict",status="422"} 1.0' in lines
    assert 'classifier_requests_total{route="other",status="404"} 3.0' in lines, (
        "paths are no labels: anyone makes them up"
    )
    assert 'classifier_images_total{outcome="answered"} 2.0' in lines
    assert 'classifier_images_total{outcome="unreadable"} 1.0' in lines
    assert "classifier_batch_images_sum 3.0" in lines and "classifier_waiting_images 0.0" in lines


def test_the_page_shows_hostile_names_as_text(client: TestClient) -> None:
    shown = client.get("/")
    assert shown.headers["content-type"] == "text/html; charset=utf-8"
    assert "&lt;img src=x onerror=alert(1)&gt;" in shown.text and "<img src=x" not in shown.text
    assert shown.text.count("<script") == 1 and 'href="report"' not in shown.text


def test_the_report_is_shown_without_the_rights_of_the_page(client: TestClient, run: Path) -> None:
    assert client.get("/report").status_code == 404
    (run / "report.html").write_text("<!doctype html><script>alert(1)</script>")
    try:
        assert 'href="report"' in client.get("/").text
        answer = client.get("/report")
    finally:
        (run / "report.html").unlink()
    assert answer.text.startswith("<!doctype html>")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts; default-src 'none'") and "same-origin" not in policy
    assert "connect-src" not in policy


def test_nothing_is_kept_by_default(client: TestClient, run: Path) -> None:
    before = sorted(run.parent.rglob("*"))
    assert client.post("/predict", content=picture()).json()["answers"][0]["id"] is None
    answer = client.post("/correct", json={"id": "0" * 32, "label": "cat"})
    assert answer.status_code == 409 and "--collect" in answer.json()["detail"]
    assert sorted(run.parent.rglob("*")) == before


def test_collected_images_become_a_table_that_trains(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "collected"
    with service_of(run, collect=folder) as service:
        client = TestClient(Guard(make_api(service)), base_url=HERE)
        ids = [client.post("/predict", content=picture(seed)).json()["answers"][0]["id"] for seed in (1, 2, 1)]
        assert ids[0] == ids[2] != ids[1]
        assert client.post("/predict", content=b"text").status_code == 422
        for key, label in ((ids[0], HOSTILE[0]), (ids[1], HOSTILE[0]), (ids[1], HOSTILE[1])):
            assert client.post("/correct", json={"id": key, "label": label}).json() == {"id": key, "label": label}
        wrong = [
            (ids[0], "giraffe", "is no class"),
            ("0" * 32, HOSTILE[0], "no such image"),
            ("../x", HOSTILE[0], "no such"),
        ]
        for key, label, why in wrong:
            answer = client.post("/correct", json={"id": key, "label": label})
            assert answer.status_code == 422 and why in answer.json()["detail"]
    assert {path.name for path in (folder / "images").iterdir()} == {f"{key}.png" for key in ids}
    assert (folder / "images" / f"{ids[0]}.png").read_bytes() == picture(1)
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == [f"images/{key}.png" for key in ids]
    index = scan_table(folder / "labels.csv", folder)
    assert index.classes == tuple(sorted(HOSTILE[:2])) and len(index) == 2
    with service_of(run, collect=folder) as service:  # continues
        assert service.collection is not None
        service.collection.correct(ids[0], HOSTILE[2])
        for shown in (as_sent(HOSTILE[3]), one_line(HOSTILE[4])):  # as the API and the page show them
            service.collection.correct(ids[1], shown)
            assert one_line(as_sent(shown)) in (folder / "labels.csv").read_text()
    assert sorted(pd.read_csv(folder / "labels.csv").label) == sorted([one_line(HOSTILE[4]), HOSTILE[2]])


def test_what_people_write_into_the_corrections_stays(run: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    with service_of(run, collect=tmp_path) as service:
        client = TestClient(Guard(make_api(service)), base_url=HERE)
        ids = [client.post("/predict", content=picture(seed)).json()["answers"][0]["id"] for seed in (1, 2, 3)]
        paths = [f"images/{key}.png" for key in ids]
        assert client.post("/correct", json={"id": ids[0], "label": HOSTILE[0]}).status_code == 200
        pd.DataFrame({"path": paths[:2], "label": ["dog", "bird"]}).to_csv(table, index=False)
        assert client.post("/correct", json={"id": ids[2], "label": HOSTILE[0]}).status_code == 200
        assert list(pd.read_csv(table).path) == paths and list(pd.read_csv(table).label)[:2] == ["dog", "bird"]

        pd.DataFrame({"path": paths, "label": "dog", "who": "me"}).to_csv(table, index=False)
        content = table.read_bytes()
        answer = client.post("/correct", json={"id": ids[1], "label": HOSTILE[0]})
        assert answer.status_code == 422 and "is not a table of corrections" in answer.json()["detail"]
        assert table.read_bytes() == content


def test_an_image_that_cannot_be_kept_is_answered(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with service_of(run, collect=tmp_path / "collected") as service:
        monkeypatch.setattr(AtomicFile.os, "replace", refuse)
        client = TestClient(Guard(make_api(service)), base_url=HERE)
        (answer,) = client.post("/predict", content=picture()).json()["answers"]
        assert answer["answered"] is True and answer["id"] is None
        assert "--collect: " in caplog.text and "No space left on device" in caplog.text


def test_a_folder_that_holds_another_table_is_not_used(run: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("name,age\nx,1\n")
    with pytest.raises(Exception, match="is not a table of corrections"), service_of(run, collect=tmp_path):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="cannot be written"), service_of(run, collect=tmp_path / "file" / "x"):
        pass


@pytest.fixture(scope="module")
def operations(service: Service) -> dict[str, Any]:
    guard = Guard(make_api(service), Access(frozenset({"testserver"})))
    schema = schemathesis.openapi.from_asgi("/openapi.json", guard)
    return {operation.label: operation for operation in (found.ok() for found in schema.get_all_operations())}


@given(data=st.data())
@settings(max_examples=20, derandomize=True, suppress_health_check=list(HealthCheck))
def test_requests_made_up_from_the_description_get_described_answers(
    operations: dict[str, Any], data: st.DataObject
) -> None:
    """Schemathesis sends what the description allows and what it does not; each answer must be one it describes."""
    operation = operations[data.draw(st.sampled_from(["POST /predict", "POST /correct", "GET /model", "GET /metrics"]))]
    mode = data.draw(st.sampled_from(schemathesis.GenerationMode))
    case = data.draw(operation.as_strategy(generation_mode=mode))
    case.call_and_validate(excluded_checks=[positive_data_acceptance])  # no description says what an image is
