"""Encoders of OGER: what a vector depends on, windows, and the cache."""

import numpy as np
import pytest

from isentropic.methods.oger.encoders import CachedEncoder, build_encoder, unit

CORPUS = ["12+30=42#42", "30+12=42;#42", "the sum of 12 and 30 is 42"]


def tfidf():
    return build_encoder("tfidf", corpus=lambda: CORPUS, model_path="")


class Counting:
    """Counts the texts it encodes."""

    identity = "counting"

    def __init__(self):
        self.seen = []

    def encode(self, texts):
        self.seen += texts
        return np.array([[float(len(text)), 1.0] for text in texts])


def test_tfidf_same_text_same_vector_and_order_matters():
    vectors = unit(tfidf().encode(["12+30=42", "12+30=42", "30+12=42", "nothing alike"]))
    cosine = vectors @ vectors[0]
    assert cosine[1] == pytest.approx(1.0)
    assert 0.2 < cosine[2] < 0.95  # the same words in another order
    assert cosine[3] == pytest.approx(0.0)
    assert np.array_equal(tfidf().encode(["12+30=42"])[0], tfidf().encode(["x", "12+30=42"])[1])


def test_a_text_without_content_has_a_zero_vector():
    assert unit(tfidf().encode([""])).tolist() == np.zeros((1, 4096)).tolist()


def test_b9_cached_vectors_survive_resume(tmp_path):
    first = CachedEncoder(Counting(), tmp_path)
    vectors = first.encode(["a", "bb", "a"])
    resumed = CachedEncoder(counting := Counting(), tmp_path)
    np.testing.assert_array_equal(resumed.encode(["a", "bb", "a"]), vectors)
    assert counting.seen == []
    resumed.encode(["a", "ccc"])
    assert counting.seen == ["ccc"]


def test_another_encoder_does_not_read_the_cache(tmp_path):
    CachedEncoder(Counting(), tmp_path).encode(["a"])
    other = Counting()
    other.identity = "another"
    CachedEncoder(other, tmp_path).encode(["a"])
    assert other.seen == ["a"]


def test_policy_encoder_is_centred_and_cuts_long_texts(tiny_model_path):
    encoder = build_encoder("policy", corpus=lambda: CORPUS, model_path=tiny_model_path)
    long = "12+30=42;" * 60  # 540 characters, a window of 256
    vectors = encoder.encode([*CORPUS, long])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0)
    np.testing.assert_allclose(encoder.encode([CORPUS[1]])[0], vectors[1], atol=1e-12)
    cosine = vectors[:3] @ vectors[:3].T
    assert (
        cosine[np.triu_indices(3, 1)].max() < 0.9
    )  # raw states are nearly collinear, centred ones are not


def test_sentence_encoder_names_the_missing_package():
    encoder = build_encoder("st:some/model", corpus=lambda: CORPUS, model_path="")
    with pytest.raises(ValueError, match=r"pip install sentence-transformers"):
        encoder.encode(["a"])
