"""Masked-LM training: the loss, the trainer, what it writes, and the command."""

import copy
import json
import subprocess
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from models import BACKBONES, VOCABULARY, backbone, bert_tokenizer, tiny_checkpoint
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertForMaskedLM,
    TrainerCallback,
)

from clip_text import Encoder
from clip_text.checkpoints import load_checkpoint, load_text_tower, save_checkpoint
from clip_text.checkpoints.parts import positions
from clip_text.data.corpus import tokenise
from clip_text.errors import CheckpointError, DataError
from clip_text.tokenizer import Tokenizer
from clip_text.training import trainer as training
from clip_text.training.masked_lm import (
    MaskedLMTrainer,
    Perplexity,
    masked_logits,
    save_masked_lm,
)
from clip_text.training.masked_models import (
    drop_less,
    grow_positions,
    load_masked_lm,
    new_masked_lm,
)
from clip_text.training.masked_sequences import (
    PRESETS,
    MaskedLMRecipe,
    MaskedSequences,
    MicroBatches,
)
from clip_text.training.recipe import RecipeError
from clip_text.training.students import make_student

TOKENIZER = Tokenizer(bert_tokenizer(), 16)
TEXT = [
    f"{colour}色的{animal}在{place}上{verb}。"
    for colour in "红绿蓝黄黑白"
    for animal in ("小狗", "猫", "鸟", "dog", "马")
    for place in ("草地", "水", "树")
    for verb in ("跑", "running")
]


@cache
def text(folder: Path):
    """180 documents of one sentence; those held out are drawn by the text."""
    file = folder / "a.txt"
    file.write_text("\n\n".join(TEXT), encoding="utf-8")
    return tokenise([file], TOKENIZER, folder / "cache", held_out=0.2)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return text(tmp_path_factory.mktemp("text"))


