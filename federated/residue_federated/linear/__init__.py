"""Vertical linear models: least squares, logistic and Poisson regression, with an arbiter."""
