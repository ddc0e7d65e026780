"""The door: everything that a user of mechguard imports, handed on when it is asked for.

```python
import mechguard as mg

checkpoint = mg.load("organism:chat")
mg.refusal(checkpoint).save("runs/chat")
```

There is no logic here. The code lies in four packages beside this one, `interp`, `probes`,
`steering` and `analyses`; a module of another origin that has one of these names is told by its
file.
"""

import importlib
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analyses.backdoor.run import backdoor as backdoor
    from analyses.cliff.run import cliff as cliff
    from analyses.interaction.run import interaction as interaction
    from analyses.planning import plan as plan
    from analyses.refusal.run import refusal as refusal
    from analyses.rendering import render as render
    from analyses.self_report.run import self_report as self_report
    from analyses.sinks.run import sinks as sinks
    from analyses.steering.run import steering as steering
    from analyses.traces.run import traces as traces
    from analyses.whole_report import report as report
    from interp import interventions as interventions
    from interp import organisms as organisms
    from interp.capture import recorders as recorders
    from interp.capture.run import capture as capture
    from interp.data.named_sets import named as named
    from interp.data.prompt_sets import read_prompts as read_prompts
    from interp.doctor.report import doctor as doctor
    from interp.errors import CheckError as CheckError
    from interp.errors import InputError as InputError
    from interp.errors import MechguardError as MechguardError
    from interp.errors import NumericalError as NumericalError
    from interp.errors import UnsupportedModelError as UnsupportedModelError
    from interp.model.sites import Site as Site
    from interp.resolve import load as load
    from probes.collections.collection import collect as collect
    from probes.collections.fit import fit_probe as fit_probe
    from probes.estimators.grid import ProbeGrid as ProbeGrid
    from probes.guards.guard import Guard as Guard
    from steering.policy.composition import compose as compose
    from steering.policy.policy import Policy as Policy
    from steering.runtime.runtime import apply as apply
    from steering.runtime.runtime import attach as attach
    from steering.training.fit import train as train_policy

    __version__: str

# Public name to module and attribute; without an attribute the module itself is handed on.
_HOMES = {
    "CheckError": "interp.errors:CheckError",
    "Guard": "probes.guards.guard:Guard",
    "InputError": "interp.errors:InputError",
    "MechguardError": "interp.errors:MechguardError",
    "NumericalError": "interp.errors:NumericalError",
    "Policy": "steering.policy.policy:Policy",
    "ProbeGrid": "probes.estimators.grid:ProbeGrid",
    "Site": "interp.model.sites:Site",
    "UnsupportedModelError": "interp.errors:UnsupportedModelError",
    "apply": "steering.runtime.runtime:apply",
    "attach": "steering.runtime.runtime:attach",
    "backdoor": "analyses.backdoor.run:backdoor",
    "capture": "interp.capture.run:capture",
    "cliff": "analyses.cliff.run:cliff",
    "collect": "probes.collections.collection:collect",
    "compose": "steering.policy.composition:compose",
    "doctor": "interp.doctor.report:doctor",
    "fit_probe": "probes.collections.fit:fit_probe",
    "interaction": "analyses.interaction.run:interaction",
    "interventions": "interp.interventions",
    "load": "interp.resolve:load",
    "named": "interp.data.named_sets:named",
    "organisms": "interp.organisms",
    "plan": "analyses.planning:plan",
    "read_prompts": "interp.data.prompt_sets:read_prompts",
    "recorders": "interp.capture.recorders",
    "refusal": "analyses.refusal.run:refusal",
    "render": "analyses.rendering:render",
    "report": "analyses.whole_report:report",
    "self_report": "analyses.self_report.run:self_report",
    "sinks": "analyses.sinks.run:sinks",
    "steering": "analyses.steering.run:steering",
    "traces": "analyses.traces.run:traces",
    "train_policy": "steering.training.fit:train",
}
_FLOORS = ("interp", "probes", "steering", "analyses")

__all__ = [
    "CheckError",
    "Guard",
    "InputError",
    "MechguardError",
    "NumericalError",
    "Policy",
    "ProbeGrid",
    "Site",
    "UnsupportedModelError",
    "__version__",
    "apply",
    "attach",
    "backdoor",
    "capture",
    "cliff",
    "collect",
    "compose",
    "doctor",
    "fit_probe",
    "interaction",
    "interventions",
    "load",
    "named",
    "organisms",
    "plan",
    "read_prompts",
    "recorders",
    "refusal",
    "render",
    "report",
    "self_report",
    "sinks",
    "steering",
    "traces",
    "train_policy",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("mechguard")
    if name not in _HOMES:
        raise AttributeError(f"module 'mechguard' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    home = importlib.import_module(module)
    return getattr(home, attribute) if attribute else home


def __dir__() -> list[str]:
    return sorted(__all__)


def _hidden() -> str | None:
    """The sentence that names a file which hides one of our packages; None if none does."""
    ours = Path(__file__).resolve().parent.parent
    for name in _FLOORS:
        spec = find_spec(name)
        file = None if spec is None else spec.origin
        if file is None:
            return f"mechguard's package {name!r} is not installed beside it; install it again."
        if Path(file).resolve() != ours / name / "__init__.py":
            return (
                f"{file} hides mechguard's package {name!r}; rename that file or folder, or run "
                "from another folder."
            )
    return None


def _is_command() -> bool:
    """Whether this process is the command line, which says one sentence and shows no trace."""
    words = sys.orig_argv
    module = any(pair == ("-m", "mechguard") for pair in pairwise(words))
    return module or Path(sys.argv[0]).stem == "mechguard"


if (_sentence := _hidden()) is not None:
    if _is_command():
        sys.stderr.write(f"mechguard: {_sentence}\n")
        sys.exit(2)
    raise ImportError(_sentence)
