from pathlib import Path

import pytest

from kqs.cli import run
from kqs.errors import ExitCode


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("bad", "bad_json: line 3: not JSON: invalid character (byte 0), got bad"),
        ("[1]", "bad_job: line 3: expected a job object, got [1]"),
        ('{"type":"a","type":"b"}', "bad_job: line 3: type: stands twice"),
        ('{"type":"a","data":NaN}', 'bad_json: line 3: not JSON: invalid character (byte 19), got {"type":"a","data":NaN}'),
    ],
)
def test_a_line_that_is_no_job_is_told_by_its_number(
    line: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text(f'{{"type":"a"}}\n\n{line}\n')
    assert run(["batch", "sum", "--file", str(file)]) == ExitCode.REFUSED
    assert capsys.readouterr().err == f"kqs: {told}\n"


def test_a_file_that_cannot_be_read_ends_a_batch_as_it_ends_an_insert(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (str(tmp_path), str(tmp_path / "none")):
        ends = []
        for command in ("batch", "insert"):
            code = run([command, "sum", "--file", name])
            ends.append((code, capsys.readouterr().err))
        assert ends[0] == ends[1]
        assert ends[0][0] == ExitCode.IO_FAILED
