"""Backdoors: triggers searched, detectors, self-report, switches, agent traces."""

from typing import TYPE_CHECKING

from interp._lazy import attach

if TYPE_CHECKING:
    from probes.backdoor.anomalies import every_anomaly as every_anomaly
    from probes.backdoor.bait import targets as targets
    from probes.backdoor.beam import beam_search as beam_search
    from probes.backdoor.budget import Budget as Budget
    from probes.backdoor.defection import Defection as Defection
    from probes.backdoor.defection import defection_probe as defection_probe
    from probes.backdoor.detectors import read_all as read_all
    from probes.backdoor.found import Found as Found
    from probes.backdoor.found import Settings as Settings
    from probes.backdoor.gradient import gradient_search as gradient_search
    from probes.backdoor.memory import leak as leak
    from probes.backdoor.memory import motifs as motifs
    from probes.backdoor.subject import Subject as Subject
    from probes.backdoor.trigger_on_sink import sink_check as sink_check
    from probes.backdoor.trigger_search import search as search
    from probes.backdoor.working import Trial as Trial
    from probes.backdoor.working import attempt as attempt

__getattr__, __all__ = attach(
    __name__,
    {
        "Budget": "budget",
        "Defection": "defection",
        "Found": "found",
        "Settings": "found",
        "Subject": "subject",
        "Trial": "working",
        "attempt": "working",
        "beam_search": "beam",
        "defection_probe": "defection",
        "every_anomaly": "anomalies",
        "gradient_search": "gradient",
        "leak": "memory",
        "motifs": "memory",
        "read_all": "detectors",
        "search": "trigger_search",
        "sink_check": "trigger_on_sink",
        "targets": "bait",
    },
)