def a_model(kind="bert", seed=0, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = backbone(kind, **{"initializer_range": 0.02} | changes)
        return AutoModelForMaskedLM.from_config(config).eval()


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def a_recipe(**changes):
    numbers = {"epochs": 1, "batch_size": 16, "micro_batch": 16, "learning_rate": 1e-2}
    numbers |= {"context_length": 16, "evaluations": 2}
    return MaskedLMRecipe(**numbers | changes)


def a_trainer(texts, recipe, folder, model=None, callbacks=()):
    sequences, exam = (MaskedSequences(each, TOKENIZER, recipe) for each in texts)
    model = model or a_model()
    return MaskedLMTrainer(model, sequences, Perplexity(exam), recipe, folder, callbacks)


def equal(one, other):
    one, other = one.state_dict(), other.state_dict()
    return [name for name in one if not torch.equal(one[name], other[name])] == []


class Probe(TrainerCallback):
    def __init__(self, look):
        self.look = look

    def on_step_end(self, args, state, control, **kwargs):
        self.look(state)


# The loss


@pytest.mark.parametrize("kind", BACKBONES)
def test_logits_are_transformers_own_at_the_places_asked_for(kind, texts):
    model = a_model(kind, initializer_range=0.2)
    sequences = MaskedSequences(texts[0], TOKENIZER, a_recipe())
    batch = sequences.collate([sequences[0, at] for at in range(8)])
    where = batch["labels"] >= 0
    mask = (batch["input_ids"] != sequences.pad_id).long()
    assert not mask.all()  # there is padding
    with torch.no_grad():
        expected = model(input_ids=batch["input_ids"], attention_mask=mask, labels=batch["labels"])
        logits = masked_logits(model, batch["input_ids"], sequences.pad_id, where)
        again = model(input_ids=batch["input_ids"], attention_mask=mask)
    torch.testing.assert_close(logits, expected.logits[where], atol=1e-5, rtol=1e-5)
    loss = F.cross_entropy(logits, batch["labels"][where])
    torch.testing.assert_close(loss, expected.loss, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again.logits, expected.logits)  # the hook has gone


def test_the_starter_is_bert_for_masked_lm_with_the_same_weights():
    model, tokenizer, new = load_masked_lm("starter")
    assert isinstance(model, BertForMaskedLM)
    assert new
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    tower = load_checkpoint("starter").model.text
    tokens = tokenizer.pad(tokenizer.token_ids(["红色的小狗在草地上跑。", "猫"]))
    theirs = BertForMaskedLM(model.config).eval()
    theirs.load_state_dict(model.state_dict())
    where = tokens != tokenizer.pad_id
    with torch.no_grad():
        states, _ = tower.states(tokens)
        torch.testing.assert_close(
            masked_logits(model, tokens, tokenizer.pad_id, where),
            theirs(tokens, attention_mask=where.long()).logits[where],
            atol=1e-5,
            rtol=1e-5,
        )
        torch.testing.assert_close(
            model.bert(tokens, attention_mask=where.long()).last_hidden_state[where],
            states[where],
            atol=1e-5,
            rtol=1e-5,
        )
    assert equal(model, load_masked_lm("starter")[0])  # the head is of the seed
    assert not equal(model, load_masked_lm("starter", seed=1)[0])


def test_perplexity_is_what_it_says(texts):
    model = a_model()
    nn.init.zeros_(model.bert.embeddings.word_embeddings.weight)  # all logits are 0
    exam = Perplexity(MaskedSequences(texts[1], TOKENIZER, a_recipe()), batch_size=7)
    found = exam.measure(model)
    assert found["perplexity"] == pytest.approx(len(VOCABULARY), rel=1e-5)
    model = a_model(initializer_range=0.2)
    found = exam.measure(model)
    assert found == pytest.approx(exam.measure(model))  # the masks are fixed
    whole = exam.sequences.collate([exam.sequences[0, at] for at in range(len(exam.sequences))])
    mask = (whole["input_ids"] != 0).long()
    with torch.no_grad():
        loss = model(whole["input_ids"], attention_mask=mask, labels=whole["labels"]).loss
    assert found["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert found["perplexity"] == pytest.approx(float(loss.exp()), rel=1e-4)


def test_nothing_masked_is_told(texts):
    exam = Perplexity(MaskedSequences(texts[1], TOKENIZER, a_recipe(share=1e-9)))
    with pytest.raises(DataError, match="expected masked tokens"):
        exam.measure(a_model())


# Batches


def test_an_epoch_has_every_sequence_once_and_another_one_other_masks(texts):
    sequences = MaskedSequences(texts[0], TOKENIZER, a_recipe())
    sampler = MicroBatches(sequences, 1, seed=3)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        epochs.append([place for batch in sampler for place in batch])
        assert sorted(epochs[-1]) == [(epoch, at) for at in range(len(sequences))]
    assert [at for _, at in epochs[0]] != [at for _, at in epochs[1]]
    one, other = (sequences.collate([sequences[each, at] for at in range(50)]) for each in (0, 1))
    assert not torch.equal(one["labels"], other["labels"])
    unmasked = [
        torch.where(each["labels"] >= 0, each["labels"], each["input_ids"]) for each in (one, other)
    ]
    assert torch.equal(*unmasked)  # but of the same text


def test_some_sequences_are_spread_over_all(texts):
    whole = MaskedSequences(texts[0], TOKENIZER, a_recipe())
    some = MaskedSequences(texts[0], TOKENIZER, a_recipe(), at_most=3)
    places = whole.places.tolist()
    assert some.places.tolist() == [places[0], places[(len(whole) - 1) // 2], places[-1]]


# Training


def test_perplexity_falls_and_the_best_checkpoint_is_kept(texts, tmp_path):
    trainer = a_trainer(texts, a_recipe(epochs=6, evaluations=4), tmp_path)
    before = trainer.measure()
    trainer.fit()
    after = trainer.measure()
    assert before["perplexity"] > 0.6 * len(VOCABULARY)
    assert after["perplexity"] < 0.5 * before["perplexity"]
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    best = min(line["eval_perplexity"] for line in logged if "eval_perplexity" in line)
    assert after["perplexity"] == pytest.approx(best, rel=1e-6)


def test_accumulation_equals_the_large_batch(texts, tmp_path):
    """One step of 64; micro-batches hold unequal numbers of masked tokens. Dropout off."""
    ends = []
    for micro_batch in (64, 8, 3):
        recipe = a_recipe(batch_size=64, micro_batch=64, learning_rate=1e-3, warmup=0.0, epochs=1)
        model = a_model(**NO_DROPOUT).double()
        trainer = a_trainer(texts, recipe, tmp_path / str(micro_batch), model)
        batch = next(iter(trainer.sampler))
        parts = [batch[at : at + micro_batch] for at in range(0, 64, micro_batch)]
        inputs = [
            trainer.data_collator([trainer.train_dataset[at] for at in part]) for part in parts
        ]
        count = sum((each["labels"] >= 0).sum() for each in inputs)
        trainer.current_gradient_accumulation_steps = len(parts)
        loss = sum(trainer.training_step(model, each, count) for each in inputs)
        gradients = [each.grad.clone() for each in model.parameters()]
        ends.append([loss, *gradients])
    assert len(ends[0]) > 10
    for other in ends[1:]:
        torch.testing.assert_close(other, ends[0], atol=1e-6, rtol=1e-6)


def test_the_trainer_accumulates_as_that_step_does(texts, tmp_path):
    """A whole run with micro-batches: its loss and weights are those of their joint gradient."""
    recipe = a_recipe(batch_size=48, micro_batch=8, warmup=0.0, evaluations=1, epochs=1)
    model, own = (a_model(**NO_DROPOUT).double() for _ in range(2))
    trainer = a_trainer(texts, recipe, tmp_path, model)
    micro = list(trainer.sampler)
    steps = []
    trainer.add_callback(Probe(lambda state: steps.append(state.global_step)))
    trainer.fit()
    decayed = [each for each in own.parameters() if each.ndim > 1]
    plain = [each for each in own.parameters() if each.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
        eps=1e-6,
    )
    own.train()
    groups = [micro[at : at + 6] for at in range(0, len(micro), 6)]
    assert steps == list(range(1, len(groups) + 1))
    for at, group in enumerate(groups):
        places = [place for batch in group for place in batch]
        batch = trainer.data_collator([trainer.train_dataset[place] for place in places])
        where = batch["labels"] >= 0
        loss = F.cross_entropy(
            masked_logits(own, batch["input_ids"], 0, where), batch["labels"][where]
        )
        loss.backward()
        nn.utils.clip_grad_norm_(own.parameters(), 1.0)
        for each in optimizer.param_groups:
            each["lr"] = 1e-2 * (1 - at / len(groups))
        optimizer.step()
        optimizer.zero_grad()
    for name, weight in own.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight, atol=1e-5, rtol=1e-5)


class PowerCut(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize(("stop", "resumed_from"), [(7, 6), (1, 0)])
def test_a_resumed_run_equals_an_uninterrupted_one(stop, resumed_from, texts, tmp_path):
    """In the middle of an epoch, with accumulation and dropout; equal bit for bit."""
    recipe = a_recipe(epochs=2, batch_size=32, micro_batch=16, evaluations=4, seed=5)
    whole = a_trainer(texts, recipe, tmp_path / "whole")
    whole.fit()
    assert whole.state.max_steps > 8

    def cut(state):
        if state.global_step == stop:
            raise PowerCut

    broken = a_trainer(texts, recipe, tmp_path / "broken", callbacks=[Probe(cut)])
    with pytest.raises(PowerCut):
        broken.fit()
    steps = []
    probe = Probe(lambda state: steps.append(state.global_step))
    again = a_trainer(texts, recipe, tmp_path / "broken", callbacks=[probe])
    again.fit()
    assert steps == list(range(resumed_from + 1, whole.state.max_steps + 1))
    assert equal(again.model, whole.model)


def test_norms_and_biases_do_not_decay(texts, tmp_path):
    trainer = a_trainer(texts, a_recipe(weight_decay=0.3), tmp_path)
    decayed, plain = trainer.create_optimizer().param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    names = {id(weight): name for name, weight in trainer.model.named_parameters()}
    assert all(
        "bias" in names[id(each)] or "LayerNorm" in names[id(each)] for each in plain["params"]
    )
    assert not any("bias" in names[id(each)] for each in decayed["params"])
    assert len(names) == len(decayed["params"]) + len(plain["params"])


def test_patience_ends_a_run_that_gets_no_better(texts, tmp_path):
    """Perplexities that are told, not measured: the third is the best, two more are waited for."""
    ends = {}
    for patience in (None, 2, 4):
        recipe = a_recipe(epochs=2, evaluations=8, patience=patience)
        trainer = a_trainer(texts, recipe, tmp_path / str(patience))
        said = iter([9.0, 8.0, 5.0, 6.0, 5.0, 4.0, 4.5, 4.5, 4.5, 4.5])
        trainer.validate = lambda said=said: {"perplexity": next(said)}
        trainer.fit()
        every, best = trainer.args.eval_steps, trainer.state.best_model_checkpoint
        ends[patience] = (trainer.state.global_step / every, int(best.rpartition("-")[2]) / every)
    assert ends == {None: (9, 6), 2: (5, 3), 4: (9, 6)}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"batch_size": 10, "micro_batch": 4}, "micro-batches of 4 fill, got 10"),
        ({"epochs": 0}, "epochs to be a number above 0, got 0"),
        ({"share": 1.0}, "share to be a share between 0 and 1"),
        ({"context_length": 2}, "context_length to be 3 or more"),
        ({"warmup": 1.0}, "warmup to be a share below 1"),
        ({"patience": 0}, "patience to be 1 or more, got 0"),
    ],
)
def test_numbers_that_make_no_sense_are_told(changes, told):
    with pytest.raises(RecipeError, match=told):
        a_recipe(**changes)


