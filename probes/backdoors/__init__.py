"""Backdoors: triggers searched, detectors, heads, self-report, switches, agents, repair."""

from typing import TYPE_CHECKING

from interp._lazy import attach

if TYPE_CHECKING:
    from probes.backdoors.agents.locus import locus_attribution as locus_attribution
    from probes.backdoors.agents.traces import Trace as Trace
    from probes.backdoors.agents.traces import divergences as divergences
    from probes.backdoors.agents.traces import read_traces as read_traces
    from probes.backdoors.agents.traces import tool_shift as tool_shift
    from probes.backdoors.detectors.anomalies import every_anomaly as every_anomaly
    from probes.backdoors.detectors.defection import Defection as Defection
    from probes.backdoors.detectors.defection import defection_probe as defection_probe
    from probes.backdoors.detectors.detectors import read_all as read_all
    from probes.backdoors.detectors.trigger_on_sink import sink_check as sink_check
    from probes.backdoors.heads.head_patching import HeadPatching as HeadPatching
    from probes.backdoors.heads.head_patching import patch_heads as patch_heads
    from probes.backdoors.search.beam import beam_search as beam_search
    from probes.backdoors.search.budget import Budget as Budget
    from probes.backdoors.search.gradient import gradient_search as gradient_search
    from probes.backdoors.search.leakage import leak as leak
    from probes.backdoors.search.leakage import motifs as motifs
    from probes.backdoors.search.result import Found as Found
    from probes.backdoors.search.result import SearchSettings as SearchSettings
    from probes.backdoors.search.subject import Subject as Subject
    from probes.backdoors.search.target_inversion import targets as targets
    from probes.backdoors.search.trial import Trial as Trial
    from probes.backdoors.search.trial import attempt as attempt
    from probes.backdoors.search.trigger_search import search as search
    from probes.backdoors.self_report.awareness import awareness_at_k as awareness_at_k
    from probes.backdoors.self_report.compare import SelfReport as SelfReport
    from probes.backdoors.self_report.compare import candidate_ranking as candidate_ranking
    from probes.backdoors.self_report.free_form import articulation as articulation
    from probes.backdoors.self_report.free_form import free_answers as free_answers
    from probes.backdoors.self_report.questions import builtin_questions as builtin_questions
    from probes.backdoors.self_report.questions import free_questions as free_questions
    from probes.backdoors.self_report.questions import read_questions as read_questions
    from probes.backdoors.switches.switches import Switch as Switch
    from probes.backdoors.switches.switches import interaction as interaction
    from probes.backdoors.switches.switches import prefixed as prefixed
    from probes.backdoors.switches.switches import refusal_measure as refusal_measure
    from probes.backdoors.switches.switches import reply_measure as reply_measure
    from probes.backdoors.switches.switches import suffixed as suffixed
    from probes.backdoors.switches.switches import text_measure as text_measure
    from probes.backdoors.switches.switches import with_system as with_system

__getattr__, __all__ = attach(
    __name__,
    {
        "Budget": "search.budget",
        "Defection": "detectors.defection",
        "Found": "search.result",
        "HeadPatching": "heads.head_patching",
        "SelfReport": "self_report.compare",
        "SearchSettings": "search.result",
        "Subject": "search.subject",
        "Switch": "switches.switches",
        "Trace": "agents.traces",
        "Trial": "search.trial",
        "articulation": "self_report.free_form",
        "attempt": "search.trial",
        "awareness_at_k": "self_report.awareness",
        "beam_search": "search.beam",
        "builtin_questions": "self_report.questions",
        "candidate_ranking": "self_report.compare",
        "defection_probe": "detectors.defection",
        "divergences": "agents.traces",
        "every_anomaly": "detectors.anomalies",
        "free_answers": "self_report.free_form",
        "free_questions": "self_report.questions",
        "gradient_search": "search.gradient",
        "interaction": "switches.switches",
        "leak": "search.leakage",
        "locus_attribution": "agents.locus",
        "motifs": "search.leakage",
        "patch_heads": "heads.head_patching",
        "prefixed": "switches.switches",
        "read_all": "detectors.detectors",
        "read_questions": "self_report.questions",
        "read_traces": "agents.traces",
        "refusal_measure": "switches.switches",
        "reply_measure": "switches.switches",
        "search": "search.trigger_search",
        "sink_check": "detectors.trigger_on_sink",
        "suffixed": "switches.switches",
        "targets": "search.target_inversion",
        "text_measure": "switches.switches",
        "tool_shift": "agents.traces",
        "with_system": "switches.switches",
    },
)
