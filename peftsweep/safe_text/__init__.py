"""Text that is safe to show: short, without secrets, and without anything that a terminal, JSON or Markdown obeys."""
