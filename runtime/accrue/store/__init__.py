"""The state of a device in SQLite: classes, shots, the journal, backup and restore."""

from accrue.store.backup import (
    BackupInfo,
    Restored,
    Rotated,
    backup,
    backup_into,
    read_info,
    restore,
)
from accrue.store.files import FileSteps, write_atomically
from accrue.store.names import (
    ACCRUE_NAMESPACE,
    class_id,
    class_key,
    clean_name,
    clean_prompt,
    shown,
)
from accrue.store.records import ClassRow, ClassRows, Entry, Purged, Refusal, Shot, Teaching
from accrue.store.store import DEFAULT_BUDGET_ROWS, DEFAULT_CLASS_SET, Store

__all__ = [
    "ACCRUE_NAMESPACE",
    "DEFAULT_BUDGET_ROWS",
    "DEFAULT_CLASS_SET",
    "BackupInfo",
    "ClassRow",
    "ClassRows",
    "Entry",
    "FileSteps",
    "Purged",
    "Refusal",
    "Restored",
    "Rotated",
    "Shot",
    "Store",
    "Teaching",
    "backup",
    "backup_into",
    "class_id",
    "class_key",
    "clean_name",
    "clean_prompt",
    "read_info",
    "restore",
    "shown",
    "write_atomically",
]
