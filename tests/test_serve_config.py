"""What ``clip-text serve`` is told: options over variables over a file, and what is wrong."""

import os
import pickle
import re
import tomllib
from pathlib import Path

import pytest
from fakes import FakeEncoder, save_picture
from typer.main import get_command

from clip_text_cli import serving, wiring
from clip_text_cli.main import app
from clip_text_cli.serve_config import ConfigError, ServeConfig, read_config
from retrieval.errors import RetrievalError
from retrieval.ingest import index_folder
from retrieval.search import Searcher
from retrieval.service.settings import Settings


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in os.environ:
        if name.startswith("CLIP_TEXT_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text(
        'port = 7000\nbatch = 8\nwaiting = 9\nproxies = ["10.0.0.1"]\n'
        '[index]\nphotos = "photos.index"\ncards = "/srv/cards.index"\n'
        '[models]\ncards = "./cards-model"\n',
        encoding="utf-8",
    )
    return path


def test_options_count_before_variables_and_these_before_the_file(file, monkeypatch):
    monkeypatch.setenv("CLIP_TEXT_SERVE_PORT", "7001")
    monkeypatch.setenv("CLIP_TEXT_SERVE_BATCH", "16")
    sourced = read_config({"port": 7002}, file)
    config = sourced.config
    assert (config.port, config.batch, config.waiting, config.workers) == (7002, 16, 9, 1)
    assert sourced.sources["port"] == "option"
    assert sourced.sources["batch"] == "CLIP_TEXT_SERVE_BATCH"
    assert sourced.sources["waiting"] == str(file)
    assert "workers" not in sourced.sources
    assert config.settings() == Settings(batch=16, waiting=9)
    assert pickle.loads(pickle.dumps(config)) == config


def test_paths_of_the_file_are_its_own_and_indexes_have_models(file):
    config = read_config({}, file).config
    assert [str(each) for each in config.index.values()] == [
        str(file.parent / "photos.index"),
        "/srv/cards.index",
    ]
    assert [config.model_of(name) for name in config.index] == ["starter", "./cards-model"]


@pytest.mark.parametrize(
    "said", ['"photos=a.index,cards=/b.index"', '["photos=a.index", "cards=/b.index"]']
)
def test_indexes_and_roots_of_a_file_may_be_written_as_elsewhere(said, tmp_path):
    file = tmp_path / "serve.toml"
    file.write_text(f'index = {said}\nroots = "p, /q"\n', encoding="utf-8")
    config = read_config({}, file).config
    assert config.index == {"photos": tmp_path / "a.index", "cards": Path("/b.index")}
    assert config.roots == (tmp_path / "p", Path("/q"))
    file.write_text('index = "a.index"\n', encoding="utf-8")
    assert read_config({}, file).config.index == {"default": tmp_path / "a.index"}


def test_what_is_shown_is_a_file_that_says_the_same(file, tmp_path, run):
    code, out, err = run("serve", "--config", file, "--set", "timeout-s=4", "--show-config")
    assert (code, err) == (0, "")
    again = tmp_path / "again.toml"
    again.write_text(out, encoding="utf-8")
    options = {"timeout_s": "4"}
    assert read_config({}, again).config == read_config(options, file).config
    assert re.search(r"^timeout_s = 4\.0 {2}# option$", out, re.MULTILINE)
    assert re.search(rf"^port = 7000 {{2}}# {re.escape(str(file))}$", out, re.MULTILINE)
    assert re.search(r"^workers = 1 {2}# default$", out, re.MULTILINE)
    assert len(out.splitlines()) == len(ServeConfig.model_fields)
    tomllib.loads(out)


@pytest.mark.parametrize(
    ("said", "index"),
    [
        ("a.index", {"default": "a.index"}),
        ("photos=a.index, cards=b.index", {"photos": "a.index", "cards": "b.index"}),
        ('{"photos": "a.index"}', {"photos": "a.index"}),
        ("/data/year=2024/index", {"default": "/data/year=2024/index"}),
        (["x=a=b", "y=c"], {"x": "a=b", "y": "c"}),
    ],
)
def test_ways_to_name_indexes(said, index, monkeypatch):
    config = read_config({"index": said}, None).config
    assert {name: str(folder) for name, folder in config.index.items()} == index
    if isinstance(said, str):
        monkeypatch.setenv("CLIP_TEXT_SERVE_INDEX", said)
        assert read_config({}, None).config == config


def test_what_a_shell_says_to_all_commands_counts_after_the_services_own(monkeypatch, file):
    monkeypatch.setenv("CLIP_TEXT_MODEL", "general")
    assert read_config({}, None).config.model == "general"
    assert read_config({}, file).sources["model"] == "CLIP_TEXT_MODEL"
    monkeypatch.setenv("CLIP_TEXT_SERVE_MODEL", "own")
    assert read_config({}, None).config.model == "own"
    monkeypatch.setenv("CLIP_TEXT_SERVE_MODEL", "")  # as a compose file leaves it
    again = read_config({}, None)
    assert (again.config.model, again.sources["model"]) == ("general", "CLIP_TEXT_MODEL")


