"""The settings of a server: `Config` and its sections, and `load_config`, which reads them."""

from kqs.config.anchor import anchored
from kqs.config.load import Setting, config_of, find_config, load_config, settings_in, slips_in
from kqs.config.sections import (
    LEAST_PER_S,
    MAX_PER_S,
    MAX_RATE,
    MAX_RUNNING,
    MAX_SUBSCRIBERS,
    BrokerSection,
    CommandSection,
    Config,
    JournalSection,
    LogSection,
    ScheduleConfig,
    ScheduleSection,
    ServerSection,
    StoreSection,
    TakingSection,
    WorkerSection,
)

__all__ = [
    "LEAST_PER_S",
    "MAX_PER_S",
    "MAX_RATE",
    "MAX_RUNNING",
    "MAX_SUBSCRIBERS",
    "BrokerSection",
    "CommandSection",
    "Config",
    "JournalSection",
    "LogSection",
    "ScheduleConfig",
    "ScheduleSection",
    "ServerSection",
    "Setting",
    "StoreSection",
    "TakingSection",
    "WorkerSection",
    "anchored",
    "config_of",
    "find_config",
    "load_config",
    "settings_in",
    "slips_in",
]
