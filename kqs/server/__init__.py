"""The TCP and UNIX-socket face of KQS: bytes in, calls run, answers out."""