def test_a_batch_larger_than_the_text_is_told(texts, tmp_path):
    with pytest.raises(RecipeError, match=r"at most \d+ \(sequences of text\), got 1,024"):
        a_trainer(texts, a_recipe(batch_size=1024), tmp_path)


def test_every_preset_makes_a_recipe():
    for numbers in PRESETS.values():
        MaskedLMRecipe(**numbers)


# What is written, and what it starts


def test_the_folder_is_transformers_own_and_starts_a_text_tower(tmp_path):
    pair = tiny_checkpoint()
    save_checkpoint(pair, tmp_path / "pair")
    model, tokenizer, new = load_masked_lm(tmp_path / "pair")
    assert new
    save_masked_lm(model, tokenizer, tmp_path / "mlm")
    # by transformers alone
    theirs, told = AutoModelForMaskedLM.from_pretrained(tmp_path / "mlm", output_loading_info=True)
    assert not told["missing_keys"]
    assert equal(theirs, model)
    own = AutoTokenizer.from_pretrained(tmp_path / "mlm")
    assert own("红色的小狗")["input_ids"] == tokenizer.token_ids(["红色的小狗"])[0]
    assert AutoConfig.from_pretrained(tmp_path / "mlm").architectures == ["BertForMaskedLM"]
    # by us: as a tower, beside an image tower, as a student, and to go on with, head and all
    start = load_text_tower(tmp_path / "mlm", pair.config.embed_dim)
    backbone_before = pair.model.text.transformer.state_dict()
    for name, weight in start.tower.transformer.state_dict().items():
        assert torch.equal(weight, backbone_before[name])
    together = pair.with_text_tower(start)
    assert Encoder(together).encode_text(["红色的小狗"]).shape == (1, pair.config.embed_dim)
    assert make_student(str(tmp_path / "mlm"), tokenizer, 8).new == ("proj.weight",)
    again, _, new = load_masked_lm(tmp_path / "mlm")
    assert not new
    assert equal(again, model)


