"""Answers: the reader, windows, decoding, threshold, training, files and the command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from models import BACKBONES, CLS, SEP, backbone, shared_checkpoint, tiny_tokenizer
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, BertForQuestionAnswering

from clip_text import Encoder
from clip_text.checkpoints import load_answers, save_checkpoint
from clip_text.checkpoints.heads import export_head, save_heads
from clip_text.data.questions import Question, read_questions
from clip_text.errors import CheckpointError, DataError
from clip_text.heads.answers import Answer, AnswerFinder, AnswerHead, best_spans
from clip_text.heads.pair_frame import PairFrame
from clip_text.heads.standalone import bare_tower
from clip_text.training.heads_answers import (
    answer_lessons,
    answer_trainer,
    fit_threshold,
    token_span,
)
from clip_text.training.heads_tokens import HeadRecipe


def finder(kind="bert", context_length=16, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = AnswerHead(bare_tower(backbone(kind), context_length), 2)
    head.out.weight.data *= 20  # so that untrained logits differ
    return AnswerFinder(head.eval(), tiny_tokenizer(context_length), **changes)


def asked(question, passage, *answers):
    starts = tuple(passage.find(answer) for answer in answers)
    return Question(question, passage, answers, starts, "here")


def squad(path, *questions):
    paragraphs = [
        {
            "context": passage,
            "qas": [
                {
                    "id": f"Q{at}",
                    "question": question,
                    "answers": [{"text": text, "answer_start": start} for text, start in answers],
                }
            ],
        }
        for at, (question, passage, *answers) in enumerate(questions)
    ]
    raw = {"version": "v", "data": [{"paragraphs": paragraphs}]}
    path.write_text(json.dumps(raw, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def test_the_readers_questions(tmp_path):
    path = squad(tmp_path / "a.json", ("狗在", "狗在天上", ("天上", 2), ("天", 2)), ("猫", "大马"))
    first, second = read_questions(path).questions
    assert (first.question, first.passage) == ("狗在", "狗在天上")
    assert (first.answers, first.starts) == (("天上", "天"), (2, 2))
    assert (second.answers, second.starts) == ((), ())
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw["data"][0]["paragraphs"][0]["qas"][0]["is_impossible"] = True  # SQuAD 2.0
    path.write_text(json.dumps(raw), encoding="utf-8")
    assert read_questions(path).questions[0].answers == ()


def test_answers_that_are_not_at_their_place(tmp_path):
    faults = [
        ("狗", "狗在天上天", ("天", 1)),  # at 2 and at 4: 2 is nearer
        ("狗", "狗在天上", ("水", 2)),
        (" ", "狗在天上", ("天", 2)),
    ]
    path = squad(tmp_path / "a.json", *faults)
    with pytest.raises(
        DataError,
        match=r"'天' at character 1 .*a\.json, line 10, question 'Q0', got '在'\. It is at 2",
    ):
        read_questions(path)
    mended = read_questions(path, mend=True)
    assert (mended.moved, mended.lost, mended.left_out) == (1, 1, 1)
    assert [each.starts for each in mended.questions] == [(2,), (-1,)]
    with pytest.raises(DataError, match=r"got '天'\. It is nowhere in the passage"):
        read_questions(squad(path, faults[1]))
    with pytest.raises(
        DataError, match=r"in 'question' of .*, line 10, question 'Q0', got an empty"
    ):
        read_questions(squad(path, faults[2]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"expected JSON in .*a\.json, got "),
        ("[]", r"expected a list of objects in 'data' of .*, got NoneType"),
        ('{"data": []}', r"expected questions in .*, got none"),
        (
            '{"data": [{"paragraphs": [{"context": "", "qas": []}]}]}',
            r"in 'context' of .*, got an e",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "a", "qas": [{"id": "x", "question": "b",'
            '"answers": [{"text": "a"}]}]}]}]}',
            r"a whole number in 'answer_start' of .*, line 1, question 'x', got None",
        ),
    ],
)
def test_broken_files_are_refused(text, message, tmp_path):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_questions(tmp_path / "a.json")


def test_pairs_are_the_librarys():
    frame = PairFrame.of(tiny_tokenizer())
    assert frame == PairFrame([CLS], [SEP], [SEP], (0, 1))
    assert frame.pair([7, 8], [9]) == ([CLS, 7, 8, SEP, 9, SEP], [0, 0, 0, 0, 1, 1])
    assert len(frame) == 3


def test_windows_of_a_passage_by_hand():
    # room for 16 - 3 - 2 = 11 tokens; windows share 5
    found = finder(overlap=100)
    passage = "红绿蓝黄黑白色心星圆方狗猫鸟鱼马"  # 16 characters
    lessons = answer_lessons(found, [asked("狗在", passage, "圆方")])  # characters 9 and 10
    rows = lessons.examples.rows
    text = found.tokenizer.backend.convert_ids_to_tokens
    assert [text(ids) for ids, _, _ in rows] == [
        ["[CLS]", "狗", "在", "[SEP]", *passage[:11], "[SEP]"],
        ["[CLS]", "狗", "在", "[SEP]", *passage[5:], "[SEP]"],
    ]
    assert [span for _, _, span in rows] == [[4 + 9, 4 + 10], [4 + 4, 4 + 5]]
    assert lessons.positives == [0, 1]
    # 方狗 crosses the end of the first window, which is then neither
    lessons = answer_lessons(found, [asked("狗在", passage, "方狗")])
    assert [span for _, _, span in lessons.examples.rows] == [[4 + 5, 4 + 6]]
    assert lessons.negatives == [[]]
    # 马 is in the second alone: the first is one without an answer
    lessons = answer_lessons(found, [asked("狗在", passage, "马")])
    assert [span for _, _, span in lessons.examples.rows] == [[0, 0], [4 + 10, 4 + 10]]
    assert (lessons.positives, lessons.negatives) == ([1], [[0]])
    # an answer longer than any window, one that is lost, and a question without an answer
    three = [
        asked("狗在", passage, passage),
        asked("狗在", passage, "水"),
        asked("狗在", passage),
        asked("狗在", passage, "马"),
    ]
    lessons = answer_lessons(found, three)
    assert (lessons.too_long, lessons.lost) == (1, 1)
    assert [len(each) for each in lessons.negatives] == [0, 2, 1]
    with pytest.raises(DataError, match="expected a question whose answer fits in a window"):
        answer_lessons(found, three[:1])


def test_answers_in_words_of_several_pieces():
    (aligned,) = tiny_tokenizer().align(["看 running１２ 🐶"])
    assert token_span(aligned, 2, 9) == (1, 2)  # run ##ning
    assert token_span(aligned, 9, 11) == (3, 4)
    assert token_span(aligned, 12, 13) == (5, 5)
    assert token_span(aligned, 1, 2) is None  # a space


def test_best_spans_by_hand():
    # columns: [CLS] q [SEP] p p p [SEP]
    start = [1.0, 9, 9, 2, 5, 0, 9]
    end = [0.5, 9, 9, 4, 1, 3, 9]
    logits = torch.tensor([start, end]).T[None]
    assert best_spans(logits, [3], [3], 9) == [(4, 5, 5 + 3 - 1.5)]
    assert best_spans(logits, [3], [3], 1) == [(3, 3, 2 + 4 - 1.5)]  # one token at most
    assert best_spans(logits, [3], [1], 9) == [(3, 3, 4.5)]
    assert best_spans(logits, [5], [1], 9) == [(5, 5, 1.5)]


def test_the_threshold_by_hand():
    questions = [
        asked("a", "北京", "北京"),
        asked("b", "上海", "上海"),
        asked("c", "天"),
        asked("d", "天"),
    ]
    best = [Answer(0, 2, "北京", 5.0), Answer(0, 2, "上海", 3.0), Answer(0, 1, "天", 1.0), None]
    threshold, scores = fit_threshold(questions, best)
    assert threshold == 2.0  # between 3 and 1
    assert (scores.em, scores.f1, scores.no_answer) == (1.0, 1.0, 0.5)
    assert fit_threshold(questions[:2], best[:2])[0] is None  # nothing to refuse
    wrong = [Answer(0, 1, "天", 4.0), Answer(0, 1, "天", 4.0)]
    threshold, scores = fit_threshold(questions[2:], wrong)
    assert threshold > 4.0
    assert scores.f1 == 1.0
    # of equal scores all are answered or none
    tied = [Answer(0, 2, "北京", 4.0), Answer(0, 1, "天", 4.0)]
    threshold, scores = fit_threshold([questions[0], questions[2]], tied)
    assert scores.f1 == 0.5
    assert threshold is None
    assert fit_threshold([], []) == (None, scores.__class__(0.0, 0.0, 0, 0.0))


def test_finding_does_not_depend_on_batches(tmp_path):
    found = finder()
    passage = "红绿蓝黄黑白色心星圆方狗猫鸟鱼马花树草地水天人" * 2
    questions = ["狗在", "running 12 大", "", "狗" * 30, "红"]
    passages = [passage, passage, passage, passage, " "]
    together = found.answers(questions, passages)
    assert together == found.answers(questions, passages, batch_size=64)
    for at, one in enumerate(together):
        alone = found.answer(questions[at], passages[at])
        if one is None:
            assert alone is None
            assert at in (2, 4)  # without words
            continue
        assert (alone.start, alone.end, alone.text) == (one.start, one.end, one.text)
        assert alone.score == pytest.approx(one.score, abs=1e-4)
    highest = max(one.score for one in together if one)
    assert found.with_threshold(highest + 1).answers(questions, passages) == [None] * 5
    with pytest.raises(ValueError, match="expected a passage for each of 1 questions, got 2"):
        found.answers(["a"], ["b", "c"])
    with pytest.raises(TypeError, match="got one str"):
        found.answers("a", ["b"])


def looks_for(found, first, last, monkeypatch):
    """Let a head find what begins with one token and ends with another, whatever is asked."""
    first, last = found.tokenizer.backend.convert_tokens_to_ids([first, last])

    def forward(tokens, kinds):
        passage = kinds == 1
        ends = [passage & (tokens == one) for one in (first, last)]
        return {"logits": 9.0 * torch.stack(ends, -1).float()}

    monkeypatch.setattr(found.head, "forward", forward)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_answers_lie_where_the_passage_has_them_in_whatever_window(batch_size, monkeypatch):
    found = finder()  # windows of 12 tokens that share 6, behind a question of one
    looks_for(found, "run", "狗", monkeypatch)
    blanks, answer = "红  绿１２，\n", "running\t狗"  # more characters than tokens, and fewer
    places = [(before, after) for before in range(12) for after in (0, 1, 7)]
    passages = [blanks * before + answer + blanks * after for before, after in places]
    answers = found.answers(["狗"] * len(passages), passages, batch_size)
    starts = [len(blanks) * before for before, _ in places]
    assert [(one.start, one.end) for one in answers] == [
        (start, start + len(answer)) for start in starts
    ]
    assert {one.text for one in answers} == {answer}


def test_a_very_long_passage(monkeypatch):
    found = finder(context_length=64)
    looks_for(found, "猫", "狗", monkeypatch)
    passage = "红绿蓝黄黑白色心星圆" * 9_999 + "红绿猫和狗蓝黄黑白色"
    answer = found.answers(["狗"], [passage], batch_size=256)[0]
    assert (answer.start, answer.end, answer.text) == (99_992, 99_995, "猫和狗")


@pytest.mark.parametrize("kind", BACKBONES)
def test_parity_with_transformers(kind, tmp_path):
    found = finder(kind)
    export_head(found, tmp_path / "plain")
    model = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "plain").eval()
    if kind == "bert":
        assert isinstance(model, BertForQuestionAnswering)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    theirs = tokenizer(["狗 run"], ["大running１２"], return_tensors="pt")
    question, passage = found.tokenizer.align(["狗 run", "大running１２"])
    ids, kinds = PairFrame.of(found.tokenizer).pair(question.ids, passage.ids)
    assert theirs["input_ids"].tolist() == [ids]
    known = {"input_ids": torch.tensor([ids])}
    if kind != "distilbert":
        known["token_type_ids"] = torch.tensor([kinds])
    with torch.no_grad():
        ours = found.head(torch.tensor([ids]), torch.tensor([kinds]))["logits"]
        wanted = model(**known)
    assert (ours[..., 0] - wanted.start_logits).abs().max() < 1e-5
    assert (ours[..., 1] - wanted.end_logits).abs().max() < 1e-5


def test_saved_beside_the_towers(tmp_path):
    folder = tmp_path / "model"
    save_checkpoint(shared_checkpoint(), folder)
    found = finder(overlap=7, longest=5, threshold=-100.5)
    save_heads({"qa": found}, folder)
    assert (folder / "heads" / "qa" / "head.json").is_file()
    again = load_answers(folder)
    assert (again.overlap, again.longest, again.threshold) == (7, 5, -100.5)
    passage = "红绿蓝黄黑白色心星圆方狗猫"
    assert again.answer("狗在", passage) == found.answer("狗在", passage)
    assert Encoder.from_pretrained(folder, device="cpu").encode_text(["狗"]).shape == (1, 24)
    (folder / "heads" / "qa" / "head.json").write_text('{"task": "answers", "context_length": 16}')
    with pytest.raises(CheckpointError, match="got TypeError: no whole overlap and longest"):
        load_answers(folder)


ANIMALS = "狗猫鸟鱼马"
PASSAGES = ["红狗在天上", "大猫在水上", "小鸟在树上", "黑鱼在水天", "白马在草地"]
LESSONS = [asked("只", passage, passage[1]) for passage in PASSAGES]


def make_trainer(folder, epochs=2, callbacks=(), times=2):
    found = finder()
    found.head.out.weight.data /= 20
    recipe = HeadRecipe(epochs=epochs, batch_size=5, learning_rate=3e-3, patience=9, bf16=False)
    lessons = answer_lessons(found, LESSONS * times)
    return found, answer_trainer(found, lessons, LESSONS, recipe, folder, callbacks=callbacks)


def test_it_learns_a_few_questions_by_heart(tmp_path):
    found, trainer = make_trainer(tmp_path, epochs=5, times=16)
    trainer.fit()
    assert trainer.measure()["f1"] == 1.0
    assert [found.answer("只", passage).text for passage in PASSAGES] == list("狗猫鸟鱼马")


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            control.should_training_stop = True

    whole, trainer = make_trainer(tmp_path / "whole")
    trainer.fit()
    make_trainer(tmp_path / "parts", callbacks=[Stop()])[1].fit()
    parts, second = make_trainer(tmp_path / "parts")
    second.fit()
    assert second.state.global_step == trainer.state.global_step == 4
    for name, tensor in whole.head.state_dict().items():
        assert torch.equal(tensor, parts.head.state_dict()[name]), name


def test_the_command(run, tmp_path, tiny_folder):
    known = [(one.question, one.passage, (one.answers[0], 1)) for one in LESSONS]
    train = squad(tmp_path / "a.json", *known * 8)
    val = squad(tmp_path / "b.json", *known, ("人", "红绿蓝"))
    arguments = ["train", "qa", train, "--val", val, "--model", tiny_folder, "--epochs", 2]
    arguments += ["--batch-size", 5, "--learning-rate", 3e-3, "--out", tmp_path / "out"]
    code, stdout, stderr = run(*arguments, "--json", "--export", tmp_path / "plain")
    assert code == 0, stderr
    report = json.loads(stdout)
    assert (report["questions"], report["train_questions"], report["steps"]) == (6, 40, 16)
    assert 0 <= report["em"] <= report["f1"] <= 1
    assert Encoder.from_pretrained(tmp_path / "out", device="cpu").encode_text(["狗"]).shape[0] == 1
    found = load_answers(tmp_path / "out")
    assert found.threshold == report["threshold"]
    given = found.answers(["只"] * 5 + ["人"], [*PASSAGES, "红绿蓝"])
    said = ["" if one is None else one.text for one in given]
    right = sum(one == wanted for one, wanted in zip(said, [*ANIMALS, ""], strict=True))
    assert right / 6 == pytest.approx(report["em"])
    assert right > 1  # as many has a head that never answers
    AutoModelForQuestionAnswering.from_pretrained(tmp_path / "plain")
    code, stdout, _ = run(*arguments)  # nothing is trained, the same is said
    assert code == 0
    assert f"F1 {100 * report['f1']:.1f}" in stdout
    code, _, stderr = run(*arguments, "--random")
    assert code == 1
    assert "got another model, random" in stderr
    code, _, stderr = run(*arguments, "--val", squad(tmp_path / "c.json", ("a", "狗", ("猫", 0))))
    assert code == 1
    assert "It is nowhere in the passage" in stderr.replace("\n", " ")


def test_help_without_torch():
    root = Path(__file__).parents[1]
    code = "import sys; import clip_text_cli.train.qa; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
