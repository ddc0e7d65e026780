"""One offline page per report: panels in, a single HTML file out; nothing here imports torch."""
