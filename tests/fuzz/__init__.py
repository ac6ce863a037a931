"""A mutation fuzzer. It damages real inputs of every kind in a few places and runs the program on them in this process.

Whatever the input, the program either does its work or says what is wrong in one message of its own
(`PeftsweepError`). Any other exception, a hang, a question on the terminal and a file written outside of the input's
folder are failures.

    python -m tests.fuzz --inputs 20000 --seed 7                     # all kinds (or: make fuzz N=20000 SEED=7)
    python -m tests.fuzz --only databases --seed 7 --index 1234      # one input of one kind, again
"""
