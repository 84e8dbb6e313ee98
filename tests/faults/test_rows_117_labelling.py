"""Rows 117 to 119 of the fault matrix: what must not cost a label, and what people type and move while they label."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from MLPipeline.labelling.LabelPage import label_api
from MLPipeline.labelling.Session import Session
from MLPipeline.serve.Guard import Guard
from tests.support.label_cases import CLASSES, class_of, draw_photographs, labelling
from tests.support.paths import ROOT
from tests.support.served_model import HOSTILE


def client_of(session: Session) -> TestClient:
    return TestClient(Guard(label_api(session, "photos", "")), base_url="http://127.0.0.1")


def post(client: TestClient, path: str, **body: object) -> dict:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def label_some(client: TestClient, page: str, number: int, name: str = "") -> list[str]:
    """Label the next pictures as `name`, or correctly; return their names."""
    names = []
    for _ in range(number):
        (picture,) = post(client, "/next", page=page, number=1)["pictures"]
        shown = [{"number": picture["number"], "stamp": picture["stamp"]}]
        post(client, "/label", page=page, name=name or class_of(picture["name"]), pictures=shown)
        names.append(picture["name"])
    return names


def labels_in(file: Path) -> dict[str, str]:
    return dict(row.split(",")[:2] for row in file.read_text(encoding="utf-8").splitlines()[1:])


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_117_a_killed_labelling_loses_no_label(tmp_path: Path) -> None:
    """A labelling killed by SIGKILL: all labels that the page has confirmed are in labels.csv; opening it goes on."""
    folder, output = draw_photographs(tmp_path / "photos", 12), tmp_path / "output"
    command = [sys.executable, "Engine.py", "label", str(folder), "--port", "0", "--output", str(output)]
    labelled: dict[str, str] = {}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            lines = [process.stdout.readline() for _ in range(4)]
            address = lines[-1].split()[1]

            def post(path: str, **body: object) -> dict:
                request = urllib.request.Request(address + path, json.dumps(body).encode(), method="POST")
                request.add_header("Content-Type", "application/json")
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)

            post("classes", names=CLASSES)
            for picture in post("next", page="0" * 16, number=9)["pictures"]:
                shown = [{"number": picture["number"], "stamp": picture["stamp"]}]
                labelled[picture["name"]] = class_of(picture["name"])
                post("label", page="0" * 16, name=labelled[picture["name"]], pictures=shown)
            process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
    file = output / "labels" / "photos" / "labels.csv"
    assert len(labelled) == 9 and labels_in(file) == labelled
    with labelling(folder, file) as session:
        assert session.classes == CLASSES and session.progress().line.startswith("9 of 12 labelled")


def test_117_two_browsers_at_once_lose_no_label(tmp_path: Path) -> None:
    """Two browsers that label at once: they get different pictures, and the labels of both are in labels.csv."""
    file = tmp_path / "labels.csv"
    with labelling(draw_photographs(tmp_path / "photos", 60), file) as session:
        client = client_of(session)
        post(client, "/classes", names=CLASSES)
        with ThreadPoolExecutor(2) as threads:
            one, other = threads.map(lambda page: label_some(client, page * 16, 25), "ab")
    assert len({*one, *other}) == 50
    assert labels_in(file) == {name: class_of(name) for name in one + other}


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_117_a_full_disk_is_said_on_the_page_and_loses_no_label(tmp_path: Path) -> None:
    """A disk that is full: the page says so, the labels stay in memory, and are written as soon as there is room."""
    file = tmp_path / "labels.csv"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with labelling(draw_photographs(tmp_path / "photos", 20), file) as session:
        client = client_of(session)
        post(client, "/classes", names=CLASSES)
        first = label_some(client, "a" * 16, 2)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 3, hard))
            rest = label_some(client, "a" * 16, 3)
            progress = client.get("/progress").json()["progress"]
            assert "labels.csv: cannot be written (" in progress["problem"]
            assert progress["line"].startswith("5 of 20 labelled")
            assert set(labels_in(file)) == set(first), "no half-written row"
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert client.get("/progress").json()["progress"]["problem"] == ""
        assert set(labels_in(file)) == {*first, *rest}


def test_118_a_picture_that_is_removed_or_changed_meanwhile_is_passed_over_and_said(tmp_path: Path) -> None:
    """A picture removed while it is shown gets no label and is noted; a changed one is shown again as it is now."""
    folder = draw_photographs(tmp_path / "photos", 10)
    with labelling(folder, tmp_path / "labels.csv") as session:
        client = client_of(session)
        post(client, "/classes", names=CLASSES)
        removed, changed = post(client, "/next", page="a" * 16, number=2)["pictures"]
        (folder / removed["name"]).unlink()
        os.utime(folder / changed["name"], (1, 1))
        for picture, what in ((removed, "the file is gone"), (changed, "the file has changed, and is shown again")):
            shown = [{"number": picture["number"], "stamp": picture["stamp"]}]
            outcome = post(client, "/label", page="a" * 16, name="cat", pictures=shown)
            assert outcome["message"] == f"{picture['name']}: {what}" == outcome["progress"]["notes"][-1]
            assert client.get(f"/photo/{picture['number']}?stamp={picture['stamp']}").status_code == 410
        assert not session.file.labels
        following = post(client, "/next", page="a" * 16, number=10)["pictures"]
        assert following[0]["name"] == changed["name"] and following[0]["stamp"] != changed["stamp"]
        assert len(following) == 9 and removed["name"] not in [picture["name"] for picture in following]


def test_118_labels_of_pictures_that_are_gone_do_not_stop_the_training(tmp_path: Path) -> None:
    """A labelled picture that is removed: labels.csv has no row that the training would refuse; its label is kept."""
    folder, file = draw_photographs(tmp_path / "photos", 12), tmp_path / "labels.csv"
    with labelling(folder, file) as session:
        post(client_of(session), "/classes", names=CLASSES)
        gone, *rest = label_some(client_of(session), "a" * 16, 6)
    content = (folder / gone).read_bytes()
    (folder / gone).unlink()
    with labelling(folder, file, with_features=False) as session:
        assert session.notes[-1] == f"1 labelled picture is gone, such as {gone}: its label is kept"
    assert set(labels_in(file)) == set(rest)
    (folder / gone).write_bytes(content)
    with labelling(folder, file, with_features=False):
        assert labels_in(file)[gone] == class_of(gone)


def test_119_hostile_names_of_classes_stay_text_in_the_page_and_in_the_table(tmp_path: Path) -> None:
    """Class names with markup, formulas and escapes: text on the page, safe in the table, the same when read again."""
    names = [name.encode("utf-8", "backslashreplace").decode().replace("\n", " ") for name in HOSTILE]
    file = tmp_path / "labels.csv"
    with labelling(draw_photographs(tmp_path / "photos", 20), file) as session:
        client = client_of(session)
        assert post(client, "/classes", names=names)["classes"] == names
        for name in names:
            label_some(client, "a" * 16, 1, name)
        assert not any(name in client.get("/").text for name in names if "<" in name)
    cells = file.read_text(encoding="utf-8")
    assert ",'=cmd|" in cells, "no spreadsheet runs it"
    with labelling(tmp_path / "photos", file) as session:
        assert session.classes == tuple(names)
        assert sorted(label.name for label in session.file.labels.values()) == sorted(names)


def test_119_five_hundred_classes_and_one_class_are_labelled_too(tmp_path: Path) -> None:
    """500 classes can be typed and labelled; with only one, labelling works and no accuracy is stated."""
    folder = draw_photographs(tmp_path / "photos", 40)
    with labelling(folder, tmp_path / "many.csv") as session:
        client, names = client_of(session), [f"class {number}" for number in range(500)]
        assert len(post(client, "/classes", names=names)["classes"]) == 500
        for name in names[:10]:
            label_some(client, "a" * 16, 1, name)
        session.learn()
        assert len(post(client, "/next", page="a" * 16, number=1)["pictures"][0]["proposals"]) == 3
    with labelling(folder, tmp_path / "one.csv") as session:
        client = client_of(session)
        post(client, "/classes", names=["cat"])
        label_some(client, "a" * 16, 10, "cat")
        session.learn()
        assert client.get("/progress").json()["progress"]["line"] == "10 of 40 labelled · accuracy not known yet"
