"""The operating system, made safe: files and folders, signals, the terminal, installed packages."""
