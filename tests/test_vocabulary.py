from __future__ import annotations

import pytest
from pydantic import ValidationError

from wsi_pipeline.vocabulary import MOST_CLASSES, VocabularySettings


def vocabulary(**keys: object) -> VocabularySettings:
    return VocabularySettings.model_validate(keys)


def test_names_alone_are_their_own_words() -> None:
    assert vocabulary(classes=["Tumor", " Stroma "]) == vocabulary(classes={"Tumor": ["Tumor"], "Stroma": []})
    assert [one.synonyms for one in vocabulary(classes=["Tumor"]).classes] == [("Tumor",)]


def test_synonyms_are_kept_in_their_order_and_survive_writing_and_reading() -> None:
    given = vocabulary(classes={"Tumor": ["carcinoma", "cancer"], "Stroma": "connective tissue"}, background="Stroma")
    assert [one.synonyms for one in given.classes] == [("carcinoma", "cancer"), ("connective tissue",)]
    assert VocabularySettings.model_validate(given.model_dump(mode="json")) == given
    assert given.names == ("Tumor", "Stroma")
    assert given.targets == ("Tumor",)


def test_a_thousand_classes_are_taken_and_one_more_is_not() -> None:
    many = [f"class {number}" for number in range(MOST_CLASSES)]
    assert len(vocabulary(classes=many).names) == MOST_CLASSES
    with pytest.raises(ValidationError, match="1001 classes are more than 1000"):
        vocabulary(classes=[*many, "another"])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"classes": ["Tumor", "Stroma", "Tumor"]}, "classes: Tumor twice"),
        ({"classes": ["Tumor"], "background": "Glass"}, "background: Glass is no class"),
        ({"classes": ["Tumor"], "templates": ["an image of tumour"]}, "every sentence needs"),
        ({"classes": [""]}, "at least 1 character"),
        ({"classes": 7}, "7 are no class names"),
    ],
)
def test_vocabulary_that_means_nothing_is_refused(keys: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        vocabulary(**keys)
