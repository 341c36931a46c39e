"""Comparisons with what the reference computed: one module per kind of case folder, each with `run`."""
