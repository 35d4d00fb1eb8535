"""The protocol of runs: one stamp, one end, one report; and what training functions refuse."""

import pytest
import torch
from torch import nn
from transformers import TrainerState

from clip_text import training
from clip_text.data.labelled_texts import LabelledTexts
from clip_text.errors import ClipTextError
from clip_text.training import EntityRecipe, LabelData, MaskedLMRecipe, TextData
from clip_text.training.launching import WAIT, longest_wait, restart_warning
from clip_text.training.recipe import RecipeError
from clip_text.training.runs import SETTINGS, Run, check_export
from clip_text.training.trainer import join_processes


def trained(model, value, steps=3):
    """What trains a layer: sets its weights."""

    def train():
        nn.init.constant_(model.weight, value)
        return TrainerState(global_step=steps, best_model_checkpoint="run/checkpoint-2")

    return train


def layer():
    return nn.Linear(2, 2, bias=False)


def test_the_same_run_loads_its_end(tmp_path):
    run, first, second = Run(tmp_path / "run", {"seed": 1}), layer(), layer()
    course = run.fit(first, trained(first, 5.0))
    assert (course.steps, course.best_step, course.finished_before) == (3, 2, False)
    again = Run(tmp_path / "run", {"seed": 1}).fit(second, trained(second, 7.0))
    assert again.finished_before
    assert again.figures() == course.figures()
    assert torch.equal(second.weight, torch.full((2, 2), 5.0))
    assert run.report() is None
    run.write_report({"f1": 0.5, "place": "好"})
    assert run.report() == {"f1": 0.5, "place": "好"}


def test_a_run_without_its_end_goes_on(tmp_path):
    run, model = Run(tmp_path, {"seed": 1}), layer()

    def cut():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.fit(model, cut)
    (tmp_path / "checkpoint-1").mkdir()  # ours: the settings say so
    assert not Run(tmp_path, {"seed": 1}).fit(model, trained(model, 1.0)).finished_before


def test_another_run_is_refused_or_takes_the_folder(tmp_path):
    model = layer()
    Run(tmp_path, {"seed": 1, "epochs": 2}).fit(model, trained(model, 1.0))
    with pytest.raises(ClipTextError, match=r"got another epochs, rate\. Name another folder"):
        Run(tmp_path, {"seed": 1, "epochs": 3, "rate": 0.1}).begin()
    other = Run(tmp_path, {"seed": 1, "epochs": 3}, anew=True)
    assert not other.fit(model, trained(model, 2.0)).finished_before
    assert Run(tmp_path, {"seed": 1, "epochs": 3}).fit(model, trained(model, 3.0)).finished_before
    assert torch.equal(model.weight, torch.full((2, 2), 2.0))


