"""`stepcarve optimize`: search, compare, export, build, verify and bench in one folder, and its page."""
