"""Tables and plots of docs/performance.md and docs/sizing.md, from bench/results: `python bench/report`."""
