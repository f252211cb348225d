"""Bytes to calls and answers to bytes, sans I/O: nothing here knows a socket, a clock or a thread.

Bytes come in by `lines`, which cuts them into chunks of whole lines. A chunk takes the fastest way that fits all of it:

    qrpc.decode_inserts(chunk)   every line a clean insert of one job: decoded, checked and journaled as one piece
    qrpc.decode_calls(chunk)     every line a plain qrpc call
    dialect.decode_any(line)     anything else, line by line, with an exact account of what is wrong

The fast ways never judge: on the slightest doubt they answer None, and the slow one decides. What it refuses, they
refuse; what they take, it would have taken with the same values (tests/property/test_wire.py).

`strict` holds what KQS asks of JSON beyond what msgspec checks, `envelope` what the two dialects share, `jobs` turns an
insert's argument into jobs, `call` is the one form of a call whatever its dialect. `calling` is the asking side of qrpc.
"""