def test_what_cannot_be_started_from_is_told(tmp_path):
    with pytest.raises(CheckpointError):
        load_masked_lm(tmp_path / "none")
    with pytest.raises(CheckpointError, match="positions"):
        load_masked_lm("starter", context_length=65)
    with pytest.raises(ValueError, match="tiny, mini"):
        new_masked_lm("huge", TOKENIZER)
    model = new_masked_lm("tiny", TOKENIZER)
    for name in ("cls.predictions.bias", "bert.encoder.layer.0.output.dense.bias"):
        broken = copy.deepcopy(model)
        broken.get_parameter(name).data[0] = float("nan")
        save_masked_lm(broken, TOKENIZER, tmp_path / name)
        with pytest.raises(CheckpointError, match=r"got NaN or infinity in .*bias"):
            load_masked_lm(tmp_path / name)
    assert model.config.hidden_size == 128
    assert model.base_model.pooler is None


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_grown_positions_change_nothing_within_the_old_ones_and_go_on_behind(kind):
    torch.manual_seed(3)
    config = backbone(kind)
    model = AutoModelForMaskedLM.from_config(config).eval()
    longest = positions(config)
    grown = grow_positions(model, 2 * longest + 3)
    assert positions(grown.config) == 2 * longest + 3
    assert positions(model.config) == longest  # the one it came from is as it was
    ids = torch.randint(5, len(VOCABULARY), (2, longest))
    assert torch.equal(grown(ids).logits, model(ids).logits)
    long = torch.randint(5, len(VOCABULARY), (1, 2 * longest + 3))
    assert torch.isfinite(grown(long).logits).all()
    name = next(each for each in grown.state_dict() if each.endswith("position_embeddings.weight"))
    table = grown.state_dict()[name][-(2 * longest + 3) :]
    assert torch.equal(table[longest : 2 * longest], table[:longest])
    decoder = grown.get_output_embeddings().weight
    assert decoder.data_ptr() == grown.get_input_embeddings().weight.data_ptr()  # tied again
    assert grow_positions(grown, 8) is grown


def test_grown_positions_are_written_and_read_again(tmp_path):
    model, tokenizer, _ = load_masked_lm("starter", context_length=80, grow=True)
    assert tokenizer.context_length == 80
    save_masked_lm(model, tokenizer, tmp_path / "mlm")
    assert load_text_tower(tmp_path / "mlm", 8, context_length=80).tower.context_length == 80
    again, _, _ = load_masked_lm(tmp_path / "mlm", context_length=96, grow=True)
    assert positions(again.config) == 96
    config = AutoConfig.for_model("deberta-v2", max_position_embeddings=16, hidden_size=8)
    config.num_hidden_layers, config.num_attention_heads, config.vocab_size = 1, 2, 30
    config.position_biased_input = False  # its positions are relative, without a table of them
    with pytest.raises(CheckpointError, match="got 0 in a deberta-v2"):
        grow_positions(AutoModelForMaskedLM.from_config(config), 32)


