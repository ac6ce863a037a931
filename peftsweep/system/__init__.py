"""Files and folders, signals, the terminal, installed packages: what the other rooms need of the operating system."""
