from __future__ import annotations

import pytest

from kqs.words.logins import without_login


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("mongodb://me:secret@host/kqs", "mongodb://…@host/kqs"),
        ("mongodb://me:se@cr/et@host:1,other:2/kqs", "mongodb://…@host:1,other:2/kqs"),
        ("mongodb://me:secret@host/?x=a@b", "mongodb://…@b"),  # rather too little than a part of it
        ("mongodb://host/kqs", "mongodb://host/kqs"),
        ("jobs@home.sqlite", "jobs@home.sqlite"),
    ],
)
def test_logins_are_left_out(address: str, shown: str) -> None:
    assert without_login(address) == shown