def test_dropout_of_a_run_is_not_that_of_the_model_it_leaves():
    model = new_masked_lm("tiny", TOKENIZER)
    before = model.config.to_dict()
    drop_less(model, 0.0)
    model.train()
    ids = torch.randint(5, len(VOCABULARY), (2, 8))
    assert torch.equal(model(ids).logits, model(ids).logits)
    assert model.config.to_dict() == before
    with pytest.raises(ValueError, match="0 to below 1, got 1"):
        drop_less(model, 1.0)


# The command


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "texts" / "a.jsonl"
    file.parent.mkdir()
    lines = [json.dumps({"zh": sentence}) for sentence in TEXT]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file.parent


def asked(corpus, *options):
    common = ["--field", "zh", "--from-scratch", "tiny", "--batch-size", 16, "--held-out", 0.2]
    common += ["--context-length", 16, "--cache", corpus.parent / "cache", "--evaluations", 2]
    return ["train", "mlm", corpus, "--out", corpus.parent / "out", *common, *options]


def test_the_command_trains_resumes_and_reports(run, corpus):
    code, out, err = run(*asked(corpus, "--json"))
    assert code == 0, err
    report = json.loads(out)
    assert report["perplexity"] < report["perplexity_before"]
    assert report["documents"] + report["held_documents"] == len(TEXT)
    assert "before" in err
    assert load_text_tower(report["model"], 8).tower.width == 128
    out_folder = corpus.parent / "out"
    assert "patience" not in json.loads((out_folder / "settings.json").read_text())
    assert (out_folder / "run" / "metrics.jsonl").is_file()
    # the same again is done already; another one is refused
    code, out, _ = run(*asked(corpus, "--json"))
    assert json.loads(out) == report
    code, _, err = run(*asked(corpus, "--learning-rate", "1e-5"))
    assert code == 1
    assert "got another learning_rate" in err
    code, _, err = run(*asked(corpus, "--patience", 1))
    assert code == 1
    assert "got another patience" in err
    code, out, _ = run(*asked(corpus))
    assert "of the masked tokens right" in out
    assert "(its head was new)" in out


def test_the_main_process_packs_before_the_others_look(run, corpus, monkeypatch):
    class Processes:
        is_main_process = True

        @contextmanager
        def main_process_first(self):
            yield
            packed = sorted(
                each.parent.name for each in corpus.parent.rglob("sequences-16-document")
            )
            assert packed == ["held", "learnt"]
            raise PowerCut

    monkeypatch.setattr(training, "join_processes", Processes)
    with pytest.raises(PowerCut):
        run(*asked(corpus))


def test_the_command_tells_what_is_wrong(run, corpus):
    for options, told in [
        (["--batch-size", 4096], "(sequences of text), got 4,096"),
        (["--field", "text"], "a.jsonl, line 1"),
        (["--val", corpus / "none.txt"], "no such file"),
        (["--user-dict", corpus / "none.txt"], "none.txt"),
    ]:
        code, _, err = run(*asked(corpus, *options))
        assert code == 1, err
        assert told in err
        assert "Traceback" not in err
    code, _, err = run("train", "mlm", corpus, "--out", "x", "--tokenizer", corpus)
    assert code == 2


def test_the_command_grows_positions_and_leaves_dropout_out(run, corpus):
    options = ["--grow-positions", "--context-length", 72, "--dropout", 0, "--epochs", 0.1]
    given = ["train", "mlm", corpus, "--out", corpus.parent / "grown", "--field", "zh"]
    given += ["--batch-size", 16, "--held-out", 0.2, "--cache", corpus.parent / "cache"]
    code, out, err = run(*given, *options, "--evaluations", 1, "--json")
    assert code == 0, err
    written = json.loads(out)["model"]
    tower = load_text_tower(written, 8, context_length=72).tower
    assert tower.config.hidden_dropout_prob == 0.1
    code, _, err = run(*given, "--context-length", 72)
    assert code == 1
    assert "at most 64" in err


def test_help_does_not_wait_for_torch():
    root = Path(__file__).parents[1]
    command = [sys.executable, "-X", "importtime", "scripts/pretrain_mlm.py", "--help"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "clip-text train mlm" in done.stdout
    assert "torch" not in {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
