"""Simulation of the card: golden model, Verilator builds, bench harness, the virtual board."""
