"""What trainings learn from and are measured on, and how it is read; of pairs see `pairs.py`.

Where no other data are given to measure on, some of the data to learn from are held out.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from clip_text.data.collection import RetrievalSet
from clip_text.data.labelled_texts import (
    Columns,
    LabelledTexts,
    is_multi_label,
    labels_of,
    read_labelled_texts,
    to_learn_and_measure,
)
from clip_text.data.parallel import ParallelSentences, read_parallel
from clip_text.data.plain_text import text_files
from clip_text.data.questions import Questions, read_questions
from clip_text.data.readers import read_retrieval_set
from clip_text.data.splits import (
    MOST_HELD_OUT,
    held_out,
    held_out_places,
    known_only,
    part,
    places_without,
)
from clip_text.data.tagged_text import TaggedTexts, check_labels, read_tagged
from clip_text.errors import DataError
from clip_text.heads.classification import Form, HeadConfig
from clip_text.towers import Pooler


@dataclass(frozen=True, slots=True)
class PictureData:
    """Pictures with captions: what is learnt from, and what is measured on.

    Args:
        train: Pictures and captions to learn from.
        validation: What the best checkpoint is chosen by; none of it is learnt.
        weights: How often a batch asks for each kind of caption; all alike if empty.
        keep: What should not get worse: measured along the line to the start, never learnt.
    """

    train: RetrievalSet
    validation: RetrievalSet
    weights: Mapping[str, float] = field(default_factory=dict)
    keep: RetrievalSet | None = None

    @classmethod
    def read(
        cls,
        data: str | Path,
        val: str | Path | None = None,
        *,
        keep: str | Path | None = None,
        images: Path | None = None,
        kinds: Sequence[str] | None = None,
        val_kinds: Sequence[str] | None = None,
        pictures: int | None = None,
    ) -> "PictureData":
        """Read pictures with captions, in any format of docs/data.md.

        Args:
            data: What to learn from.
            val: What to measure on; a tenth of the pictures, at most 1,000, is held out if None.
            keep: What should not get worse, if anything.
            images: Folder that file names start from; the file's own if None.
            kinds: Which captions to learn from, such as ``["zh"]``; all if None.
            val_kinds: Which captions to measure by; those of ``kinds`` if None.
            pictures: Learn from the first so many pictures only.

        Raises:
            DataError: If something cannot be read.
        """
        train = read_retrieval_set(str(data), images=images, kinds=kinds)
        if val is None:
            train, validation = held_out(train)
        else:
            validation = read_retrieval_set(str(val), images=images, kinds=val_kinds or kinds)
        if pictures is not None:
            train = part(train, range(min(pictures, len(train.image_ids))))
        kept = read_retrieval_set(str(keep), kinds=val_kinds) if keep is not None else None
        return cls(train, validation, {}, kept)


@dataclass(frozen=True, slots=True)
class LabelData:
    """Labelled texts, for a classification head.

    Args:
        train: Labelled texts to learn from.
        validation: Others, of the same labels.
        pictures: With captions, for a recipe that trains ``joint``.
        held_pictures: With captions, to measure recall on before and after ``joint``.
        labels: The classes, in order; those of the texts to learn from, sorted, if empty.
        multi_label: Whether a text may have several labels; seen from the texts if None.
    """

    train: LabelledTexts
    validation: LabelledTexts
    pictures: RetrievalSet | None = None
    held_pictures: RetrievalSet | None = None
    labels: tuple[str, ...] = ()
    multi_label: bool | None = None

    @classmethod
    def read(
        cls,
        data: str | Path,
        val: str | Path | None = None,
        *,
        number: int | None = None,
        seed: int = 0,
        columns: Columns | None = None,
    ) -> "LabelData":
        """Read labelled texts from .jsonl, .csv, .tsv or .xlsx files.

        Args:
            data: What to learn from.
            val: What to measure on; texts are held out if None.
            number: How many; a tenth, at most 5,000, if None. Other texts of the same words are
                not learnt.
            seed: Seed of the draw; an equal seed gives equal draws.
            columns: What to read of the files; columns are found by their usual names if None.

        Raises:
            DataError: If something cannot be read, there is one class only, or a text to measure
                on has a label that is not learnt.
        """
        columns = columns or Columns()
        train = read_labelled_texts(Path(data), columns)
        several = is_multi_label(columns, train)
        validation = None if val is None else read_labelled_texts(Path(val), columns)
        train, validation, labels = to_learn_and_measure(
            train, validation, columns.names, number, seed, multi_label=several
        )
        return cls(train, validation, None, None, labels, several)

    def config(self, pooler: Pooler, *, form: Form = "linear", dropout: float = 0.1) -> HeadConfig:
        """Say what head tells these labels apart.

        Args:
            pooler: How the states of a text's tokens become one.
            form: ``bert``: a dense layer and tanh first.
            dropout: Before the head, a share.
        """
        several = self.multi_label
        if several is None:
            several = is_multi_label(Columns(), self.train)
        labels = self.labels or labels_of(self.train, multi_label=several)
        return HeadConfig(
            labels=labels, multi_label=several, pooler=pooler, form=form, dropout=dropout
        )

    def with_pictures(
        self,
        pictures: str | None,
        val: str | None = None,
        *,
        kinds: Sequence[str] | None = None,
    ) -> "LabelData":
        """Read pictures with captions beside the texts, for a recipe that trains ``joint``.

        Args:
            pictures: What holds retrieval as it is; none if None.
            val: What recall is measured on; a tenth of the pictures, at most 1,000, if None.
            kinds: Which captions; all if None.

        Raises:
            DataError: If something cannot be read.
        """
        learnt = read_retrieval_set(pictures, kinds=kinds) if pictures else None
        held = read_retrieval_set(val, kinds=kinds) if val else None
        if learnt and not held:
            learnt, held = held_out(learnt)
        return LabelData(self.train, self.validation, learnt, held, self.labels, self.multi_label)


@dataclass(frozen=True, slots=True)
class EntityData:
    """Texts with named entities.

    Args:
        train: Texts to learn from.
        validation: Others; none of their entities is of a type that is not learnt.
    """

    train: TaggedTexts
    validation: TaggedTexts

    @classmethod
    def read(
        cls,
        data: str | Path,
        val: str | Path | None = None,
        *,
        texts: int | None = None,
        seed: int = 0,
    ) -> "EntityData":
        """Read texts with entities from .jsonl files, or files of CoNLL's form.

        Args:
            data: What to learn from.
            val: What to measure on; a tenth, at most 1,000, is held out if None.
            texts: Learn from so many texts, drawn at random; from all if None.
            seed: Seed of the draws; an equal seed gives equal draws.

        Raises:
            DataError: If something cannot be read, there is no entity to learn from, or a text to
                measure on has one of a type that is not learnt.
        """
        tagged = read_tagged(Path(data))
        total = len(tagged.texts)
        held = held_out_places(total, seed=seed, what=f"texts in {data}") if val is None else []
        drawn = places_without(total, held)
        random.Random(seed).shuffle(drawn)  # noqa: S311  (nothing secret)
        drawn = drawn[: texts or total]
        labels = [[entity.label for entity in text.entities] for text in tagged.texts]
        # a type that was drawn for validation alone is to be learnt
        measured = known_only(held, drawn, labels)
        drawn += [place for place in held if place not in measured]
        learnt = TaggedTexts([tagged.texts[place] for place in drawn], tagged.repaired)
        if val is None:
            validation = TaggedTexts([tagged.texts[place] for place in measured])
        else:
            validation = read_tagged(Path(val))
        if not learnt.labels:
            raise DataError(f"expected entities to learn from in {data}, got none. Tag some.")
        check_labels(validation, learnt.labels)
        return cls(learnt, validation)


@dataclass(frozen=True, slots=True)
class AnswerData:
    """Questions about passages.

    Args:
        train: Questions to learn from.
        validation: Questions to measure on, none of them learnt.
    """

    train: Questions
    validation: Questions

    @classmethod
    def read(
        cls,
        data: str | Path,
        val: str | Path | None = None,
        *,
        mend: bool = False,
        val_questions: int | None = None,
        seed: int = 0,
    ) -> "AnswerData":
        """Read questions in SQuAD's format.

        Args:
            data: What to learn from.
            val: What to measure on; a tenth of the passages is held out if None.
            mend: Mend a file with wrong places of answers instead of refusing it; see
                :func:`~clip_text.data.questions.read_questions`.
            val_questions: Measure on so many, drawn at random; on all if None.
            seed: Seed of the draws; an equal seed gives equal draws.

        Raises:
            DataError: If something cannot be read, or there are not two passages to hold one out.
        """
        train = read_questions(Path(data), mend=mend)
        if val is None:
            passages = [question.passage for question in train.questions]
            held = held_out_places(
                len(passages), most=None, seed=seed, groups=passages, what=f"passages in {data}"
            )
            validation = Questions([train.questions[place] for place in held])
            rest = places_without(len(passages), held)
            learnt = [train.questions[place] for place in rest]
            train = Questions(learnt, train.moved, train.lost, train.left_out)
        else:
            validation = read_questions(Path(val), mend=mend)
        asked = len(validation.questions)
        if val_questions is not None and val_questions < asked:
            drawn = held_out_places(asked, val_questions, seed=seed, what="questions")
            questions = [validation.questions[place] for place in drawn]
            validation = replace(validation, questions=questions)
        return cls(train, validation)


@dataclass(frozen=True, slots=True)
class ParallelData:
    """Sentences with their translations, for a tower that learns a teacher's rows.

    Args:
        train: Sentences to learn from.
        validation: Others: one of each line, that look for their original.
        source: Language that the teacher reads; all others are learnt.
    """

    train: ParallelSentences
    validation: ParallelSentences
    source: str

    @property
    def languages(self) -> list[str]:
        """What is learnt: the languages but the source."""
        return [name for name in self.train.by_language if name != self.source]

    @classmethod
    def read(
        cls,
        data: str | Path,
        source: str,
        languages: Sequence[str],
        val: str | Path | None = None,
        *,
        number: int = MOST_HELD_OUT,
        seed: int = 0,
    ) -> "ParallelData":
        """Read parallel sentences from .jsonl, .csv, .tsv or .xlsx files.

        Args:
            data: What to learn from.
            source: Field of the language that the teacher reads.
            languages: Fields of the languages to learn.
            val: What to measure on; lines are held out if None.
            number: How many lines, at most; a tenth at most.
            seed: Seed of the draw; an equal seed gives equal draws.

        Raises:
            DataError: If something cannot be read.
        """
        everything = read_parallel(Path(data), [source, *languages])
        if val is not None:
            held = read_parallel(Path(val), [source, *languages])
            return cls(everything, held.first_of_each(), source)
        lines = everything.groups
        most = min(number, max(1, len(set(lines)) // 10))
        inside = held_out_places(
            len(lines), most=most, seed=seed, groups=lines, what=f"lines in {data}"
        )
        outside = places_without(len(lines), inside)
        return cls(everything.take(outside), everything.take(inside).first_of_each(), source)


@dataclass(frozen=True, slots=True)
class TextData:
    """Plain text; training reads it by the model's tokenizer, without holding it.

    Args:
        train: Folders, or .txt, .jsonl, .csv, .tsv files, to learn from.
        validation: The same, to validate on; some documents are held out if there are none.
        held_out: Share of the documents to hold out then.
        fields: Fields of the text in .jsonl and tables; see
            :func:`~clip_text.data.plain_text.read_lines`.
        line_documents: Whether each line of a .txt is a document; else a blank line ends one.
        user_dict: File of words that jieba is to know, a line each.
    """

    train: Sequence[str | Path]
    validation: Sequence[str | Path] = ()
    held_out: float = 0.02
    fields: Sequence[str] = ()
    line_documents: bool = False
    user_dict: Path | None = None

    def files(self) -> tuple[list[Path], list[Path]]:
        """List the files of the folders: those to learn from, and those to validate on.

        Raises:
            DataError: If there is no such file, or no text among them.
        """
        validation = text_files(list(map(Path, self.validation))) if self.validation else []
        return text_files(list(map(Path, self.train))), validation
