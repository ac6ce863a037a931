"""Text that may be shown: without secrets, short, and with nothing in it that a terminal, JSON or Markdown obeys."""
