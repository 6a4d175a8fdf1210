"""A judge: an ONNX classifier that reads attributes off pictures, and the Fréchet distance of its features."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

FEATURES = "features"


@dataclass(frozen=True)
class Judgement:
    """A judge's reading of a batch of pictures.

    Attributes:
        features: `[N, F]` float32, the penultimate layer.
        words: attribute -> the words read off each picture, for example `{"colour": ("red", ...)}`.
        logits: attribute -> `[N, K]` float32, one column for each entry of its vocabulary.
    """

    features: NDArray[np.float32]
    words: dict[str, tuple[str, ...]]
    logits: dict[str, NDArray[np.float32]]


class Judge:
    """Reads attributes off pictures with an ONNX classifier.

    The file has one input (`[N, 3, H, W]` float32 in 0..1), an output `features` `[N, F]` and one
    logits output `[N, K]` per attribute, whose K words stand as a JSON list in the file's metadata.
    """

    def __init__(self, path: Path) -> None:
        """Load the classifier at `path`; runs on the CPU."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        metadata = self._session.get_modelmeta().custom_metadata_map
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.vocabulary: dict[str, tuple[str, ...]] = {
            name: tuple(json.loads(metadata[name])) for name in self._outputs if name != FEATURES
        }

    def read(self, images: NDArray[np.uint8]) -> Judgement:
        """Read pictures `[N, H, W, 3]` uint8."""
        pixels = images.astype(np.float32).transpose(0, 3, 1, 2) / 255
        name = self._session.get_inputs()[0].name
        values = dict(zip(self._outputs, self._session.run(None, {name: pixels}), strict=True))
        words = {
            attribute: tuple(vocabulary[i] for i in values[attribute].argmax(axis=1))
            for attribute, vocabulary in self.vocabulary.items()
        }
        logits = {attribute: values[attribute] for attribute in self.vocabulary}
        return Judgement(features=values[FEATURES], words=words, logits=logits)

    def accuracy(self, reading: Judgement, prompts: Sequence[str]) -> dict[str, float]:
        """Share of pictures whose attribute is the one its prompt names; only attributes that prompts name."""
        result = {}
        for attribute, vocabulary in self.vocabulary.items():
            pairs = [
                (expected, word)
                for prompt, word in zip(prompts, reading.words[attribute], strict=True)
                if (expected := _named(prompt, vocabulary)) is not None
            ]
            if pairs:
                result[attribute] = sum(e == w for e, w in pairs) / len(pairs)
        return result


def frechet_distance(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Fréchet distance of two sets of features `[N, F]`, each taken as a Gaussian (Heusel et al. 2017)."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ covariance_b @ root), 0, None)).sum()
    shift = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    return float(shift + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross)


def _named(prompt: str, vocabulary: Sequence[str]) -> str | None:
    """The longest entry whose words stand in the prompt side by side; of equals, the first."""
    text = f" {' '.join(prompt.replace(',', ' ').split())} "
    found = [entry for entry in vocabulary if f" {entry} " in text]
    return max(found, key=lambda entry: len(entry.split()), default=None)
