"""One offline page per finding: panels in, a single HTML file out.

`analyses.report.render.render` rebuilds a page from `report.json` alone, `write` also makes the
JSON and the tables; nothing here imports torch.
"""

from interp._lazy import attach

__getattr__, __all__ = attach(__name__, {"Panel": "panel", "write": "render"})
