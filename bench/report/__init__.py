"""Tables and plots of what is kept in bench/results: `python bench/report` fills them into docs/."""
