"""Hyperparameter sweeps of parameter-efficient fine-tuning, dozens of trials on one frozen base."""
