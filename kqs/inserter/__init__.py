"""The way of jobs into the journal, for whoever has some."""

from kqs.inserter.answers import Answer
from kqs.inserter.inserter import Inserter, Settled
from kqs.inserter.questions import Found, Question

__all__ = ["Answer", "Found", "Inserter", "Question", "Settled"]