@pytest.mark.parametrize("variable", ["CLIP_TEXT_SERVE_PROXIES", "clip_text_serve_proxies"])
def test_lists_are_written_with_commas(variable, monkeypatch):
    monkeypatch.setenv(variable, "10.0.0.1, 10.0.0.2")
    sourced = read_config({}, None)
    assert sourced.config.proxies == ("10.0.0.1", "10.0.0.2")
    assert sourced.sources["proxies"] == variable


WRONG = [
    ({"port": "many"}, None, r"expected port to be a valid integer.*, got 'many' \(option\)\."),
    ({"batch": "0"}, None, r"expected batch to be greater than or equal to 1, got '0' \(option\)"),
    ({"prot": "1"}, None, r"expected names that the service knows in --set, got prot\."),
    ({"index": ["a", "b"]}, None, r"expected index to be of different names"),
    ({"models": "cards=m"}, None, r"got one of 'cards' \(option\)"),
    ({"proxies": "[1"}, None, r"expected proxies to be JSON, or written with commas"),
    ({"root_path": "pictures/"}, None, r"expected root_path to match pattern"),
    ({}, 'port = "x"\n', r"got 'x' \(.*serve\.toml\)\."),
    ({}, "prot = 1\n", r"expected names that the service knows in .*serve\.toml, got prot\."),
    ({}, "port = \n", r"expected a file in TOML, got .*serve\.toml, which is none: "),
    ({}, "index = {}\n", r"expected index to have at least 1 item.* \(.*serve\.toml\)\."),
]


@pytest.mark.parametrize(("options", "text", "told"), WRONG, ids=lambda each: str(each)[:30])
def test_what_is_wrong_is_told_with_its_source(options, text, told, tmp_path):
    file = None
    if text is not None:
        file = tmp_path / "serve.toml"
        file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=told) as raised:
        read_config(options, file)
    assert "\n" not in str(raised.value)


def test_an_unknown_variable_is_told_and_a_bad_one_is_one_line(run, monkeypatch):
    monkeypatch.setenv("CLIP_TEXT_SERVE_PROT", "1")
    code, out, err = run("serve", "--show-config")
    assert (code, out) == (1, "")
    assert err.startswith("error: expected names that the service knows in the environment, got ")
    assert "CLIP_TEXT_SERVE_PROT" in err
    monkeypatch.delenv("CLIP_TEXT_SERVE_PROT")
    monkeypatch.setenv("CLIP_TEXT_SERVE_PORT", "x")
    code, out, err = run("serve")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "(CLIP_TEXT_SERVE_PORT)" in err


def test_a_file_that_is_not_there_and_a_word_without_a_value(run, tmp_path, monkeypatch):
    code, _, err = run("serve", "--config", tmp_path / "none.toml")
    assert (code, err.count("\n")) == (1, 1)
    assert "none.toml, which is none. Name another: --config." in err
    monkeypatch.setenv("CLIP_TEXT_SERVE_CONFIG", str(tmp_path / "other.toml"))
    assert "other.toml" in run("serve")[2]
    monkeypatch.delenv("CLIP_TEXT_SERVE_CONFIG")
    code, _, err = run("serve", "--set", "waiting")
    assert code == 2
    assert "NAME=VALUE" in err


def test_options_are_names_of_the_configuration():
    """Those that the service learns of elsewhere are options that are not known until it has."""
    command = get_command(app).commands["serve"]
    names = {each.name for each in command.params} - {"settings", "config", "show_config"}
    learnt = {"keys", "allowed_hosts", "roots", "log"}
    assert names - set(ServeConfig.model_fields) <= learnt
    assert {"index", "host", "port", "workers", "model", "runtime", "root_path"} <= names


def test_an_opener_reads_the_file_anew_and_closes_what_it_opened_if_the_rest_cannot_be(
    tmp_path, monkeypatch
):
    save_picture(tmp_path / "p" / "0.png", seed=1)
    index_folder(tmp_path / "p", tmp_path / "a.index", FakeEncoder())
    loaded, closed, close = [], [], Searcher.close
    monkeypatch.setattr(
        wiring, "load_encoder", lambda model, **_: loaded.append(model) or FakeEncoder()
    )
    monkeypatch.setattr(wiring, "query_classifier", lambda encoder, head: None)
    monkeypatch.setattr(wiring, "query_runtime", lambda encoder, head: "fake")
    monkeypatch.setattr(Searcher, "close", lambda self: (closed.append(1), close(self)))
    file = tmp_path / "serve.toml"
    file.write_text('model = "old"\nindex = {a = "a.index", b = "a.index"}\n', encoding="utf-8")
    opener = pickle.loads(pickle.dumps(serving.Opener({"port": 1}, file)))
    served = opener()
    assert loaded == ["old"], "a model that two indexes have is loaded once"
    assert [(each.name, each.runtime, len(each.searcher)) for each in served] == [
        ("a", "fake", 1),
        ("b", "fake", 1),
    ]
    for each in served:
        each.searcher.close()
    closed.clear()
    file.write_text('model = "new"\nindex = {a = "a.index", b = "none"}\n', encoding="utf-8")
    with pytest.raises(RetrievalError, match="none"):
        opener()
    assert (loaded[1:], closed) == (["new"], [1])
