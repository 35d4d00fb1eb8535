"""Retrieval and classification measured so that the numbers can be quoted.

text → rank of its right answers → recall@k, MRR, nDCG, with intervals and paired tests.
"""

from clip_text.data.collection import RetrievalSet, Text, retrieval_set
from clip_text.evaluation.ranking import Retrieval, best_ranks, recall_at_k, retrieval

__all__ = [
    "Retrieval",
    "RetrievalSet",
    "Text",
    "best_ranks",
    "recall_at_k",
    "retrieval",
    "retrieval_set",
]
