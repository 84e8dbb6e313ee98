"""Which words of a name stand for a split, and which only contain one."""

from __future__ import annotations

import pytest

from MLPipeline.images.SplitNames import is_generic, is_unlabelled, split_of_name

NAMES = {
    "train": "train training TRAIN Training_Data training_set seg_train Train-Set train_images train2017 TrainImages "
    "images.train trainset trainingset trainimages train_val trainval 01_train xTrain",
    "val": "val valid validation VALID Validation_Data valset dev dev_set eval evaluation val2017 ImagesVal c.valid",
    "test": "test testing TESTING TESTing testing_data test_set images_test2 testImages holdout hold-out Hold_Out "
    "PublicTest testset",
}


@pytest.mark.parametrize(("split", "name"), [(split, name) for split in NAMES for name in NAMES[split].split()])
def test_a_word_of_the_name_says_the_split(split: str, name: str) -> None:
    assert split_of_name(name) == split


@pytest.mark.parametrize("name", ["Train Set", "the train images", "train\tset", "steam train", "train\u00a01"])
def test_words_end_at_blanks(name: str) -> None:
    assert split_of_name(name) == "train"


@pytest.mark.parametrize(
    "name", "contest trainers latest invalid devil evaluate valley protest strain trainee cat test_train set 7".split()
)
def test_other_words_say_none(name: str) -> None:
    assert split_of_name(name) is None


def test_names_that_say_nothing_of_a_class() -> None:
    assert all(map(is_generic, ["images", "test_images", "IMG", "all", "photos2", "JPEG", "testset", "unlabelled"]))
    assert not any(map(is_generic, ["cow", "test tube", "image of a cat", "0", ""]))
    assert is_unlabelled("seg_pred") and is_unlabelled("Unlabeled") and not is_unlabelled("predator")
