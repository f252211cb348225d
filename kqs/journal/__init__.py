"""The journal: what makes an answered insert durable. Format and promises: docs/journal-format.md.

What is done to one whose server is not running is imported from the modules that do it: `survey`, `repair`, `stopped`.
"""

from kqs.journal.claims import claimed_orders, claims_record
from kqs.journal.files import Files, OsFiles
from kqs.journal.format import JournalName, Kind, Record
from kqs.journal.journal import JOURNAL_FILES, Journal, Recovery
from kqs.journal.listener import Listener
from kqs.journal.recovery import absent

__all__ = [
    "JOURNAL_FILES",
    "Files",
    "Journal",
    "JournalName",
    "Kind",
    "Listener",
    "OsFiles",
    "Record",
    "Recovery",
    "absent",
    "claimed_orders",
    "claims_record",
]
