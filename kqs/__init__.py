"""KQS: a durable job queue you talk to in lines of JSON over TCP."""

__version__ = "0.1.0"
