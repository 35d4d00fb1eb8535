"""``clip-text train classifier`` from a file of texts to a model that classifies."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pictures_data import coloured
from test_classification import TEXTS, labelled
from transformers import AutoModelForSequenceClassification, TrainerCallback

from clip_text import DataError, Encoder
from clip_text.data.labelled_texts import (
    Columns,
    hold_out,
    is_multi_label,
    labels_of,
    read_labelled_texts,
)
from clip_text.training.masked_lm import save_masked_lm
from clip_text.training.masked_models import load_masked_lm
from clip_text.training.trainer import last_checkpoint
from clip_text_cli.train.runs import label_names


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def pairs(texts=TEXTS):
    return zip(texts.texts, texts.labels, strict=True)


@pytest.fixture
def tnews(tmp_path):
    """Sixty-four lines of text<TAB>label."""
    lines = [f"{text}\t{label}\n" for text, (label,) in pairs()]
    return write(tmp_path / "train.tsv", "".join(lines))


@pytest.fixture
def arguments(tnews, tiny_folder, tmp_path):
    return [
        *("train", "classifier", tnews, "--out", tmp_path / "model", "-m", tiny_folder),
        *("--hold-out", 16, "--evaluations", 2, "--epochs", 2, "--batch-size", 16),
    ]


def test_labelled_texts_of_every_form(tmp_path):
    wanted = (['他说"好"', "二，三"], [("a",), ("b",)])
    for name, text in (
        ("a.tsv", '他说"好"\ta\n\n二，三\tb\n'),
        ("b.tsv", 'x\tcategory\tsentence\n1\ta\t"他说""好"""\n2\tb\t二，三\n'),
        ("c.csv", '\ufefflabel,review\na,"他说""好"""\nb,二，三\n'),
        ("d.jsonl", '{"text": "他说\\"好\\"", "label": "a"}\n\n{"text": "二，三", "label": "b"}\n'),
    ):
        found = read_labelled_texts(write(tmp_path / name, text))
        assert (found.texts, found.labels) == wanted, name
        assert found.places[0].endswith(f"{name}, line {1 if name[0] in 'ad' else 2}")
        assert not is_multi_label(Columns(), found)
    several = write(tmp_path / "e.csv", 'q,tags\n一,"a, b"\n二,\n')
    found = read_labelled_texts(several, Columns("q", "tags", ","))
    assert found.labels == [("a", "b"), ()]
    lists = write(tmp_path / "f.jsonl", '{"text": "一", "labels": ["b", "a", "b"]}\n')
    found = read_labelled_texts(lists)
    assert found.labels == [("b", "a")]
    assert is_multi_label(Columns(), found)
    assert labels_of(found, multi_label=True) == ("a", "b")
    numbers = write(
        tmp_path / "g.jsonl", '{"text": "一", "label": 1}\n{"text": "二", "label": "x"}'
    )
    assert read_labelled_texts(numbers, Columns(names=("x", "y"))).labels == [("y",), ("x",)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "好\ta\n \tb\n", r"expected a text in .*a\.tsv, line 2, got an empty one\. Mend"),
        ("a.tsv", "好\ta\n好\n", r"expected text<TAB>label in .*, line 2, got 1 fields\. Drop"),
        ("a.tsv", "好\ta\n好\t\n", r"expected a label in .*a\.tsv, line 2, got none\. Mend"),
        (
            "a.tsv",
            "句子\t标\n好\ta\n好\tb\n好\ta\n好\tb\n",
            r"expected text<TAB>label in .*, line 1, .* looks like a header: '句子', '标'\. Name",
        ),
        (
            "a.csv",
            "id,txt\n1,2\n",
            r"expected one column text or .*, got none among id, txt\. Name",
        ),
        ("a.csv", "text,kind\n1,2\n", r"expected one column label or .*, got none .* by --label"),
        ("a.csv", "text,text,label\n1,2,3\n", r"expected one column text .*, got 2 of that name"),
        ("a.csv", "text,label\n1,2,3\n", r"expected 2 fields in .*, line 2, .*, got 3\. Quote"),
        ("a.csv", 'text,label\n"1,2\n', r"expected a table in .*, got a broken line 2"),
        ("a.csv", "text,label\n", r"expected labelled texts in .*a\.csv, got none\. Check"),
        ("a.jsonl", '{"text": 3, "label": 1}', r"expected a text in .*, line 1, got int\. Mend"),
        ("a.jsonl", '{"text": "a"}', r"expected one column label .*, line 1, got none among text"),
        ("a.jsonl", '{"text": "a", "label": 1.5}', r"expected a word or a number .*, got float"),
        ("a.jsonl", "[]", r"expected a JSON object in .*, line 1"),
        ("a.txt", "a", r"expected a \.jsonl, \.csv or \.tsv file of labelled texts, got .*a\.txt"),
    ],
)
def test_broken_texts_are_refused(name, text, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_labelled_texts(write(tmp_path / name, text))


def test_names_of_labels_from_a_file_as_windows_writes_it(tmp_path):
    for codec in ("utf-8-sig", "utf-16", "gbk"):
        (tmp_path / "names.txt").write_bytes("好评\r\n\r\n差评 \r\n".encode(codec))
        assert label_names(tmp_path / "names.txt") == ("好评", "差评")
    assert label_names(None) == ()
    (tmp_path / "names.txt").write_text("\n")
    with pytest.raises(DataError, match=r"names of labels in .*names\.txt, got none"):
        label_names(tmp_path / "names.txt")


@pytest.mark.parametrize("task", ["classifier", "ner", "qa", "mlm", "distill"])
def test_data_that_are_not_there(task, run, tmp_path):
    options = ["--from", "en", "--to", "zh"] if task == "distill" else []
    path = tmp_path / "none.jsonl"
    code, out, err = run("train", task, path, "--out", tmp_path / "out", *options)
    assert (code, out) == (1, "")
    assert f"at {path}" in err
    assert "Errno" not in err
    assert not (tmp_path / "out").exists()


def test_labels_out_of_range_are_refused(tmp_path):
    names = Columns(names=("x", "y"))
    for label in ("2", "-1", "z"):
        file = write(tmp_path / "a.csv", f"text,label\n好,1\n好,{label}\n")
        message = rf"position from 0 to 1 in .*a\.csv, line 3, got '{label}'\. Mend"
        with pytest.raises(DataError, match=message):
            read_labelled_texts(file, names)


def test_the_hold_out_is_fixed():
    learnt, held = hold_out(TEXTS, 16)
    assert (len(learnt), len(held)) == (48, 16)
    assert sorted(learnt.places + held.places) == sorted(TEXTS.places)
    assert hold_out(TEXTS, 16)[1] == held
    assert hold_out(TEXTS, 16, seed=1)[1] != held
    for number in (0, 64):
        with pytest.raises(DataError, match="expected to hold out between 1 and 63"):
            hold_out(TEXTS, number)


def test_the_command(arguments, run, tmp_path):
    more = ["--train", "copy", "--pooler", "cls", "--export", tmp_path / "plain"]
    code, stdout, stderr = run(*arguments, *more, "--json")
    assert code == 0, stderr
    report = json.loads(stdout)
    assert (report["texts"], report["validation_texts"]) == (48, 16)
    assert {one["label"] for one in report["classes"]} == {"动物", "植物"}
    assert {"accuracy", "macro_f1", "ece_before", "ece_after", "temperature"} <= report.keys()
    assert stderr.count("macro F1") == 2
    encoder = Encoder.from_pretrained(tmp_path / "model", device="cpu")
    assert encoder.classify(["红色的狗"])[0].label in ("动物", "植物")
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain").num_labels == 2
    assert json.loads((tmp_path / "model.run" / "classifier" / "report.json").read_text()) == report
    pytest.importorskip("matplotlib")
    assert (tmp_path / "model.run" / "classifier" / "confusion.png").stat().st_size > 5000


def test_the_command_in_words_with_a_validation_file_and_several_labels(arguments, run, tmp_path):
    lines = [
        json.dumps({"text": text, "labels": labels})
        for text, labels in pairs(labelled(several=True))
    ]
    data = write(tmp_path / "data.jsonl", "\n".join(lines))
    arguments[2] = data
    code, stdout, stderr = run(*arguments, "--val", data, "--balanced", "--name", "种类")
    assert code == 0, stderr
    assert "on 64 texts, learnt from 64" in stdout
    assert "红" in stdout
    assert "at temperature" in stdout
    assert "confusion" not in stdout
    assert list(Encoder.from_pretrained(tmp_path / "model", device="cpu").heads) == ["种类"]


def test_the_command_copies_another_backbone(arguments, run, tiny_folder, tmp_path):
    """Longer than the model reads, of a plain encoder as masked LM leaves it, or of no weights."""
    model, tokenizer, _ = load_masked_lm(tiny_folder)
    save_masked_lm(model, tokenizer, tmp_path / "mlm")
    given = [*arguments, "--train", "copy", "--context-length", 48]
    code, _, err = run(*given, "--start", tmp_path / "mlm", "--json")
    assert code == 0, err
    head = Encoder.from_pretrained(tmp_path / "model").heads["classifier"]
    assert head.tower.context_length == 48
    # another run is not taken for this one
    for option in (["--random"], []):
        assert run(*given, *option)[0] == 0
        other = Encoder.from_pretrained(tmp_path / "model").heads["classifier"]
        name = "encoder.layer.0.output.dense.weight"
        alike = [one.tower.transformer.state_dict()[name] for one in (head, other)]
        assert torch.equal(*alike) == (not option)  # without option the same backbone again
    for options, message in (
        (["--train", "copy", "--context-length", 65], "at most 64"),
        (["--train", "copy", "--start", "starter"], "vocabulary"),
    ):
        code, _, err = run(*arguments, *options)
        assert code == 1
        assert message in err
    code, _, err = run(*arguments, "--random")
    assert code == 2
    assert "--train copy only" in err


def test_the_command_joint_on_pictures(arguments, run, tmp_path):
    pictures = coloured(tmp_path, "train", 2, 0)
    code, stdout, stderr = run(*arguments, "--train", "joint", "--pictures", pictures)
    assert code == 0, stderr
    assert "t2i_recall@10 100.00% before" in stdout  # among one picture of twelve
    code, _, stderr = run(*arguments, "--pictures", pictures)
    assert code == 2
    assert "expected pictures for --train joint only" in stderr


class _Cut(TrainerCallback):
    """Ends the process, as it were, in the middle of a run."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 8:
            raise KeyboardInterrupt


@pytest.mark.parametrize("train", ["head", "copy", "joint"])
def test_a_resumed_run_equals_an_uninterrupted_one(train, tiny_folder, tmp_path):
    from test_classification import CONFIG, LESSONS, recipe

    from clip_text.checkpoints import load_checkpoint
    from clip_text.training import Listener, train_classifier

    few = recipe(train, epochs=4, evaluations=5)  # saves amid epochs, too

    def trained(name, *callbacks):
        return train_classifier(
            load_checkpoint(tiny_folder),
            LESSONS,
            few,
            tmp_path / name,
            listener=Listener(callbacks=callbacks),
            config=CONFIG,
        )

    whole = trained("whole")
    with pytest.raises(KeyboardInterrupt):
        trained("cut", _Cut())
    assert last_checkpoint(tmp_path / "cut" / train).endswith("checkpoint-6")
    resumed = trained("cut")
    torch.testing.assert_close(
        torch.from_numpy(resumed.logits), torch.from_numpy(whole.logits), atol=1e-6, rtol=1e-6
    )
    for name, each in whole.head.state_dict().items():
        torch.testing.assert_close(resumed.head.state_dict()[name], each, atol=1e-6, rtol=1e-6)
    again = trained("cut", _Cut())  # finished before: no step is taken
    assert (again.logits == resumed.logits).all()


def test_training_stops_early(tiny_folder, tmp_path):
    from test_classification import CONFIG, LESSONS, recipe

    from clip_text.checkpoints import load_checkpoint
    from clip_text.training import train_classifier
    from clip_text.training.callbacks import METRICS, read_metrics

    # nothing rises at so small a rate
    idle = recipe("head", learning_rate=1e-9, patience=2, evaluations=20)
    train_classifier(load_checkpoint(tiny_folder), LESSONS, idle, tmp_path, config=CONFIG)
    lines = read_metrics(tmp_path / "head" / METRICS)
    assert sum("eval_accuracy" in line for line in lines) == 3


def test_the_command_says_what_is_wrong(arguments, run, tmp_path):
    other = write(tmp_path / "val.tsv", "狗\t动物\n石\t石头\n")
    one = write(tmp_path / "one.tsv", "狗\t动物\n猫\t动物\n")
    for more, wrong in [
        (["--val", other], f"{other}, line 2, got '石头'. Add texts of it"),
        (["--export", tmp_path / "plain"], "got pooler mean on bert. Train the head with --pooler"),
        (["--text", "文"], "expected one column 文 in the header of"),
        (["--hold-out", 64], "expected to hold out between 1 and 63"),
        (["--confusion", tmp_path / "a.bmp"], "expected a picture's name that ends in"),
        (["--name", "a/b"], "expected a head's name"),
    ]:
        code, stdout, stderr = run(*arguments, *more)
        assert (code, stdout) == (1, "")
        assert wrong in stderr.replace("\n", " ")
    arguments[2] = one
    code, _, stderr = run(*arguments)
    assert code == 1
    assert "expected texts of at least two classes, got 1: 动物. Add" in stderr
    assert not (tmp_path / "model").exists()


def test_help_by_path_without_torch():
    script = Path(__file__).parents[1] / "scripts" / "train_classifier.py"
    done = subprocess.run([sys.executable, script, "--help"], check=True, capture_output=True)
    assert "clip-text train classifier reviews.csv" in done.stdout.decode()
    code = "import sys; import clip_text_cli.train; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=script.parents[1], check=True)
