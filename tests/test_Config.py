"""Every setting once: ranges, choices, what wins over what, and the command line made of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from MLPipeline.commands.CommandLine import parse
from MLPipeline.commands.Verbs import VERBS
from MLPipeline.Config import Config, flag_name, read_settings
from MLPipeline.Errors import UsageError
from MLPipeline.Models import all_models

FIELDS = {each.name: each for each in dataclasses.fields(Config)}


def refusal(*argv: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse(argv)
    return str(caught.value)


def test_no_verb_means_train() -> None:
    assert parse([]) == ("train", Config())
    assert parse(["--model", "cnn"]) == parse(["train", "--model", "cnn"]) == ("train", Config(model="cnn"))


def test_flags_arrive_with_their_types() -> None:
    argv = "--lr 0.01 -b 4 --data Pets --seed 18446744073709551615 --follow-links --freeze layer3 -j 2".split()
    wanted = Config(
        lr=0.01, batch_size=4, data=Path("Pets"), seed=2**64 - 1, follow_links=True, freeze="layer3", workers=2
    )
    assert parse(argv) == ("train", wanted)


def test_paths_and_flags_of_predict_mix() -> None:
    verb, config = parse("predict a.jpg --topk 2 b.jpg --json -- -c.jpg --topk".split())
    assert (verb, config.topk, config.json) == ("predict", 2, True)
    assert config.paths == (Path("a.jpg"), Path("b.jpg"), Path("-c.jpg"), Path("--topk"))
    assert parse(["predict"])[1].paths == ()


@pytest.mark.parametrize(
    ("flag", "value", "low", "high"),
    [
        ("--lr", "nan", "1e-12", "100"),
        ("--lr", "inf", "1e-12", "100"),
        ("--lr", "-1", "1e-12", "100"),
        ("--lr", "0", "1e-12", "100"),
        ("--epochs", "0", "1", "100000"),
        ("--batch-size", "0", "1", "65536"),
        ("--batch-size", "-3", "1", "65536"),
        ("--image-size", "7", "8", "4096"),
        ("--image-size", "5000", "8", "4096"),
        ("--seed", "-1", "0", "18446744073709551615"),
        ("--seed", str(2**64), "0", "18446744073709551615"),
        ("--weight-decay", "-0.1", "0", "10"),
        ("--label-smoothing", "1", "0", "0.99"),
        ("--patience", "0", "1", "100000"),
        ("--val-fraction", "0.95", "0", "0.9"),
        ("--workers", "0", "1", "1024"),
    ],
)
def test_a_value_out_of_range_names_flag_and_range(flag: str, value: str, low: str, high: str) -> None:
    message = refusal(flag, value)
    assert message.startswith(f"{flag} ") and message.endswith(f"Give a number from {low} to {high}")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("-b two", "-b/--batch-size: invalid int value: 'two'. python Engine.py --help lists the flags"),
        ("--epochs 1.5", "--epochs: invalid int value: '1.5'. python Engine.py --help lists the flags"),
        ("evaluate --run", "--run: expected one argument. python Engine.py evaluate --help lists the flags"),
        ("--lr -inf", "--lr: expected one argument. python Engine.py --help lists the flags"),
        ("--optimizer adm", "--optimizer adm: not allowed. Did you mean 'adam' or 'adamw'? Choose from: adam, "),
        ("--device gpu", "--device gpu: not allowed. Did you mean 'cpu'? Choose from: auto, cpu, cuda, mps"),
        ("evaluate --split tests", "--split tests: not allowed. Did you mean 'test'? Choose from: test, train, val"),
        ("trian", "trian: no such command. Did you mean 'train'? Choose from: audit, choose, compare, "),
        ("--epoch 3", "--epoch: train has no such flag. Did you mean '--epochs'? Choose from: --augment, "),
        ("--learning-rate=3", "--learning-rate: train has no such flag. "),
        ("--topk 3", "--topk: train has no such flag. It is a flag of predict"),
        ("evaluate --lr 3", "--lr: evaluate has no such flag. It is a flag of train"),
        ("predict a.jpg -b 3", "-b: predict has no such flag. It is a flag of train"),
        ("runs --json", "--json: runs has no such flag. It is a flag of evaluate and predict"),
        ("train Data", "Data: train takes flags only. Did you mean '--data'? Choose from: "),
        ("train -- --lr", "--lr: train has no such flag. "),
    ],
)
def test_a_wrong_word_is_named_with_the_nearest_right_ones(argv: str, message: str) -> None:
    assert refusal(*argv.split()).startswith(message)


def test_something_must_be_left_to_train_on() -> None:
    assert refusal(*"--val-fraction 0.5 --test-fraction 0.5".split()).startswith("--val-fraction and --test-fraction")


def test_what_is_stated_wins_over_the_models_defaults() -> None:
    defaults = {"lr": 0.1, "epochs": 30, "freeze": "none"}
    resolved = Config(lr=0.5, freeze="backbone").resolve(defaults)
    assert (resolved.lr, resolved.epochs, resolved.freeze) == (0.5, 30, "backbone")
    assert Config().resolve(defaults).lr == 0.1


def test_a_default_that_would_never_count_is_a_mistake_of_the_model_file() -> None:
    with pytest.raises(AssertionError, match="a setting has a default of its own"):
        Config().resolve({"patience": 3, "seed": 1})


@pytest.mark.parametrize("model", all_models())
def test_every_models_defaults_leave_nothing_open(model: str) -> None:
    config = Config(model=model).resolve(all_models()[model].defaults)  # checks the ranges too
    opened = {name for name in ("image_size", "epochs", "batch_size", "optimizer", "lr", "freeze")}
    assert {name for name in opened if getattr(config, name) is None} == set()


def test_a_replayed_config_is_equal(tmp_path: Path) -> None:
    config = Config(model="cnn", data=Path("D\udcff"), lr=1e-4, seed=2**64 - 1, patience=3, follow_links=True)
    (tmp_path / "config.json").write_text(config.to_json(), encoding="utf-8")
    _, replayed = parse(["--config", str(tmp_path / "config.json")])
    assert dataclasses.replace(replayed, config=None) == config


def test_flags_win_over_a_replayed_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(Config(lr=0.1, epochs=3, patience=7).to_json(), encoding="utf-8")
    _, config = parse(["--config", str(tmp_path / "config.json"), "--lr", "0.2"])
    assert (config.lr, config.epochs, config.patience) == (0.2, 3, 7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 1}, "unknown setting 'epoch'. Did you mean 'epochs'? Choose from: "),
        ({"paths": "abc"}, "unknown setting 'paths'. "),
        ({"config": "c.json"}, "unknown setting 'config'. "),
        ({"epochs": "3"}, "epochs is '3'. Give a value of type int"),
        ({"epochs": 2.7}, "epochs is 2.7. Give a value of type int"),
        ({"epochs": True}, "epochs is True. Give a value of type int"),
        ({"lr": "fast"}, "lr is 'fast'. Give a value of type float"),
        ({"follow_links": "no"}, "follow_links is 'no'. Give a value of type bool"),
        ({"data": ["a"]}, "data is of type list. "),
        ({"data": "a\0b"}, "data is 'a\\x00b'. Give a text that a file name can have"),
        ({"data": "x" * 10_000}, "data is 'xxx"),
        ('{"data": "\\ud800"}', "data is '\\ud800'. Give a text that a file name can have"),
        ('{"lr": 1' + "0" * 400 + "}", "lr is a huge number. Give a smaller number"),
        ('{"lr": 1' + "0" * 5000 + "}", "cannot be read as settings (Exceeds the limit"),
        ('{"lr": 1e999}', "cannot be read as settings (1e999 is too large a number). "),
        ('{"lr": NaN}', "cannot be read as settings (NaN is not a number in JSON). "),
        ('{"lr": 1, "lr": 2}', "cannot be read as settings (has the name 'lr' twice). "),
        ("[" * 200_000, "cannot be read as settings (nested too deeply). "),
        ('{"a":' * 100_000, "cannot be read as settings (nested too deeply). "),
        (" " * 2_000_000, "cannot be read as settings (larger than 1 MB). "),
        ([1], "contains no settings. "),
        ("{", "cannot be read as settings (Expecting property name"),
        ("", "cannot be read as settings (Expecting value"),
    ],
)
def test_a_config_file_is_not_guessed_at(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    text = refusal("--config", str(path))
    assert text.startswith(f"--config {path}: {message}")


def test_a_config_files_values_meet_the_same_ranges(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"lr": 1e30}')
    assert refusal("--config", str(tmp_path / "c.json")).startswith("--lr 1e+30: out of range")
    assert refusal("--config", str(tmp_path)).startswith(f"--config {tmp_path}: cannot be read")
    assert refusal("--config", str(tmp_path / "none")).startswith(f"--config {tmp_path / 'none'}: cannot be read")


def test_null_means_not_stated(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"lr": null, "output": null, "epochs": null}')
    assert read_settings(tmp_path / "c.json") == {}


SWITCHES = {name for name, each in FIELDS.items() if each.default is False}


@pytest.mark.parametrize("verb", VERBS)
def test_help_lists_every_flag_with_its_text_and_default(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse([verb, "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split("options:")[1].split())  # below the examples
    for name, each in FIELDS.items():
        takes = name in VERBS[verb].settings
        assert each.metadata["help"], name
        if name != "paths":
            assert (f"{flag_name(name)} " in text) == takes, name
        if not takes or name in ("paths", *SWITCHES):
            continue
        if default := VERBS[verb].default_text(each):
            assert f"{each.metadata['help']}{default}" in text
        else:
            assert each.metadata["help"].endswith(")"), f"{name}: no default is shown"
