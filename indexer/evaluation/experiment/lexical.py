"""Users and personas compared by their words: the sparse half of dense plus sparse.

TF-IDF of scikit-learn (sublinear counts, smoothed, L2-normalised) over the same texts that the
encoder reads, fitted to the personas. A user is the decayed mean of the interactions, as in Eq. 7.
The similarity is the cosine.
"""

from __future__ import annotations

import numpy as np

from indexer.evaluation.experiment.embedded import Personas, Profiles
from indexer.metrics import Floats


class LexicalSimilarities:
    """The cosine of each user's words with each persona's."""

    def __init__(self, profiles: Profiles, personas: Personas, decay: float) -> None:
        from scipy.sparse import csr_matrix
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.preprocessing import normalize

        counts = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+")  # noqa: S106 - no secret
        self._personas = counts.fit_transform(personas.texts)
        words = counts.transform(profiles.texts)
        users, places = np.nonzero(profiles.rows >= 0)
        weights = profiles.weights(decay)[users, places]
        mixing = (weights, (users, profiles.rows[users, places]))
        shape = (len(profiles.rows), words.shape[0])
        self._users = normalize(csr_matrix(mixing, shape=shape) @ words)

    def of(self, block: slice) -> Floats:
        """(n, n_personas) float64 for some users; 0 where they share no word."""
        found: Floats = (self._users[block] @ self._personas.T).toarray()
        return found
