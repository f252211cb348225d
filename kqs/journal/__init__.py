"""The journal: what makes an answered insert durable. Format and promises: docs/journal-format.md."""

from kqs.journal.claims import claimed_orders, claims_record
from kqs.journal.files import Files, OsFiles
from kqs.journal.format import Kind, Record
from kqs.journal.journal import Journal, Recovery
from kqs.journal.kept import NO_ORDER
from kqs.journal.listener import Listener
from kqs.journal.lost import LostJobs
from kqs.journal.recovery import absent
from kqs.journal.repair import repair
from kqs.journal.settings import JOURNAL_FILES
from kqs.journal.stopped import StoppedJournal, stopped_journal
from kqs.journal.survey import Report, dump, verify

__all__ = [
    "JOURNAL_FILES",
    "NO_ORDER",
    "Files",
    "Journal",
    "Kind",
    "Listener",
    "LostJobs",
    "OsFiles",
    "Record",
    "Recovery",
    "Report",
    "StoppedJournal",
    "absent",
    "claimed_orders",
    "claims_record",
    "dump",
    "repair",
    "stopped_journal",
    "verify",
]
