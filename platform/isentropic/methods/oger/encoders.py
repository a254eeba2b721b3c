"""Frozen text encoders of OGER: responses to unit vectors, and a cache of them by content.

[reconstructed] which encoder the paper (arXiv:2604.18530) uses is not known; `oger.encoder` names
one of
    tfidf        hashed word 1- to 3-grams, weights fitted on the offline set; no model
    policy       mean last hidden state of the frozen initial policy, minus the offline set's mean
    st:<model>   a sentence-transformers model, by folder or Hub name
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from isentropic.checks import check_choice, check_package
from isentropic.durable import replace_durably
from isentropic.records import Floats

FEATURES = 1 << 12  # of the hashed n-grams
NGRAM = r"\w+|[^\w\s]"  # words, and signs one by one: in mathematics they matter


class Encoder(Protocol):
    """Texts to vectors; the same text gives the same vector, whatever it is encoded with."""

    @property
    def identity(self) -> str:
        """Names everything that the vectors depend on; equal identities have equal vectors."""
        ...

    def encode(self, texts: Sequence[str]) -> Floats:
        """[n] texts -> [n, d], rows of length 1 (0 for a text without content)."""
        ...


def check_encoder(name: str) -> None:
    """`oger.encoder` must name one of the three kinds."""
    if not (name.startswith("st:") and len(name) > 3):
        check_choice("oger.encoder", name, ("tfidf", "policy", "st:<model>"))


def build_encoder(name: str, *, corpus: Callable[[], Sequence[str]], model_path: str) -> Encoder:
    """The encoder that `oger.encoder` names; models are loaded at the first text.

    Args:
        corpus: gives the offline texts that `tfidf` and `policy` take their statistics from.
        model_path: folder or Hub name of the initial policy.
    """
    if name == "tfidf":
        return TfidfEncoder(corpus())
    if name == "policy":
        return PolicyEncoder(model_path, corpus())
    return SentenceEncoder(name.removeprefix("st:"))


class TfidfEncoder:
    """Hashed word 1- to 3-grams, weighted by TF-IDF. For tests and small runs."""

    def __init__(self, corpus: Sequence[str]) -> None:
        check_package("sklearn", extra="oger", key="oger.encoder=tfidf")
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

        self._hash = HashingVectorizer(
            n_features=FEATURES,
            ngram_range=(1, 3),
            token_pattern=NGRAM,
            alternate_sign=False,
            norm=None,
        )
        self._weigh = TfidfTransformer().fit(self._hash.transform(corpus))
        self.identity = f"tfidf:{FEATURES}:{_digest(*corpus)}"

    def encode(self, texts: Sequence[str]) -> Floats:
        return self._weigh.transform(self._hash.transform(texts)).toarray().astype(np.float32)


class PolicyEncoder:
    """Mean last hidden state over the response's tokens, centred.

    Uncentred, the states of a language model are nearly collinear.

    A response longer than the model's window is cut into windows; their unit vectors are averaged.
    """

    def __init__(self, model_path: str, corpus: Sequence[str]) -> None:
        self._path, self._corpus = model_path, list(corpus)
        self.identity = f"policy:{model_path}:{_digest(*self._corpus)}"

    @cached_property
    def _model(self):
        import torch
        from transformers import AutoModel, AutoTokenizer

        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = (
            AutoModel.from_pretrained(self._path, dtype=torch.float32)
            .to(device)
            .eval()
            .requires_grad_(False)
        )
        return AutoTokenizer.from_pretrained(self._path), model

    @cached_property
    def _centre(self) -> Floats:
        """[d] mean raw vector of the offline set."""
        return np.stack([self._windows(text).mean(axis=0) for text in self._corpus]).mean(axis=0)

    def encode(self, texts: Sequence[str]) -> Floats:
        windows = [self._windows(text) for text in texts]
        return np.stack([unit(unit(states - self._centre).mean(axis=0)) for states in windows])

    def _windows(self, text: str) -> Floats:
        """[windows, d] mean state of each window."""
        import torch

        tokenizer, model = self._model
        ids = tokenizer.encode(text, add_special_tokens=False) or [tokenizer.eos_token_id]
        size = model.config.max_position_embeddings
        rows = []
        for start in range(0, len(ids), size):
            window = torch.tensor([ids[start : start + size]], device=model.device)
            rows.append(model(window).last_hidden_state[0].mean(dim=0).double().cpu().numpy())
        return np.stack(rows)


class SentenceEncoder:
    """A frozen sentence-embedding model; cuts a long text into windows as PolicyEncoder does."""

    def __init__(self, model: str) -> None:
        self._name = model
        self.identity = f"st:{model}"

    @cached_property
    def _model(self):
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ValueError(
                f"oger.encoder=st:{self._name} needs the package sentence-transformers: "
                "`pip install sentence-transformers`, or choose oger.encoder=tfidf or "
                "oger.encoder=policy."
            ) from error
        return SentenceTransformer(self._name)

    def encode(self, texts: Sequence[str]) -> Floats:
        pieces = [self._windows(text) for text in texts]
        flat = self._model.encode(
            [piece for group in pieces for piece in group], convert_to_numpy=True
        )
        ends = np.cumsum([len(group) for group in pieces])[:-1]
        return np.stack(
            [unit(unit(rows.astype(np.float64)).mean(axis=0)) for rows in np.split(flat, ends)]
        )

    def _windows(self, text: str) -> list[str]:
        tokenizer = self._model.tokenizer
        size = self._model.max_seq_length - tokenizer.num_special_tokens_to_add()
        ids = tokenizer.encode(text, add_special_tokens=False)
        if len(ids) <= size:
            return [text]
        return [tokenizer.decode(ids[start : start + size]) for start in range(0, len(ids), size)]


class CachedEncoder:
    """Keeps vectors by the hash of their text, in memory and in `folder` (one file per call).

    For the offline set: what the policy writes seldom comes twice, and is not kept.
    """

    def __init__(self, encoder: Encoder, folder: Path | None) -> None:
        self._encoder = encoder
        self.identity = encoder.identity
        self._folder = None if folder is None else folder / _digest(encoder.identity)
        self._vectors: dict[str, Floats] = {}
        if self._folder is not None and self._folder.is_dir():
            for path in sorted(self._folder.glob("*.npz")):
                with np.load(path, allow_pickle=False) as shard:
                    self._vectors.update(zip(shard["keys"].tolist(), shard["vectors"], strict=True))

    def encode(self, texts: Sequence[str]) -> Floats:
        keys = [_digest(text) for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._vectors}
        if new:
            vectors = self._encoder.encode(list(new.values()))
            self._vectors.update(zip(new, vectors, strict=True))
            self._store(list(new), vectors)
        return np.stack([self._vectors[key] for key in keys])

    def _store(self, keys: list[str], vectors: Floats) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{_digest(*keys)}.npz"
        with replace_durably(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, keys=np.array(keys), vectors=vectors)


def unit(vectors: Floats) -> Floats:
    """Rows of length 1; a zero row stays zero."""
    vectors = np.asarray(vectors, dtype=np.float64)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def _digest(*texts: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(len(text.encode()).to_bytes(8, "big"))
        digest.update(text.encode())
    return digest.hexdigest()
