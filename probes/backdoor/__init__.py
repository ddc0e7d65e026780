"""Backdoors: triggers searched, detectors, heads, self-report, switches, agent traces.

A function that is named like its module is imported from there: `self_report.self_report`,
`awareness.awareness`.
"""

from typing import TYPE_CHECKING

from interp._lazy import attach

if TYPE_CHECKING:
    from probes.backdoor.agent_runs import organism_traces as organism_traces
    from probes.backdoor.agent_traces import Trace as Trace
    from probes.backdoor.agent_traces import divergences as divergences
    from probes.backdoor.agent_traces import read_traces as read_traces
    from probes.backdoor.agent_traces import tool_shift as tool_shift
    from probes.backdoor.anomalies import every_anomaly as every_anomaly
    from probes.backdoor.awareness import awareness_at_k as awareness_at_k
    from probes.backdoor.bait import targets as targets
    from probes.backdoor.beam import beam_search as beam_search
    from probes.backdoor.budget import Budget as Budget
    from probes.backdoor.defection import Defection as Defection
    from probes.backdoor.defection import defection_probe as defection_probe
    from probes.backdoor.detectors import read_all as read_all
    from probes.backdoor.found import Found as Found
    from probes.backdoor.found import Settings as Settings
    from probes.backdoor.free_form import articulation as articulation
    from probes.backdoor.free_form import free_answers as free_answers
    from probes.backdoor.gradient import gradient_search as gradient_search
    from probes.backdoor.head_patching import HeadPatching as HeadPatching
    from probes.backdoor.head_patching import patch_heads as patch_heads
    from probes.backdoor.locus import locus_attribution as locus_attribution
    from probes.backdoor.memory import leak as leak
    from probes.backdoor.memory import motifs as motifs
    from probes.backdoor.questions import builtin_questions as builtin_questions
    from probes.backdoor.questions import candidate_questions as candidate_questions
    from probes.backdoor.questions import free_questions as free_questions
    from probes.backdoor.questions import read_questions as read_questions
    from probes.backdoor.self_report import SelfReport as SelfReport
    from probes.backdoor.self_report import candidate_ranking as candidate_ranking
    from probes.backdoor.subject import Subject as Subject
    from probes.backdoor.switches import Switch as Switch
    from probes.backdoor.switches import interaction as interaction
    from probes.backdoor.switches import prefixed as prefixed
    from probes.backdoor.switches import refusal_measure as refusal_measure
    from probes.backdoor.switches import reply_measure as reply_measure
    from probes.backdoor.switches import suffixed as suffixed
    from probes.backdoor.switches import text_measure as text_measure
    from probes.backdoor.switches import with_system as with_system
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
        "HeadPatching": "head_patching",
        "SelfReport": "self_report",
        "Settings": "found",
        "Subject": "subject",
        "Switch": "switches",
        "Trace": "agent_traces",
        "Trial": "working",
        "articulation": "free_form",
        "attempt": "working",
        "awareness_at_k": "awareness",
        "beam_search": "beam",
        "builtin_questions": "questions",
        "candidate_questions": "questions",
        "candidate_ranking": "self_report",
        "defection_probe": "defection",
        "divergences": "agent_traces",
        "every_anomaly": "anomalies",
        "free_answers": "free_form",
        "free_questions": "questions",
        "gradient_search": "gradient",
        "interaction": "switches",
        "leak": "memory",
        "locus_attribution": "locus",
        "motifs": "memory",
        "organism_traces": "agent_runs",
        "patch_heads": "head_patching",
        "prefixed": "switches",
        "read_all": "detectors",
        "read_questions": "questions",
        "read_traces": "agent_traces",
        "refusal_measure": "switches",
        "reply_measure": "switches",
        "search": "trigger_search",
        "sink_check": "trigger_on_sink",
        "suffixed": "switches",
        "targets": "bait",
        "text_measure": "switches",
        "tool_shift": "agent_traces",
        "with_system": "switches",
    },
)
