"""The state of labelling: which pictures are shown to whom, their labels, and what has been learned from these.

    session = Session(photographs, label_file)
    session.add_classes(["dress", "skirt"])
    for picture in session.next("page 1", number=3): ...
    session.label("page 1", [(picture.number, picture.stamp)], "skirt")

All methods may be called from several threads, and several pages may label at once: each gets pictures of its own, the
last label of a picture counts, and the history of the label file keeps the others.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence

import numpy as np

from MLPipeline.Errors import UsageError
from MLPipeline.images.ClassNames import check_names, class_name
from MLPipeline.labelling.FeatureTable import FeatureTable
from MLPipeline.labelling.LabelFile import Change, Label, LabelFile
from MLPipeline.labelling.Learner import UNLABELLED, Learner
from MLPipeline.labelling.Photographs import Photographs
from MLPipeline.labelling.Shown import Group, Picture, Progress, features_line, progress_line
from MLPipeline.labelling.Study import Findings, Known, study
from MLPipeline.labelling.Turns import Turns

MAX_CLASSES, MAX_NAME = 1000, 200  # characters of a name
MAX_LEARNED_FROM = 20_000  # photographs, drawn at random: their features take 100 MB
_STUDY_EVERY = 4  # labels
_FEW_LEFT = 4  # chosen pictures: others are chosen before the last are used up
_FIRST_STUDY = 400  # features, of which typical pictures can be chosen
_SURE, _MIN_GROUP, _MAX_GROUP = 0.9, 6, 24
_MIN_FOR_GROUPS = 40  # labels: with fewer, probabilities are hardly calibrated
_NUM_PROPOSALS = 3
_FOLDER = "folder"  # `by` in the history
_NOTHING = Findings(np.empty(0, np.int64))

Step = tuple[int, Label | None, Label | None]  # a picture, its label before and after


class Session:
    """The labelling of `photographs`, whose labels are in the opened `file`."""

    def __init__(self, photographs: Photographs, file: LabelFile) -> None:
        self.photographs, self.file = photographs, file
        self.notes: deque[str] = deque(maxlen=20)
        self._take_notes()
        self._lock = threading.RLock()
        self._sample = photographs.random_sample({*file.classes, *photographs.class_folders()})
        in_sample = set(self._sample)
        others = [number for number in photographs.in_random_order() if number not in in_sample]
        self._turns = Turns(self._sample, others)
        self.to_learn_from = [*others[: MAX_LEARNED_FROM - len(self._sample)], *self._sample]
        self.features = FeatureTable(len(self.to_learn_from), in_sample)
        self._learner, self._findings = Learner(), _NOTHING
        self._shares = np.empty((0, 0), np.float32)  # probabilities (N, C) of the pictures to learn from
        self._not_of: defaultdict[str, set[int]] = defaultdict(set)  # pictures that were picked out of a group
        self._undo: defaultdict[str, list[list[Step]]] = defaultdict(list)
        self._num_new = self._num_studied = 0  # labels since the last round of learning, and features in it
        self._label_folders()

    def _take_notes(self) -> None:
        self.notes.extend(self.file.notes)
        self.file.notes.clear()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their keys."""
        return tuple(self.file.classes)

    def add_classes(self, names: Sequence[str]) -> None:
        """Add classes; pictures in a folder of that name count as labelled.

        Raises:
            UsageError: a name is too long, or there are too many.
            DataError: two names are one to the eye.
            ResourceError: they cannot be written.
        """
        with self._lock:
            new = [name for name in dict.fromkeys(class_name(each.strip()) for each in names) if name]
            new = [name for name in new if name not in self.file.classes]
            if too_long := [name for name in new if len(name) > MAX_NAME]:
                raise UsageError(f"class {too_long[0][:20]!r}...: too long", f"At most {MAX_NAME} characters")
            if len(self.file.classes) + len(new) > MAX_CLASSES:
                raise UsageError(f"{len(self.file.classes) + len(new)} classes", f"Give at most {MAX_CLASSES}")
            check_names("classes", [*self.file.classes, *new])
            if new:
                self.file.add_classes(new)
                self._label_folders()

    def pictures(self, numbers: Iterable[int]) -> list[Picture]:
        """Return pictures as they are now; those that are gone are passed over.

        Raises:
            UsageError: there is no such picture.
        """
        with self._lock:
            found = []
            for number in numbers:
                self._require([number])
                if stamp := self.photographs.stamp(number):
                    given = self._label_of(number)
                    name = self.photographs.names[number]
                    found.append(Picture(number, name, stamp, self._proposals(number), given.name if given else ""))
                else:
                    self._missed(number, stamp)
            return found

    def next(self, page: str, number: int, without: Sequence[int] = ()) -> list[Picture]:
        """Return up to `number` pictures for `page` to label next; it has those in `without` already."""
        with self._lock:
            return self._turns.pictures(page, number, without, self._is_labelled, self.pictures)

    def label(self, page: str, shown: Sequence[tuple[int, str]], name: str, picked_out: Sequence[int] = ()) -> str:
        """Label pictures, given with their stamps, as `name`; return why some have no label, empty if all have.

        The pictures that were `picked_out` of the group are shown one by one next.

        Raises:
            UsageError: there is no such picture or class.
        """
        with self._lock:
            if name not in self.file.classes:
                raise UsageError(f"no class {name!r}", "Add it to the classes first")
            self._require([*(number for number, _ in shown), *picked_out])
            stamps = {number: self.photographs.stamp(number) for number, _ in shown}
            fresh = [number for number, stamp in shown if stamp == stamps[number] != ""]
            self._apply(page, [(number, self._new_label(number, name)) for number in fresh])
            self._not_of[name] |= set(picked_out)
            self._turns.show_again(picked_out)
            return "; ".join(self._missed(number, stamps[number]) for number, _ in shown if number not in fresh)

    def skip(self, number: int, why: str = "") -> None:
        """Do not show a picture again in this session; `why` is noted if it cannot be used at all.

        Raises:
            UsageError: there is no such picture.
        """
        with self._lock:
            self._require([number])
            if why and number not in self._turns.passed_over:
                self.notes.append(f"{self.photographs.names[number]}: {why}")
            self._turns.passed_over.add(number)

    def undo(self, page: str) -> tuple[list[Picture], str]:
        """Take back the last step of `page`; return its pictures, and why some of it was not taken back."""
        with self._lock:
            if not self._undo[page]:
                return [], "nothing to undo"
            steps = self._undo[page].pop()
            ours = [(number, before) for number, before, after in steps if self._label_of(number) == after]
            self._apply(page, ours)
            self._undo[page].pop()  # the step that was just made
            self._turns.passed_over -= {number for number, _ in ours}
            why = "" if len(ours) == len(steps) else "another page has changed that label since"
            return self.pictures(number for number, _ in ours), why

    def group(self) -> Group | None:
        """Return the largest group of pictures that look like one class, the surest first; None if there is none."""
        with self._lock:
            numbers, _ = self.features.to_learn_from()
            if not len(self._shares) or len(self.file.labels) < _MIN_FOR_GROUPS:
                return None
            best = self._shares.argmax(axis=1)
            shares = self._shares[np.arange(len(best)), best]
            sure = [row for row in np.flatnonzero(shares > _SURE).tolist() if self._is_open(numbers[row], best[row])]
            if not sure:
                return None
            label = int(np.bincount(best[sure]).argmax())
            rows = sorted((row for row in sure if best[row] == label), key=lambda row: -shares[row])
            pictures = self.pictures(numbers[row] for row in rows[:_MAX_GROUP])
            return Group(self.classes[label], tuple(pictures)) if len(pictures) >= _MIN_GROUP else None

    def progress(self) -> Progress:
        """Return how far the work is; labels that are not on disk yet are written if that is possible."""
        with self._lock:
            self.file.flush()
            counts, group = Counter(label.name for label in self.file.labels.values()), self.group()
            found, num_labelled = self._findings, len(self.file.labels)
            line = progress_line(num_labelled, len(self.photographs), found.accuracy, found.num_more)
            features = features_line(len(self.features), len(self.to_learn_from))
            return Progress(
                line=f"{line} · {features}" if features else line,
                counts=tuple((name, counts[name]) for name in self.file.classes),
                group=(group.name, len(group.pictures)) if group else None,
                problem=self.file.problem,
                notes=tuple(self.notes),
            )

    @property
    def is_worth_learning(self) -> bool:
        """Whether enough labels are new, or the chosen pictures are used up and there is something new at all."""
        with self._lock:
            num_features = len(self.features)
            if num_features < min(_FIRST_STUDY, len(self.to_learn_from)):
                return False
            is_new = self._num_new > 0 or num_features > self._num_studied
            return self._num_new >= _STUDY_EVERY or (is_new and self._wants_choice())

    def learn(self) -> None:
        """Learn from all labels so far, while labelling goes on."""
        with self._lock:
            numbers, known = self._known()
            self._num_new, self._num_studied = 0, len(self.features)
        if not known.is_open.any():
            return
        findings = study(self._learner, known)
        shares = findings.head.probabilities(known.features) if findings.head else self._shares
        with self._lock:
            self._findings, self._shares = findings, shares
            if known.wants_choice:
                self._turns.chosen = deque(numbers[row] for row in findings.chosen.tolist())

    def _wants_choice(self) -> bool:
        """Return whether the chosen pictures are nearly used up.

        They are unlike each other: choosing again after every few labels would show only the most similar of them.
        """
        return self._turns.num_left(self._is_labelled) <= _FEW_LEFT

    def _known(self) -> tuple[list[int], Known]:
        numbers, features = self.features.to_learn_from()
        code = {name: label for label, name in enumerate(self.file.classes)}
        order = {path: place for place, path in enumerate(self.file.labels)}
        names = [self.photographs.names[number] for number in numbers]
        labels = [code[self.file.labels[name].name] if name in self.file.labels else UNLABELLED for name in names]
        tested, rows = self.features.of_sample([number for number in self._sample if self._is_labelled(number)])
        return numbers, Known(
            features=features,
            labels=np.array(labels, np.int64),
            order=np.array([order.get(name, UNLABELLED) for name in names], np.int64),
            sample=rows,
            sample_labels=np.array([code[self.file.labels[self.photographs.names[n]].name] for n in tested], np.int64),
            is_open=np.array([number not in self._turns.passed_over for number in numbers], bool),
            num_classes=len(self.file.classes),
            wants_choice=self._wants_choice(),
        )

    def _apply(self, page: str, changes: Iterable[tuple[int, Label | None]]) -> None:
        steps = [(number, self._label_of(number), label) for number, label in changes]
        self._undo[page].append(steps)
        self._num_new += len(steps)
        for number, _, label in steps:
            if label and label.split == "train":
                self.features.learn_from(number)
        if steps:
            self.file.put([Change(self.photographs.names[number], label, page) for number, _, label in steps])
            self._take_notes()

    def _new_label(self, number: int, name: str) -> Label:
        """Return the label `name`: in the test split if the picture is of the random sample, unless it is the first."""
        if before := self._label_of(number):
            return Label(name, before.split)
        is_known = any(label.name == name and label.split == "train" for label in self.file.labels.values())
        return Label(name, "test" if is_known and self.features.is_of_sample(number) else "train")

    def _label_folders(self) -> None:
        """Label the pictures that are in a folder of a class and have no label."""
        classes, found = set(self.file.classes), []
        for number in range(len(self.photographs)) if classes else ():
            label = self.photographs.label_of_folder(number, classes)
            if label and not self._is_labelled(number):
                found.append((number, label))
        if found:
            self._apply(_FOLDER, found)
            self._undo.pop(_FOLDER)

    def _proposals(self, number: int) -> tuple[tuple[str, float], ...]:
        row = self.features.row(number)
        if row is None or self._findings.head is None:
            return ()
        shares = self._findings.head.probabilities(row[None])[0]
        best = np.argsort(-shares, kind="stable")[:_NUM_PROPOSALS].tolist()
        return tuple((self.classes[label], float(shares[label])) for label in best)

    def _missed(self, number: int, stamp: str) -> str:
        """Note that a picture is gone or has changed, and return that."""
        why = "the file has changed, and is shown again" if stamp else "the file is gone"
        if stamp:
            self._turns.show_again([number])
            self.notes.append(f"{self.photographs.names[number]}: {why}")
        else:
            self.skip(number, why)
        return f"{self.photographs.names[number]}: {why}"

    def _label_of(self, number: int) -> Label | None:
        return self.file.labels.get(self.photographs.names[number])

    def _is_labelled(self, number: int) -> bool:
        return self.photographs.names[number] in self.file.labels

    def _is_open(self, number: int, label: int) -> bool:
        is_settled = self._is_labelled(number) or number in self._turns.passed_over
        return not is_settled and number not in self._not_of[self.classes[label]]

    def _require(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if not 0 <= number < len(self.photographs):
                raise UsageError(f"no picture {number}", "Load the page again")
