"""Which split a name stands for, of a folder or in a label table: `training_set` -> train, `val2017` -> val."""

from __future__ import annotations

import re

_SPLIT_OF = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
}
_UNLABELLED = {"pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled", "unsupervised"}
_GENERIC = {"set", "data", "dataset", "image", "images", "img", "imgs", "picture", "pictures", "photo", "photos"}
_GENERIC |= {"file", "files", "jpg", "jpeg", "jpegs", "png", "pngs", "folder", "all", "split", "part"}
_ENDINGS = "|".join(sorted(_GENERIC, key=len, reverse=True))
_JOINED = re.compile(rf"({'|'.join(sorted(_SPLIT_OF, key=len, reverse=True))})({_ENDINGS})")  # `trainset`
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")
_LETTERS = re.compile(r"[^\W\d_]+")


def split_of_name(name: str) -> str | None:
    """Return `train`, `val` or `test` if one of their synonyms is a word of `name`, else None.

    Words end at blanks, digits, punctuation and changes of case: `seg_train`, `TrainImages` and `val2017` name a
    split; `contest`, `trainers` and `latest` do not. `train_val` is training data, `train_test` no single split.
    """
    found = {_SPLIT_OF[word] for word in _words(name) if word in _SPLIT_OF}
    if found == {"train", "val"}:
        return "train"
    return found.pop() if len(found) == 1 else None


def is_generic(name: str) -> bool:
    """Return whether `name` says nothing about a class: `images`, `test_data`, `all`, `unlabelled`."""
    words = [word.casefold() for word in _LETTERS.findall(name)]
    known = _GENERIC | _UNLABELLED | set(_SPLIT_OF)
    return bool(words) and all(word in known or _JOINED.fullmatch(word) for word in words)


def is_unlabelled(name: str) -> bool:
    """Return whether `name` says that its images have no labels: `seg_pred`, `unlabelled`."""
    return bool(_words(name) & _UNLABELLED)


def _words(name: str) -> set[str]:
    """Return the words of `name` in lower case, with those of compounds such as `trainset` and `hold-out`."""
    whole = [word.casefold() for word in _LETTERS.findall(name)]
    words = {*whole, *(word.casefold() for word in _WORD.findall(name))}
    words |= {match[1] for word in whole if (match := _JOINED.fullmatch(word))}
    return words | {first + second for first, second in zip(whole, whole[1:], strict=False) if first == "hold"}