@pytest.mark.parametrize("name", ["made-by.txt", "checkpoint-7", "finished.safetensors"])
def test_what_an_earlier_version_left_is_not_mixed_in(name, tmp_path):
    (tmp_path / name).mkdir()
    for anew in (False, True):
        with pytest.raises(FileExistsError, match=rf"earlier run of this version.*{name}"):
            Run(tmp_path, {}, anew).begin()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_with_other_things_may_hold_a_run_but_is_never_emptied(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt lies there"):
        Run(tmp_path, {}, anew=True).begin()
    Run(tmp_path, {}).begin()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_export_is_new_or_of_the_same_run(tmp_path):
    check_export(None, tmp_path)
    check_export(tmp_path / "new", tmp_path)
    with pytest.raises(FileExistsError, match="expected a new folder"):
        check_export(tmp_path, tmp_path)
    Run(tmp_path, {}).write_report({})
    check_export(tmp_path, tmp_path)


@pytest.mark.parametrize("name", [each for each in training.__all__ if each.startswith("train_")])
def test_data_and_recipes_of_another_training_are_refused(name, tmp_path):
    labels = LabelData(LabelledTexts([], [], []), LabelledTexts([], [], []))
    data = TextData(["x"]) if name == "train_classifier" else labels
    recipe = EntityRecipe() if name != "train_entities" else MaskedLMRecipe()
    function = getattr(training, name)
    with pytest.raises(TypeError, match=r"expected data to be of \w+Data, got \w+Data\. Import"):
        function("starter", data, recipe, tmp_path / "run")
    with pytest.raises(TypeError, match=r"expected (data|recipe) to be of \w+, got str\. Import"):
        function("starter", "file.csv", "fast", tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_started(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("狗")
    with pytest.raises(
        RecipeError, match=r"expected a size .*, got 'starter'\. A model has its own"
    ):
        training.train_masked_lm(
            "starter", TextData([text]), MaskedLMRecipe(), tmp_path / "run", tokenizer=tmp_path
        )
    with pytest.raises(AttributeError, match=r"expected one of AnswerData, .*, got 'train_all'"):
        _ = training.train_all


class Second:
    """Another host's process: the first one's comes to the barrier when this one does."""

    num_processes, is_main_process, device = 2, False, torch.device("cpu")

    def __init__(self, first=lambda: None):
        self.wait_for_everyone = first


@pytest.fixture
def alone(monkeypatch):
    """Numbers of all processes are those of this one."""
    monkeypatch.setattr("clip_text.training.runs.largest", lambda number, device: number)
    monkeypatch.setattr("clip_text.training.runs.SEEN_WITHIN", 0.3)


def test_hosts_with_one_folder_and_one_question_go_on(tmp_path, alone):
    first = Run(tmp_path / "run", {"data": "a", "seed": 1})
    Run(tmp_path / "run", {"seed": 1, "data": "a"}, processes=Second(first.begin)).begin()


def test_a_host_that_sees_another_folder_is_refused(tmp_path, alone):
    first = Run(tmp_path / "first", {"seed": 1})
    second = Run(tmp_path / "second", {"seed": 1}, processes=Second(first.begin))
    with pytest.raises(ClipTextError, match="expected one folder of the run in all 2 processes"):
        second.begin()


def test_a_host_that_is_asked_for_something_else_is_refused(tmp_path, alone):
    first = Run(tmp_path / "run", {"data": "a"})
    second = Run(tmp_path / "run", {"data": "b"}, processes=Second(first.begin))
    with pytest.raises(ClipTextError, match="all 2 processes to be asked for the same run"):
        second.begin()


def test_a_host_to_which_files_come_late_waits_for_them(tmp_path, alone, monkeypatch):
    first, waited = Run(tmp_path / "run", {"seed": 1}), []

    def sleep(seconds):
        waited.append(seconds)
        first.begin()

    monkeypatch.setattr("clip_text.training.runs.time.sleep", sleep)
    Run(tmp_path / "run", {"seed": 1}, processes=Second()).begin()
    assert len(waited) == 1
    assert (tmp_path / "run" / SETTINGS).exists()


@pytest.mark.parametrize("name", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_launchers_that_divide_weights_are_refused(name, monkeypatch):
    monkeypatch.setenv(name, "true")
    with pytest.raises(ClipTextError, match=f"whole weights, got {name}=true"):
        join_processes()


def test_processes_wait_a_week_or_as_long_as_is_said(monkeypatch):
    monkeypatch.delenv(WAIT, raising=False)
    assert longest_wait().days == 7
    monkeypatch.setenv(WAIT, "1.5")
    assert longest_wait().total_seconds() == 5400
    for wrong in ("0", "-1", "nan", "soon", "inf"):
        monkeypatch.setenv(WAIT, wrong)
        with pytest.raises(ClipTextError, match=f"hours above 0 in {WAIT}, got '{wrong}'"):
            join_processes()


def test_a_launch_whose_restarts_may_hang_is_told(monkeypatch):
    launch = {
        "GROUP_WORLD_SIZE": "2",
        "TORCHELASTIC_MAX_RESTARTS": "3",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    for name, value in launch.items():
        monkeypatch.setenv(name, value)
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in restart_warning()
    others = {"GROUP_WORLD_SIZE": "1", "TORCHELASTIC_MAX_RESTARTS": "0"}
    for name, value in (others | {"TORCHELASTIC_USE_AGENT_STORE": "False"}).items():
        with monkeypatch.context() as once:
            once.setenv(name, value)
            assert restart_warning() is None
